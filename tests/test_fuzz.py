"""A short fuzzing of every reader and operator; `make fuzz` and benchmarks/trust_fuzz.py do the long one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from fuzz import target as target_module
from fuzz.brief import try_mutations
from fuzz.campaign import fuzz_target
from fuzz.registry import NAMES
from fuzz.target import Target, complaint

ROOT = Path(__file__).parents[1]
SECONDS = 1.0
GUIDED_INPUTS = 1500


@pytest.mark.promise(
    "Whatever a file, a link or an argument holds, it is taken as it is meant or refused in a sentence."
)
def test_no_input_breaks_the_contract(record_property: Callable[[str, object], None]) -> None:
    """One process for all targets: an operator that crashes must not take the tests with it."""
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.brief", "--seconds", f"{SECONDS}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"the process died: {done.stderr[-2000:]}"
    report = json.loads(done.stdout.splitlines()[-1])
    inputs = {name: report[name]["inputs"] for name in NAMES}
    findings = {name: report[name]["findings"] for name in NAMES if report[name]["findings"]}
    record_property("figure", f"{sum(inputs.values()):,} inputs of {len(NAMES)} targets, {len(findings)} findings")
    assert findings == {}
    assert min(inputs.values()) > 3


def _breaks_on_z(data: bytes) -> None:
    if data.endswith(b"z"):
        raise KeyError("z")


BROKEN = Target(_breaks_on_z, (b"a",), lambda data, random: data + random.choice((b"y", b"z")))


def test_a_broken_contract_is_found() -> None:
    _, found = try_mutations(BROKEN, 0.2, seed=0)
    assert len(found) == 1
    ((wrong, data),) = found.items()
    assert wrong.startswith("KeyError at test_fuzz:")
    assert data.endswith(b"z")


def test_what_is_slow_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "LIMIT_SECONDS", 0.01)
    slow = Target(lambda data: sum(range(3_000_000)) and None, (b"",), lambda data, random: data)
    assert "more than 0.01 s" in complaint(slow, b"")


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python")
@pytest.mark.parametrize("name", NAMES)
def test_the_guided_search_finds_nothing(name: str, tmp_path: Path) -> None:
    outcome = fuzz_target(name, GUIDED_INPUTS, 1, tmp_path)
    assert (outcome.inputs, outcome.findings) == (GUIDED_INPUTS, {})


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python")
def test_a_process_that_dies_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No target of that name: every process ends at once, and none is counted."""
    monkeypatch.setattr("fuzz.campaign.RESTARTS", 0)
    outcome = fuzz_target("no_such_target", 10, 1, tmp_path)
    assert outcome.inputs == 0
    assert len(outcome.findings) == 1


@pytest.mark.parametrize("seed", range(3))
def test_mutations_follow_their_seed(seed: int) -> None:
    from fuzz.targets.circuit import TARGETS

    target = TARGETS["circuit"]
    first, second = (target.mutate(target.seeds[0], Random(seed)) for _ in range(2))
    assert first == second
