"""benchmarks/trust_soak.py for 40 seconds and two visitors, and what it makes of what it sees."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import needs_browser

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "trust_soak.py"


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("trust_soak", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["trust_soak"] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


def outcome(soak: ModuleType, *, errors: tuple[str, ...] = (), log: str = "", slope: float = 0.0) -> Any:
    """Two sessions of ten minutes; memory grows by `slope` MiB a minute from 1000 on."""
    visits = []
    for _ in range(2):
        visit = soak.Visit(None, "", random.Random(0), actions=Counter({"threshold drag": 3}), drags=[0.1, 0.2, 0.3])
        visits.append(visit)
    visits[0].errors.extend(errors)
    memory = tuple((float(t), 1000 + slope * t / 60) for t in range(0, 600, 10))
    return soak.Outcome(10.0, tuple(visits), memory, log or "job 1 done after 1.00 s\njob 2 failed after 0.10 s\n")


def kept(soak: ModuleType, found: Any) -> list[bool]:
    return [row["ok"] for row in soak.rows(found)]


def test_what_is_right_passes(soak: ModuleType) -> None:
    found = outcome(soak)
    assert kept(soak, found) == [True] * 4
    figures = [row["figure"] for row in soak.rows(found)]
    assert (
        figures[0] == "0 errors in 6 actions over 10 minutes (6 x threshold drag), 2 to 8 s between a visitor's actions"
    )
    assert figures[1].startswith("1000 to 1000 MiB at rest; over the last 60% of the time +0.00 MiB a minute")
    assert figures[2].startswith("p95 0.30 s, median 0.20 s of 6 drags")
    assert figures[3] == "2 jobs, 0 cancelled, 1 failed"


def test_what_is_wrong_fails(soak: ModuleType) -> None:
    assert kept(soak, outcome(soak, errors=("console: x",)))[0] is False
    assert kept(soak, outcome(soak, log="job 1 done after 1 s\nTraceback (most recent call last):\n"))[0] is False
    assert kept(soak, outcome(soak, log="x ERROR dsae_core: y\njob 1 done after 1 s\n"))[0] is False
    slow = outcome(soak)
    slow.visits[0].drags.append(9.0)
    assert kept(soak, slow)[2] is False
    assert kept(soak, outcome(soak, log="job 2 done after 1 s\njob 1 done after 1 s\n"))[3] is False
    assert kept(soak, outcome(soak, log="job 1 cancelled after 1 s\n"))[3] is False
    assert (
        kept(soak, outcome(soak, log="job 2 cancelled after 0 s\njob 1 done after 1 s\njob 3 done after 1 s\n"))[3]
        is True
    )


@pytest.mark.parametrize(("slope", "flat"), [(-5.0, True), (0.9, True), (5.0, True), (10.0, False), (100.0, False)])
def test_memory_that_grows_is_not_flat(slope: float, flat: bool, soak: ModuleType) -> None:
    """Ten minutes from 1000 MiB on: 5 MiB a minute are 2.6 % of it in five and a half, 10 are 5.1 %."""
    assert soak.growth(soak.at_rest(outcome(soak, slope=slope).memory))[0] == pytest.approx(slope)
    assert kept(soak, outcome(soak, slope=slope))[1] is flat


def test_what_a_run_takes_for_a_moment_does_not_count(soak: ModuleType) -> None:
    memory = [(float(t), 1000.0 + 500 * (t % 30 > 3)) for t in range(0, 90)]
    assert soak.at_rest(memory) == [(0.0, 1000.0), (30.0, 1000.0), (60.0, 1000.0)]


@pytest.mark.browser
@pytest.mark.model
@pytest.mark.promise(
    "Visitors of a public demo at work at the same time see no error, and their runs keep their order."
)
@needs_browser[1]
def test_two_visitors_at_once(soak: ModuleType, record_property: Callable[[str, object], None]) -> None:
    found = soak.soak(minutes=40 / 60, sessions=2, pause=(0.2, 1.0))
    assert found.errors == []
    assert all(visit.actions for visit in found.visits)
    assert soak.order_kept(found.jobs)
    assert "done" in [status for _, status in found.jobs]
    assert max(found.drags, default=0.0) < 30
    actions = sum(found.actions.values())
    record_property("figure", f"{actions} actions and {len(found.jobs)} runs of {len(found.visits)} visitors")
