"""The default model is the one that the results are about."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dsae_core.behaviour import measure_behaviour
from dsae_core.models import (
    LanguageModel,
    available_models,
    collect_head_outputs,
    last_logits,
    output_weights,
    tokenize,
)
from dsae_core.ui.drafts import EXAMPLE

pytestmark = pytest.mark.model
PROMPT = "When Mary and John went to the store, John gave a drink to"


def test_sizes_and_digest(smollm2: LanguageModel) -> None:
    assert (smollm2.n_layers, smollm2.n_heads, smollm2.d_head, smollm2.d_model) == (30, 9, 64, 576)
    assert smollm2.digest == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert smollm2.n_all_heads == 270
    assert next(info for info in available_models() if info.name == "smollm2-135m").fetched


def test_it_names_the_indirect_object(smollm2: LanguageModel) -> None:
    batch = tokenize(smollm2, [PROMPT])
    assert batch.tokens[0][:4] == ("When", " Mary", " and", " John")
    mary, john = (smollm2.tokenizer(name)["input_ids"][0] for name in (" Mary", " John"))
    logits = last_logits(smollm2, batch.ids, batch.mask)[0]
    assert float(logits[mary] - logits[john]) == pytest.approx(6.12, abs=0.05)
    assert int(logits.argmax()) == mary


def test_it_splits_a_year_into_digits(smollm2: LanguageModel) -> None:
    assert tokenize(smollm2, ["the year 1732"]).tokens[0][-4:] == ("1", "7", "3", "2")


def test_heads_sum_to_what_attention_adds(smollm2: LanguageModel) -> None:
    batch = tokenize(smollm2, [PROMPT, "The war lasted from"])
    outputs = collect_head_outputs(smollm2, batch)
    before, after = residual_around_attention(smollm2, batch.ids, batch.mask)
    by_heads = torch.einsum("etlhd,lhdm->letm", outputs.z, output_weights(smollm2))
    # The residual stream reaches norms of thousands, and float32 rounds the sums at that size.
    error = (after - before - by_heads)[:, batch.mask].abs().amax(-1) / after[:, batch.mask].abs().amax(-1)
    assert float(error.max()) < 1e-6
    torch.testing.assert_close(outputs.residual_norm[:, batch.mask], before[:, batch.mask].norm(dim=-1))


def residual_around_attention(model: LanguageModel, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The residual stream as it enters each layer and as it leaves its attention, both [L, E, T, D]."""
    seen: dict[nn.Module, Tensor] = {}
    norms = [[site.block.input_layernorm, site.block.post_attention_layernorm] for site in model.sites]
    handles = [
        norm.register_forward_pre_hook(lambda module, args: seen.update({module: args[0].clone()}))
        for pair in norms
        for norm in pair
    ]
    last_logits(model, ids, mask)
    for handle in handles:
        handle.remove()
    return torch.stack([seen[pair[0]] for pair in norms]), torch.stack([seen[pair[1]] for pair in norms])


def test_it_shows_the_behaviour_of_the_editor_s_example(smollm2: LanguageModel) -> None:
    assert measure_behaviour(smollm2, EXAMPLE).shown
    lengths = tokenize(smollm2, [*EXAMPLE.positive, *EXAMPLE.negative]).mask.sum(dim=1)
    assert torch.equal(lengths[: len(EXAMPLE)], lengths[len(EXAMPLE) :])
