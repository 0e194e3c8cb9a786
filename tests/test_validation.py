"""Circuits kept and removed, against the faithfulness curve and against patching done by hand."""

from __future__ import annotations

import pytest
import torch

from dsae_core.errors import UserError
from dsae_core.faithfulness import AblationRuns, faithfulness_curve
from dsae_core.models import LanguageModel
from dsae_core.prompts import PromptPairs
from dsae_core.validation import found_sizes, random_sizes, validate

SCORES = torch.tensor([[3.0, 0.0, 7.0, 1.0], [6.0, 2.0, 5.0, 4.0]])


def test_the_found_circuit_has_the_faithfulness_curve(tiny_model: LanguageModel, solved_pairs: PromptPairs) -> None:
    found = validate(tiny_model, solved_pairs, SCORES, size=4, seeds=(0, 1))
    curve = faithfulness_curve(tiny_model, solved_pairs, SCORES, sizes=found.found.sizes)
    assert found.measure == "metric"
    assert 4 in found.found.sizes
    assert found.found.sizes == curve.sizes
    assert found.found.kept == pytest.approx(curve.kept, abs=1e-5)
    assert found.found.removed == pytest.approx(curve.removed, abs=1e-5)
    assert (found.full, found.empty) == pytest.approx((curve.metric_full, curve.metric_empty))
    assert found.pairs == 3


def test_random_circuits_have_the_same_ends_and_other_middles(
    tiny_model: LanguageModel, solved_pairs: PromptPairs
) -> None:
    found = validate(tiny_model, solved_pairs, SCORES, size=3, seeds=(5, 6))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(6))
    inside = torch.zeros(8, dtype=torch.bool)
    inside[order[:3]] = True
    runs = AblationRuns(tiny_model, solved_pairs)
    kept = runs.metric(runs.logits(~inside.reshape(2, 4)))
    removed = runs.metric(runs.logits(inside.reshape(2, 4)))
    span = found.full - found.empty
    random = found.random[1]
    at = random.sizes.index(3)
    assert random.kept[at] == pytest.approx((kept - found.empty) / span, abs=1e-5)
    assert random.removed[at] == pytest.approx((removed - found.empty) / span, abs=1e-5)
    for shares in found.random:
        assert (shares.kept[0], shares.kept[-1]) == (0.0, 1.0)
        assert (shares.removed[0], shares.removed[-1]) == (1.0, 0.0)
    assert found.random[0].kept != random.kept


def test_without_answers_the_divergence_is_the_measure(tiny_model: LanguageModel, solved_pairs: PromptPairs) -> None:
    blind = PromptPairs(solved_pairs.positive, solved_pairs.negative)
    found = validate(tiny_model, blind, SCORES, size=4, seeds=(0,))
    curve = faithfulness_curve(tiny_model, solved_pairs, SCORES, sizes=found.found.sizes)
    assert found.measure == "kl"
    assert found.full == pytest.approx(0.0, abs=1e-12)
    assert found.empty == pytest.approx(-curve.kl[0], rel=1e-4)
    expected = [1 - kl / curve.kl[0] for kl in curve.kl]
    assert found.found.kept == pytest.approx(expected, abs=1e-4)


def test_progress_is_told_before_every_pass_and_can_end_it(
    tiny_model: LanguageModel, solved_pairs: PromptPairs
) -> None:
    told: list[float] = []
    validate(tiny_model, solved_pairs, SCORES, size=2, seeds=(0,), progress=lambda _, share: told.append(share))
    assert told == sorted(told)
    assert told[0] == 0.0
    assert told[-1] == pytest.approx(1 - 1 / len(told))

    def stop(_: str, share: float) -> None:
        if share > 0.3:
            raise KeyboardInterrupt

    clean = AblationRuns(tiny_model, solved_pairs).logits(torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(KeyboardInterrupt):
        validate(tiny_model, solved_pairs, SCORES, size=2, progress=stop)
    after = AblationRuns(tiny_model, solved_pairs).logits(torch.zeros(2, 4, dtype=torch.bool))
    assert torch.equal(clean, after)  # nothing stays ablated


def test_sizes_include_the_one_in_question() -> None:
    assert found_sizes(270, 14)[:6] == (0, 1, 3, 5, 10, 14)
    assert random_sizes(270, 14) == (0, 3, 14, 42, 270)
    assert random_sizes(8, 0) == (0, 1, 8)
    assert random_sizes(8, 8) == (0, 2, 8)


def test_what_cannot_be_validated_is_refused(tiny_model: LanguageModel, solved_pairs: PromptPairs) -> None:
    with pytest.raises(UserError, match="other heads"):
        validate(tiny_model, solved_pairs, torch.zeros(3, 4), size=1)
    with pytest.raises(UserError, match="between 0 and 8"):
        validate(tiny_model, solved_pairs, SCORES, size=9)
    with pytest.raises(UserError, match="Row 1"):
        validate(tiny_model, PromptPairs(("the cat",), ("the cat ran",)), SCORES, size=1)
    same = PromptPairs(("the cat ran",), ("the cat ran",))
    with pytest.raises(UserError, match="carries this behaviour"):
        validate(tiny_model, same, SCORES, size=1)
