"""The same seed gives the same scores: again, with other threads, in another process, on another processor."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from dsae_core.discovery import discover
from dsae_core.models import LanguageModel
from dsae_core.result import Discovery, read_discovery
from dsae_core.tasks import TASKS

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "golden.py"
METHODS = ["positional", "paper"]
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def golden() -> ModuleType:
    """benchmarks/golden.py, which writes what is compared here."""
    spec = importlib.util.spec_from_file_location("golden", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads; it is put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def same_bits(one: Discovery, other: Discovery) -> bool:
    """Whether all that two discoveries found is equal to the last bit."""
    names = ("node_scores", "pair_scores", "codes", "activations", "edge_scores")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return all(a is b is None or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def stored(golden: ModuleType, name: str) -> dict[str, Any]:
    return json.loads((golden.FOLDER / f"{name}.json").read_text())


def distances(one: dict[str, Any], other: dict[str, Any]) -> list[float]:
    """For each method the largest difference between two records' scores, as a share of its largest score."""
    pairs = [[torch.tensor(record["scores"][method]) for record in (one, other)] for method in METHODS]
    return [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]


# --- again -------------------------------------------------------------------------------------------------


@pytest.mark.promise("The same seed gives the same scores, pairs, codes and edges to the last bit, and so does a file.")
@pytest.mark.parametrize("method", METHODS)
def test_again_and_from_a_file(golden: ModuleType, method: str, tmp_path: Path) -> None:
    model, pairs = golden.golden_case("tiny")
    first, again = (discover(model, pairs, method=method, seed=3) for _ in range(2))
    assert same_bits(first, again)
    assert same_bits(first, read_discovery(first.save(tmp_path / "run.json")))
    assert same_bits(first, discover(golden.golden_model(), pairs, method=method, seed=3))
    other = discover(model, pairs, method=method, seed=4)
    assert not torch.equal(first.activations, other.activations)


# --- threads -----------------------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.promise(
    "The default model's scores are the same to the last bit with 1, 2 and 4 threads, by both methods."
)
@pytest.mark.parametrize("method", METHODS)
def test_any_number_of_threads(
    smollm2: LanguageModel, method: str, threads: Callable[[int], None], record_property: Record
) -> None:
    pairs = TASKS["ioi"].make(smollm2.tokenizer, 10, 0)
    found = []
    for number in (1, 2, 4):
        threads(number)
        found.append(discover(smollm2, pairs, method=method))
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])
    record_property("figure", "bitwise, IOI 10 + 10")


# --- other processes and processors ------------------------------------------------------------------------

PROCESSES = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "four threads": {"OMP_NUM_THREADS": "4"},
    "AVX2": {"DSAE_CPU_ISA": "avx2", "ATEN_CPU_CAPABILITY": "avx2"},
    "neither AVX2 nor AVX-512": {"DSAE_CPU_ISA": "baseline", "ATEN_CPU_CAPABILITY": "default"},
}


@pytest.mark.promise(
    "Another process gives the same scores to the last bit; another instruction set within 5 % of the largest."
)
@pytest.mark.parametrize("case", PROCESSES)
def test_another_process(golden: ModuleType, case: str, record_property: Record) -> None:
    """A tiny model's, of three layers; instruction sets are chosen once a process."""
    here = golden.golden_record("tiny", *golden.golden_case("tiny"))
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--show", "tiny"],
        env={**os.environ, **PROCESSES[case]},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    there = json.loads(result.stdout)
    assert there["settings"] == here["settings"]
    if "threads" in case:
        assert there["scores"] == here["scores"]
        record_property("figure", f"{case}: bitwise")
    else:
        off = max(distances(there, here))
        assert off <= golden.TOLERANCE["tiny"]
        record_property("figure", f"{case}: {off:.1%} of the largest score")


# --- the golden run ----------------------------------------------------------------------------------------


def compare(golden: ModuleType, name: str, model: LanguageModel, pairs: Any) -> tuple[float, float]:
    """The distance of today's scores from those stored, and of the next seed's, which the comparison must notice."""
    kept = stored(golden, name)
    now = golden.golden_record(name, model, pairs)
    for field in ("model_digest", "prompts_sha256", "settings", "tolerance"):
        assert now[field] == kept[field], f"{field} changed; if that was meant, run make golden"
    off = max(distances(now, kept))
    assert off <= kept["tolerance"], "the scores changed; if that was meant, run make golden"
    return off, min(distances(golden.golden_record(name, model, pairs, seed=1), kept))


@pytest.mark.promise("A tiny model's scores are those that were stored, within 5 % of the largest.")
def test_golden_run_of_the_tiny_model(golden: ModuleType, record_property: Record) -> None:
    off, seed = compare(golden, "tiny", *golden.golden_case("tiny"))
    assert seed > 2 * golden.TOLERANCE["tiny"]
    record_property("figure", f"{off:.1%} off, tolerance {golden.TOLERANCE['tiny']:.0%}; another seed {seed:.0%}")


@pytest.mark.model
@pytest.mark.promise("The default model's scores on IOI, 10 + 10, seed 0, are those stored, within 1 % of the largest.")
def test_golden_run_of_the_default_model(golden: ModuleType, smollm2: LanguageModel, record_property: Record) -> None:
    pairs = TASKS["ioi"].make(smollm2.tokenizer, 10, 0)
    off, seed = compare(golden, "smollm2-135m", smollm2, pairs)
    assert seed > 2 * golden.TOLERANCE["smollm2-135m"]
    record_property(
        "figure", f"{off:.1%} off, tolerance {golden.TOLERANCE['smollm2-135m']:.0%}; another seed {seed:.0%}"
    )
