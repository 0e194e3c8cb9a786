"""Direct-path patching between heads: which sender's change reaches which receiver.

Path patching of Wang et al. 2022 (arXiv 2211.00593, appendix B): the sender puts out what it would on the negative,
every other head stays as it is on the positive, and what the receiver then computes, from the sender's change alone
(through MLPs, not through heads), is given to it in an otherwise ordinary run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from dsae_core.circuits import Circuit, Edge, Head
from dsae_core.interventions import (
    CleanRun,
    metric_by_run,
    patch_heads,
    record_head_inputs,
    require_aligned,
    run_clean,
    tokenize_sides,
)
from dsae_core.looking import room_for_patching
from dsae_core.metrics import bootstrap_ratio
from dsae_core.models import LanguageModel, edit_head_outputs, last_logits, resume_at
from dsae_core.models.memory import ROWS_PER_PASS
from dsae_core.patching_record import PatchingRecord
from dsae_core.prompts import PromptPairs
from dsae_core.stages import Progress
from dsae_core.tasks import answer_tokens, task_metric


class PathGroup(NamedTuple):
    """Direct paths from several heads to one later head, patched in one forward pass, each in a run of its own."""

    receiver: Head
    senders: tuple[Head, ...]

    @property
    def name(self) -> str:
        """What its losses are kept under."""
        senders = " ".join(f"{layer}.{head}" for layer, head in self.senders)
        return f"receiver {self.receiver[0]}.{self.receiver[1]}, senders {senders}"


def path_groups(heads: Sequence[Head], n_prompts: int, rows_per_pass: int = ROWS_PER_PASS) -> list[PathGroup]:
    """Every path from one of these heads to one in a later layer, in the forward passes that patch them."""
    size = max(1, rows_per_pass // n_prompts)
    groups: list[PathGroup] = []
    for receiver in heads:
        senders = [sender for sender in heads if sender[0] < receiver[0]]
        chunks = (tuple(senders[start : start + size]) for start in range(0, len(senders), size))
        groups += [PathGroup(receiver, chunk) for chunk in chunks]
    return groups


class PathPatching:
    """What is computed once before paths are patched, and once for each sender."""

    def __init__(
        self, model: LanguageModel, pairs: PromptPairs, heads: Sequence[Head], rows_per_pass: int = ROWS_PER_PASS
    ) -> None:
        """Run both sides once, where there is memory for that and for the passes that patch.

        Args:
            model: the model.
            pairs: prompt pairs with answers, each pair of one length in tokens.
            heads: those whose paths will be patched.
            rows_per_pass: prompts times paths in one forward pass, at most.

        Raises:
            UserError: no answers, a pair whose prompts differ in length, or too little memory.
        """
        positive, negative = tokenize_sides(model, pairs)
        require_aligned(positive, negative)
        self._model = model
        self._heads = tuple(heads)
        self._answers = answer_tokens(model.tokenizer, pairs)
        self._received: dict[Head, dict[Head, Tensor]] = {}
        with room_for_patching(model, pairs, lambda size: size.paths(self._heads, rows_per_pass)):
            self._clean = run_clean(model, positive)
            self._own, _ = record_head_inputs(model, positive)
            self._sources, negative_logits = record_head_inputs(model, negative)
            self.metric_positive = task_metric(self._clean.logits, self._answers).double().cpu()
            self.metric_negative = task_metric(negative_logits, self._answers).double().cpu()

    def losses(self, group: PathGroup) -> Tensor:
        """[N, senders of the group] float64: how much of the metric is lost where one of the paths is patched."""
        layer, head = group.receiver
        for sender in group.senders:
            if sender not in self._received:
                receivers = [other for other in self._heads if other[0] > sender[0]]
                self._received[sender] = _received(
                    self._model, self._clean, self._own, self._sources, sender, receivers
                )
        values = [self._received[sender][group.receiver] for sender in group.senders]
        logits = patch_heads(self._model, self._clean, layer, [head] * len(values), values)
        return (self.metric_positive - metric_by_run(logits, self._answers)).T


def path_effects(
    model: LanguageModel,
    pairs: PromptPairs,
    heads: Sequence[Head],
    *,
    seed: int = 0,
    rows_per_pass: int = ROWS_PER_PASS,
    record: PatchingRecord | None = None,
    progress: Progress | None = None,
) -> list[Edge]:
    """The effect of every direct path between two of these heads, sender in an earlier layer than receiver.

    Args:
        model: the model.
        pairs: prompt pairs with answers, each pair of one length in tokens.
        heads: the heads whose paths are wanted.
        seed: of the bootstrap.
        rows_per_pass: prompts times paths in one forward pass.
        record: what an earlier run measured, which is not measured again; what is measured now is added.
        progress: called as ("paths", share done).

    Returns:
        One edge a pair, strongest first.

    Raises:
        UserError: no answers, a pair whose prompts differ in length, or too little memory.
    """
    patching = PathPatching(model, pairs, heads, rows_per_pass)
    record = PatchingRecord() if record is None else record
    if record.metrics is None:
        record.metrics = (patching.metric_positive, patching.metric_negative)
    groups = path_groups(heads, len(pairs), rows_per_pass)
    with room_for_patching(model, pairs, lambda size: size.paths(heads, rows_per_pass), begun=True):
        for number, group in enumerate(groups):
            if record.get(group.name, len(group.senders)) is None:
                record.put(group.name, patching.losses(group))
            if progress is not None:
                progress("paths", (number + 1) / len(groups))
    return edges_of(record, groups, seed=seed)


def edges_of(record: PatchingRecord, groups: Sequence[PathGroup], *, seed: int) -> list[Edge]:
    """One edge a path, strongest first, from a record that has every one of the groups."""
    assert record.metrics is not None
    drop = record.metrics[0] - record.metrics[1]
    edges: list[Edge] = []
    for group in groups:
        losses = record.get(group.name, len(group.senders))
        assert losses is not None
        low, high = bootstrap_ratio(losses, drop, generator=torch.Generator().manual_seed(seed))
        effects = losses.mean(dim=0) / drop.mean()
        edges += [
            Edge(sender, group.receiver, *(round(float(v), 5) for v in numbers))
            for sender, *numbers in zip(group.senders, effects, low, high, strict=True)
        ]
    return sorted(edges, key=lambda edge: -abs(edge.effect))


def _received(
    model: LanguageModel,
    clean: CleanRun,
    own: list[Tensor],
    sources: list[Tensor],
    sender: Head,
    receivers: Sequence[Head],
) -> dict[Head, Tensor]:
    """What each of these heads of later layers computes, [N, T, d], when only the sender's output changes."""
    computed: dict[Head, Tensor] = {}

    def freeze(layer: int, z: Tensor) -> Tensor:
        if layer < sender[0]:
            return z
        if layer > sender[0]:
            computed.update({head: z[:, :, head[1]].clone() for head in receivers if head[0] == layer})
            return own[layer]
        changed = own[layer].clone()
        changed[:, :, sender[1]] = sources[layer][:, :, sender[1]]
        return changed

    with edit_head_outputs(model, freeze), resume_at(model, sender[0], clean.block_outputs, 1):
        last_logits(model, clean.batch.ids, clean.batch.mask)
    return computed


def with_edges(circuit: Circuit, edges: Sequence[Edge], threshold: float) -> Circuit:
    """The circuit with those edges whose effect is at least `threshold` and whose interval excludes 0."""
    sure = [e for e in edges if abs(e.effect) >= threshold and (e.low > 0 or e.high < 0)]
    provenance = {
        **circuit.provenance,
        "edges": {
            "how": "direct-path patching: other heads as on the positive, MLPs recomputed",
            "threshold": threshold,
            "paths_tested": len(edges),
        },
    }
    return replace(circuit, edges=tuple(sure), provenance=provenance)
