"""How well a case agrees with float64 or the CPU, and how long it takes.

Times are medians over batches of calls between two CUDA events, inputs taking turns so that the L2 cache holds none of
them. Where a call is shorter than torch takes to launch it, that is what is measured; kernel_ms, from torch's
profiler, is the time of the operator's kernels alone. Ceilings are measured on the spot: a large copy, bytes read plus
bytes written, and a large float32 matrix product without TF32.
"""

from __future__ import annotations

import itertools
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from gpu_cases import Case, Inputs, Model, encode_case
from torch import Tensor

from dsae_core import _native, ops


class Clock:
    """Milliseconds of work on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def batch(self, call: Callable[[int], Any], calls: int) -> float:
        """Of one call, on average over a batch. call gets the call's number."""
        self.synchronize()
        if self.device.type != "cuda":
            begin = time.perf_counter()
            for number in range(calls):
                call(number)
            return 1e3 * (time.perf_counter() - begin) / calls
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for number in range(calls):
            call(number)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / calls

    def median(self, call: Callable[[int], Any], *, batches: int = 7, batch_ms: float = 5.0) -> float:
        """Median over batches, each of about batch_ms."""
        for number in range(3):
            call(number)
        once = self.batch(call, 1)
        calls = max(1, min(200, round(batch_ms / max(once, 1e-3))))
        return statistics.median(self.batch(call, calls) for _ in range(batches))


def kernel_ms(device: torch.device, clock: Clock, call: Callable[[int], Any]) -> float | None:
    """Time of the operator's own kernels in a call, as torch's profiler has it; None where it has none."""
    if device.type != "cuda":
        return None
    once = max(clock.batch(call, 1) for _ in range(2))
    calls = max(2, min(10, round(200 / max(once, 1e-3))))
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for number in range(calls):
            call(number)
        torch.cuda.synchronize(device)
    is_ours = re.compile("dsae::cuda::|4dsae4cuda").search
    of_kernels = [event.self_device_time_total for event in profile.key_averages() if is_ours(event.key)]
    return sum(of_kernels) / 1e3 / calls if sum(of_kernels) > 0 else None


def free_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return 1 << 30
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info(device)[0])


def ceilings(device: torch.device, clock: Clock) -> dict[str, float]:
    rehearsal = device.type != "cuda"
    size = (1 << 20) if rehearsal else min(1 << 30, free_bytes(device) // 8)
    source = torch.randint(
        256, (size,), dtype=torch.uint8, device=device
    )  # equal numbers take less power, so less time
    target = torch.empty_like(source)
    copy_ms = clock.median(lambda _: target.copy_(source), batch_ms=20)
    side = 128 if rehearsal else 8192
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        a, b = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
        matmul_ms = clock.median(lambda _: a @ b, batches=3, batch_ms=20)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return {"copy_bytes_per_s": 2e3 * size / copy_ms, "matmul_flops_per_s": 2e3 * side**3 / matmul_ms}


def rotating_inputs(case: Case, device: torch.device) -> list[Inputs] | None:
    """As many sets as take three times the L2 cache, at least two; fewer only if memory ends, None without room."""
    room = free_bytes(device)
    if 4 * (case.input_bytes + case.bytes) > room:
        return None
    l2 = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 1 << 20
    wanted = max(2, min(512, 3 * l2 // max(case.input_bytes, 1) + 1))
    return [case.inputs(device) for _ in range(max(1, min(wanted, room // (4 * case.input_bytes))))]


def in_turns(case: Case, sets: list[Inputs]) -> Callable[[int], Any]:
    turns = itertools.cycle(sets)
    return lambda _number: case.call(*next(turns))


NO_ROOM = {"skipped": "too little memory on the device"}


def measure(case: Case, device: torch.device, clock: Clock) -> dict[str, Any]:
    """ms of a call of the operator, and of plain torch."""
    sets = rotating_inputs(case, device)
    if sets is None:
        return NO_ROOM
    found: dict[str, Any] = {"ms": clock.median(in_turns(case, sets))}
    if case.eager is not None and 3 * case.eager_bytes < free_bytes(device):
        try:
            found["eager_ms"] = clock.median(in_turns(replace(case, call=case.eager), sets), batches=3)
        except RuntimeError as error:  # the operator's own time is not lost with it
            found["eager_failed"] = str(error)[:500]
    return found


def measure_kernels(case: Case, device: torch.device, clock: Clock) -> dict[str, Any]:
    sets = rotating_inputs(case, device)
    return NO_ROOM if sets is None else {"kernel_ms": kernel_ms(device, clock, in_turns(case, sets))}


@contextmanager
def counting_rechecked(counter: Tensor) -> Iterator[None]:
    if counter.device.type != "cuda":
        yield
        return
    _native.count_rechecked_rows(counter.data_ptr())
    try:
        yield
    finally:
        _native.count_rechecked_rows(0)


def agreement(model: Model, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """The codes of up to 64 heads against float64: how many differ, and how many of those beyond rounding.

    A code may differ where the two largest activations, or the largest and the threshold, differ by less than
    float32's rounding. On CUDA also how many rows the tensor cores left several possible winners, which are multiplied
    again in float32.
    """
    heads = min(model.heads, 64)
    small = replace(model, heads=heads)
    z, dictionary, bias, threshold = encode_case(small, dtype, "encode_codes").inputs(device)
    rechecked = torch.zeros(1, dtype=torch.int32, device=device)
    with counting_rechecked(rechecked):
        codes, values = ops.encode_codes(z, dictionary, bias, threshold)
    truth = torch.relu(torch.einsum("ethd,hdf->ethf", z.double(), dictionary.double()) + bias.double())
    size = torch.einsum("ethd,hdf->ethf", z.double().abs(), dictionary.double().abs()) + bias.double().abs()
    rounding = (model.d + 2) * torch.finfo(torch.float32).eps * size.amax(-1)
    largest, winners = truth.max(-1)
    expected = torch.where(largest > threshold, winners, ops.INACTIVE)
    chosen = truth.gather(-1, codes.clamp_min(0).long()[..., None])[..., 0]
    chosen = torch.where(codes == ops.INACTIVE, threshold, chosen)
    wrong = (codes != expected) & ((largest - chosen).abs() > 2 * rounding)
    return {
        "model": model.name,
        "dtype": str(dtype).removeprefix("torch."),
        "codes": codes.numel(),
        "same": int((codes == expected).sum()),
        "rechecked": int(rechecked) if device.type == "cuda" else None,
        "wrong_beyond_rounding": int(wrong.sum()),
        "values_beyond_rounding": int(((values - largest).abs() > rounding).sum()),
    }


def train_agreement(case: Case, device: torch.device) -> dict[str, Any]:
    """Training on the device against the CPU operator: the loss of every epoch, and the same numbers twice."""
    arguments = case.inputs(device)
    first, second = case.call(*arguments), case.call(*arguments)
    here: Inputs = tuple(argument.cpu() if isinstance(argument, Tensor) else argument for argument in arguments)
    expected = case.call(*here)[-1]
    return {
        "operator": case.operator,
        "model": case.model,
        "largest_relative_difference_of_loss": float(((first[-1].cpu() - expected).abs() / expected).max()),
        "same_numbers_twice": all(torch.equal(a, b) for a, b in zip(first, second, strict=True)),
    }


def discovery(model: Model, method: str, device: torch.device, clock: Clock) -> dict[str, Any]:
    """A whole discovery from what forward passes left on the device: ms in all, and by stage."""
    # Here, so that the operators are checked even where something that a discovery needs is not installed.
    from dsae_core.discovery import discover_from_activations
    from dsae_core.flow import Surroundings
    from dsae_core.models import HeadOutputs, Routes

    P, T, L, heads = model.discovery_pairs, model.positions, model.layers, model.heads // model.layers
    z = torch.randn(2 * P, T, L, heads, model.d, device=device)
    w_o = torch.randn(L, heads, model.d, model.d_model, device=device) / model.d_model**0.5
    mask = torch.ones(2 * P, T, dtype=torch.bool, device=device)
    attention = torch.randn(L, 2 * P, heads, T, T, device=device).tril().abs() / T
    streams = torch.randn(L, 2 * P, T, model.d_model, device=device)
    routes = Routes(attention, torch.randn(L, 2 * P, T, heads, model.d, device=device), streams)
    outputs = HeadOutputs(z, mask, streams.norm(dim=-1), z.new_empty(2 * P, 0), routes)

    def run() -> Any:
        around = Surroundings.of(outputs, w_o, P) if method == "positional" else None
        return discover_from_activations(z[:P], z[P:], w_o, mask, surroundings=around, method=method)

    run()
    times, stages = [], {}
    for _ in range(5):
        clock.synchronize()
        begin = time.perf_counter()
        stages = {name: round(1e3 * seconds, 2) for name, seconds in run().timings.items()}
        times.append(1e3 * (time.perf_counter() - begin))
    return {"model": model.name, "method": method, "pairs": P, "ms": statistics.median(times), "stages_ms": stages}
