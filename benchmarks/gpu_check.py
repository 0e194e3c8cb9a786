"""The CUDA operators on this machine's GPU: tests, memory and race checks, agreement with float64, and speed.

    make gpu-check
    python benchmarks/gpu_check.py [--json FILE] [--minutes 7] [--rehearse]

Writes one JSON file, benchmarks/results/gpu.<device>.json, within --minutes; what there was no time or memory for is
named in it. Exit code 0: everything agreed; 1: something did not; 2: there is no GPU here, or the operators were built
without CUDA. --rehearse runs the same steps on the CPU with small shapes, to see that this program works; then FILE is
written only if given.

Times are medians over batches of calls between two CUDA events, inputs taking turns so that the L2 cache holds none of
them. Where a call is shorter than torch takes to launch it, that is what is measured; kernel_ms, from torch's
profiler, is the time of the operator's kernels alone. Ceilings are measured on the spot: a large copy, bytes read plus
bytes written, and a large float32 matrix product without TF32.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsae_core import _native, ops, reference
from dsae_core.discovery import discover_from_activations
from dsae_core.files import write_atomic
from dsae_core.flow import Surroundings
from dsae_core.models import HeadOutputs, Routes
from dsae_core.result import Discovery

ROOT = Path(__file__).resolve().parents[1]
Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class Model:
    """The heads of a model, and how many prompts of how many positions they are looked at on.

    Attributes:
        shared_features: of the paper's dictionary, which is trained on a row for each head of ten prompts.
        shared_epochs: of its training, in the call that is timed.
        discovery_pairs: prompt pairs of a whole discovery; 0 where none is timed.
        encoding_only: whether encode_codes and discover_heads are all that is looked at.
    """

    name: str
    layers: int
    heads: int
    d: int
    d_model: int
    examples: int = 20
    positions: int = 17
    features: int = 64
    pair_examples: int = 500
    shared_features: int = 200
    shared_epochs: int = 50
    discovery_pairs: int = 0
    encoding_only: bool = False

    @property
    def shared_rows(self) -> int:
        return 10 * self.heads


MODELS = [
    Model("GPT-2 small", 12, 144, 64, 768, discovery_pairs=200),
    Model("GPT-2 XL", 48, 1200, 64, 1600, discovery_pairs=20),
    Model("Llama 70B", 80, 5120, 128, 8192, pair_examples=100, shared_epochs=5),
    Model("SmolLM2-135M", 30, 270, 64, 576, examples=500, positions=20, encoding_only=True),
]
REHEARSED = [
    Model(
        "rehearsal",
        1,
        3,
        8,
        16,
        examples=4,
        positions=3,
        features=8,
        pair_examples=12,
        shared_features=6,
        shared_epochs=2,
        discovery_pairs=12,
    )
]


@dataclass(frozen=True)
class Case:
    """An operator on a model's heads.

    Attributes:
        inputs: makes a set of random inputs, whose tensors have input_bytes together.
        call: the operator.
        eager: the same in plain torch, where that is worth timing.
        flops: of the dense arithmetic that defines the operator; None for operators on whole numbers.
        bytes: arguments read once and results written once: nothing can move less.
        eager_bytes: about what plain torch needs beyond its arguments.
    """

    operator: str
    model: str
    shape: str
    inputs: Callable[[torch.device], Inputs]
    call: Callable[..., Any]
    eager: Callable[..., Any] | None
    flops: int | None
    bytes: int
    input_bytes: int
    eager_bytes: int = 0


@dataclass(frozen=True)
class Row:
    """A case's result; times in milliseconds. Shares are of the ceilings that were measured on the spot."""

    operator: str
    model: str
    shape: str
    ms: float | None
    kernel_ms: float | None
    eager_ms: float | None
    bytes: int
    flops: int | None
    share_of_copy_bandwidth: float | None
    share_of_matmul_rate: float | None
    skipped: str | None = None


# What is measured.


def encode_case(model: Model, dtype: torch.dtype, operator: str) -> Case:
    E, T, H, d, F = model.examples, model.positions, model.heads, model.d, model.features

    def inputs(device: torch.device) -> Inputs:
        z = torch.randn(E, T, H, d, device=device).to(dtype)
        dictionary, bias = torch.randn(H, d, F, device=device) / d**0.5, torch.randn(H, F, device=device) / 10
        return (z, dictionary, bias, 1.0, *((E // 2,) if operator == "discover_heads" else ()))

    itemsize = torch.empty(0, dtype=dtype).element_size()
    rows = E * T * H
    input_bytes = rows * d * itemsize + 4 * H * (d + 1) * F
    return Case(
        operator,
        model.name,
        f"E {E}, T {T}, H {H}, d {d}, F {F}, {str(dtype).removeprefix('torch.')}",
        inputs,
        getattr(ops, operator),
        getattr(reference, operator) if dtype == torch.float32 else None,
        2 * rows * d * F,
        input_bytes + 8 * rows + (8 * H if operator == "discover_heads" else 0),
        input_bytes,
        eager_bytes=rows * F * 4 * 4,
    )


def unique_case(model: Model) -> Case:
    E, T, H, F = model.examples, model.positions, model.heads, model.features

    def inputs(device: torch.device) -> Inputs:
        codes = torch.randint(ops.INACTIVE, F, (E, T, H), dtype=torch.int32, device=device)
        return codes, torch.rand(E, T, H, device=device), E // 2, F

    return Case(
        "unique_scores",
        model.name,
        f"E {E}, T {T}, H {H}, F {F}",
        inputs,
        ops.unique_scores,
        reference.unique_scores,
        None,
        8 * E * T * H + 8 * H,
        8 * E * T * H,
        eager_bytes=4 * E * T * H * F,
    )


def pair_case(model: Model) -> Case:
    E, H, F = model.pair_examples, model.heads, 200

    def inputs(device: torch.device) -> Inputs:
        return torch.randint(ops.INACTIVE, F, (E, H), dtype=torch.int32, device=device), E // 2, F

    shape = f"E {E}, H {H}, F {F}"
    return Case("pair_scores", model.name, shape, inputs, ops.pair_scores, None, None, 4 * E * H + 4 * H * H, 4 * E * H)


def train_case(model: Model, k: int = 2, epochs: int = 60) -> Case:
    H, n, d, F = model.heads, model.examples * model.positions, model.d, model.features

    def inputs(device: torch.device) -> Inputs:
        x = torch.randn(H, n, d, device=device)
        picks = torch.randint(0, n, (H, F, 1), device=device).expand(-1, -1, d)
        start = torch.nn.functional.normalize(x.gather(1, picks).transpose(1, 2), dim=1)
        return x, start, start.clone(), torch.zeros(H, F, device=device), k, epochs, 0.01

    x_bytes, weight_bytes = 4 * H * n * d, 4 * H * (2 * d + 1) * F
    return Case(
        "train_topk",
        model.name,
        f"H {H}, n {n}, d {d}, F {F}, k {k}, {epochs} epochs",
        inputs,
        ops.train_topk,
        None,
        epochs * H * n * (2 * d * F + 8 * d * k),
        x_bytes + 2 * weight_bytes,
        x_bytes + weight_bytes,
    )


def shared_case(model: Model) -> Case:
    n, D, F, epochs = model.shared_rows, model.d_model, model.shared_features, model.shared_epochs
    parameters = 2 * F * D + F + D

    def inputs(device: torch.device) -> Inputs:
        x = torch.randn(n, D, device=device)
        state = torch.zeros(3, parameters, device=device)
        state[0].normal_(std=D**-0.5)
        return x, state, F, 0, epochs, 0.02, 1e-3

    input_bytes = 4 * (n * D + 3 * parameters)
    return Case(
        "train_shared",
        model.name,
        f"n {n}, D {D}, F {F}, {epochs} epochs",
        inputs,
        ops.train_shared,
        reference.train_shared,
        epochs * 10 * n * D * F,
        input_bytes + 12 * parameters,
        input_bytes,
        eager_bytes=4 * n * (4 * D + 6 * F),
    )


def all_cases(models: list[Model]) -> Iterator[Case]:
    for model in models:
        for dtype in (torch.float32, torch.bfloat16):
            yield encode_case(model, dtype, "encode_codes")
            yield encode_case(model, dtype, "discover_heads")
        if model.encoding_only:
            continue
        yield unique_case(model)
        yield pair_case(model)
        yield train_case(model)
        yield shared_case(model)


# How it is measured.


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


def kernel_ms(device: torch.device, call: Callable[[int], Any], calls: int = 10) -> float | None:
    """Time of the operator's own kernels in a call, as torch's profiler has it; None where it has none."""
    if device.type != "cuda":
        return None
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    try:
        with torch.profiler.profile(activities=activities) as profile:
            for number in range(calls):
                call(number)
            torch.cuda.synchronize(device)
    except RuntimeError as error:  # some machines forbid profiling
        print(f"    torch's profiler does not work here: {error}")
        return None
    is_ours = re.compile("dsae::cuda::|4dsae4cuda").search
    of_kernels = [event.self_device_time_total for event in profile.key_averages() if is_ours(event.key)]
    return sum(of_kernels) / 1e3 / calls if sum(of_kernels) > 0 else None


def free_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return 1 << 30
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info(device)[0])


@dataclass(frozen=True)
class Ceilings:
    copy_bytes_per_s: float
    matmul_flops_per_s: float


def ceilings(device: torch.device, clock: Clock) -> Ceilings:
    rehearsal = device.type != "cuda"
    size = (1 << 20) if rehearsal else min(1 << 30, free_bytes(device) // 8)
    source, target = (
        torch.ones(size, dtype=torch.uint8, device=device),
        torch.empty(size, dtype=torch.uint8, device=device),
    )
    copy_ms = clock.median(lambda _: target.copy_(source), batch_ms=20)
    side = 128 if rehearsal else 8192
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        a, b = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
        matmul_ms = clock.median(lambda _: a @ b, batches=3, batch_ms=20)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return Ceilings(2e3 * size / copy_ms, 2e3 * side**3 / matmul_ms)


def rotating_inputs(case: Case, device: torch.device, room: int) -> list[Inputs]:
    """As many sets as take three times the L2 cache, at least two; fewer than that only if memory ends."""
    l2 = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 1 << 20
    wanted = max(2, min(16, 3 * l2 // max(case.input_bytes, 1) + 1))
    return [case.inputs(device) for _ in range(max(1, min(wanted, room // (2 * case.input_bytes))))]


def measure(case: Case, device: torch.device, clock: Clock, limits: Ceilings) -> Row:
    room = free_bytes(device)
    if 4 * (case.input_bytes + case.bytes) > room:
        return skipped(case, "too little memory on the device")
    sets = rotating_inputs(case, device, room // 2)

    def call(number: int) -> Any:
        return case.call(*sets[number % len(sets)])

    ms = clock.median(call)
    of_kernels = kernel_ms(device, call)
    eager_ms = None
    if case.eager is not None and 3 * case.eager_bytes < free_bytes(device):
        eager = case.eager
        eager_ms = clock.median(lambda number: eager(*sets[number % len(sets)]), batches=3)
    seconds = (of_kernels or ms) / 1e3
    return Row(
        case.operator,
        case.model,
        case.shape,
        ms,
        of_kernels,
        eager_ms,
        case.bytes,
        case.flops,
        case.bytes / seconds / limits.copy_bytes_per_s,
        case.flops / seconds / limits.matmul_flops_per_s if case.flops is not None else None,
    )


def skipped(case: Case, why: str) -> Row:
    return Row(case.operator, case.model, case.shape, None, None, None, case.bytes, case.flops, None, None, why)


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
    float32's rounding. On CUDA also how many rows TF32 left several possible winners, multiplied again in float32.
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


def train_agreement(model: Model, device: torch.device) -> Iterator[dict[str, Any]]:
    """Training on the device against the CPU operator: the loss of every epoch, and the same numbers twice."""
    small = replace(model, heads=min(model.heads, 16), shared_epochs=min(model.shared_epochs, 30))
    for case in (train_case(small, epochs=30), shared_case(small)):
        arguments = case.inputs(device)
        first, second = case.call(*arguments), case.call(*arguments)
        here: Inputs = tuple(argument.cpu() if isinstance(argument, Tensor) else argument for argument in arguments)
        expected = case.call(*here)[-1]
        yield {
            "operator": case.operator,
            "model": model.name,
            "largest_relative_difference_of_loss": float(((first[-1].cpu() - expected).abs() / expected).max()),
            "same_numbers_twice": all(torch.equal(a, b) for a, b in zip(first, second, strict=True)),
        }


def discoveries(model: Model, device: torch.device, clock: Clock) -> Iterator[dict[str, Any]]:
    """A whole discovery from what forward passes left on the device, with both methods: ms in all, and by stage."""
    P, T, L, heads = model.discovery_pairs, model.positions, model.layers, model.heads // model.layers
    z = torch.randn(2 * P, T, L, heads, model.d, device=device)
    w_o = torch.randn(L, heads, model.d, model.d_model, device=device) / model.d_model**0.5
    mask = torch.ones(2 * P, T, dtype=torch.bool, device=device)
    attention = torch.randn(L, 2 * P, heads, T, T, device=device).tril().abs() / T
    streams = torch.randn(L, 2 * P, T, model.d_model, device=device)
    routes = Routes(attention, torch.randn(L, 2 * P, T, heads, model.d, device=device), streams)
    outputs = HeadOutputs(z, mask, streams.norm(dim=-1), z.new_empty(2 * P, 0), routes)
    for method in ("paper", "positional"):

        def run(method: str = method) -> Discovery:
            around = Surroundings.of(outputs, w_o, P) if method == "positional" else None
            return discover_from_activations(z[:P], z[P:], w_o, mask, surroundings=around, method=method)

        run()
        times, stages = [], {}
        for _ in range(5):
            clock.synchronize()
            begin = time.perf_counter()
            stages = {name: round(1e3 * seconds, 2) for name, seconds in run().timings.items()}
            times.append(1e3 * (time.perf_counter() - begin))
        yield {"model": model.name, "method": method, "pairs": P, "ms": statistics.median(times), "stages_ms": stages}


# Tests and checks, in processes of their own.


def run(command: list[str], seconds: float, **environment: str) -> dict[str, Any]:
    """Exit code (None: out of time), seconds, and the end of what it said."""
    begin = time.monotonic()
    try:
        result = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=max(seconds, 1),
        )
        code, said = result.returncode, result.stdout
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        code = None
    return {"exit_code": code, "seconds": round(time.monotonic() - begin, 1), "said": said[-2000:]}


def run_tests(seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "cuda"]
    result = run([*command, "tests/test_ops_cuda.py", "tests/test_ops_unique.py"], seconds)
    passed = re.search(r"(\d+) passed", result["said"])
    failed = re.search(r"(\d+) failed", result["said"])
    return {**result, "passed": int(passed[1]) if passed else 0, "failed": int(failed[1]) if failed else 0}


def find_sanitizer() -> str | None:
    places = ["compute-sanitizer"]
    places += [
        str(Path(os.environ[name], "bin", places[0])) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ
    ]
    places += [f"/usr/local/cuda/{folder}/compute-sanitizer" for folder in ("bin", "compute-sanitizer")]
    return next(filter(None, map(shutil.which, places)), None)


def run_sanitizers(seconds: float) -> dict[str, Any]:
    """compute-sanitizer on one small call of every kernel; torch's own pool of memory would hide small overruns."""
    sanitizer = find_sanitizer()
    if sanitizer is None:
        return {"skipped": "compute-sanitizer was not found; it comes with the CUDA toolkit"}
    script = [sys.executable, str(Path(__file__).resolve()), "--small-cases"]
    return {
        tool: run(
            [sanitizer, "--tool", tool, "--error-exitcode", "9", *script],
            seconds / 2,
            PYTORCH_NO_CUDA_MEMORY_CACHING="1",
        )
        for tool in ("memcheck", "racecheck")
    }


def small_cases(device: torch.device) -> None:
    """Every kernel once or twice, with sizes that fill no tile."""
    for heads, d, features, examples in [(3, 7, 9, 5), (2, 70, 70, 40), (2, 33, 40, 40)]:
        model = Model(
            "small", 1, heads, d, 11 * d, examples, 4, features, 40, shared_features=features, shared_epochs=2
        )
        for case in all_cases([model]):
            if case.operator != "train_topk":
                case.call(*case.inputs(device))
        ops.train_topk(*train_case(model, epochs=2).inputs(device))
    big = Model("state in global memory", 1, 2, 200, 200, examples=3, positions=4, features=200)
    ops.train_topk(*train_case(big, epochs=1).inputs(device))


# The report.


def machine(device: torch.device) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torch_cuda": torch.version.cuda,
        "build": _native.build_info(),
    }
    if device.type == "cuda":
        facts["device"] = _native.device_limits(device.index or 0)
        facts["kernels"] = _native.kernel_attributes()
        smi = shutil.which("nvidia-smi")
        if smi:
            query = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
            facts["driver"] = run(query, 20)["said"].strip().splitlines()[:1]
    return facts


@contextmanager
def announced(what: str) -> Iterator[None]:
    begin = time.monotonic()
    print(f"{what} ...", flush=True)
    yield
    print(f"    {time.monotonic() - begin:.1f} s", flush=True)


def show(row: Row) -> None:
    if row.skipped:
        print(f"    {row.operator:15} {row.model:12} skipped: {row.skipped}", flush=True)
        return
    kernel = f"{row.kernel_ms:9.3f}" if row.kernel_ms is not None else f"{'-':>9}"
    eager = f"{row.eager_ms:9.3f}" if row.eager_ms is not None else f"{'-':>9}"
    rate = f"{row.share_of_matmul_rate:7.1%}" if row.share_of_matmul_rate is not None else f"{'-':>7}"
    print(
        f"    {row.operator:15} {row.model:12} {row.ms:9.3f} ms {kernel} {eager} "
        f"{row.share_of_copy_bandwidth:7.1%} {rate}  {row.shape}",
        flush=True,
    )


def check(device: torch.device, models: list[Model], seconds: float) -> tuple[dict[str, Any], bool]:
    """The report, and whether everything agreed."""
    begin = time.monotonic()

    def left() -> float:
        return seconds - (time.monotonic() - begin)

    torch.manual_seed(0)
    clock = Clock(device)
    report: dict[str, Any] = {
        "schema": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(device),
    }
    fine = True
    if device.type == "cuda":
        with announced("Tests that need a GPU"):
            report["tests"] = run_tests(min(150.0, left()))
            fine &= report["tests"]["exit_code"] == 0 and report["tests"]["passed"] > 0
            print(f"    {report['tests']['passed']} passed, {report['tests']['failed']} failed")
        with announced("compute-sanitizer"):
            report["sanitizers"] = run_sanitizers(min(150.0, left()))
            for tool, result in report["sanitizers"].items():
                if tool == "skipped":
                    print(f"    {result}")
                    continue
                said = {0: "nothing found", None: "out of time"}.get(result["exit_code"], "see the report")
                print(f"    {tool}: {said}")
                fine &= result["exit_code"] in (0, None)
    with announced("Agreement with float64 and with the CPU"):
        report["codes"] = [
            agreement(model, dtype, device)
            for model in models
            for dtype in (torch.float32, torch.float16, torch.bfloat16)
        ]
        report["training"] = [
            row for model in models if not model.encoding_only for row in train_agreement(model, device)
        ]
        for row in report["codes"]:
            fine &= row["wrong_beyond_rounding"] == 0 and row["values_beyond_rounding"] == 0
        for row in report["training"]:
            fine &= row["same_numbers_twice"] and row["largest_relative_difference_of_loss"] < 0.02
    with announced("Ceilings: copy bandwidth and float32 matrix product"):
        limits = ceilings(device, clock)
        report["ceilings"] = asdict(limits)
        print(f"    {limits.copy_bytes_per_s / 1e12:.2f} TB/s, {limits.matmul_flops_per_s / 1e12:.1f} TFLOP/s")
    with announced("Operators: ms a call, of its kernels, of eager torch; shares of the ceilings"):
        rows = []
        for case in all_cases(models):
            rows.append(measure(case, device, clock, limits) if left() > 30 else skipped(case, "out of time"))
            show(rows[-1])
        report["rows"] = [asdict(row) for row in rows]
    with announced("Whole discoveries, without the forward passes"):
        report["discoveries"] = []
        for model in models:
            if model.discovery_pairs and left() > 30:
                report["discoveries"] += discoveries(model, device, clock)
        for row in report["discoveries"]:
            print(f"    {row['method']:11} {row['model']:12} {row['ms']:9.1f} ms, {row['pairs']} pairs")
    report["everything_agreed"] = fine
    report["seconds"] = round(time.monotonic() - begin, 1)
    return report, fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the report")
    parser.add_argument("--minutes", type=float, default=7.0, help="time to stay within")
    parser.add_argument("--rehearse", action="store_true", help="the same steps on the CPU, small")
    parser.add_argument("--small-cases", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.rehearse:
        if not torch.cuda.is_available():
            print(
                f"There is no GPU that this torch ({torch.__version__}) can use, so nothing was checked.",
                file=sys.stderr,
            )
            return 2
        if _native.build_info()["cuda_version"] is None:
            print("The operators were built without CUDA; install nvcc and run `make setup` again.", file=sys.stderr)
            return 2
    device = torch.device("cpu") if options.rehearse else torch.device("cuda", torch.cuda.current_device())
    if options.small_cases:
        small_cases(device)
        Clock(device).synchronize()
        return 0
    report, fine = check(device, REHEARSED if options.rehearse else MODELS, 60 * options.minutes)
    path = options.json
    if path is None and not options.rehearse:
        name = re.sub(r"[^a-z0-9]+", "-", str(report["machine"]["device"]["name"]).lower()).strip("-")
        path = ROOT / "benchmarks" / "results" / f"gpu.{name}.json"
    if path is not None:
        write_atomic(path, json.dumps(report, indent=2) + "\n")
        print(f"Written to {path}.")
    print("Everything agreed." if fine else "Something did not agree; see above and the report.")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
