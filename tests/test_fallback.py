"""Where nothing is compiled, plain torch gives the same results, and says once that it is at work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dsae_core
from dsae_core import _native, discover, load_model, ops, tasks
from dsae_core.models import LanguageModel
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery, read_discovery

TESTS = Path(__file__).parent
OPERATORS = ["discover_heads", "encode_codes", "pair_scores", "train_shared", "train_topk", "unique_scores"]

DISCOVER = """
import json, sys
from dsae_core import discover, load_model, ops, tasks
from dsae_core.prompts import PromptPairs

assert not ops.compiled
model, pairs, runs, folder = json.loads(sys.argv[1])
model = load_model(model)
pairs = tasks.ioi(model.tokenizer, n=10, seed=0) if pairs is None else PromptPairs(*map(tuple, pairs))
for name, options in runs.items():
    discover(model, pairs, **options).save(f"{folder}/{name}.json")
"""

SHORT_RUNS: dict[str, dict[str, Any]] = {
    "positional, untrained": {"method": "positional", "epochs": 0},
    "paper, untrained": {"method": "paper", "epochs": 0},
    "paper, five steps": {"method": "paper", "epochs": 5},
}
"""These can be compared number by number. In a longer training the last bit decides to which of two features a row goes
that lies between them, or whether a gradient of nearly nothing is above 0, which Adam's first step makes a whole one.
So then a few codes differ, as they do with another processor or another torch."""

RUNS: dict[str, dict[str, Any]] = {**SHORT_RUNS, "positional": {"method": "positional"}}


@pytest.fixture(scope="module")
def uncompiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as an installation without a compiler has it: its Python files alone."""
    folder = tmp_path_factory.mktemp("uncompiled")
    source = Path(dsae_core.__file__).parent
    shutil.copytree(source, folder / "dsae_core", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    # An editable installation would be asked for what isn't here, and has it.
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['dsae_core._C'] = None\n")
    return folder


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with the package of this folder, in place of the installed one."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def tiny_folder(tiny_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a folder that load_model reads."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model.module.save_pretrained(folder)
    tiny_model.tokenizer.save_pretrained(folder)
    return folder


def discover_uncompiled(uncompiled: Path, folder: Path, model: str, pairs: PromptPairs | None) -> dict[str, Discovery]:
    """RUNS in another process, with nothing compiled."""
    sides = None if pairs is None else [pairs.positive, pairs.negative]
    result = python(uncompiled, "-c", DISCOVER, json.dumps([model, sides, RUNS, str(folder)]))
    assert result.returncode == 0, result.stderr
    return {name: read_discovery(folder / f"{name}.json") for name in RUNS}


def furthest(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    return float((ours.float() - theirs.float()).abs().max() / theirs.abs().max())


def assert_same(got: Discovery, expected: Discovery) -> None:
    """Activations to a hundred-thousandth of the largest; codes too, where no two features are level, which moves the
    scores of their heads a little.
    """
    assert furthest(got.activations, expected.activations) < 1e-5
    assert furthest(got.node_scores, expected.node_scores) < 1e-3
    assert codes_alike(got, expected) > 0.9995


def codes_alike(got: Discovery, expected: Discovery) -> float:
    return float((got.codes == expected.codes).float().mean())


def test_the_compiled_operators_are_at_work_here() -> None:
    assert ops.compiled
    assert ops.notice is None


def test_same_results_on_a_tiny_model(
    uncompiled: Path, tiny_folder: Path, tiny_pairs: PromptPairs, tmp_path: Path
) -> None:
    model = load_model(str(tiny_folder))
    pairs = PromptPairs(tiny_pairs.positive, tiny_pairs.negative)
    plain = discover_uncompiled(uncompiled, tmp_path, str(tiny_folder), pairs)
    for name, options in SHORT_RUNS.items():
        assert_same(plain[name], discover(model, pairs, **options))


@pytest.mark.model
@pytest.mark.promise("Without a compiler a discovery finds the same: plain torch takes the operators' place.")
def test_same_results_on_the_default_model(
    uncompiled: Path, smollm2: LanguageModel, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    pairs = tasks.ioi(smollm2.tokenizer, n=10, seed=0)
    plain = discover_uncompiled(uncompiled, tmp_path, "smollm2-135m", None)
    for name, options in SHORT_RUNS.items():
        assert_same(plain[name], discover(smollm2, pairs, **options))
    whole, expected = plain["positional"], discover(smollm2, pairs)
    alike, moved = codes_alike(whole, expected), furthest(whole.node_scores, expected.node_scores)
    same_heads = len(set(whole.ranking()[:30]) & set(expected.ranking()[:30]))
    assert alike > 0.99
    assert moved < 0.05
    assert same_heads >= 28
    record_property(
        "figure",
        f"scores to 1e-3 without training; after it {alike:.1%} of codes, {same_heads} of the 30 best heads, scores "
        f"to {moved:.1%} of the largest",
    )


def test_the_operators_tests_pass_without_a_compiler(uncompiled: Path) -> None:
    """All of them: hand-worked cases, float64 truth, layouts, errors, opcheck.

    But for the compiled kernel's own bound of its memory, and for bits that torch's matrix products do not promise:
    the same with any number of threads, and for one row alone.
    """
    script = (
        "import sys, pytest; from dsae_core import ops\nassert not ops.compiled\nsys.exit(pytest.main(sys.argv[1:]))"
    )
    names = ["reference", "ops_encode", "ops_unique", "ops_discover_heads", "ops_pairs", "ops_train"]
    files = [str(TESTS / f"test_{name}.py") for name in [*names, "ops_train_shared"]]
    left_out = "not number_of_threads and not expanded_z and not all_activations"
    options = ["-p", "no:cacheprovider", "-k", left_out, "--rootdir", str(TESTS)]
    result = python(uncompiled, "-c", script, *options, *files)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed" in result.stdout


def test_both_registrations_have_the_same_schemas(uncompiled: Path) -> None:
    script = "import torch; from dsae_core import ops\nfor name in ops.fallback.SCHEMAS: "
    script += "print(getattr(torch.ops.dsae, name).default._schema)"
    result = python(uncompiled, "-c", script)
    printed = result.stdout.splitlines()
    assert sorted(printed) == sorted(str(getattr(torch.ops.dsae, name).default._schema) for name in OPERATORS)


def test_it_is_said_once(uncompiled: Path) -> None:
    script = """
import dsae_core.profiling, dsae_core.discovery
from dsae_core import ops
import torch
for _ in range(2):
    ops.pair_scores(torch.zeros(2, 3, dtype=torch.int32), 1, 1)
print(ops.notice)
"""
    result = python(uncompiled, "-c", script)
    said = [line for line in result.stderr.splitlines() if line.strip()]
    assert said == result.stdout.splitlines(), result.stderr
    assert "plain torch computes the same more slowly" in said[0]


def test_an_extension_that_does_not_load_is_as_none(uncompiled: Path, tmp_path: Path) -> None:
    shutil.copytree(uncompiled / "dsae_core", tmp_path / "dsae_core")
    (tmp_path / "dsae_core" / "_C.abi3.so").write_bytes(b"not a library")
    result = python(tmp_path, "-c", "from dsae_core import ops; print(ops.compiled)")
    assert result.stdout.strip() == "False", result.stderr
    assert "_C.abi3.so" in result.stderr


def test_build_facts_say_that_nothing_is_compiled(uncompiled: Path) -> None:
    script = "import json; from dsae_core import machine; print(json.dumps(machine.machine_facts()['build']))"
    build = json.loads(python(uncompiled, "-c", script).stdout)
    assert build["compiler"] == "none"
    assert build["cuda_version"] is None
    assert set(build) == set(_native.build_info())


def test_the_command_line_works(uncompiled: Path, tiny_folder: Path, tiny_pairs: PromptPairs, tmp_path: Path) -> None:
    prompts = tmp_path / "pairs.csv"
    rows = [f"{a},{b}" for a, b in zip(tiny_pairs.positive, tiny_pairs.negative, strict=True)]
    prompts.write_text("\n".join(["positive,negative", *rows]))
    command = ["discover", "--model", str(tiny_folder), "--prompts", str(prompts), "--json", str(tmp_path / "run.json")]
    result = python(uncompiled, "-c", "from dsae_core.cli import main; main()", *command)
    assert result.returncode == 0, result.stderr
    assert len(json.loads((tmp_path / "run.json").read_text())["node_scores"]) == 2
