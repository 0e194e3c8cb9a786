"""Rivals that need forward passes only: no gradients, no answers, no training."""

from __future__ import annotations

import torch
from torch import Tensor

from dsae_core.flow import Surroundings
from dsae_core.interventions import tokenize_sides
from dsae_core.looking import paired_change
from dsae_core.models import HeadOutputs, LanguageModel, collect_head_outputs, output_weights, tokenize
from dsae_core.prompts import PromptPairs
from dsae_core.settings import PositionalSettings


def random_scores(model: LanguageModel, pairs: PromptPairs, seed: int) -> Tensor:
    """Uniform noise, [L, heads]: what no method may be worse than. Needs nothing."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(model.n_layers, model.n_heads, generator=generator)


def output_norm(model: LanguageModel, pairs: PromptPairs, seed: int) -> Tensor:
    """Mean norm of what each head writes on positives, [L, heads]. Needs one forward pass."""
    outputs = collect_head_outputs(model, tokenize(model, pairs.positive))
    sizes = _written_norm(outputs.z, model) * outputs.mask[:, :, None, None]
    return sizes.sum(dim=(0, 1)) / outputs.mask.sum()


def paired_difference_pooled(model: LanguageModel, pairs: PromptPairs, seed: int) -> Tensor:
    """Norm of the mean over positions of what a head writes on a positive less on its negative, [L, heads].

    Averaged over pairs. Needs one forward pass over both sides.
    """
    positive, negative = _sides(model, pairs)
    pooled = _mean_over_tokens(positive) - _mean_over_tokens(negative)
    return _written_norm(pooled, model).mean(dim=0)


def paired_difference(model: LanguageModel, pairs: PromptPairs, seed: int) -> Tensor:
    """Largest norm over positions of what a head writes on a positive less on its negative, [L, heads].

    Averaged over pairs; positions that one side of a pair does not have count as no difference. Needs one forward
    pass over both sides; pairs must be aligned token by token.
    """
    positive, negative = _sides(model, pairs)
    both = (positive.mask & negative.mask)[:, :, None, None]
    return (_written_norm(positive.z - negative.z, model) * both).amax(dim=1).mean(dim=0)


def paired_difference_scaled(model: LanguageModel, pairs: PromptPairs, seed: int) -> Tensor:
    """The same, each position's norm divided by the square root of the residual stream's norm there, [L, heads].

    The next layer's norm sees a change relative to the stream it is added to. Needs one forward pass over both sides.
    """
    batch = tokenize(model, [*pairs.positive, *pairs.negative], names=pairs.cells)
    return paired_change(collect_head_outputs(model, batch), output_weights(model), len(pairs))


def paired_difference_followed(model: LanguageModel, pairs: PromptPairs, seed: int) -> Tensor:
    """What the positional method scores by, on the head outputs themselves and not on their codes, [L, heads].

    The geometric mean of the largest scaled difference within a pair and of the largest scaled mean difference, each
    weighted by how far it reaches, times the same power of the head's share of the change. It shows what the codes
    cost or bring. Needs one forward pass over both sides.
    """
    batch = tokenize(model, [*pairs.positive, *pairs.negative], names=pairs.cells)
    outputs = collect_head_outputs(model, batch, routes=True)
    around = Surroundings.of(outputs, output_weights(model), len(pairs))
    positive, negative = (outputs.mask[rows] for rows in (slice(len(pairs)), slice(len(pairs), None)))
    both = (positive & negative)[:, :, None, None, None]
    relative = outputs.z / outputs.residual_norm.permute(1, 2, 0).clamp_min(1e-6).sqrt()[..., None, None]
    difference = (relative[: len(pairs)] - relative[len(pairs) :]) * both
    weight = around.weight[..., None]
    within = (_written_norm(difference, model) * weight).amax(dim=1).mean(dim=0)
    common = (_written_norm(difference.mean(dim=0), model) * weight.mean(dim=0)).amax(dim=0)
    return torch.sqrt(within * common) * around.emphasis(PositionalSettings.change_weight)


def _sides(model: LanguageModel, pairs: PromptPairs) -> tuple[HeadOutputs, HeadOutputs]:
    positive, negative = (collect_head_outputs(model, side) for side in tokenize_sides(model, pairs))
    return positive, negative


def _mean_over_tokens(outputs: HeadOutputs) -> Tensor:
    weights = (outputs.mask / outputs.mask.sum(dim=1, keepdim=True)).to(outputs.z.dtype)
    return torch.einsum("etlhd,et->elhd", outputs.z, weights)


def _written_norm(z: Tensor, model: LanguageModel) -> Tensor:
    """|z W_O| of head outputs [..., L, heads, d], from the Gram matrix W_O W_O^T: d numbers instead of d_model."""
    w_o = output_weights(model)
    squared = torch.einsum("...lhd,lhde,...lhe->...lh", z, w_o @ w_o.transpose(-1, -2), z)
    return squared.clamp_min(0).sqrt()
