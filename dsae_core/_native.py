"""The same facts where nothing is compiled; Python takes the compiled module in its place where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from dsae_core._native import BuildInfo, DeviceLimits, KernelAttributes


def build_info() -> BuildInfo:
    """That no compiler was at work."""
    return {
        "compiler": "none",
        "compiler_version": "",
        "cxx_standard": 0,
        "cxx_flags": "",
        "build_type": "pure Python",
        "isa": "none",
        "torch_version": str(torch.__version__),
        "cuda_version": None,
        "cuda_archs": [],
        "nvcc_flags": None,
    }


def kernel_attributes() -> list[KernelAttributes]:
    """There are no kernels."""
    raise RuntimeError("the operators were built without CUDA")


def device_limits(device: int = 0) -> DeviceLimits:
    """Only the compiled module asks a device."""
    raise RuntimeError("the operators were built without CUDA")
