"""Where a discovery's time goes: stages, operators against the device's ceilings, and against plain torch."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dsae_core import _native, ops, reference
from dsae_core.discovery import discover, discover_from_activations
from dsae_core.files import write_atomic
from dsae_core.models import LanguageModel
from dsae_core.models.memory import available_memory, give_back_memory
from dsae_core.prompts import PromptPairs
from dsae_core.roofline import (
    Ceilings,
    KernelTime,
    OperatorCall,
    kernel_time,
    measure_ceilings,
    median_seconds,
    shape_of,
    synchronize,
    timed,
)
from dsae_core.stages import Progress

SCHEMA = 1
RIVAL_EPOCHS = 5
"""Epochs of each training call when the compiled operator is compared with plain torch, which takes far longer."""


@dataclass(frozen=True)
class StageTime:
    """One stage of a discovery; the median over repeats, in seconds."""

    name: str
    seconds: float


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


@dataclass(frozen=True)
class Scaling:
    """How time grows with a quantity.

    Attributes:
        name: what was run.
        quantity: what was varied: "heads" or "examples".
        points: (value, seconds), seconds the best of some runs.
        exponent: p of seconds = c * value^p, least squares over the logarithms: 1 is linear, 2 quadratic.
        expected: the exponent that its arithmetic has.
    """

    name: str
    quantity: str
    points: tuple[tuple[int, float], ...]
    exponent: float
    expected: int


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
    report = progress if progress is not None else _silent

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
    report = progress if progress is not None else _silent
    ceilings: dict[str, Ceilings] = {}
    kernels = []
    groups = _by_operator(calls)
    for done, group in enumerate(groups):
        report("kernels", done / len(groups))
        device = group[0].device
        if device.type not in ceilings:
            ceilings[device.type] = measure_ceilings(device)
        seconds = median_seconds(lambda group=group: _run_all(group, ops), device)  # type: ignore[misc]
        kernels.append(kernel_time(group, seconds, ceilings[device.type]))
    report("kernels", 1.0)
    return tuple(kernels), tuple(ceilings.values())


def profile_rivals(
    calls: Sequence[OperatorCall], *, compile_twins: bool = True, progress: Progress | None = None
) -> tuple[RivalTime, ...]:
    """Each recorded operator against its twin in plain torch, eager and through torch.compile.

    The variants run in turns, so that what else the machine does falls on all of them. Training calls are shortened
    to RIVAL_EPOCHS epochs.
    """
    report = progress if progress is not None else _silent
    found: list[RivalTime] = []
    groups = [[_shortened(call) for call in group] for group in _by_operator(calls)]
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
        variants["fused"] = lambda: _run_all(calls, ops)
    else:
        notes["fused"] = "It is not compiled here; plain torch stands in for it."
    if twin is None:
        notes["eager"] = "It has no twin in plain torch."
    elif (needed := _twin_bytes(calls)) > available_memory(device) // 2:
        notes["eager"] = f"It needs {needed / 2**30:.1f} GiB of memory."
    else:
        variants["eager"] = lambda: _run_all(calls, reference)
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


def _by_operator(calls: Sequence[OperatorCall]) -> list[list[OperatorCall]]:
    groups: dict[str, list[OperatorCall]] = {}
    for call in calls:
        groups.setdefault(call.name, []).append(call)
    return list(groups.values())


def _run_all(calls: Sequence[OperatorCall], home: Any) -> None:
    for call in calls:
        getattr(home, call.name)(*call.arguments)


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


def measure_scaling(
    *,
    heads: Sequence[int] = (128, 256, 512, 1024),
    examples: Sequence[int] = (20, 40, 80, 160),
    pair_heads: Sequence[int] = (512, 1024, 2048, 4096),
    repeats: int = 3,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> tuple[Scaling, ...]:
    """Positional discovery against heads and against examples, and pair_scores against heads.

    Discoveries run on random head outputs of 16 positions, d_head 64 and d_model 576, from activations on, so
    without a model; against heads with 20 examples, against examples with 128 heads. pair_scores has 20 examples and
    64 features.

    Args:
        heads: numbers of heads to discover with.
        examples: numbers of examples, positives and negatives together.
        pair_heads: numbers of heads for pair_scores.
        repeats: runs a point, of which the fastest counts.
        device: where the head outputs and codes are.
        progress: called with "scaling" and the share of points done.
    """
    report, place = progress if progress is not None else _silent, torch.device(device)
    series: list[tuple[str, str, int, Sequence[int], Callable[[int], Callable[[], object]]]] = [
        ("positional discovery", "heads", 1, heads, lambda n: _synthetic_discovery(n, 20, place)),
        ("positional discovery", "examples", 1, examples, lambda n: _synthetic_discovery(128, n, place)),
        ("pair_scores", "heads", 2, pair_heads, lambda n: _synthetic_pairs(n, 20, place)),
    ]
    total, done = sum(len(values) for _, _, _, values, _ in series), 0
    found = []
    for name, quantity, expected, values, make in series:
        points = []
        for value in values:
            report("scaling", done / total)
            run = make(value)
            run()
            points.append((value, min(timed(run, place) for _ in range(repeats))))
            done += 1
        found.append(Scaling(name, quantity, tuple(points), fitted_exponent(points), expected))
    report("scaling", 1.0)
    return tuple(found)


def fitted_exponent(points: Sequence[tuple[int, float]]) -> float:
    """p of seconds = c * value^p by least squares over the logarithms; needs two different values."""
    x, y = torch.tensor(points, dtype=torch.float64).log().unbind(dim=1)
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def _synthetic_discovery(n_heads: int, n_examples: int, device: torch.device) -> Callable[[], object]:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(n_examples, 16, 1, n_heads, 64, generator=g).to(device)
    w_o = (torch.randn(1, n_heads, 64, 576, generator=g) / 24).to(device)
    half = n_examples // 2
    return lambda: discover_from_activations(z[:half], z[half:], w_o)


def _synthetic_pairs(n_heads: int, n_examples: int, device: torch.device) -> Callable[[], object]:
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(-1, 64, (n_examples, n_heads), dtype=torch.int32, generator=g).to(device)
    return lambda: ops.pair_scores(codes, n_examples // 2, 64)


def machine_facts() -> dict[str, Any]:
    """Processor, threads, memory, GPU, versions and how the operators were built."""
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "build": dict(_native.build_info()),
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cuda_launches() -> tuple[Mapping[str, Any], ...]:
    """What each CUDA kernel takes of the current device; empty without CUDA operators or a device.

    The keys are those of `_native.KernelAttributes`, and "occupancy": the share of the threads a processor can hold.
    """
    if _native.build_info()["cuda_version"] is None or not torch.cuda.is_available():
        return ()
    most = torch.cuda.get_device_properties(torch.cuda.current_device()).max_threads_per_multi_processor
    return tuple(
        {**kernel, "occupancy": round(kernel["blocks_per_processor"] * kernel["threads"] / most, 3)}
        for kernel in _native.kernel_attributes()
    )


def _table(header: str, rows: Sequence[str]) -> str:
    lines = [header, " | ".join(["---"] * (header.count("|") + 1)), *rows]
    return "\n".join(f"| {line} |" for line in lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _as_tuple(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


def _silent(_stage: str, _fraction: float) -> None:
    """Progress that nobody follows."""
