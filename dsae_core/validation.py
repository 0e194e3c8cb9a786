"""Does a found circuit do the work? Keep only its heads, remove them, and do the same with random heads.

The measure is that of faithfulness.py where answers are known. Where they are not, it is how close the prediction
stays to the whole model's: 1 - KL / KL with every head ablated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dsae_core.errors import UserError
from dsae_core.faithfulness import AblationRuns, circuit_sizes, divergence, log_probabilities
from dsae_core.looking import room_for_patching
from dsae_core.models import LanguageModel
from dsae_core.models.memory import PatchingSize
from dsae_core.prompts import PromptPairs
from dsae_core.stages import Progress

Measure = Literal["metric", "kl"]


@dataclass(frozen=True)
class Shares:
    """Shares of the behaviour with so many heads, best first: 1 is the whole model, 0 every head ablated.

    Attributes:
        sizes: numbers of heads, rising.
        kept: with only these heads left.
        removed: with these heads ablated and all others left.
    """

    sizes: tuple[int, ...]
    kept: tuple[float, ...]
    removed: tuple[float, ...]


@dataclass(frozen=True)
class Validation:
    """A ranking of heads and random rankings, kept and removed at several circuit sizes.

    Attributes:
        measure: "metric" is the task metric, "kl" the divergence from the whole model's prediction.
        found: with the heads ranked by score.
        random: the same with the heads in random order, one a seed; at fewer sizes.
        full: the measure with the whole model (metric), or 0 (kl, in nats).
        empty: the measure with every head ablated; for kl minus the divergence.
        pairs: number of prompt pairs.
    """

    measure: Measure
    found: Shares
    random: tuple[Shares, ...]
    full: float
    empty: float
    pairs: int


def validate(
    model: LanguageModel,
    pairs: PromptPairs,
    scores: Tensor,
    *,
    size: int,
    seeds: Sequence[int] = (0, 1, 2, 3),
    progress: Progress | None = None,
) -> Validation:
    """Interchange ablation: an ablated head puts out what it puts out on the matched negative.

    Args:
        model: the model.
        pairs: prompt pairs, each of one length in tokens; best other ones than the scores were made from.
        scores: [L, heads].
        size: of the circuit in question; it is measured exactly, found and random.
        seeds: of the random rankings.
        progress: called as ("ablate", share done) before every forward pass.

    Raises:
        UserError: a pair whose prompts differ in length, scores of another shape, too little memory, or heads that
            carry no behaviour (the measure is the same with all of them ablated).
    """
    n = scores.numel()
    if scores.shape != (model.n_layers, model.n_heads):
        raise UserError(f"The scores have shape {tuple(scores.shape)}, but the model has other heads.")
    if not 0 <= size <= n:
        raise UserError(f"The circuit's size must lie between 0 and {n}.")
    sizes, few = found_sizes(n, size), random_sizes(n, size)
    inner = [sum(0 < s < n for s in chosen) for chosen in (sizes, few)]
    passes = _Passes(2 + 2 * (inner[0] + inner[1] * len(seeds)), progress)
    with room_for_patching(model, pairs, PatchingSize.ablating):
        measure = _Measure(model, pairs, passes)
        everything = torch.ones_like(scores, dtype=torch.bool)
        full, empty = measure(~everything), measure(everything)
        if abs(full - empty) < 1e-9:
            raise UserError(
                "Ablating every head leaves the prediction as it is, so no circuit of heads carries this behaviour."
            )

        def shares(order: Tensor, chosen: Sequence[int]) -> Shares:
            kept, removed = [], []
            for k in chosen:
                inside = torch.zeros(n, dtype=torch.bool)
                inside[order[:k].cpu()] = True
                inside = inside.reshape(scores.shape)
                ends = {0: (empty, full), n: (full, empty)}  # known already
                only, without = ends[k] if k in ends else (measure(~inside), measure(inside))
                kept.append((only - empty) / (full - empty))
                removed.append((without - empty) / (full - empty))
            return Shares(tuple(chosen), tuple(kept), tuple(removed))

        found = shares(torch.argsort(scores.flatten(), descending=True, stable=True), sizes)
        random = tuple(shares(torch.randperm(n, generator=torch.Generator().manual_seed(seed)), few) for seed in seeds)
    return Validation("metric" if pairs.has_answers else "kl", found, random, full, empty, len(pairs))


def found_sizes(n: int, size: int) -> tuple[int, ...]:
    """Sizes at which the ranking is measured: none, every other one of circuit_sizes, the one in question, all."""
    return tuple(sorted({0, *circuit_sizes(n)[1::2], size, n}))


def random_sizes(n: int, size: int) -> tuple[int, ...]:
    """Sizes at which random circuits are measured: none, about a quarter of the one in question, it, its triple, all.

    Fewer than for the ranking, since each takes two forward passes a seed.
    """
    return tuple(sorted({0, min(max(size // 4, 1), n), size, min(max(3 * size, 1), n), n}))


class _Passes:
    """Counts forward passes and reports before each."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._done, self._progress = total, 0, progress

    def __call__(self) -> None:
        if self._progress is not None:
            self._progress("ablate", self._done / self._total)
        self._done += 1


class _Measure:
    """The measure with heads where ablated [L, heads] is True ablated; its first call must ablate none."""

    def __init__(self, model: LanguageModel, pairs: PromptPairs, passes: _Passes) -> None:
        self._runs, self._passes, self._has_answers = AblationRuns(model, pairs), passes, pairs.has_answers
        self._whole: Tensor | None = None

    def __call__(self, ablated: Tensor) -> float:
        self._passes()
        logits = self._runs.logits(ablated)
        if self._has_answers:
            return self._runs.metric(logits)
        log_p = log_probabilities(logits)
        if self._whole is None:
            self._whole = log_p
        return -divergence(self._whole, log_p)
