"""The same facts where only the operators are compiled, or nothing is.

Python takes the compiled module in its place where there is one.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from dsae_core._native import BuildInfo, DeviceLimits, KernelAttributes


def build_info() -> BuildInfo:
    """How the operators were built, which they tell; or that no compiler was at work."""
    facts = _facts_of_operators()
    return {
        "compiler": facts.get("compiler", "none"),
        "compiler_version": facts.get("compiler_version", ""),
        "cxx_standard": int(facts.get("cxx_standard", 0)),
        "cxx_flags": facts.get("cxx_flags", ""),
        "build_type": facts.get("build_type", "pure Python"),
        "isa": facts.get("isa", "none"),
        "torch_version": facts.get("torch_version", str(torch.__version__)),
        "cuda_version": facts.get("cuda_version") or None,
        "cuda_archs": facts.get("cuda_archs", "").split(),
        "nvcc_flags": facts.get("nvcc_flags") or None,
    }


def _facts_of_operators() -> dict[str, str]:
    """The lines of csrc/build_facts.cpp; empty where the operators are not compiled or do not load."""
    try:
        library = ctypes.CDLL(importlib.import_module("dsae_core._C").__file__)
    except ImportError:
        return {}
    library.dsae_build_facts.restype = ctypes.c_char_p
    lines = library.dsae_build_facts().decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


def kernel_attributes() -> list[KernelAttributes]:
    """There are no kernels: only a build for one Python has CUDA operators."""
    raise RuntimeError("the operators were built without CUDA")


def count_rechecked_rows(counter: int) -> None:
    """There are no such rows on the CPU."""
    raise RuntimeError("the operators were built without CUDA")


def device_limits(device: int = 0) -> DeviceLimits:
    """Only the compiled module asks a device."""
    raise RuntimeError("the operators were built without CUDA")
