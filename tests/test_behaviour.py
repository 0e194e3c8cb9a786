"""Whether the model shows the behaviour, measured before anything is scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from dsae_core import behaviour
from dsae_core.behaviour import Behaviour, discover_checked, measure_behaviour
from dsae_core.discovery import discover
from dsae_core.errors import UserError
from dsae_core.interventions import tokenize_sides
from dsae_core.models import LanguageModel, last_logits
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery, read_discovery
from dsae_core.ui import runs
from dsae_core.ui.jobs import Job
from dsae_core.ui.request import RunRequest
from dsae_core.ui.sections import progress

QUICK: Mapping[str, Any] = {"epochs": 2, "n_features": 8, "k": 1}
UNSOLVED = "the answer beats the distractor on 0 of 3 positives and on 3 of 3 negatives, so the scores say little."


@pytest.fixture(scope="module")
def done(tiny_model: LanguageModel, tiny_pairs: PromptPairs) -> PromptPairs:
    """Pairs with answers that the model prefers on every positive and on no negative."""
    answers, distractors = [], []
    sides = [last_logits(tiny_model, side.ids, side.mask) for side in tokenize_sides(tiny_model, tiny_pairs)]
    for on_positive, on_negative in zip(*sides, strict=True):
        prefers = (on_positive[:, None] > on_positive[None]) & (on_negative[:, None] < on_negative[None])
        unknown = tiny_model.tokenizer.unk_token_id
        prefers[unknown] = prefers[:, unknown] = False
        answer, distractor = tiny_model.tokenizer.convert_ids_to_tokens(prefers.nonzero()[0].tolist())
        answers.append((f" {answer}",))
        distractors.append((f" {distractor}",))
    return replace(tiny_pairs, answer=tuple(answers), distractor=tuple(distractors))


@pytest.fixture(scope="module")
def undone(done: PromptPairs) -> PromptPairs:
    """The same with answers and distractors exchanged."""
    return replace(done, answer=done.distractor, distractor=done.answer)


def test_solved_pairs_are_scored_without_a_warning(tiny_model: LanguageModel, done: PromptPairs) -> None:
    stages: list[str] = []
    found = discover_checked(tiny_model, done, progress=lambda stage, _: stages.append(stage), **QUICK)
    assert found.warnings == ()
    assert list(dict.fromkeys(stages))[:3] == ["check", "tokenize", "collect"]
    assert found.timings["check"] > 0
    assert torch.equal(found.node_scores, discover(tiny_model, done, **QUICK).node_scores)


def test_unsolved_pairs_are_scored_with_a_warning_that_stays(
    tiny_model: LanguageModel, undone: PromptPairs, tmp_path: Path
) -> None:
    found = discover_checked(tiny_model, undone, **QUICK)
    assert found.warnings == (f"The model does not show this behaviour: {UNSOLVED}",)
    found.save(tmp_path / "run.json")
    assert read_discovery(tmp_path / "run.json").warnings == found.warnings


def test_negatives_that_are_solved_as_well_are_said_to_be(tiny_model: LanguageModel, done: PromptPairs) -> None:
    found = discover_checked(tiny_model, done, known=Behaviour(1.0, 1.5, 1.0, 1.0), **QUICK)
    (warning,) = found.warnings
    assert warning.startswith("The negatives show this behaviour as much: the answer beats")


def test_one_pair_is_counted_in_the_singular() -> None:
    assert Behaviour(1.0, 2.0, 1.0, 0.0).counts(1).endswith("on 1 of 1 positive and on 0 of 1 negative")


def test_without_answers_nothing_is_measured_or_said(
    tiny_model: LanguageModel, done: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(behaviour, "measure_behaviour")
    found = discover_checked(tiny_model, PromptPairs(done.positive, done.negative), **QUICK)
    assert found.warnings == ()
    assert "check" not in found.timings


def test_answers_that_cannot_be_checked_are_said_to(tiny_model: LanguageModel, done: PromptPairs) -> None:
    found = discover_checked(tiny_model, replace(done, answer=((" a b",), *done.answer[1:])), **QUICK)
    assert found.warnings[0].startswith("Whether the model shows the behaviour could not be checked. Row 1, column ans")


def test_a_wrong_setting_costs_no_forward_pass(
    tiny_model: LanguageModel, done: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(behaviour, "measure_behaviour")
    with pytest.raises(UserError, match="nonsense"):
        discover_checked(tiny_model, done, nonsense=1)


# --- the dashboard's runs ----------------------------------------------------------------------------------


def run(pairs: PromptPairs, known: Behaviour | None = None) -> tuple[Discovery, list[str]]:
    """A run of the page, and its stages."""
    stages: list[str] = []
    asked = RunRequest("tiny", "custom", len(pairs), options=tuple(sorted(QUICK.items())), pairs=pairs)
    found = runs.discovery_work(asked, None, known)(lambda stage, _: stages.append(stage))
    return found, list(dict.fromkeys(stages))


def test_a_run_of_own_prompts_is_checked_first(
    tiny_model: LanguageModel, done: PromptPairs, undone: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "loaded_model", lambda name, report: tiny_model)
    assert run(done)[0].warnings == ()
    found, stages = run(undone)
    assert UNSOLVED in found.warnings[0]
    assert stages[0] == "check"
    asked = RunRequest(task="custom", pairs=undone)
    assert runs.stages_of(asked)[:3] == ("load", "check", "tokenize")
    steps = progress.steps(Job(status="running", stage="check"), runs.stages_of(asked))
    assert '<span class="done">1 load</span><span class="now">2 check</span>' in steps
    assert progress.STAGE_WORDS["check"]
    stages = runs.stages_of(asked)
    done_so_far = [progress.share_done(Job(stage=stage, fraction=0.5), stages) for stage in stages]
    assert done_so_far == pytest.approx([(i + 0.5) / len(stages) for i in range(len(stages))])
    assert progress.share_done(Job(stage="download", fraction=0.5), stages) == 0.5
    assert runs.stages_of(RunRequest()) == runs.STAGES


def test_what_the_button_found_is_not_measured_again(
    tiny_model: LanguageModel, undone: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "loaded_model", lambda name, report: tiny_model)
    known = measure_behaviour(tiny_model, undone)
    monkeypatch.delattr(behaviour, "measure_behaviour")
    found, stages = run(undone, known)
    assert UNSOLVED in found.warnings[0]
    assert "check" not in stages


def draw_headline() -> None:
    """The headline of a result with a warning."""
    import dataclasses

    from test_ui_view import small_discovery

    from dsae_core.ui.sections import header
    from dsae_core.ui.view import View

    header.headline(View(dataclasses.replace(small_discovery(), warnings=("<b>Mind</b> this.",)), None), 1.0)


def test_a_warning_stands_out_in_the_result() -> None:
    said = [element.proto.body for element in AppTest.from_function(draw_headline).run().main.get("html")]
    assert '</h1><p class="d-note stale">△ &lt;b&gt;Mind&lt;/b&gt; this.</p><p class="d-note">' in said[0]
