"""Where a discovery's time goes: stages, and operators against the device's ceilings and against plain torch."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dsae_core import ops
from dsae_core.discovery import discover
from dsae_core.files import write_atomic
from dsae_core.machine import cuda_launches, machine_facts
from dsae_core.models import LanguageModel
from dsae_core.prompts import PromptPairs
from dsae_core.rivals import RivalTime, profile_rivals
from dsae_core.roofline import (
    Ceilings,
    KernelTime,
    OperatorCall,
    by_operator,
    kernel_time,
    measure_ceilings,
    median_seconds,
    run_all,
)
from dsae_core.scaling import Scaling
from dsae_core.stages import Progress, silent

SCHEMA = 1


@dataclass(frozen=True)
class StageTime:
    """One stage of a discovery; the median over repeats, in seconds."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Profile:
    """A discovery's cost. See StageTime, KernelTime, RivalTime and Scaling.

    Attributes:
        settings: what is needed to run it again.
        machine: processor, threads, versions and how the operators were built.
        ceilings: of each device that an operator ran on.
        stages: in their order.
        kernels: the compiled operators that the discovery called.
        rivals: each of them against plain torch; empty where that was not asked for.
        scaling: empty where it was not asked for.
        launches: registers, shared memory and occupancy of each CUDA kernel; empty without CUDA operators.
    """

    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    ceilings: tuple[Ceilings, ...]
    stages: tuple[StageTime, ...]
    kernels: tuple[KernelTime, ...]
    rivals: tuple[RivalTime, ...] = ()
    scaling: tuple[Scaling, ...] = ()
    launches: tuple[Mapping[str, Any], ...] = ()

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return sum(stage.seconds for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"schema": SCHEMA, **asdict(self), "seconds": self.seconds}

    def markdown(self) -> str:
        """Tables of the stages, the operators, and whatever else was measured."""
        parts = [_table("stage | seconds", [f"{s.name} | {s.seconds:.3f}" for s in self.stages])]
        kernels = [
            f"{k.name} | {k.calls} | {k.ms:.2f} | {k.bytes / 2**20:.1f} | {k.flops / 1e9:.2f} | {k.gflop_s:.1f} | "
            f"{k.gb_s:.2f} | {k.bound} | {k.share:.0%}"
            for k in self.kernels
        ]
        parts.append(
            _table("operator | calls | ms | MiB | GFLOP | GFLOP/s | GB/s | bound by | share of the roofline", kernels)
        )
        for ceiling in self.ceilings:
            parts.append(
                f"Ceilings on {ceiling.device}: copy {ceiling.copy_gb_s:.1f} GB/s, float32 matrix product "
                f"{ceiling.matmul_gflop_s:.0f} GFLOP/s."
            )
        if self.rivals:
            rivals = [f"{r.name} | {r.variant} | {_number(r.ms)} | {_number(r.mib)} | {r.note}" for r in self.rivals]
            parts.append(_table("operator | variant | ms | extra MiB | note", rivals))
        if self.scaling:
            scaling = [
                f"{s.name} | {s.quantity} | {', '.join(f'{n}: {t:.3f}' for n, t in s.points)} | {s.exponent:.2f}"
                for s in self.scaling
            ]
            parts.append(_table("time of | against | seconds | exponent", scaling))
        if self.launches:
            columns = list(self.launches[0])
            parts.append(_table(" | ".join(columns), [" | ".join(str(x[c]) for c in columns) for x in self.launches]))
        return "\n\n".join(parts)


def profile_discovery(
    model: LanguageModel,
    pairs: PromptPairs,
    *,
    method: str = "positional",
    seed: int = 0,
    repeats: int = 3,
    rivals: bool = True,
    compile_twins: bool = True,
    trace: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Profile:
    """Run a discovery a few times and measure its stages and the operators it calls.

    Args:
        model: from load_model.
        pairs: the prompts.
        method: as in discover.
        seed: as in discover.
        repeats: timed discoveries, after one that warms up and whose operator calls are kept.
        rivals: also run the operators' twins in plain torch.
        compile_twins: also through torch.compile, which may take minutes to compile.
        trace: write one more discovery's timeline here, in Chrome's trace format (for Perfetto or chrome://tracing).
        progress: called with what is being measured and the share of it done; an exception it raises ends the run.
        options: settings of the method.

    Raises:
        UserError: as discover, or the trace cannot be written.
    """
    report = progress if progress is not None else silent

    def run(follow: Progress | None = None) -> Any:
        return discover(model, pairs, method=method, seed=seed, progress=follow, **options)

    report("stages", 0.0)
    found, calls = record_calls(run)
    timings = []
    for done in range(repeats):
        report("stages", (done + 1) / (repeats + 1))
        timings.append(run().timings)
    stages = tuple(StageTime(name, statistics.median(times[name] for times in timings)) for name in timings[0])
    kernels, ceilings = profile_kernels(calls, progress=report)
    profile = Profile(
        settings={
            **found.settings,
            "model": model.name,
            "model_digest": model.digest,
            "device": model.device.type,
            "task": pairs.task,
            "examples": len(pairs),
            "repeats": repeats,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        },
        machine=machine_facts(),
        ceilings=ceilings,
        stages=stages,
        kernels=kernels,
        launches=cuda_launches(),
    )
    if rivals:
        profile = replace(profile, rivals=profile_rivals(calls, compile_twins=compile_twins, progress=report))
    if trace is not None:
        report("trace", 0.0)
        write_trace(run, trace)
        report("trace", 1.0)
    return profile


def record_calls(run: Callable[[], Any]) -> tuple[Any, list[OperatorCall]]:
    """What `run` returns, and its calls of compiled operators with their arguments."""
    with _Recorder() as recorder:
        result = run()
    return result, recorder.calls


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, keeps every call of an operator in namespace dsae."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[OperatorCall] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        if func.namespace == "dsae":
            tensors = [item for item in (*args, *_as_tuple(results)) if isinstance(item, Tensor)]
            n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.calls.append(OperatorCall(func._schema.name.split("::")[1], args, n_bytes))
        return results


def profile_kernels(
    calls: Sequence[OperatorCall], *, progress: Progress | None = None
) -> tuple[tuple[KernelTime, ...], tuple[Ceilings, ...]]:
    """Time the recorded calls again, an operator at a time, against the ceilings of their devices.

    Args:
        calls: from record_calls.
        progress: called with "kernels" and the share of operators done.

    Returns:
        (operators in the order of their first call, ceilings a device).
    """
    report = progress if progress is not None else silent
    ceilings: dict[str, Ceilings] = {}
    kernels = []
    groups = by_operator(calls)
    for done, group in enumerate(groups):
        report("kernels", done / len(groups))
        device = group[0].device
        if device.type not in ceilings:
            ceilings[device.type] = measure_ceilings(device)
        seconds = median_seconds(lambda group=group: run_all(group, ops), device)  # type: ignore[misc]
        kernels.append(kernel_time(group, seconds, ceilings[device.type]))
    report("kernels", 1.0)
    return tuple(kernels), tuple(ceilings.values())


def write_trace(run: Callable[[Progress], object], path: str | Path) -> Path:
    """Run once under torch's profiler and write the timeline, with the stages on it, in Chrome's trace format.

    Args:
        run: takes a progress callback and does the work.
        path: the file, JSON.

    Raises:
        UserError: it cannot be written.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler, _stage_ranges() as follow:
        run(follow)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(whole))
        return write_atomic(path, whole.read_text(encoding="utf-8"))


@contextmanager
def _stage_ranges() -> Iterator[Progress]:
    """A progress callback that opens a named range when a stage starts and closes it when the stage ends."""
    ranges: dict[str, Any] = {}

    def follow(stage: str, fraction: float) -> None:
        if stage not in ranges and fraction == 0:
            ranges[stage] = torch.profiler.record_function(f"stage: {stage}")
            ranges[stage].__enter__()
        elif stage in ranges and fraction == 1:
            ranges.pop(stage).__exit__(None, None, None)

    yield follow
    for left in ranges.values():
        left.__exit__(None, None, None)


def _table(header: str, rows: Sequence[str]) -> str:
    lines = [header, " | ".join(["---"] * (header.count("|") + 1)), *rows]
    return "\n".join(f"| {line} |" for line in lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _as_tuple(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)
