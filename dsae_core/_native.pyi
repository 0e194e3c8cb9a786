"""Facts about the compiled operators (csrc/native.cpp)."""

from typing import TypedDict

class BuildInfo(TypedDict):
    compiler: str  # gcc or clang
    compiler_version: str
    cxx_standard: int  # 17
    cxx_flags: str
    build_type: str  # release or debug; pure Python where nothing is compiled
    isa: str  # instruction set of the CPU operators: avx512, avx2 or baseline; none where nothing is compiled
    torch_version: str  # the torch whose headers were used; any torch from 2.11 on runs the result
    cuda_version: str | None  # None: built without CUDA operators
    cuda_archs: list[str]
    nvcc_flags: str | None

class KernelAttributes(TypedDict):
    name: str
    threads: int  # of a block
    registers: int  # of a thread
    local_bytes: int  # of a thread: spilled registers and arrays
    shared_bytes: int  # of a block, at d = F = 64, k = 2 and 17 positions
    blocks_per_processor: int  # that fit at once

class DeviceLimits(TypedDict):
    name: str
    compute_capability: tuple[int, int]
    processors: int
    clock_khz: int
    memory_clock_khz: int
    memory_bus_bits: int
    memory_bytes: int
    l2_bytes: int
    shared_bytes_per_block: int
    shared_bytes_per_processor: int

def build_info() -> BuildInfo:
    """How the compiled operators were built."""

def kernel_attributes() -> list[KernelAttributes]:
    """What each CUDA kernel takes of the current device. RuntimeError without a device or a build with CUDA."""

def count_rechecked_rows(counter: int) -> None:
    """Where encode_codes and discover_heads count, on CUDA, the rows whose code half precision alone could not tell.

    Args:
        counter: address of an int32 on the current device, which every later call adds to; 0 to stop that.

    RuntimeError without a build with CUDA.
    """

def device_limits(device: int = 0) -> DeviceLimits:
    """What a CUDA device has. RuntimeError without a device or a build with CUDA."""
