"""Builds the compiled half of dsae_core where it can; everything declarative is in pyproject.toml.

    dsae_core._C       the torch operators, on torch's stable C ABI: one build serves torch 2.11 and newer
    dsae_core._native  what was built and how (pybind11)

Without them the package is pure Python: the operators run in plain torch (dsae_core/fallback.py), with the same results
but slower. csrc/build_operators.py says how they are built.

Environment variables:
    DSAE_BUILD       auto (default): build the compiled half if there is a C++ compiler; 1: always; 0: never;
                     abi3: the operators alone, for the CPU, in a wheel that every Python from 3.11 on installs
    DSAE_CUDA        auto (default): compile the CUDA operators if nvcc is found; 1: always; 0: never
    DSAE_CUDA_ARCHS  what to compile them for, "80 90a 90+PTX" by default; +PTX serves newer devices
    CUDA_HOME        the CUDA toolkit, if nvcc is neither on PATH nor in /usr/local/cuda
    CXX, MAX_JOBS    the C++ compiler, and how many files to compile at once
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import setup

ROOT = Path(__file__).parent.resolve()


def what_is_missing() -> str | None:
    """Settles on one C++ compiler for compiling and linking; or a sentence that says what to install."""
    wanted = os.environ.get("CXX")
    names = [shlex.split(wanted)[0]] if wanted else ["c++", "g++", "clang++"]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        return (
            f"dsae-core's operators need a C++17 compiler and found none (looked for {', '.join(names)}): "
            "install one (on Debian and Ubuntu: apt install g++) and run this again."
        )
    os.environ["CXX"] = wanted or found
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return (
            "dsae-core's operators need Python's header files: "
            "install them (on Debian and Ubuntu: apt install python3-dev) and run this again."
        )
    return None


def compiled_half() -> dict[str, Any]:
    """What setup() is told to compile: everything, or nothing."""
    mode = os.environ.get("DSAE_BUILD", "auto")
    if mode not in ("auto", "1", "0", "abi3"):
        raise SystemExit(f"DSAE_BUILD is {mode!r}; it must be auto, 1, 0 or abi3.")
    if mode == "0":
        return {}
    missing = what_is_missing()
    # Who names a compiler or asks for CUDA means it; and a compiler that fails is never passed over in silence.
    if missing and (mode in ("1", "abi3") or os.environ.get("CXX") or os.environ.get("DSAE_CUDA") == "1"):
        raise SystemExit(missing)
    if missing:
        print(f"Installing dsae-core as pure Python, slower but complete. {missing}", file=sys.stderr)
        return {}
    every_python = mode == "abi3"
    if every_python:
        os.environ["DSAE_CUDA"] = "0"
    sys.path.insert(0, str(ROOT / "csrc"))
    from build_operators import BuildOperators, extensions

    compiled = {"ext_modules": extensions(every_python=every_python), "cmdclass": {"build_ext": BuildOperators}}
    return {**compiled, "options": {"bdist_wheel": {"py_limited_api": "cp311"}}} if every_python else compiled


setup(**compiled_half())
