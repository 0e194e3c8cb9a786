"""What workers do: the steps of a check one after another, or a share of the tests that need a GPU."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import subprocess
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu_cases import Model, all_cases, train_case, training_cases
from gpu_measure import Clock, agreement, ceilings, discovery, measure, measure_kernels, train_agreement
from gpu_workers import ROOT, Notes

from dsae_core import _native, ops
from dsae_core.machine import cuda_launches, machine_facts


@dataclass(frozen=True)
class Step:
    """One piece of a check.

    Attributes:
        part: where its result goes in the report.
        name: of the step in its part.
        work: gives the result.
    """

    part: str
    name: str
    work: Callable[[torch.device, Clock], Any]

    @property
    def label(self) -> str:
        return f"{self.part}: {self.name}"


def all_steps(models: list[Model]) -> list[Step]:
    """Everything but tests and sanitizers; the profiler's come last: it may slow every launch down that follows."""
    cases = list(all_cases(models))
    trained = [case for model in models if not model.encoding_only for case in training_cases(model)]
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    discoveries = [(model, method) for model in models if model.discovery_pairs for method in ("paper", "positional")]
    return [
        Step("machine", "facts", lambda device, _: machine(device)),
        Step("small_cases", "all", lambda device, _: small_cases(device)),
        *(Step("codes", f"{m.name}, {t}", lambda d, _, m=m, t=t: agreement(m, t, d)) for m in models for t in dtypes),
        *(Step("training", case.name, lambda d, _, case=case: train_agreement(case, d)) for case in trained),
        Step("ceilings", "copy and matrix product", ceilings),
        *(Step("times", case.name, partial(measure, case)) for case in cases),
        *(Step("discoveries", f"{m.name}, {method}", partial(discovery, m, method)) for m, method in discoveries),
        *(Step("kernel_times", case.name, partial(measure_kernels, case)) for case in cases),
    ]


LOST = 3
"""Exit code of a worker whose device is lost."""


def work_through(steps: list[Step], notes: Notes, device: torch.device) -> int:
    """Do the steps that were not yet, and note them; the process's exit code."""
    clock = Clock(device)
    for step in steps:
        if step.label in notes.ended:
            continue
        notes.write(begin=step.label)
        torch.manual_seed(0)
        try:
            notes.write(end=step.label, result=step.work(device, clock))
        except Exception:
            notes.write(end=step.label, failed=traceback.format_exc()[-2000:])
            if is_lost(device):
                return LOST
        gc.collect()
    return 0


def is_lost(device: torch.device) -> bool:
    """Whether nothing more can be done on the device in this process."""
    if device.type != "cuda":
        return False
    try:
        torch.ones(1, device=device).add_(1).item()
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def machine(device: torch.device) -> dict[str, Any]:
    facts = {**machine_facts(), "torch_cuda": torch.version.cuda}
    if device.type == "cuda":
        facts["device"] = _native.device_limits(device.index or 0)
        facts["kernels"] = cuda_launches()
        smi = shutil.which("nvidia-smi")
        if smi:
            query = [smi, "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                facts["driver"] = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.splitlines()
    return facts


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
    for name, d, features in [("tiles of 64 rows", 256, 96), ("state in global memory", 200, 200)]:
        big = Model(name, 1, 2, d, d, examples=3, positions=4, features=features)
        ops.train_topk(*train_case(big, epochs=1).inputs(device))
    Clock(device).synchronize()


TEST_FILES = [str(ROOT / "tests" / name) for name in ("test_ops_cuda.py", "test_ops_unique.py")]
SHARES = 5
"""So many processes run the tests, each every fifth of them: a call from one test leaves a GPU mostly idle."""


class TestNotes:
    """For pytest: a share of the tests that need a GPU, noted, and left where one has taken the device away."""

    __test__ = False

    def __init__(self, share: int, notes: Notes) -> None:
        self.share, self.notes = share, notes
        self.said: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        share = [item for item in items if item.get_closest_marker("cuda")][self.share :: SHARES]
        items[:] = [item for item in share if item.nodeid not in self.notes.ended]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.notes.write(begin=nodeid)
        self.outcome = "skipped"

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.said[report.nodeid] = f"{self.said.get(report.nodeid, '')}{report.longreprtext[-2000:]}"
        elif report.when == "call" and report.passed:
            self.outcome = "passed"

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        failed = self.said.get(nodeid)
        self.notes.write(end=nodeid, **({"failed": failed} if failed is not None else {"result": self.outcome}))
        if failed is not None and is_lost(torch.device("cuda")):
            os._exit(LOST)


def run_tests(share: int, notes: Notes) -> int:
    """Run the tests of a share that were not yet; 0 where all were, however they ended."""
    import pytest

    options = ["-p", "no:cacheprovider", "-o", "addopts=--strict-markers", "--tb=short"]
    code = pytest.main([*options, *TEST_FILES], plugins=[TestNotes(share, notes)])
    return 0 if code in (0, 1, 5) else int(code)  # failures are noted; 5: none was left
