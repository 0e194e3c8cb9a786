"""The compiled operators against plain torch, on the CPU: time, speed-up and peak extra memory.

    python benchmarks/bench_ops.py [--json FILE] [--only WORD] [--threads N] [--slow]

The two run in turns in one process, so that what else the machine does falls on both; times are medians. Peak extra
memory is how far a process's peak grows in one call, each in a process of its own (read from Linux's /proc). Plain
torch is `dsae_core.reference`, except that training uses torch.topk, which is faster than the reference's way to break
ties.
--slow adds the cases where plain torch takes minutes or many GB; one of them takes its inputs from a discovery with the
default model.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dsae_core import _native, discover, load_model, ops, reference, tasks
from dsae_core.profiling import record_calls
from dsae_core.rivals import extra_mib


@dataclass(frozen=True)
class Case:
    name: str
    inputs: Callable[[], tuple[Any, ...]]
    compiled: Callable[..., Any]
    eager: Callable[..., Any] | None
    runs: int = 7
    slow: bool = False


@dataclass(frozen=True)
class Result:
    name: str
    compiled_ms: float
    eager_ms: float | None
    speedup: float | None
    compiled_extra_mib: float
    eager_extra_mib: float | None


def encode_inputs(E: int, T: int, H: int, d: int, F: int) -> tuple[Any, ...]:
    return torch.randn(E, T, H, d), torch.randn(H, d, F) / d**0.5, torch.randn(H, F) / 10, 1.0


def unique_inputs(E: int, T: int, H: int, F: int) -> tuple[Any, ...]:
    return torch.randint(-1, F, (E, T, H), dtype=torch.int32), torch.rand(E, T, H), E // 2, F


def pair_inputs(E: int, H: int, F: int) -> tuple[Any, ...]:
    return torch.randint(-1, F, (E, H), dtype=torch.int32), E // 2, F


def train_inputs(H: int, n: int, d: int, F: int, k: int, epochs: int) -> tuple[Any, ...]:
    x = torch.randn(H, n, d)
    picks = torch.randint(0, n, (H, F, 1)).expand(-1, -1, d)
    samples = normalize(x.gather(1, picks).transpose(1, 2) + 0.05 * torch.randn(H, d, F), dim=1)
    return x, samples, samples, torch.zeros(H, F), k, epochs, 0.01


def paper_training() -> tuple[Any, ...]:
    """What a discovery by the paper's method trains its dictionary with: all its epochs in one call."""
    model = load_model("smollm2-135m")
    pairs = tasks.ioi(model.tokenizer, n=10, seed=100)
    found, calls = record_calls(lambda: discover(model, pairs, method="paper", seed=0))
    x, state, n_features, step, _, *rates = next(call.arguments for call in calls if call.name == "train_shared")
    return x, state, n_features, step, found.settings["epochs"], *rates


def eager_train(*arguments: Any) -> Any:
    def largest(numbers: Tensor, k: int) -> Tensor:
        mask = torch.zeros_like(numbers, dtype=torch.bool)
        return mask.scatter_(-1, numbers.detach().topk(k, -1).indices, True)

    with mock.patch.object(reference, "_largest", largest):
        return reference.train_topk(*arguments)


CASES = [
    Case(
        "encode_codes 20000 rows x 1024 features, d 64",
        lambda: encode_inputs(20000, 1, 1, 64, 1024),
        ops.encode_codes,
        reference.encode_codes,
    ),
    Case(
        "encode_codes 20000 rows x 1024 features, d 768",
        lambda: encode_inputs(20000, 1, 1, 768, 1024),
        ops.encode_codes,
        reference.encode_codes,
    ),
    Case(
        "encode_codes 20 x 17 positions x 270 heads, d 64, F 64",
        lambda: encode_inputs(20, 17, 270, 64, 64),
        ops.encode_codes,
        reference.encode_codes,
    ),
    Case(
        "encode_codes 210 examples x 144 heads, d 64, F 200",
        lambda: encode_inputs(210, 1, 144, 64, 200),
        ops.encode_codes,
        reference.encode_codes,
    ),
    Case(
        "unique_scores 20 x 17 positions x 270 heads, F 64",
        lambda: unique_inputs(20, 17, 270, 64),
        ops.unique_scores,
        reference.unique_scores,
    ),
    Case(
        "pair_scores 20 examples x 270 heads, F 64",
        lambda: pair_inputs(20, 270, 64),
        ops.pair_scores,
        None,
    ),
    Case(
        "pair_scores 500 examples x 144 heads, F 200",
        lambda: pair_inputs(500, 144, 200),
        ops.pair_scores,
        reference.pair_scores,
        runs=1,
        slow=True,
    ),
    Case("pair_scores 100 examples x 5120 heads, F 200", lambda: pair_inputs(100, 5120, 200), ops.pair_scores, None),
    Case(
        "train_topk 270 heads x 340 rows, d 64, F 64, k 2, 60 epochs",
        lambda: train_inputs(270, 340, 64, 64, 2, 60),
        ops.train_topk,
        eager_train,
        runs=3,
    ),
    Case(
        "train_shared of a whole discovery by the paper's method",
        paper_training,
        ops.train_shared,
        reference.train_shared,
        runs=3,
        slow=True,
    ),
]


def milliseconds(call: Callable[..., Any], inputs: tuple[Any, ...]) -> float:
    start = time.perf_counter()
    call(*inputs)
    return 1e3 * (time.perf_counter() - start)


def measure(case: Case) -> Result:
    torch.manual_seed(0)
    inputs = case.inputs()
    case.compiled(*inputs)  # warms up
    compiled: list[float] = []
    eager: list[float] = []
    for _ in range(case.runs):
        compiled.append(milliseconds(case.compiled, inputs))
        if case.eager:
            eager.append(milliseconds(case.eager, inputs))
    compiled_ms = statistics.median(compiled)
    eager_ms = statistics.median(eager) if eager else None
    return Result(
        case.name,
        compiled_ms,
        eager_ms,
        eager_ms / compiled_ms if eager_ms else None,
        extra_memory_elsewhere(case, "compiled"),
        extra_memory_elsewhere(case, "eager") if case.eager else None,
    )


def extra_memory_elsewhere(case: Case, which: str) -> float:
    command = [sys.executable, __file__, "--extra-memory", which, "--only", case.name, "--slow"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def extra_memory(case: Case, which: str) -> float:
    """MiB by which this process's peak grows in one call; a small encode first, to have everything loaded."""
    torch.manual_seed(0)
    inputs = case.inputs()
    ops.encode_codes(*encode_inputs(2, 2, 2, 8, 8))
    reference.encode_codes(*encode_inputs(2, 2, 2, 8, 8))
    call = case.compiled if which == "compiled" else case.eager
    assert call is not None
    grown = extra_mib(lambda: call(*inputs), torch.device("cpu"))
    if grown is None:
        raise SystemExit("How far memory grows is read from Linux's /proc, which cannot be written here.")
    return grown


def show(result: Result) -> None:
    eager = f"{result.eager_ms:10.1f} {result.speedup:8.1f}x" if result.eager_ms else f"{'-':>10} {'-':>9}"
    memory = f"{result.eager_extra_mib:9.1f}" if result.eager_extra_mib is not None else f"{'-':>9}"
    print(f"{result.name:62} {result.compiled_ms:10.2f} {eager} {result.compiled_extra_mib:9.1f} {memory}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here, too")
    parser.add_argument("--only", default="", help="only cases whose name has this in it")
    parser.add_argument("--threads", type=int, help="torch's number of threads")
    parser.add_argument("--slow", action="store_true", help="also the cases that take minutes or many GB")
    parser.add_argument("--extra-memory", choices=["compiled", "eager"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    cases = [case for case in CASES if options.only in case.name and (options.slow or not case.slow)]
    if options.extra_memory:
        print(extra_memory(cases[0], options.extra_memory))
        return
    print(f"{'':62} {'compiled':>10} {'eager':>10} {'speed-up':>9} {'compiled':>9} {'eager':>9}")
    print(f"{'':62} {'ms':>10} {'ms':>10} {'':>9} {'MiB':>9} {'MiB':>9}")
    results = []
    for case in cases:
        results.append(measure(case))
        show(results[-1])
    if options.json:
        report = {
            "schema": 1,
            "machine": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "build": _native.build_info(),
            "results": [asdict(result) for result in results],
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
