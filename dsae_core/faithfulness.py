"""How much of the behaviour a circuit keeps when every other head is ablated, and how much goes without it.

Faithfulness and its two areas as in the MIB benchmark (Mueller et al. 2025, arXiv 2504.13151), with heads for edges:
f(k) = (m(k) - m(0)) / (m(all) - m(0)), m(k) the mean task metric with the k best heads left and all others ablated.
CPR, circuit performance ratio, is the area under f over the share of heads k / all: the higher the better. CMD,
circuit-model distance, is the area of |1 - f| over the same: 0 is a circuit that does what the model does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dsae_core.errors import UserError
from dsae_core.interventions import (
    Ablation,
    ablation_sources,
    record_head_inputs,
    replace_heads,
    require_aligned,
    tokenize_sides,
)
from dsae_core.looking import anywhere, room_for_patching
from dsae_core.models import LanguageModel, last_logits
from dsae_core.models.memory import PatchingSize
from dsae_core.prompts import PromptPairs
from dsae_core.stages import Progress
from dsae_core.tasks import AnswerTokens, answer_tokens, task_metric


@dataclass(frozen=True)
class FaithfulnessCurve:
    """What the k best heads keep and take away, for several k.

    Attributes:
        sizes: number of heads k, rising from 0 to all.
        kept: share of the behaviour with only the k best heads left: (m(k) - m(0)) / (m(all) - m(0)).
        removed: share of the behaviour left when the k best heads are ablated.
        kl: mean KL divergence in nats from the whole model's prediction to the k best heads'.
        metric_full: mean metric of the whole model.
        metric_empty: mean metric with every head ablated.
    """

    sizes: tuple[int, ...]
    kept: tuple[float, ...]
    removed: tuple[float, ...]
    kl: tuple[float, ...]
    metric_full: float
    metric_empty: float

    @property
    def cpr(self) -> float:
        """Circuit performance ratio: the area under `kept` over the share of heads, by trapezoids."""
        return self._area(list(self.kept))

    @property
    def cmd(self) -> float:
        """Circuit-model distance: the area between `kept` and 1, by trapezoids; 0 is a perfect circuit."""
        return self._area([abs(1 - share) for share in self.kept])

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: the curves by circuit size, the two areas and the metric at both ends."""
        return {
            "sizes": list(self.sizes),
            "kept": list(self.kept),
            "removed": list(self.removed),
            "kl": list(self.kl),
            "cpr": self.cpr,
            "cmd": self.cmd,
            "metric_full": self.metric_full,
            "metric_empty": self.metric_empty,
        }

    def _area(self, values: list[float]) -> float:
        shares = torch.tensor(self.sizes, dtype=torch.float64) / self.sizes[-1]
        return float(torch.trapezoid(torch.tensor(values, dtype=torch.float64), shares))


@dataclass(frozen=True)
class FaithfulnessReport:
    """A ranking's curve beside those of random rankings, whose k best heads are random circuits of the same size.

    Attributes:
        curve: of the ranking.
        random: of the random rankings, one a seed.
        seeds: their seeds.
    """

    curve: FaithfulnessCurve
    random: tuple[FaithfulnessCurve, ...]
    seeds: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        null = [{"seed": seed, **curve.to_dict()} for seed, curve in zip(self.seeds, self.random, strict=True)]
        return {**self.curve.to_dict(), "random": null}

    def frame(self) -> pd.DataFrame:
        """size, kept, removed, kl, and random_kept, random_removed, random_kl: means over random circuits."""
        columns: dict[str, Any] = {"size": self.curve.sizes}
        for name in ("kept", "removed", "kl"):
            columns[name] = getattr(self.curve, name)
        for name in ("kept", "removed", "kl"):
            rows = [getattr(curve, name) for curve in self.random]
            columns[f"random_{name}"] = np.mean(rows, axis=0) if rows else math.nan
        return pd.DataFrame(columns)

    def points(self) -> pd.DataFrame:
        """size, share, kind ("kept" or "removed") and seed (-1 for the ranking itself): what a figure shows."""
        curves = zip((-1, *self.seeds), (self.curve, *self.random), strict=True)
        return pd.DataFrame(
            [
                {"size": size, "share": share, "kind": kind, "seed": seed}
                for seed, curve in curves
                for kind, shares in (("kept", curve.kept), ("removed", curve.removed))
                for size, share in zip(curve.sizes, shares, strict=True)
            ]
        )


class AblationRuns:
    """Forward passes over the positives of prompt pairs with any set of heads ablated.

    Args:
        model: the model.
        pairs: prompt pairs, each of one length.
        ablation: what an ablated head puts out.

    Raises:
        UserError: a pair whose prompts differ in length.
    """

    def __init__(self, model: LanguageModel, pairs: PromptPairs, ablation: Ablation = "interchange") -> None:
        self._model = model
        self._batch, negative = tokenize_sides(model, pairs)
        require_aligned(self._batch, negative)
        recorded, _ = record_head_inputs(model, negative)
        self._sources = ablation_sources(recorded, negative.mask, ablation)
        self._answers: AnswerTokens | None = answer_tokens(model.tokenizer, pairs) if pairs.has_answers else None

    def logits(self, ablated: Tensor) -> Tensor:
        """[N, V] logits with heads where ablated [L, heads] is True ablated."""
        with replace_heads(self._model, ablated, self._sources):
            return last_logits(self._model, self._batch.ids, self._batch.mask)

    def metric(self, logits: Tensor) -> float:
        """Mean task metric of logits [N, V].

        Raises:
            ValueError: the pairs have no answers.
        """
        if self._answers is None:
            raise ValueError("a task metric needs answers")
        return float(task_metric(logits, self._answers).mean())


def log_probabilities(logits: Tensor) -> Tensor:
    """Of logits [N, V], in float64."""
    return torch.log_softmax(logits.double(), dim=-1)


def divergence(reference: Tensor, log_p: Tensor) -> float:
    """Mean KL divergence in nats from log probabilities `reference` [N, V] to `log_p`."""
    return float((reference.exp() * (reference - log_p)).sum(dim=-1).mean())


def circuit_sizes(n_heads: int) -> tuple[int, ...]:
    """0, then sizes about a third apart, to all heads."""
    sizes, size = [0], 1.0
    while size < n_heads:
        sizes.append(round(size))
        size = max(size + 1, size * 1.35)
    return tuple(dict.fromkeys([*sizes, n_heads]))


def faithfulness_curve(
    model: LanguageModel,
    pairs: PromptPairs,
    scores: Tensor,
    *,
    sizes: Sequence[int] | None = None,
    ablation: Ablation = "interchange",
    progress: Progress | None = None,
) -> FaithfulnessCurve:
    """Keep only the k best heads by score, and remove them, for several k.

    Args:
        model: the model.
        pairs: prompt pairs with answers; best other ones than the scores were made from.
        scores: [L, heads].
        sizes: the k; they are sorted, and 0 and all heads are added.
        ablation: what the other heads put out.
        progress: called as ("ablate", share done).

    Raises:
        UserError: no answers, unaligned pairs, scores of another shape, too little memory, or heads that carry no
            behaviour at all (the metric is the same with all of them ablated).
    """
    return faithfulness_report(model, pairs, scores, seeds=(), sizes=sizes, ablation=ablation, progress=progress).curve


def faithfulness_report(
    model: LanguageModel,
    pairs: PromptPairs,
    scores: Tensor,
    *,
    seeds: Sequence[int] = range(5),
    sizes: Sequence[int] | None = None,
    ablation: Ablation = "interchange",
    progress: Progress | None = None,
) -> FaithfulnessReport:
    """faithfulness_curve, and the same for random rankings: what circuits of these sizes keep by chance.

    Args:
        model: the model.
        pairs: as in faithfulness_curve.
        scores: [L, heads].
        seeds: of the random rankings.
        sizes: as in faithfulness_curve.
        ablation: as in faithfulness_curve.
        progress: called as ("ablate", share done).

    Raises:
        UserError: as in faithfulness_curve.
    """
    chosen = _sizes(model, scores, sizes)
    answer_tokens(model.tokenizer, pairs)  # says what is wrong with them, or that there are none
    rankings = [scores]
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rankings.append(torch.rand(scores.shape, generator=generator))

    def curves_on(model: LanguageModel, notes: Sequence[str]) -> list[FaithfulnessCurve]:
        curves = []
        with room_for_patching(model, pairs, PatchingSize.ablating):
            runs = AblationRuns(model, pairs, ablation)
            for number, ranking in enumerate(rankings):

                def report(share: float, number: int = number) -> None:
                    if progress is not None:
                        progress("ablate", (number + share) / len(rankings))

                curves.append(_curve(runs, ranking, chosen, report))
        return curves

    curves = anywhere(model, [], curves_on)
    return FaithfulnessReport(curves[0], tuple(curves[1:]), tuple(seeds))


def _sizes(model: LanguageModel, scores: Tensor, sizes: Sequence[int] | None) -> list[int]:
    if scores.shape != (model.n_layers, model.n_heads):
        raise UserError(f"The scores have shape {tuple(scores.shape)}, but the model has other heads.")
    n_heads = scores.numel()
    chosen = sorted({0, n_heads, *(circuit_sizes(n_heads) if sizes is None else sizes)})
    if chosen[0] < 0 or chosen[-1] > n_heads:
        raise UserError(f"Circuit sizes must lie between 0 and {n_heads}.")
    return chosen


def _curve(
    runs: AblationRuns, scores: Tensor, sizes: Sequence[int], report: Callable[[float], None]
) -> FaithfulnessCurve:
    """The curve over sizes that rise from 0 to all heads."""
    order = torch.argsort(scores.flatten(), descending=True, stable=True)
    whole = runs.logits(torch.zeros_like(scores, dtype=torch.bool))
    reference = log_probabilities(whole)
    kept, removed, kl = [], [], []
    for number, size in enumerate(sizes):
        inside = torch.zeros(scores.numel(), dtype=torch.bool)
        inside[order[:size].cpu()] = True
        inside = inside.reshape(scores.shape)
        only = runs.logits(~inside)
        kept.append(runs.metric(only))
        removed.append(runs.metric(runs.logits(inside)))
        kl.append(divergence(reference, log_probabilities(only)))
        report((number + 1) / len(sizes))
    full, empty = runs.metric(whole), kept[0]
    if abs(full - empty) < 1e-9:
        raise UserError(
            "Ablating every head leaves the metric as it is, so no circuit of heads carries this behaviour."
        )
    return FaithfulnessCurve(
        sizes=tuple(sizes),
        kept=tuple((m - empty) / (full - empty) for m in kept),
        removed=tuple((m - empty) / (full - empty) for m in removed),
        kl=tuple(kl),
        metric_full=full,
        metric_empty=empty,
    )
