"""Every input that once broke a reader or an operator: files under data/fuzz, and argument lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dsae_core import ops
from dsae_core.errors import UserError
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import read_pairs_csv, write_pairs_csv
from dsae_core.ui import sharing
from dsae_core.ui.request import CUSTOM
from fuzz.registry import READERS, load_target
from fuzz.target import complaint
from fuzz.targets.saved_run import example

FOLDER = Path(__file__).parent / "data" / "fuzz"
CASES = sorted(path for path in FOLDER.rglob("*") if path.is_file())


def test_the_cases_are_there() -> None:
    assert {path.parent.name for path in CASES} <= set(READERS)
    assert len(CASES) >= 10


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_broke_a_reader_once(case: Path) -> None:
    assert complaint(load_target(case.parent.name), case.read_bytes()) == ""


# --- operators ---------------------------------------------------------------------------------------------


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor of any shape that takes no memory: one number, repeated."""
    return torch.zeros(1, dtype=dtype).expand(shape)


def codes(*shape: int) -> torch.Tensor:
    return zeros(*shape, dtype=torch.int32)


MANY = 2**31 - 1
REFUSED: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "a table of all features would fill the memory": (
        ops.unique_scores,
        (codes(2, 2, 2), zeros(2, 2, 2), 1, MANY),
        "n_features must be between 1 and 16777216",
    ),
    "likewise for pairs": (ops.pair_scores, (codes(2, 2), 1, MANY), "n_features must be between 1 and 16777216"),
    "one head, repeated": (ops.pair_scores, (codes(1, 2**60), 1, 3), "at most 2\\^31 - 1 numbers a dimension"),
    "rows, repeated": (ops.encode_codes, (zeros(2**40, 1, 1, 1), zeros(1, 1, 1), zeros(1, 1), 0.0), "at most 2\\^31"),
    "examples times positions": (
        ops.unique_scores,
        (codes(2**20, 2**20, 1), zeros(2**20, 2**20, 1), 1, 4),
        "at most 2\\^31 - 1 rows",
    ),
    "rows without numbers": (
        ops.train_topk,
        (zeros(2, 2**29, 0), zeros(2, 0, 3), zeros(2, 0, 3), zeros(2, 3), 1, 1, 0.1),
        "no rows to learn from",
    ),
    "rows to train on, repeated": (
        ops.train_shared,
        (zeros(2**40, 1), zeros(3, 4), 1, 0, 1, 0.1, 0.1),
        "at most 2\\^31",
    ),
    "no tensor where shapes are asked for": (
        ops.unique_scores,
        (torch.empty(2, 2, 2, dtype=torch.int32, device="meta"), None, 1, 4),
        "values must be a tensor of 3 dimensions, not none",
    ),
    "another number of dimensions where shapes are asked for": (
        ops.discover_heads,
        (torch.empty(2, 2, device="meta"), zeros(2, 2, 2), zeros(2, 2), 0.0, 1),
        "z must be a tensor of 4 dimensions",
    ),
}


@pytest.mark.skipif(not ops.compiled, reason="what plain torch refuses is torch's own")
@pytest.mark.parametrize("case", REFUSED)
def test_arguments_that_ended_the_process_or_took_for_ever(case: str) -> None:
    operator, arguments, message = REFUSED[case]
    with pytest.raises(RuntimeError, match=message):
        operator(*arguments)


def test_examples_without_positions_are_not_counted() -> None:
    """A shape may claim any number of examples where one dimension is 0; nothing was said in any of them."""
    counts, mass = ops.unique_scores(
        torch.empty(MANY, 0, 3, dtype=torch.int32), torch.empty(MANY, 0, 3), MANY, n_features=4
    )
    assert counts.tolist() == [0, 0, 0]
    assert mass.tolist() == [0.0, 0.0, 0.0]


def test_large_values_have_a_mean() -> None:
    values = torch.full((4, 1, 1), 3e38)
    _, mass = ops.unique_scores(torch.zeros(4, 1, 1, dtype=torch.int32), values, 4, 1)
    assert math.isclose(float(mass[0]), 3e38, rel_tol=1e-6)


# --- what no bytes can say ---------------------------------------------------------------------------------


def test_prompts_that_no_tokenizer_takes_are_refused_at_once() -> None:
    with pytest.raises(UserError, match="Row 1, column negative: the prompt is no Unicode text"):
        PromptPairs(("a",), ("\ud800",))
    with pytest.raises(UserError, match="Row 1, column answer: the cell is no Unicode text"):
        PromptPairs(("a",), ("b",), (("\udfff",),), ((" y",),))
    with pytest.raises(UserError, match="Row 1, column answer: give a tuple"):
        PromptPairs(("a",), ("b",), (" x",), (" y",))  # type: ignore[arg-type]


def test_an_answer_that_a_cell_would_part_is_not_written() -> None:
    with pytest.raises(UserError, match=r'Row 2: an answer has a "\|"'):
        write_pairs_csv(PromptPairs(("a", "c"), ("b", "d"), ((" x",), (" y|z",)), ((" u",), (" v",))))


def test_a_wide_table_is_read_in_time() -> None:
    """20000 columns before the two that count."""
    header = ",".join(f"note{n}" for n in range(20_000))
    rows = ("," * 20_000 + f"a{n},b{n}" for n in range(200))
    pairs = read_pairs_csv("\n".join([f"{header},positive,negative", *rows]))
    assert pairs.negative[-1] == "b199"


@pytest.mark.parametrize("name", ["class", "__debug__", "None", "a b"])
def test_a_setting_that_is_no_parameter_does_not_spoil_the_snippet(name: str) -> None:
    import ast
    from dataclasses import replace

    found = replace(example(CUSTOM, pooled=True), settings={"method": "of its own", "seed": 1, name: 3})
    ast.parse(sharing.python(found, 0.5))
