"""Compiles and runs the programs of csrc/cpusim, which execute the bodies of the CUDA kernels on the CPU."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from dsae_core import ops

SOURCES = Path(ops.__file__).parents[1] / "csrc"
SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
ORDERS = {"forward": 0, "reverse": 1, "random": 2}
"""In which order the simulator runs the threads between two barriers."""


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="cpusim-")


@functools.cache
def program(name: str) -> Path:
    """A program of csrc/cpusim, compiled with sanitizers once a process."""
    executable = Path(_folder().name, name)
    command = [*shlex.split(os.environ.get("CXX", "c++")), "-std=c++17", "-Wall", "-Wextra", "-Werror", *SANITIZERS]
    command += ["-I", str(SOURCES), str(SOURCES / "cpusim" / f"{name}.cpp"), "-o", str(executable)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return executable


class FaultError(Exception):
    """The simulator or a sanitizer found a fault."""


def run(name: str, request: bytes, without: str = "") -> bytes:
    """What the program answers. without: FILE:LINE of a barrier that the simulator leaves out."""
    environment = {**os.environ, "CPUSIM_WITHOUT": without} if without else None
    result = subprocess.run([program(name)], input=request, capture_output=True, env=environment)
    if result.returncode:
        raise FaultError(result.stderr.decode())
    return result.stdout


def barriers(body: str) -> Iterator[str]:
    """FILE:LINE of every barrier in csrc/cuda/BODY.cuh but those that say they are there for safety."""
    for number, line in enumerate((SOURCES / "cuda" / f"{body}.cuh").read_text().splitlines(), start=1):
        if re.search(r"__sync(threads|warp)\(", line) and "for safety" not in line:
            yield f"{body}.cuh:{number}"


def barriers_without_need(body: str, is_right: Callable[[str, str], bool]) -> list[str]:
    """The barriers of a body that could go unnoticed: none should.

    Args:
        body: its name in csrc/cuda.
        is_right: called with an order and a barrier to leave out; whether the results are right.
    """

    def goes_unnoticed(order: str, barrier: str) -> bool:
        try:
            return is_right(order, barrier)
        except FaultError:
            return False

    return [barrier for barrier in barriers(body) if all(goes_unnoticed(order, barrier) for order in ORDERS)]
