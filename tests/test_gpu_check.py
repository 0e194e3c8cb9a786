"""`make gpu-check`, as far as it goes without a device."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from test_ops_cuda import run_without_device

from dsae_core import ops

GPU_CHECK = Path(ops.__file__).parents[1] / "benchmarks" / "gpu_check.py"
pytestmark = pytest.mark.skipif(not GPU_CHECK.exists(), reason="installed without its sources")


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(GPU_CHECK.parent))
    return importlib.import_module("gpu_workers")


def test_says_that_there_is_no_device() -> None:
    result = run_without_device(str(GPU_CHECK))
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("There is no GPU")
    assert len(result.stderr.splitlines()) == 1


def test_rehearsal(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    result = run_without_device(str(GPU_CHECK), "--rehearse", "--json", str(path))
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(path.read_text())
    operators = {"encode_codes", "discover_heads", "unique_scores", "pair_scores", "train_topk", "train_shared"}
    assert {row["operator"] for row in report["rows"]} == operators
    assert all(row["ms"] > 0 and row["share_of_copy_bandwidth"] > 0 for row in report["rows"])
    assert all(row["same"] == row["codes"] for row in report["codes"])
    assert [row["method"] for row in report["discoveries"]] == ["paper", "positional"]
    assert all(row["ms"] > 0 and row["stages_ms"] for row in report["discoveries"])
    assert (report["not_done"], report["failures"]) == ([], {})
    assert report["finished"]
    assert report["everything_agreed"]


def test_a_worker_goes_on_behind_what_kills_it_or_does_not_end(workers: ModuleType, tmp_path: Path) -> None:
    """So that one broken kernel hides no other's result."""
    script = f"""
import os, sys, time
sys.path.insert(0, {str(GPU_CHECK.parent)!r})
from gpu_workers import Notes
from pathlib import Path
notes = Notes(Path(sys.argv[-1]))
for name in ("fine", "broken", "endless", "fine again"):
    if name in notes.ended:
        continue
    notes.write(begin=name)
    if name == "broken":
        print("an illegal memory access", flush=True)
        os._exit(7)
    if name == "endless":
        time.sleep(600)
    notes.write(end=name, result=name)
"""
    heard: list[dict[str, Any]] = []
    worker = workers.Worker("w", [sys.executable, "-c", script], tmp_path, patience=8.0)
    workers.follow([worker], time.monotonic() + 300, lambda _, note: heard.append(note))
    assert worker.failed is None
    assert [note["end"] for note in heard] == ["fine", "broken", "endless", "fine again"]
    assert [note.get("result") for note in heard] == ["fine", None, None, "fine again"]
    assert "code 7: an illegal memory access" in heard[1]["failed"]
    assert "no end within 8 s" in heard[2]["failed"]


def test_a_worker_that_does_nothing_is_given_up(workers: ModuleType, tmp_path: Path) -> None:
    worker = workers.Worker("w", [sys.executable, "-c", "raise SystemExit('no such module')"], tmp_path)
    workers.follow([worker], time.monotonic() + 60, lambda *_: None)
    assert "code 1: no such module" in worker.failed


def test_every_test_for_a_gpu_is_in_one_share(workers: ModuleType, tmp_path: Path) -> None:
    steps, notes = importlib.import_module("gpu_steps"), workers.Notes(tmp_path / "notes.jsonl")
    found = [SimpleNamespace(nodeid=str(i), get_closest_marker=lambda name, i=i: i % 3 or None) for i in range(50)]
    notes.ended = {"1", "49"}
    shares = [list(found) for _ in range(steps.SHARES)]
    for share, items in enumerate(shares):
        steps.TestNotes(share, notes).pytest_collection_modifyitems(items)
    names = [item.nodeid for share in shares for item in share]
    assert sorted(names) == sorted(str(i) for i in range(50) if i % 3 and i not in (1, 49))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_share_of_the_tests_is_noted(tmp_path: Path) -> None:
    """Here each is skipped."""
    path = tmp_path / "notes.jsonl"
    assert run_without_device(str(GPU_CHECK), "--rehearse", "--tests", "3", "--notes", str(path)).returncode == 0
    notes = [note for note in map(json.loads, path.read_text().splitlines()) if "end" in note]
    assert len(notes) > 20
    assert all(note["result"] == "skipped" for note in notes)


def test_small_cases() -> None:
    """What compute-sanitizer is given to watch."""
    assert run_without_device(str(GPU_CHECK), "--rehearse", "--small-cases").returncode == 0
