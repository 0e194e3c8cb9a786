"""The compiled operators of a discovery against their twins in plain torch."""

from __future__ import annotations

import gc
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dsae_core import ops, reference
from dsae_core.models.memory import available_memory, give_back_memory
from dsae_core.roofline import OperatorCall, by_operator, run_all, shape_of, synchronize, timed
from dsae_core.stages import Progress, silent

RIVAL_EPOCHS = 5
"""Epochs of each training call when the compiled operator is compared with plain torch, which takes far longer."""


@dataclass(frozen=True)
class RivalTime:
    """One way to compute what an operator computes in a discovery.

    Attributes:
        name: the operator.
        variant: "fused" (the compiled operator), "eager" (its twin in plain torch) or "compiled" (the twin through
            torch.compile).
        shape: sizes of the first call; training calls do RIVAL_EPOCHS epochs at most.
        ms: all calls of a discovery together, median; None where this variant did not run.
        mib: memory it takes beyond its arguments at its peak; None where it did not run or cannot be measured.
        note: why it did not run, or "".
    """

    name: str
    variant: str
    shape: str
    ms: float | None
    mib: float | None
    note: str


def profile_rivals(
    calls: Sequence[OperatorCall], *, compile_twins: bool = True, progress: Progress | None = None
) -> tuple[RivalTime, ...]:
    """Each recorded operator against its twin in plain torch, eager and through torch.compile.

    The variants run in turns, so that what else the machine does falls on all of them. Training calls are shortened
    to RIVAL_EPOCHS epochs.
    """
    report = progress if progress is not None else silent
    found: list[RivalTime] = []
    groups = [[_shortened(call) for call in group] for group in by_operator(calls)]
    for done, group in enumerate(groups):
        report("rivals", done / len(groups))
        found.extend(_rivals_of(group, compile_twins))
    report("rivals", 1.0)
    return tuple(found)


def _rivals_of(calls: list[OperatorCall], compile_twins: bool) -> list[RivalTime]:
    name, device = calls[0].name, calls[0].device
    twin = getattr(reference, name, None)
    variants: dict[str, Callable[[], object]] = {}
    notes: dict[str, str] = {}
    if ops.compiled:
        variants["fused"] = lambda: run_all(calls, ops)
    else:
        notes["fused"] = "It is not compiled here; plain torch stands in for it."
    if twin is None:
        notes["eager"] = "It has no twin in plain torch."
    elif (needed := _twin_bytes(calls)) > available_memory(device) // 2:
        notes["eager"] = f"It needs {needed / 2**30:.1f} GiB of memory."
    else:
        variants["eager"] = lambda: run_all(calls, reference)
    if "eager" in variants and compile_twins:
        compiled = _compiled_twin(name)
        variants["compiled"] = lambda: [compiled(*call.arguments) for call in calls]
    else:
        notes["compiled"] = notes.get("eager", "It was not asked for.")
    for variant, run in list(variants.items()):
        try:
            run()  # warms up, and compiles
        except Exception as error:
            if variant == "fused":
                raise
            # What torch.compile raises where it finds no compiler, or cannot follow the code, is its own affair; and
            # plain torch may need more memory than it was thought to.
            what = "torch.compile does not work here" if variant == "compiled" else "Plain torch failed here"
            notes[variant] = f"{what}: {str(error).strip().splitlines()[0]}"
            del variants[variant]
    times: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(5):
        for variant, run in variants.items():
            if sum(times[variant]) < 2.0:
                times[variant].append(timed(run, device))
    shape = shape_of(calls[0])
    found = []
    for variant in ("fused", "eager", "compiled"):
        if variant in variants:
            ms, mib = 1e3 * statistics.median(times[variant]), extra_mib(variants[variant], device)
            found.append(RivalTime(name, variant, shape, ms, mib, ""))
        else:
            found.append(RivalTime(name, variant, shape, None, None, notes[variant]))
    return found


def _compiled_twin(name: str) -> Callable[..., object]:
    """The twin through torch.compile; of one that trains, what a step differentiates."""
    twin: Callable[..., Any] = getattr(reference, name)
    losses: dict[str, Callable[..., Any]] = {
        "train_topk": reference.topk_loss,
        "train_shared": reference.shared_loss,
    }
    if name in losses:
        return partial(twin, loss_of=torch.compile(losses[name], dynamic=False))
    return torch.compile(twin, dynamic=False)


def _twin_bytes(calls: list[OperatorCall]) -> int:
    """Memory that the twin's largest tensors take; of pair_scores, which holds all pairs of codes."""
    if calls[0].name != "pair_scores":
        return 0
    codes, _, n_features = calls[0].arguments
    return 3 * 4 * int(codes.shape[1] * n_features) ** 2


def _shortened(call: OperatorCall) -> OperatorCall:
    """The same call with at most RIVAL_EPOCHS epochs."""
    place = {"train_topk": 5, "train_shared": 4}.get(call.name)
    if place is None:
        return call
    arguments = list(call.arguments)
    arguments[place] = min(RIVAL_EPOCHS, arguments[place])
    return replace(call, arguments=tuple(arguments))


def extra_mib(run: Callable[[], object], device: torch.device) -> float | None:
    """How far memory grows at its peak in one call, in MiB: the process's on the CPU (Linux only), else the device's.

    Tensors that were there before count as nothing.
    """
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not os.access(reset, os.W_OK):
        return None
    give_back_memory()  # freed memory that the process still holds would hide what the call takes
    reset.write_text("5")  # the peak starts anew
    before = _kib(status, "VmRSS")
    run()
    return max(0.0, (_kib(status, "VmHWM") - before) / 1024)


def _kib(status: Path, name: str) -> int:
    return int(status.read_text().split(f"{name}:")[1].split()[0])
