"""Exact interchange patching: what happens when one head writes what it would have written on the negative.

This is the ground truth that scores are compared with (interchange intervention: Geiger et al. 2021,
arXiv 2106.02997; on heads: Wang et al. 2022, arXiv 2211.00593).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from dsae_core.circuits import Circuit
from dsae_core.errors import UserError
from dsae_core.looking import room_for_patching
from dsae_core.metrics import bootstrap_ratio
from dsae_core.models import (
    LanguageModel,
    TokenBatch,
    edit_head_outputs,
    last_logits,
    record_block_outputs,
    resume_at,
    tokenize,
)
from dsae_core.models.memory import ROWS_PER_PASS
from dsae_core.patching_record import PatchingRecord, prompts_digest
from dsae_core.prompts import PromptPairs
from dsae_core.stages import Progress
from dsae_core.tasks import AnswerTokens, answer_tokens, task_metric


@dataclass(frozen=True)
class HeadEffects:
    """What patching each head alone does to the task metric.

    Attributes:
        effects: [L, heads] float64, mean loss of the metric over prompts, as a share of its drop from positives to
            negatives: 1 is the whole behaviour, a negative head improves the answer when it is patched away.
        low: [L, heads], lower end of the 95 % bootstrap interval over prompts.
        high: [L, heads], upper end.
        metric_positive: [N], the metric on each positive.
        metric_negative: [N], the metric on each negative, with the positive's answers.
    """

    effects: Tensor
    low: Tensor
    high: Tensor
    metric_positive: Tensor
    metric_negative: Tensor

    def members(self, threshold: float) -> Tensor:
        """[L, heads] bool: |effect| >= threshold and an interval that excludes 0."""
        sure = (self.low > 0) | (self.high < 0)
        return (self.effects.abs() >= threshold) & sure


def tokenize_sides(model: LanguageModel, pairs: PromptPairs) -> tuple[TokenBatch, TokenBatch]:
    """Positives and negatives, both padded to the longest prompt of either side."""
    n, both = len(pairs), tokenize(model, [*pairs.positive, *pairs.negative], names=pairs.cells)
    positive, negative = (TokenBatch(both.ids[s], both.mask[s], both.tokens[s]) for s in (slice(n), slice(n, None)))
    return positive, negative


def record_head_inputs(model: LanguageModel, batch: TokenBatch) -> tuple[list[Tensor], Tensor]:
    """One forward pass: the raw input of every output projection, [N, T, heads, d] a layer, and the last logits."""
    recorded: list[Tensor] = []

    def record(_: int, z: Tensor) -> Tensor:
        recorded.append(z.clone())
        return z

    with edit_head_outputs(model, record):
        logits = last_logits(model, batch.ids, batch.mask)
    return recorded, logits


@dataclass(frozen=True)
class CleanRun:
    """An unpatched forward pass over N prompts, kept so that a patched one need only compute the later blocks."""

    batch: TokenBatch
    block_outputs: list[Any]
    logits: Tensor


Ablation = Literal["interchange", "mean", "zero"]
"""What a patched head puts out: what it does on the matched negative, its mean over the negatives at the same
position, or nothing."""


_HOW: dict[Ablation, str] = {
    "interchange": "interchange patching, one head at a time at all positions, from the matched negative",
    "mean": "mean ablation, one head at a time at all positions, by its mean over the negatives",
    "zero": "zero ablation, one head at a time at all positions",
}
ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)


def ablation_sources(recorded: list[Tensor], mask: Tensor, how: Ablation) -> list[Tensor]:
    """What patched heads put out, [N, T, heads, d] a layer.

    Args:
        recorded: each layer's projection inputs on the negatives, [N, T, heads, d].
        mask: [N, T], True on real tokens; padding does not count in a mean.
        how: the kind of ablation.
    """
    if how == "interchange":
        return recorded
    if how == "zero":
        return [torch.zeros_like(z) for z in recorded]
    weights = mask / mask.sum(dim=0, keepdim=True).clamp_min(1)
    return [torch.einsum("nthd,nt->thd", z, weights.to(z)).expand_as(z).contiguous() for z in recorded]


@contextmanager
def replace_heads(model: LanguageModel, replaced: Tensor, sources: list[Tensor]) -> Iterator[None]:
    """While open, heads with replaced[layer, head] put out sources[layer][:, :, head] in every forward pass.

    replaced may be changed while open; the next pass follows it.
    """

    def choose(layer: int, z: Tensor) -> Tensor:
        return torch.where(replaced[layer].to(z.device).unsqueeze(-1), sources[layer], z)

    with edit_head_outputs(model, choose):
        yield


def run_clean(model: LanguageModel, batch: TokenBatch) -> CleanRun:
    """One forward pass, unpatched."""
    with record_block_outputs(model) as block_outputs:
        logits = last_logits(model, batch.ids, batch.mask)
    return CleanRun(batch, block_outputs, logits)


def patch_heads(
    model: LanguageModel, clean: CleanRun, layer: int, heads: Sequence[int], values: Sequence[Tensor]
) -> Tensor:
    """Logits when one head of a layer at a time puts out a given value, at all positions.

    Args:
        model: the model.
        clean: from run_clean on N prompts.
        layer: the layer of the heads.
        heads: heads of that layer, each patched in a run of its own; all runs are one forward pass.
        values: for each run the head's projection input, [N, T, d].

    Returns:
        [runs, N, V] next-token logits.
    """
    n = clean.batch.ids.shape[0]

    def replace(at: int, z: Tensor) -> Tensor:
        if at != layer:
            return z
        z = z.clone()
        for run, (head, value) in enumerate(zip(heads, values, strict=True)):
            z[run * n : (run + 1) * n, :, head] = value
        return z

    copies = len(heads)
    with edit_head_outputs(model, replace), resume_at(model, layer, clean.block_outputs, copies):
        logits = last_logits(model, clean.batch.ids.repeat(copies, 1), clean.batch.mask.repeat(copies, 1))
    return logits.reshape(copies, n, -1)


class HeadGroup(NamedTuple):
    """Heads of one layer that are patched in one forward pass, each in a run of its own."""

    layer: int
    heads: tuple[int, ...]

    @property
    def name(self) -> str:
        """What its losses are kept under."""
        return f"layer {self.layer}, heads {' '.join(map(str, self.heads))}"


def head_groups(n_layers: int, n_heads: int, n_prompts: int, rows_per_pass: int = ROWS_PER_PASS) -> list[HeadGroup]:
    """All heads, in the forward passes that patch them."""
    size = max(1, rows_per_pass // n_prompts)
    starts = [(layer, start) for layer in range(n_layers) for start in range(0, n_heads, size)]
    return [HeadGroup(layer, tuple(range(start, min(start + size, n_heads)))) for layer, start in starts]


@dataclass(frozen=True)
class HeadPatching:
    """What is computed once before heads are patched. N prompt pairs.

    Attributes:
        model: the model.
        clean: its unpatched run on the positives.
        sources: what patched heads put out, [N, T, heads, d] a layer.
        answers: the pairs' answers as tokens.
        metric_positive: [N] float64, the metric on each positive.
        metric_negative: [N] float64, on each negative, with the positive's answers.
    """

    model: LanguageModel
    clean: CleanRun
    sources: list[Tensor]
    answers: AnswerTokens
    metric_positive: Tensor
    metric_negative: Tensor

    @classmethod
    def prepare(
        cls,
        model: LanguageModel,
        pairs: PromptPairs,
        ablation: Ablation = "interchange",
        rows_per_pass: int = ROWS_PER_PASS,
    ) -> HeadPatching:
        """Run both sides once, where there is memory for that and for the passes that patch.

        Raises:
            UserError: no answers, a pair whose prompts differ in length, too little memory, or a model that does not
                do the task (its metric is no higher on positives than on negatives).
        """
        answers = answer_tokens(model.tokenizer, pairs)
        positive, negative = tokenize_sides(model, pairs)
        require_aligned(positive, negative)
        with room_for_patching(model, pairs, lambda size: size.patching(rows_per_pass)):
            clean = run_clean(model, positive)
            recorded, negative_logits = record_head_inputs(model, negative)
            on_positive = task_metric(clean.logits, answers).double().cpu()
            on_negative = task_metric(negative_logits, answers).double().cpu()
            sources = ablation_sources(recorded, negative.mask, ablation)
        if float((on_positive - on_negative).mean()) <= 0:
            raise UserError(
                f"{model.name} does not do this task: its metric is {float(on_positive.mean()):.3f} on positives and "
                f"{float(on_negative.mean()):.3f} on negatives, so there is no behaviour to look for."
            )
        return cls(model, clean, sources, answers, on_positive, on_negative)

    def losses(self, group: HeadGroup) -> Tensor:
        """[N, heads of the group] float64: how much of the metric is lost where one of them is patched."""
        values = [self.sources[group.layer][:, :, head] for head in group.heads]
        logits = patch_heads(self.model, self.clean, group.layer, group.heads, values)
        return (self.metric_positive - metric_by_run(logits, self.answers)).T


def interchange_effects(
    model: LanguageModel,
    pairs: PromptPairs,
    *,
    seed: int = 0,
    ablation: Ablation = "interchange",
    rows_per_pass: int = ROWS_PER_PASS,
    record: PatchingRecord | None = None,
    progress: Progress | None = None,
) -> HeadEffects:
    """Patch every head alone, at all positions, and measure the task metric.

    Args:
        model: the model.
        pairs: prompt pairs with answers, each pair of one length in tokens.
        seed: of the bootstrap.
        ablation: what a patched head puts out.
        rows_per_pass: prompts times heads in one forward pass.
        record: what an earlier run measured, which is not measured again; what is measured now is added.
        progress: called as ("patch", share done).

    Raises:
        UserError: no answers, a pair whose prompts differ in length, too little memory, or a model that does not do
            the task (its metric is no higher on positives than on negatives).
    """
    patching = HeadPatching.prepare(model, pairs, ablation, rows_per_pass)
    record = PatchingRecord() if record is None else record
    if record.metrics is None:
        record.metrics = (patching.metric_positive, patching.metric_negative)
    groups = head_groups(model.n_layers, model.n_heads, len(pairs), rows_per_pass)
    with room_for_patching(model, pairs, lambda size: size.patching(rows_per_pass), begun=True):
        for number, group in enumerate(groups):
            if record.get(group.name, len(group.heads)) is None:
                record.put(group.name, patching.losses(group))
            if progress is not None:
                progress("patch", (number + 1) / len(groups))
    return effects_of(record, groups, seed=seed)


def effects_of(record: PatchingRecord, groups: Sequence[HeadGroup], *, seed: int) -> HeadEffects:
    """The effects of all heads, from a record that has every group of head_groups."""
    assert record.metrics is not None
    on_positive, on_negative = record.metrics
    n_layers, n_heads = groups[-1].layer + 1, groups[-1].heads[-1] + 1
    losses = torch.empty(len(on_positive), n_layers, n_heads, dtype=torch.float64)
    for group in groups:
        measured = record.get(group.name, len(group.heads))
        assert measured is not None
        losses[:, group.layer, list(group.heads)] = measured
    drop = on_positive - on_negative
    low, high = bootstrap_ratio(losses, drop, generator=torch.Generator().manual_seed(seed))
    return HeadEffects(losses.mean(dim=0) / drop.mean(), low, high, on_positive, on_negative)


def metric_by_run(logits: Tensor, answers: AnswerTokens) -> Tensor:
    """[runs, N, V] logits -> [runs, N] metric, float64."""
    return task_metric(logits.flatten(0, 1), answers).reshape(logits.shape[:2]).double().cpu()


def require_aligned(positive: TokenBatch, negative: TokenBatch) -> None:
    """Raise a UserError, naming the row, where a pair's prompts differ in length."""
    lengths = zip(positive.mask.sum(dim=1).tolist(), negative.mask.sum(dim=1).tolist(), strict=True)
    for row, (own, other) in enumerate(lengths, start=1):
        if own != other:
            raise UserError(
                f"Row {row}: the positive prompt has {own} tokens and the negative {other}; patching needs pairs of "
                "one length."
            )


class Named(Protocol):
    """What a circuit keeps of the model it was measured on."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...


def circuit_name(ablation: Ablation) -> str:
    """What a circuit that was measured in this way is called."""
    return "measured" if ablation == "interchange" else f"measured-{ablation}"


def measured_circuit(
    model: Named,
    pairs: PromptPairs,
    effects: HeadEffects,
    *,
    seed: int,
    ablation: Ablation = "interchange",
    threshold: float = 0.02,
) -> Circuit:
    """The heads whose effect is at least `threshold` and whose interval excludes 0, with all effects kept.

    Args:
        model: the model that was patched.
        pairs: the prompts it was patched on.
        effects: from interchange_effects.
        seed: of the prompts and the bootstrap, for the record.
        ablation: the kind that was done, for the record.
        threshold: smallest share of the metric's drop that counts.
    """
    members = torch.nonzero(effects.members(threshold))
    return Circuit(
        name=circuit_name(ablation),
        model=model.name,
        task=pairs.task,
        heads=tuple((int(layer), int(head)) for layer, head in members),
        effects=tuple(tuple(round(v, 5) for v in row) for row in effects.effects.tolist()),
        intervals=tuple(
            tuple((round(a, 5), round(b, 5)) for a, b in zip(*rows, strict=True))
            for rows in zip(effects.low.tolist(), effects.high.tolist(), strict=True)
        ),
        provenance={
            "how": _HOW[ablation],
            "threshold": threshold,
            "interval": "95 % percentile bootstrap over prompts, 2000 resamples",
            "prompts": len(pairs),
            "prompts_sha256": prompts_digest(pairs),
            "seed": seed,
            "metric": pairs.metric,
            "metric_positive": round(float(effects.metric_positive.mean()), 4),
            "metric_negative": round(float(effects.metric_negative.mean()), 4),
            "solved": round(float((effects.metric_positive > 0).double().mean()), 4),
            "model_digest": model.digest,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        },
    )
