"""Subnetwork probing: learn which heads can be ablated."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dsae_core.interventions import record_head_inputs, require_aligned, tokenize_sides
from dsae_core.models import LanguageModel, edit_head_outputs, last_logits
from dsae_core.prompts import PromptPairs

# The stretched binary concrete distribution of Louizos et al. 2018, arXiv 1712.01312, with their constants.
_TEMPERATURE, _LOW, _HIGH = 2 / 3, -0.1, 1.1


def subnetwork_probing(
    model: LanguageModel,
    pairs: PromptPairs,
    seed: int,
    steps: int = 40,
    learning_rate: float = 0.2,
    sparsity: float = 1.0,
) -> Tensor:
    """How strongly a learned mask keeps each head, [L, heads].

    Cao et al. 2021, arXiv 2104.03514, with interchange instead of zeros as in Conmy et al. 2023: a gate m in [0, 1] a
    head, z <- m z_positive + (1 - m) z_negative, trained by Adam so that the prediction stays (KL divergence) while
    few gates are open. The score is the gate's logit. Needs gradients and aligned pairs, no answers: `steps` forward
    and backward passes.
    """
    positive, negative = tokenize_sides(model, pairs)
    require_aligned(positive, negative)
    sources, _ = record_head_inputs(model, negative)
    reference = torch.log_softmax(last_logits(model, positive.ids, positive.mask), dim=-1)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.full((model.n_layers, model.n_heads), 2.0, device=model.device, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=learning_rate)
    for _ in range(steps):
        uniform = torch.rand(logits.shape, generator=generator).clamp(1e-6, 1 - 1e-6).to(model.device)
        gates = _stretched(torch.sigmoid((torch.logit(uniform) + logits) / _TEMPERATURE))

        def blend(layer: int, z: Tensor, gates: Tensor = gates) -> Tensor:
            gate = gates[layer].unsqueeze(-1).to(z.device)
            return gate * z + (1 - gate) * sources[layer]

        with edit_head_outputs(model, blend):
            predicted = torch.log_softmax(last_logits(model, positive.ids, positive.mask, gradients=True), dim=-1)
        divergence = (reference.exp() * (reference - predicted)).sum(dim=-1).mean()
        open_share = torch.sigmoid(logits - _TEMPERATURE * math.log(-_LOW / _HIGH)).mean()
        loss = divergence + sparsity * open_share
        (logits.grad,) = torch.autograd.grad(loss, [logits])
        optimizer.step()
    return logits.detach().cpu()


def _stretched(gate: Tensor) -> Tensor:
    return (gate * (_HIGH - _LOW) + _LOW).clamp(0, 1)
