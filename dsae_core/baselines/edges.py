"""Edge attribution patching, aggregated to heads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dsae_core.baselines.gradients import gradients_at_heads, split_sides
from dsae_core.interventions import record_head_inputs
from dsae_core.models import LanguageModel, TokenBatch, edit_head_outputs, last_logits, output_weights
from dsae_core.prompts import PromptPairs


def edge_attribution(model: LanguageModel, pairs: PromptPairs, seed: int) -> Tensor:
    """Sum of the absolute estimates of the edges that leave a head, [L, heads].

    Syed et al. 2023, arXiv 2310.10348: an edge's effect is (what the sender writes on the negative less on the
    positive) . (gradient of the metric at the receiver's input). Receivers are all later heads, each by itself, and,
    as one more, every other path (through MLPs and straight to the prediction). Needs gradients and answers: the
    passes of attribution patching, and a backward pass through one attention sublayer a head.
    """
    positive, negative, answers = split_sides(model, pairs)
    sources, _ = record_head_inputs(model, negative)
    own, gradients = gradients_at_heads(model, positive, answers)
    changes = [source - z for source, z in zip(sources, own, strict=True)]
    w_o, n = output_weights(model), len(pairs)
    at_inputs = _gradients_at_inputs(model, positive, gradients)
    scores = torch.zeros(model.n_layers, model.n_heads)
    for layer, change in enumerate(changes):
        # A head's own coordinates are fewer than the stream's, so receivers' gradients are brought into them.
        total = (change * gradients[layer]).sum(dim=(0, 1, 3)).to(w_o.device) / n
        through_heads = torch.zeros_like(total)
        for later in range(layer + 1, model.n_layers):
            read = torch.einsum("hdm,vntm->vnthd", w_o[layer], at_inputs[later].to(w_o.device))
            edges = torch.einsum("nthd,vnthd->hv", change.to(w_o.device), read) / n
            scores[layer] += edges.abs().sum(dim=1).cpu()
            through_heads += edges.sum(dim=1)
        scores[layer] += (total - through_heads).abs().cpu()
    return scores


def _gradients_at_inputs(model: LanguageModel, batch: TokenBatch, gradients: list[Tensor]) -> list[Tensor]:
    """For each layer the metric's gradient at the residual stream, as each head alone reads it, [heads, N, T, D]."""
    inputs: list[Tensor] = []
    computed: list[Tensor] = []

    def keep(_: int, z: Tensor) -> Tensor:
        computed.append(z)
        return z

    with _cut_between_blocks(model, inputs), edit_head_outputs(model, keep):
        last_logits(model, batch.ids, batch.mask, gradients=True)
    return [
        torch.stack(
            [
                torch.autograd.grad(z[:, :, head], stream, gradient[:, :, head], retain_graph=True)[0]
                for head in range(model.n_heads)
            ]
        )
        for z, stream, gradient in zip(computed, inputs, gradients, strict=True)
    ]


@contextmanager
def _cut_between_blocks(model: LanguageModel, inputs: list[Tensor]) -> Iterator[None]:
    """While open, a forward pass starts a graph of its own at each block's input, which it adds to inputs."""

    def cut(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        stream = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_()
        inputs.append(stream)
        return ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})

    with ExitStack() as hooks:
        for site in model.sites:
            hooks.callback(site.block.register_forward_pre_hook(cut, with_kwargs=True).remove)
        yield
