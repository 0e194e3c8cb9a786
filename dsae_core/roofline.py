"""What an operator must do at least (bytes, FLOPs), what the device can do at most, and the share of it reached.

Williams et al. 2009, "Roofline": with I = FLOPs / bytes, no kernel does more than min(peak FLOP/s, I * peak bytes/s).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

GIGA = 1e9


@dataclass(frozen=True)
class Ceilings:
    """What a device reaches at best in plain torch, measured on the spot.

    Attributes:
        device: cpu or cuda.
        copy_gb_s: bytes read and written by a large copy, GB/s.
        matmul_gflop_s: of a large float32 matrix product, without TF32.
    """

    device: str
    copy_gb_s: float
    matmul_gflop_s: float


@dataclass(frozen=True)
class KernelTime:
    """All calls of one operator in a run, against the device's ceilings.

    Attributes:
        name: the operator.
        device: where it ran.
        shape: sizes of its first call, in the project's symbols.
        calls: how often the run called it.
        ms: time of all calls together; the median over repeats.
        bytes: arguments read once and results written once: nothing can move less.
        flops: floating-point operations of the dense arithmetic that defines it; 0 for operators on integers.
        intensity: flops / bytes.
        gflop_s: flops over time.
        gb_s: bytes over time.
        bound: "memory" where the bandwidth caps it at this intensity, else "compute".
        share: of what the roofline allows. An operator that finds out which products are zero and leaves them out
            may pass 1.
    """

    name: str
    device: str
    shape: str
    calls: int
    ms: float
    bytes: int
    flops: int
    intensity: float
    gflop_s: float
    gb_s: float
    bound: str
    share: float


@dataclass(frozen=True)
class OperatorCall:
    """One call of a compiled operator: its name, arguments, and the bytes of its tensors."""

    name: str
    arguments: tuple[Any, ...]
    bytes: int

    @property
    def device(self) -> torch.device:
        """Of its first tensor."""
        return next(argument.device for argument in self.arguments if isinstance(argument, Tensor))


def by_operator(calls: Sequence[OperatorCall]) -> list[list[OperatorCall]]:
    """The calls of each operator, in the order of the first ones."""
    groups: dict[str, list[OperatorCall]] = {}
    for call in calls:
        groups.setdefault(call.name, []).append(call)
    return list(groups.values())


def run_all(calls: Sequence[OperatorCall], home: Any) -> None:
    """Call the functions of these names that a module has with the calls' arguments."""
    for call in calls:
        getattr(home, call.name)(*call.arguments)


def measure_ceilings(device: torch.device) -> Ceilings:
    """Copy 256 MB (1 GB on CUDA) and multiply square matrices of 1536 (8192) a few times; takes the best of each.

    All numbers are random: a GPU draws less power for equal ones, and then is faster than with any real data.
    """
    large = device.type == "cuda"
    generator = torch.Generator(device).manual_seed(0)
    source = torch.rand(1 << 28 if large else 1 << 26, device=device, generator=generator)
    target = torch.empty_like(source)
    copy = best_seconds(lambda: target.copy_(source), device)
    size = 8192 if large else 1536
    matrix = torch.rand(size, size, device=device, generator=generator)
    product = torch.empty_like(matrix)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        multiply = best_seconds(lambda: torch.mm(matrix, matrix, out=product), device)
    finally:
        torch.set_float32_matmul_precision(precision)
    n_bytes = 2 * source.numel() * source.element_size()
    return Ceilings(device.type, n_bytes / copy / GIGA, 2 * size**3 / multiply / GIGA)


def kernel_time(calls: list[OperatorCall], seconds: float, ceilings: Ceilings) -> KernelTime:
    """The roofline's view of some calls of one operator that took `seconds` together."""
    first = calls[0]
    n_bytes, flops = sum(call.bytes for call in calls), sum(flops_of(call) for call in calls)
    intensity = flops / n_bytes
    bandwidth, peak = ceilings.copy_gb_s * GIGA, ceilings.matmul_gflop_s * GIGA
    memory_bound = intensity * bandwidth < peak
    reached = n_bytes / seconds / bandwidth if memory_bound else flops / seconds / peak
    return KernelTime(
        name=first.name,
        device=first.device.type,
        shape=shape_of(first),
        calls=len(calls),
        ms=1e3 * seconds,
        bytes=n_bytes,
        flops=flops,
        intensity=intensity,
        gflop_s=flops / seconds / GIGA,
        gb_s=n_bytes / seconds / GIGA,
        bound="memory" if memory_bound else "compute",
        share=reached,
    )


def flops_of(call: OperatorCall) -> int:
    """Multiplications and additions of the dense arithmetic in the operator's definition; 0 where it has none."""
    count = _FLOPS.get(call.name)
    return count(*call.arguments) if count is not None else 0


def _encode_codes(z: Tensor, dictionary: Tensor, *_: Any) -> int:
    return 2 * z.numel() * dictionary.shape[2]


def _train_topk(x: Tensor, encoder: Tensor, _decoder: Tensor, _bias: Tensor, k: int, epochs: int, _lr: float) -> int:
    # Dense in the encoder; the k features of a row take part in rebuilding and in three gradients.
    return epochs * x.numel() * (2 * encoder.shape[2] + 8 * k)


def _train_shared(x: Tensor, _state: Tensor, n_features: int, _step: int, epochs: int, *_: Any) -> int:
    # Forward: encoder and decoder; backward: activations, encoder and decoder.
    return epochs * 10 * x.numel() * n_features


_FLOPS: Mapping[str, Callable[..., int]] = {
    "encode_codes": _encode_codes,
    "discover_heads": _encode_codes,
    "train_topk": _train_topk,
    "train_shared": _train_shared,
}


def shape_of(call: OperatorCall) -> str:
    """The sizes of a call's arguments: tensors' shapes, then its whole numbers."""
    tensors = [" x ".join(map(str, item.shape)) for item in call.arguments if isinstance(item, Tensor)]
    numbers = [str(item) for item in call.arguments if isinstance(item, int) and not isinstance(item, bool)]
    return ", ".join([f"[{sizes}]" for sizes in tensors] + numbers)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, to the end of what it started on the device."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def best_seconds(call: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """The fastest of some calls, after one that warms up."""
    call()
    return min(timed(call, device) for _ in range(repeats))


def median_seconds(call: Callable[[], object], device: torch.device, *, repeats: int = 5, budget: float = 2.0) -> float:
    """Median of up to `repeats` calls, fewer once `budget` seconds are spent."""
    spent: list[float] = []
    while len(spent) < repeats and sum(spent) < budget:
        spent.append(timed(call, device))
    return statistics.median(spent)
