"""What the page says and draws of a head, a validated circuit and somebody's own prompts."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_ui_view import small_discovery, small_truth

from dsae_core.baselines.forward_only import paired_difference_scaled
from dsae_core.behaviour import Behaviour
from dsae_core.discovery import discover
from dsae_core.errors import UserError
from dsae_core.inspection import NextToken, PatchEffect, PromotedTokens, TokenEffect
from dsae_core.models import LanguageModel
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import TASKS
from dsae_core.ui import drafts, probes, runs
from dsae_core.ui.alignment import align
from dsae_core.ui.charts.attention import attention_frame, attention_map
from dsae_core.ui.charts.effects import effects_frame, effects_map
from dsae_core.ui.charts.heatmap import heatmap_of
from dsae_core.ui.charts.preview import preview_map
from dsae_core.ui.charts.style import Grid
from dsae_core.ui.charts.validation import random_frame, validation_curve, validation_frame
from dsae_core.ui.drafts import Row
from dsae_core.ui.request import RunRequest
from dsae_core.ui.sections import editor, inspector, validation
from dsae_core.ui.text import MINUS, visible
from dsae_core.ui.view import View
from dsae_core.validation import Shares, Validation


@pytest.fixture
def view() -> View:
    return View(small_discovery(), small_truth())


# --- codes -------------------------------------------------------------------------------------------------


def test_codes_are_listed_with_their_prompts_and_tokens(view: View) -> None:
    rows = view.code_rows((0, 1))
    assert [row.code for row in rows] == [4, 1, 2, 3, 5]
    best, three, five = (next(row for row in rows if row.code == code) for code in (4, 3, 5))
    assert (best.unique_in, best.positives, best.negatives) == ((2,), (2,), ())
    assert best.tokens == (("*c*", 1),)
    assert (three.unique_in, three.positives, three.negatives) == ((), (1, 2), (1,))
    assert three.tokens == (("a", 3),)
    assert (five.positives, five.negatives, five.activation) == ((1,), (1,), 2.0)
    assert view.code_rows((0, 0)) == []


def test_the_code_table_says_what_is_unique_and_escapes_tokens(view: View) -> None:
    table = inspector.code_table(view.code_rows((0, 1)), view)
    assert "● in 1" in table
    assert table.count("shared") == 2
    assert table.count("negatives only") == 2
    assert "&lt;b&gt;" in table
    assert "<b>" not in table
    frame = inspector.code_frame(view.code_rows((0, 1)))
    assert frame.columns.tolist() == ["code", "unique_in", "positives", "negatives", "strongest", "tokens"]
    assert frame.iloc[0].tolist()[:4] == [4, "2", "2", ""]


def test_pooled_codes_have_no_tokens() -> None:
    found = small_discovery()
    last = {"codes": found.codes[:, 2:], "activations": found.activations[:, 2:]}
    pooled = View(dataclasses.replace(found, **last), None)
    rows = pooled.code_rows((0, 1))
    assert all(row.tokens == () for row in rows)
    assert "At tokens" not in inspector.code_table(rows, pooled)


def test_runs_of_numbers_are_shortened() -> None:
    assert inspector.ranges((1, 2, 4, 5, 6, 9)) == "1, 2, 4\N{EN DASH}6, 9"


# --- attention and direct effects --------------------------------------------------------------------------

WEIGHTS = np.array([[0, 0, 0], [0, 1, 0], [0, 0.25, 0.75]], dtype=np.float32)
OTHER = np.array([[0, 0, 0], [0, 1, 0], [0, 0.85, 0.15]], dtype=np.float32)
TOKENS = ("", "<b>", ' "to')


def test_attention_is_shown_for_real_tokens_and_those_before_them() -> None:
    frame = attention_frame(WEIGHTS, TOKENS)
    assert list(zip(frame["query"], frame["key"], strict=True)) == [(1, 1), (2, 1), (2, 2)]
    assert frame["value"].tolist() == [1, 0.25, 0.75]
    assert frame["to_token"].tolist() == ["<b>", "<b>", '·"to']
    difference = attention_frame(WEIGHTS, TOKENS, OTHER)
    assert difference["value"].tolist() == pytest.approx([0, -0.6, 0.6])
    assert difference["mark"].tolist() == ["", MINUS, "+"]
    assert difference["sign"].tolist() == ["more", "less", "more"]


def test_tokens_on_axes_are_strings_and_nothing_more() -> None:
    spec = attention_map(attention_frame(WEIGHTS, TOKENS), TOKENS, [2], difference=False).spec
    params = {param["name"]: param["value"] for param in spec["params"]}
    assert params["tokens"] == ["", "<b>", '·"to']
    assert params["changed"] == [2]
    axis = spec["layer"][1]["encoding"]["x"]["axis"]
    assert axis["labelExpr"] == "tokens[datum.value]"
    assert "<b>" not in json.dumps(spec["layer"]), "a prompt's words in what is read as an expression"


def test_panels_show_a_difference_only_where_positions_mean_the_same() -> None:
    same = probes.Attention(WEIGHTS, OTHER, TOKENS, ("", "<b>", " at"))
    assert list(inspector.attention_panels(same)) == ["On the positive", "On the negative", "Difference"]
    uneven = probes.Attention(WEIGHTS, OTHER, TOKENS, ("a", "<b>", " at"))
    assert list(inspector.attention_panels(uneven)) == ["On the positive", "On the negative"]


def test_spaces_and_lines_of_tokens_are_visible() -> None:
    assert [visible(t) for t in (" to", "to", " ", "\n", "a b")] == ["·to", "to", "·", "↵", "a·b"]


def effects() -> pd.DataFrame:
    return effects_frame(np.array([[0.01, -2.0], [4.0, 0.3]], dtype=np.float32), (1, 0))


def test_direct_effects_are_ranked_by_size_and_signed(view: View) -> None:
    frame = effects()
    assert frame["name"].tolist() == ["0.0", "0.1", "1.0", "1.1"]
    assert frame["rank"].tolist() == [4, 2, 1, 3]
    assert frame["mark"].tolist() == ["", MINUS, "+", ""]
    assert frame["selected"].tolist() == [False, False, True, False]
    drawing = effects_map(Grid.of(view.heads, has_truth=True), frame)
    assert json.dumps(drawing.spec).count('"name": "head"') == 1  # a click selects


def test_the_direct_effect_in_words() -> None:
    found = probes.HeadOutput((), np.zeros((2, 2), dtype=np.float32), (3.0, 5.0), 6.5)
    told = inspector.output_sentence(found, effects(), (1, 0))
    assert "1.0 writes raises the answer over the distractor by 4.00 nats, +3.00 to +5.00 over 2 prompts" in told
    assert "number 1 of 4 heads" in told
    assert "All heads together add +2.31; the whole model's logit difference is +6.50" in told


def test_a_direct_effect_that_rounds_to_nothing_is_not_told_as_zero() -> None:
    frame = effects_frame(np.array([[0.001, -2.0]], dtype=np.float32), (0, 0))
    found = probes.HeadOutput((), np.zeros((1, 2), dtype=np.float32), (0.001,), 6.5)
    told = inspector.output_sentence(found, frame, (0, 0))
    assert "raises the answer over the distractor by less than 0.01 nats: number 2 of 2 heads" in told


def test_promoted_tokens_are_escaped_and_answers_named() -> None:
    tokens = PromotedTokens((TokenEffect(" Mary", 2.0), TokenEffect("<i>", 1.0)), (TokenEffect(" John", -4.0),))
    table = inspector.tokens_table(tokens, (" Mary",), (" John",))
    assert "<i>&lt;" not in table
    assert "&lt;i&gt;" in table
    assert table.index("·Mary") < table.index("answer") < table.index("·John") < table.index("distractor")
    assert "width: 100%" in table
    assert "width: 50%" in table
    assert inspector.tokens_frame(tokens)["token"].tolist() == [" Mary", "<i>", " John"]


# --- patching and validating -------------------------------------------------------------------------------


def patched(effect: float, low: float, high: float, pairs: int = 10) -> PatchEffect:
    return PatchEffect(effect, low, high, 6.0, 1.0, 6.0 - 5 * effect, pairs)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (patched(0.4, 0.3, 0.5), ["falls from 6.00 to 4.00", "carries 40 %", "interval +30 to +50 %, 10 pairs"]),
        (patched(-0.2, -0.3, -0.1), ["rises from 6.00 to 7.00", "works against the answer, by 20 %", "+10 to +30 %"]),
        (patched(0.01, -0.1, 0.1), ["includes 0, so this may be chance"]),
        (patched(0.4, 0.4, 0.4, pairs=1), ["one pair, so no interval"]),
    ],
)
def test_patching_in_words(found: PatchEffect, told: list[str]) -> None:
    sentence = inspector.patch_sentence(found, (2, 3), "logit difference")
    assert sentence.startswith("With 2.3 patched the logit difference")
    assert all(words in sentence for words in told)


def test_patching_that_changes_nothing_is_said_so() -> None:
    sentence = inspector.patch_sentence(patched(0.0004, -0.001, 0.002), (2, 3), "logit difference")
    assert sentence == "Patching 2.3 changes nothing: the logit difference stays at 6.00."


def test_two_effects_of_one_head_are_told_apart(view: View) -> None:
    found = patched(0.4, 0.3, 0.5, pairs=2)
    truth = dataclasses.replace(small_truth(), provenance={"prompts": 32})
    assert inspector.patch_note(View(view.discovery, truth), found, (1, 0)) == (
        "This is on the 2 pairs of this result; the +25.0 % above is on the 32 pairs the circuit was measured on."
    )
    assert inspector.patch_note(View(view.discovery, None), found, (1, 0)) == ""


def test_what_is_lacking_is_named(view: View) -> None:
    assert inspector.lacking(view, answers=False) == ""
    assert "no answers" in inspector.lacking(view, answers=True)
    found = small_discovery()
    bare = View(dataclasses.replace(found, prompts=None), None)
    assert "Only activations" in inspector.lacking(bare, answers=False)
    longer = (*found.tokens[:3], ("z", "x", "*c*"))
    uneven = View(dataclasses.replace(found, tokens=longer), None)
    assert uneven.uneven_row == 2
    assert "Row 2" in inspector.lacking(uneven, answers=False, aligned=True)


def measured(measure: Any = "metric") -> Validation:
    return Validation(
        measure,
        Shares((0, 1, 3, 8), (0.0, 0.5, 0.83, 1.0), (1.0, 0.4, 0.1, 0.0)),
        (
            Shares((0, 3, 8), (0.0, 0.02, 1.0), (1.0, 0.9, 0.0)),
            Shares((0, 3, 8), (0.0, -0.06, 1.0), (1.0, 0.8, 0.0)),
        ),
        5.0,
        -0.5,
        10,
    )


def test_validation_in_words() -> None:
    pairs = PromptPairs(("a",), ("b",), ((" c",),), ((" d",),))
    told = validation.sentence(probes.Validated(measured(), 3, True), 3, pairs)
    assert told == (
        "The 3 best heads keep 83 % of the logit difference by themselves; 10 % is left without them. 3 random heads "
        f"keep {MINUS}2 % ({MINUS}6 % to 2 % in 2 draws) and leave 85 %. On 10 prompt pairs that the scores never saw."
    )
    moved = validation.sentence(probes.Validated(measured(), 3, True), 5, pairs)
    assert moved.startswith("The 3 best heads keep 83 %")
    assert moved.endswith("(The threshold now finds 5.)")
    one = validation.sentence(probes.Validated(measured(), 3, False), 1, pairs)
    assert one.startswith("The best head keeps 50 %")
    assert "measured at other sizes" in one
    assert "On the same prompts" in one
    blind = validation.sentence(probes.Validated(measured("kl"), 3, True), 3, PromptPairs(("a",), ("b",)))
    assert "83 % of the prediction" in blind
    assert validation.percent(-0.001) == "0 %"
    assert "chance" not in told + moved + one + blind
    strong = tuple(dataclasses.replace(shares, kept=(1.0,) * len(shares.kept)) for shares in measured().random)
    beaten = dataclasses.replace(measured(), random=strong)
    assert "So this circuit does hardly more than chance." in validation.sentence(
        probes.Validated(beaten, 3, True), 3, pairs
    )


def test_validation_as_data_and_drawing() -> None:
    frame = random_frame(measured(), "kept")
    assert frame["low"].tolist() == [0.0, -0.06, 1.0]
    assert frame["mean"].tolist() == pytest.approx([0.0, -0.02, 1.0])
    assert frame["high"].tolist() == [0.0, 0.02, 1.0]
    every = validation_frame(measured())
    assert every["heads"].unique().tolist() == ["ranked", "random 1", "random 2"]
    assert len(every) == 10
    drawing = validation_curve(measured(), "removed", 5)
    assert drawing.data["size"]["size"].tolist() == [5]
    assert drawing.data["ranked"]["share"].tolist() == [1.0, 0.4, 0.1, 0.0]


def test_validation_uses_prompts_that_the_scores_never_saw(smollm2: LanguageModel) -> None:
    pairs = TASKS["ioi"].make(smollm2.tokenizer, 10, 0)
    other = probes.other_pairs(smollm2, pairs, 0)
    assert other is not None
    assert len(other) == probes.VALIDATION_PAIRS
    assert not set(other.positive) & set(pairs.positive)
    assert len(other.answer) == len(other.positive)
    assert probes.other_pairs(smollm2, PromptPairs(("a",), ("b",)), 0) is None


@pytest.mark.parametrize("method", ["paper", "positional"])
def test_a_run_shows_the_paired_difference_first(
    tiny_model: LanguageModel, solved_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(runs, "loaded_model", lambda name, report: tiny_model)
    shown: list[torch.Tensor] = []
    order: list[str] = []

    def preview(scores: torch.Tensor) -> None:
        order.append("preview shown")
        shown.append(scores)

    def report(stage: str, share: float) -> None:
        order.append(stage)

    asked = RunRequest(task="custom", method=method, options=(("epochs", 1),), pairs=solved_pairs)
    runs.discovery_work(asked, preview)(report)
    assert torch.allclose(shown[0], paired_difference_scaled(tiny_model, solved_pairs, 0), rtol=1e-4)
    assert order.index("collect") < order.index("preview shown") < order.index("train")
    drawing = preview_map(shown[0])
    frame = drawing.data["heads"]
    assert drawing.data["marked"].empty
    assert frame["name"].tolist()[:5] == ["0.0", "0.1", "0.2", "0.3", "1.0"]
    assert frame["score"].tolist() == pytest.approx(shown[0].flatten().tolist())


def test_the_preview_of_many_pairs_is_of_the_first_ones(tiny_model: LanguageModel, solved_pairs: PromptPairs) -> None:
    negative = solved_pairs.negative
    doubled = PromptPairs(2 * solved_pairs.positive, negative + negative[1:] + negative[:1])
    shown: list[torch.Tensor] = []
    discover(tiny_model, doubled, preview=shown.append, epochs=1)
    (preview,) = shown
    assert torch.allclose(preview, paired_difference_scaled(tiny_model, solved_pairs, 0), rtol=1e-4)
    assert not torch.allclose(preview, paired_difference_scaled(tiny_model, doubled, 0), rtol=1e-2)


def test_a_preview_is_drawn_in_the_chart_of_a_result_of_its_shape() -> None:
    scores = torch.tensor([[0.0, 1.0], [2.0, 0.5]])
    result = Grid(2, 2, has_truth=True, has_effects=True, has_rates=True)
    heads = preview_map(scores, result)
    assert heads.spec is heatmap_of(result, {}).spec
    shown = {field["field"] for field in heads.spec["layer"][0]["encoding"]["tooltip"]}
    assert shown <= set(heads.data["heads"].columns)
    assert heads.data["heads"]["rank"].tolist() == [4, 2, 1, 3]
    assert set(heads.data["heads"]["unique_codes"]) == {"after the run"}
    other = Grid(3, 2, has_truth=True, has_effects=True)
    assert preview_map(scores, other).spec is preview_map(scores).spec is not preview_map(scores, result).spec


# --- own prompts -------------------------------------------------------------------------------------------


def test_a_block_of_a_spreadsheet_in_one_cell_becomes_rows() -> None:
    first, *_ = drafts.EXAMPLE.positive
    block = 'a\tb\t c\t d\n"e ""quoted"""\tf\t g\t h\ti\n'
    frame = pd.DataFrame([[first, "n", " x", " y"], [block, "", "", ""]], columns=list(drafts.COLUMNS))
    assert drafts.spread_blocks(frame).to_numpy().tolist() == [
        [first, "n", " x", " y"],
        ["a", "b", " c", " d"],
        ['e "quoted"', "f", " g", " h"],
    ]
    second = pd.DataFrame([["one", "two\t three", "", ""]], columns=list(drafts.COLUMNS))
    assert drafts.spread_blocks(second).to_numpy().tolist() == [["one", "two", " three", ""]]


def test_missing_spaces_are_found() -> None:
    lacking = PromptPairs(("a",), ("b",), (("Mary", " Mar"),), ((" John",),))
    assert drafts.lacks_spaces(drafts.read(drafts.frame_of(lacking)))
    assert not drafts.lacks_spaces(drafts.read(drafts.frame_of(drafts.EXAMPLE)))
    assert not drafts.lacks_spaces(drafts.read(drafts.frame_of(None)))


def test_a_table_is_read_as_it_is_written() -> None:
    frame = drafts.frame_of(drafts.EXAMPLE)
    assert drafts.read(frame).pairs == drafts.EXAMPLE
    assert drafts.read(drafts.frame_of(None)) == drafts.Draft((), None, "")
    several = PromptPairs(("a",), ("b",), ((" c", " d"),), ((" e",),), metric="probability_difference")
    assert drafts.read(drafts.frame_of(several), "probability_difference").pairs == several
    blank = pd.concat([frame, pd.DataFrame([["", None, "  ", float("nan")]], columns=frame.columns)])
    assert drafts.read(blank).pairs == drafts.EXAMPLE


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ([["one", ""]], "Row 1, column negative: the cell is empty."),
        ([["one", "two"], [None, "four"]], "Row 2, column positive: the cell is empty."),
        ([["one", "two", " a", " b"], ["three", "four", " c", ""]], "Row 2, column distractor"),
    ],
)
def test_what_a_table_lacks_is_named(cells: list[list[Any]], problem: str) -> None:
    frame = pd.DataFrame([row + [""] * (4 - len(row)) for row in cells], columns=list(drafts.COLUMNS))
    draft = drafts.read(frame)
    assert draft.pairs is None
    assert draft.problem.startswith(problem)
    assert len(draft.rows) == len(cells)


def test_edits_of_the_table_are_taken_over() -> None:
    frame = drafts.frame_of(drafts.EXAMPLE)[:2]
    edits = {
        "edited_rows": {"1": {"answer": " Tim", "negative": None}},
        "added_rows": [{"positive": "new"}, {}],
        "deleted_rows": [0],
    }
    now = drafts.edited(frame, edits)
    assert now["positive"].tolist() == [drafts.EXAMPLE.positive[1], "new", ""]
    assert now["answer"].tolist() == [" Tim", "", ""]
    assert now["negative"].tolist() == ["", "", ""]
    assert frame["answer"].tolist() == [" Mary", " Tom"]


def row(positive: str, negative: str, answer: str = "", distractor: str = "", number: int = 1) -> Row:
    return Row(number, positive, negative, answer, distractor)


def test_rows_are_aligned_token_by_token(tiny_model: LanguageModel) -> None:
    even = align(tiny_model, row("Mary and Mary gave it to", "Mary and John gave it to"))
    assert even.problem == ""
    assert [token.differs for token in even.positive] == [False, False, True, False, False, False]
    uneven = align(tiny_model, row("Mary and Mary gave it to", "Mary and John and Anna gave it to", number=7))
    assert (uneven.number, uneven.problem) == (7, "6 tokens against 8")
    assert sum(token.differs for token in uneven.positive) == 1
    assert sum(token.differs for token in uneven.negative) == 3
    assert align(tiny_model, row("the cat", "the cat")).problem == "both prompts are the same"
    assert align(tiny_model, row("the cat", "")).problem == "one of the two prompts is missing"
    long = align(tiny_model, row("a " * 80, "b " * 80))
    assert long.positive == ()
    assert "more than the 64 allowed" in long.problem
    assert "Row" not in long.problem


def test_answers_that_are_no_single_token_are_noted(tiny_model: LanguageModel) -> None:
    noted = align(tiny_model, row("Mary gave it to", "John gave it to", " John Anna", " Mary| b c"))
    assert [note.split(";")[0] for note in noted.notes] == [
        "answer “ John Anna” is 2 tokens after the prompt",
        "distractor “ b c” is 2 tokens after the prompt",
    ]


def test_an_answer_without_its_space_is_noted(smollm2: LanguageModel) -> None:
    noted = align(smollm2, row("John gave a drink to", "Anna gave a drink to", "Mary", " John"))
    assert noted.notes == ("answer “Mary” has no space before it; the model would write “ Mary”",)


def test_the_tokens_table_escapes_and_frames(tiny_model: LanguageModel) -> None:
    rows = [
        align(tiny_model, row("Mary gave it to", "John gave it to")),
        align(tiny_model, row("the cat", "the cat ran")),
    ]
    check = probes.PromptCheck(
        None, (NextToken("<script>", 0.5), NextToken(" a", 0.1)), (NextToken(" b", 0.2), NextToken("\n", 0.3))
    )
    table = editor.tokens_table(rows, check)
    assert "<script>" not in table
    assert "&lt;script&gt;" in table
    assert table.count("d-chip differs") == 3
    assert "▲ 2 tokens against 3" in table
    assert "50 %" in table
    assert "Writes next" not in editor.tokens_table(rows, None)
    assert "1 row of 2 does not align. Where lengths differ all prompts are pooled" in editor.alignment_sentence(
        rows, 2
    )
    assert editor.alignment_sentence(rows[:1], 1).startswith("The row aligns")


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        (Behaviour(3.0, 0.1, 0.9, 0.5), "on 9 of 10 positives and on 5 of 10 negatives (mean logit difference +3.00"),
        (Behaviour(-1.0, 0.1, 0.2, 0.5), "does not show this behaviour"),
        (Behaviour(3.0, 3.1, 0.9, 0.9), "the negatives show it as much"),
        (None, "Without answers nobody can say"),
    ],
)
def test_the_check_in_words(behaviour: Behaviour | None, told: str) -> None:
    pairs = PromptPairs(("a",) * 10, ("b",) * 10)
    assert told in editor.check_sentence(probes.PromptCheck(behaviour, (), ()), pairs)


def test_works_ask_the_model_the_result_was_made_with(
    tiny_model: LanguageModel, solved_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(probes, "loaded_model", lambda name, report: tiny_model)
    found = small_discovery()
    report = lambda stage, share: told.append(stage)  # noqa: E731
    seen = probes.attention_work(found, solved_pairs, 1, (1, 2))(report)
    assert seen.positive.shape == seen.negative.shape == (6, 6)
    assert seen.positive_tokens[2] != seen.negative_tokens[2]
    written = probes.output_work(found, solved_pairs, (1, 2))(report)
    assert written.effects is not None
    assert written.effects[1, 2] == pytest.approx(sum(written.by_pair) / 3)
    assert len(written.tokens) == 3
    blind = probes.output_work(found, PromptPairs(solved_pairs.positive, solved_pairs.negative), (1, 2))(report)
    assert (blind.effects, blind.by_pair) == (None, ())
    assert blind.tokens == written.tokens
    assert probes.patch_work(found, solved_pairs, (1, 2))(report).pairs == 3
    ranked = dataclasses.replace(found, node_scores=torch.rand(2, 4))
    checked = probes.validation_work(ranked, solved_pairs, 0, 2)(report)
    assert (checked.size, checked.fresh) == (2, False)
    check = probes.check_work("tiny", solved_pairs)(report)
    assert check.behaviour is not None
    assert len(check.positive) == len(check.negative) == 3
    multi = PromptPairs(("a",), ("b",), ((" c d",),), ((" a",),))
    assert "2 separate tokens" in probes.check_work("tiny", multi)(report).problem
    assert set(told) >= {"attend", "logits", "patch", "ablate", "predict"}


def test_a_model_with_other_weights_is_refused(
    tiny_model: LanguageModel, solved_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = dataclasses.replace(tiny_model, digest="new")
    monkeypatch.setattr(probes, "loaded_model", lambda name, report: changed)
    found = dataclasses.replace(small_discovery(), provenance={"model": "tiny", "model_digest": "old"})
    with pytest.raises(UserError, match="not those this result was made with"):
        probes.patch_work(found, solved_pairs, (0, 0))(lambda stage, share: None)
