"""Keeping and removing circuits: the two ends, the areas, and an independent computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dsae_core.errors import UserError
from dsae_core.faithfulness import (
    AblationRuns,
    FaithfulnessCurve,
    FaithfulnessReport,
    circuit_sizes,
    faithfulness_curve,
    faithfulness_report,
)
from dsae_core.figures import faithfulness_chart, save_svg
from dsae_core.interventions import ablation_sources, interchange_effects, record_head_inputs, run_clean
from dsae_core.models import LanguageModel, TokenBatch, last_logits, tokenize
from dsae_core.prompts import PromptPairs


def test_the_curves_ends_are_the_whole_model_and_none_of_it(
    tiny_model: LanguageModel, solved_pairs: PromptPairs
) -> None:
    scores = torch.arange(8.0).reshape(2, 4)
    curve = faithfulness_curve(tiny_model, solved_pairs, scores, sizes=[2, 5])
    assert curve.sizes == (0, 2, 5, 8)
    assert (curve.kept[0], curve.kept[-1]) == (0.0, pytest.approx(1.0))
    assert (curve.removed[0], curve.removed[-1]) == (pytest.approx(1.0), pytest.approx(0.0))
    assert curve.kl[-1] == pytest.approx(0.0, abs=1e-9)
    assert curve.kl[0] > 1e-3


def test_removing_one_head_is_patching_it(tiny_model: LanguageModel, solved_pairs: PromptPairs) -> None:
    effects = interchange_effects(tiny_model, solved_pairs)
    scores = torch.zeros(2, 4)
    scores[1, 0] = 1.0
    curve = faithfulness_curve(tiny_model, solved_pairs, scores, sizes=[1])
    runs = AblationRuns(tiny_model, solved_pairs)
    ablated = scores.bool()
    loss = curve.metric_full - runs.metric(runs.logits(ablated))
    drop = float((effects.metric_positive - effects.metric_negative).mean())
    assert loss / drop == pytest.approx(float(effects.effects[1, 0]), abs=1e-4)
    assert curve.removed[1] == pytest.approx(1 - loss / (curve.metric_full - curve.metric_empty), abs=1e-5)


def test_areas_worked_out_by_hand() -> None:
    curve = FaithfulnessCurve((0, 2, 4), (0.0, 1.5, 1.0), (1.0, 0.0, 0.0), (1.0, 0.1, 0.0), 2.0, 0.0)
    assert curve.cpr == pytest.approx(0.5 * 0.75 + 0.5 * 1.25)
    assert curve.cmd == pytest.approx(0.5 * (1 + 0.5) / 2 + 0.5 * (0.5 + 0) / 2)


def test_sizes_rise_from_none_to_all() -> None:
    assert circuit_sizes(5) == (0, 1, 2, 3, 4, 5)
    sizes = circuit_sizes(270)
    assert (sizes[0], sizes[-1]) == (0, 270)
    assert list(sizes) == sorted(set(sizes))


def test_kinds_of_ablation(tiny_model: LanguageModel, solved_pairs: PromptPairs) -> None:
    batch = tokenize(tiny_model, solved_pairs.negative)
    recorded, _ = record_head_inputs(tiny_model, batch)
    assert ablation_sources(recorded, batch.mask, "interchange")[0] is recorded[0]
    assert ablation_sources(recorded, batch.mask, "zero")[1].abs().max() == 0
    mean = ablation_sources(recorded, batch.mask, "mean")[1]
    assert torch.allclose(mean[2], recorded[1].mean(dim=0), atol=1e-6)
    half = batch.mask.clone()
    half[0, 0] = False  # a padded position does not count in the mean
    masked = ablation_sources(recorded, half, "mean")[1]
    assert torch.allclose(masked[0, 0], recorded[1][1:, 0].mean(dim=0), atol=1e-6)
    effects = {
        kind: interchange_effects(tiny_model, solved_pairs, ablation=kind).effects
        for kind in ("interchange", "mean", "zero")
    }
    assert not torch.allclose(effects["interchange"], effects["zero"], atol=1e-4)
    assert not torch.allclose(effects["mean"], effects["zero"], atol=1e-4)


def test_a_clean_run_is_the_models_own(tiny_model: LanguageModel, solved_pairs: PromptPairs) -> None:
    batch = tokenize(tiny_model, solved_pairs.positive)
    assert torch.equal(run_clean(tiny_model, batch).logits, last_logits(tiny_model, batch.ids, batch.mask))
    assert isinstance(batch, TokenBatch)


def test_what_cannot_be_measured_is_refused(tiny_model: LanguageModel, solved_pairs: PromptPairs) -> None:
    with pytest.raises(UserError, match="other heads"):
        faithfulness_curve(tiny_model, solved_pairs, torch.zeros(3, 4))
    with pytest.raises(UserError, match="between 0 and 8"):
        faithfulness_curve(tiny_model, solved_pairs, torch.zeros(2, 4), sizes=[9])
    with pytest.raises(UserError, match="no answers"):
        faithfulness_curve(tiny_model, PromptPairs(solved_pairs.positive, solved_pairs.negative), torch.zeros(2, 4))
    unequal = PromptPairs(("the cat",), ("the cat ran",), ((" a",),), ((" b",),))
    with pytest.raises(UserError, match="Row 1"):
        faithfulness_curve(tiny_model, unequal, torch.zeros(2, 4))


def test_random_circuits_are_curves_of_random_rankings(tiny_model: LanguageModel, solved_pairs: PromptPairs) -> None:
    scores = torch.arange(8.0).reshape(2, 4)
    done: list[float] = []
    options: dict[str, Any] = {"sizes": [1, 3], "ablation": "mean"}
    report = faithfulness_report(
        tiny_model, solved_pairs, scores, seeds=[7, 8], progress=lambda _, share: done.append(share), **options
    )
    assert report.curve == faithfulness_curve(tiny_model, solved_pairs, scores, **options)
    for seed, curve in zip(report.seeds, report.random, strict=True):
        ranking = torch.rand(2, 4, generator=torch.Generator().manual_seed(seed))
        assert curve == faithfulness_curve(tiny_model, solved_pairs, ranking, **options)
    assert report.random[0] != report.random[1]
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_kl_and_removed_computed_independently(tiny_model: LanguageModel, solved_pairs: PromptPairs) -> None:
    scores = torch.zeros(2, 4)
    scores[0, 2], scores[1, 3] = 2.0, 1.0
    curve = faithfulness_curve(tiny_model, solved_pairs, scores, sizes=[2], ablation="zero")
    runs = AblationRuns(tiny_model, solved_pairs, "zero")
    members = scores > 0
    whole, only, without, none = (
        runs.logits(ablated)
        for ablated in (torch.zeros(2, 4, dtype=torch.bool), ~members, members, torch.ones(2, 4, dtype=torch.bool))
    )
    empty, span = runs.metric(none), runs.metric(whole) - runs.metric(none)
    assert curve.kept[1] == pytest.approx((runs.metric(only) - empty) / span, abs=1e-6)
    assert curve.removed[1] == pytest.approx((runs.metric(without) - empty) / span, abs=1e-6)
    kl = torch.nn.functional.kl_div(only.log_softmax(-1), whole.log_softmax(-1), log_target=True, reduction="batchmean")
    assert curve.kl[1] == pytest.approx(float(kl), abs=1e-5)


def test_a_report_as_table_document_and_figure(tmp_path: Path) -> None:
    def curve(kept: float) -> FaithfulnessCurve:
        return FaithfulnessCurve((0, 1, 4), (0.0, kept, 1.0), (1.0, 1 - kept, 0.0), (2.0, kept, 0.0), 3.0, 1.0)

    report = FaithfulnessReport(curve(0.75), (curve(0.25), curve(-0.25)), (0, 1))
    frame = report.frame()
    assert list(frame["size"]) == [0, 1, 4]
    assert list(frame["kept"]) == [0.0, 0.75, 1.0]
    assert list(frame["random_kept"]) == [0.0, 0.0, 1.0]
    assert list(frame["random_removed"]) == [1.0, 1.0, 0.0]
    document = report.to_dict()
    # Areas over the shares 0, 1/4 and 1 of the heads.
    assert document["cpr"] == pytest.approx(0.25 * 0.375 + 0.75 * 0.875)
    assert document["cmd"] == pytest.approx(0.25 * 0.625 + 0.75 * 0.125)
    assert [(entry["seed"], entry["kept"][1]) for entry in document["random"]] == [(0, 0.25), (1, -0.25)]
    points = report.points()
    assert len(points) == 3 * 2 * 3
    assert points[(points["seed"] == 1) & (points["kind"] == "removed")]["share"].tolist() == [1.0, 1.25, 0.0]
    chart = faithfulness_chart(points, n_heads=4, method="norm")
    drawn = save_svg(chart, tmp_path / "curves.svg").read_text()
    assert drawn.startswith("<svg")
    assert "random circuits" in drawn
    alone = FaithfulnessReport(curve(0.75), (), ())
    assert alone.frame()["random_kept"].isna().all()
    text = save_svg(faithfulness_chart(alone.points(), n_heads=4, method="norm"), tmp_path / "one.svg").read_text()
    assert "random circuits" not in text
    with pytest.raises(UserError, match=r"ends in \.svg"):
        save_svg(chart, tmp_path / "curves.png")
