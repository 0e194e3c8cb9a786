"""Rivals that need gradients of the task metric, and so the answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dsae_core.interventions import record_head_inputs, require_aligned, tokenize_sides
from dsae_core.models import LanguageModel, TokenBatch, edit_head_outputs, last_logits
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import AnswerTokens, answer_tokens, task_metric


def attribution_patching(model: LanguageModel, pairs: PromptPairs, seed: int) -> Tensor:
    """First-order estimate of interchange patching: |(z_negative - z_positive) . gradient|, [L, heads].

    Nanda 2023, "Attribution patching"; Syed et al. 2023, arXiv 2310.10348. Needs gradients and answers: a forward
    pass on negatives, a forward and a backward pass on positives.
    """
    positive, negative, answers = split_sides(model, pairs)
    sources, _ = record_head_inputs(model, negative)
    own, gradients = gradients_at_heads(model, positive, answers)
    return _estimate(own, sources, gradients)


def integrated_gradients(model: LanguageModel, pairs: PromptPairs, seed: int, steps: int = 5) -> Tensor:
    """The same with gradients averaged along the line from the negative's embeddings to the positive's, [L, heads].

    Sundararajan et al. 2017, arXiv 1703.01365; for circuits Hanna et al. 2024, arXiv 2403.17806. Needs gradients and
    answers: `steps` forward and backward passes.
    """
    positive, negative, answers = split_sides(model, pairs)
    sources, _ = record_head_inputs(model, negative)
    own, _ = record_head_inputs(model, positive)
    totals = [torch.zeros_like(z) for z in own]
    for step in range(steps):
        share = (step + 0.5) / steps  # midpoints of equal parts of the line
        with _interpolated_embeddings(model, negative, share):
            _, gradients = gradients_at_heads(model, positive, answers)
        for total, gradient in zip(totals, gradients, strict=True):
            total += gradient / steps
    return _estimate(own, sources, totals)


def head_importance(model: LanguageModel, pairs: PromptPairs, seed: int) -> Tensor:
    """HISP: |z . gradient|, the metric's sensitivity to a gate on the head, [L, heads].

    Michel et al. 2019, arXiv 1905.10650. Needs gradients and answers, positives only: one forward and one backward
    pass.
    """
    positive, _, answers = split_sides(model, pairs)
    own, gradients = gradients_at_heads(model, positive, answers)
    # A model that is spread over devices has each layer's on one of them.
    sums = [(z * g).sum(dim=(1, 3)).abs().mean(dim=0).cpu() for z, g in zip(own, gradients, strict=True)]
    return torch.stack(sums)


def split_sides(model: LanguageModel, pairs: PromptPairs) -> tuple[TokenBatch, TokenBatch, AnswerTokens]:
    """Both sides' tokens, pair by pair of one length, and the answers'."""
    positive, negative = tokenize_sides(model, pairs)
    require_aligned(positive, negative)
    return positive, negative, answer_tokens(model.tokenizer, pairs)


def gradients_at_heads(
    model: LanguageModel, batch: TokenBatch, answers: AnswerTokens
) -> tuple[list[Tensor], list[Tensor]]:
    """Each layer's head inputs [N, T, heads, d], and the gradient of the summed metric with respect to them."""
    own: list[Tensor] = []
    offsets: list[Tensor] = []

    def offset(_: int, z: Tensor) -> Tensor:
        # A zero that is added leaves z, and the paths through later heads, as they are.
        zero = torch.zeros_like(z, requires_grad=True)
        own.append(z.detach())
        offsets.append(zero)
        return z + zero

    with edit_head_outputs(model, offset):
        metric = task_metric(last_logits(model, batch.ids, batch.mask, gradients=True), answers)
    return own, list(torch.autograd.grad(metric.sum(), offsets))


def _estimate(own: list[Tensor], sources: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """|mean over prompts of (source - own) . gradient|, [L, heads]."""
    effects = [
        ((source - z) * gradient).sum(dim=(1, 3)).mean(dim=0).abs().cpu()
        for z, source, gradient in zip(own, sources, gradients, strict=True)
    ]
    return torch.stack(effects)


@contextmanager
def _interpolated_embeddings(model: LanguageModel, negative: TokenBatch, share: float) -> Iterator[None]:
    """While open, token embeddings are `share` of the positive's and the rest of the negative's."""
    embedding = model.module.get_input_embeddings()
    assert isinstance(embedding, nn.Module)
    with torch.no_grad():
        start = embedding(negative.ids.to(model.device))

    def blend(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        blended: Tensor = start + share * (output - start)
        return blended

    hook = embedding.register_forward_hook(blend)
    try:
        yield
    finally:
        hook.remove()
