"""Rivals under one interface: prompt pairs in, a score for every head out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from dsae_core.baselines.edges import edge_attribution
from dsae_core.baselines.forward_only import (
    output_norm,
    paired_difference,
    paired_difference_followed,
    paired_difference_pooled,
    paired_difference_scaled,
    random_scores,
)
from dsae_core.baselines.gradients import attribution_patching, head_importance, integrated_gradients
from dsae_core.baselines.masks import subnetwork_probing
from dsae_core.baselines.pruning import exact_patching, greedy_pruning
from dsae_core.models import LanguageModel
from dsae_core.models.memory import PatchingSize
from dsae_core.prompts import PromptPairs


@dataclass(frozen=True)
class Baseline:
    """A rival method.

    Attributes:
        name: the name used in files and commands.
        title: the name shown to people.
        needs: what it takes beside prompt pairs.
        memory: the bytes that it takes, about.
        score: (model, pairs, seed) -> [L, heads], the higher the more the head belongs.
    """

    name: str
    title: str
    needs: str
    memory: Callable[[PatchingSize], int]
    score: Callable[[LanguageModel, PromptPairs, int], Tensor]


_ALL = (
    Baseline("random", "Random", "nothing", lambda _: 0, random_scores),
    Baseline("norm", "Output norm", "a forward pass", PatchingSize.reading, output_norm),
    Baseline(
        "paired_pooled", "Paired difference, pooled", "a forward pass", PatchingSize.reading, paired_difference_pooled
    ),
    Baseline("paired", "Paired difference", "a forward pass", PatchingSize.reading, paired_difference),
    Baseline(
        "paired_scaled", "Paired difference, scaled", "a forward pass", PatchingSize.reading, paired_difference_scaled
    ),
    Baseline(
        "paired_flow", "Paired difference, followed", "a forward pass", PatchingSize.reading, paired_difference_followed
    ),
    Baseline("hisp", "Head importance (HISP)", "gradients, answers", PatchingSize.gradients, head_importance),
    Baseline("attribution", "Attribution patching", "gradients, answers", PatchingSize.gradients, attribution_patching),
    Baseline(
        "ig5", "Integrated gradients, 5 steps", "gradients, answers", PatchingSize.gradients, integrated_gradients
    ),
    Baseline(
        "ig10",
        "Integrated gradients, 10 steps",
        "gradients, answers",
        PatchingSize.gradients,
        partial(integrated_gradients, steps=10),
    ),
    Baseline("eap", "Edge attribution", "gradients, answers", PatchingSize.edges, edge_attribution),
    Baseline("subnetwork", "Subnetwork probing", "gradients", PatchingSize.gradients, subnetwork_probing),
    Baseline("acdc", "Greedy pruning (ACDC)", "ablations", PatchingSize.pruning, greedy_pruning),
    Baseline("patching", "Exact patching", "ablations, answers", PatchingSize.patching, exact_patching),
)
BASELINES: Mapping[str, Baseline] = {baseline.name: baseline for baseline in _ALL}

__all__ = ["BASELINES", "Baseline"]
