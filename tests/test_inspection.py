"""Attention, direct effects and patching of one head, against computations that share nothing with them."""

from __future__ import annotations

import pytest
import torch
from test_models import FAMILIES, tiny_model, tiny_tokenizer
from torch import Tensor

from dsae_core.errors import UserError
from dsae_core.inspection import (
    attention_pattern,
    direct_effects,
    direct_logit_effect,
    next_tokens,
    patch_effect,
    promoted_tokens,
    read_last_position,
)
from dsae_core.interventions import interchange_effects
from dsae_core.models import LanguageModel, adapt, collect_head_outputs, last_logits, output_weights, tokenize
from dsae_core.models.hooked_module import HookedConfig, HookedModule
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import answer_tokens, task_metric

PAIRS = PromptPairs(
    positive=("When Mary and John went to the store , John gave a drink to", "John and Mary went to the bakery"),
    negative=("When Mary and John went to the store , Anna gave a drink to", "John and Anna went to the bakery"),
    answer=((" Mary",), (" Anna", " book")),
    distractor=((" John",), (" store",)),
)
SUMS = [name for name in FAMILIES if name != "opt norm last"]


@pytest.fixture(scope="module", params=FAMILIES)
def any_model(request: pytest.FixtureRequest) -> LanguageModel:
    family = FAMILIES[request.param]
    return tiny_model(family.kind, **family.options)


@pytest.fixture(scope="module", params=["LN", "LNPre", None])
def hooked(request: pytest.FixtureRequest) -> LanguageModel:
    """An attention-only model that returns no attention weights."""
    config = HookedConfig(
        num_hidden_layers=2,
        hidden_size=24,
        head_dim=6,
        num_attention_heads=4,
        max_position_embeddings=32,
        vocab_size=40,
        normalization=request.param,
        attention_scale=6**0.5,
    )
    torch.manual_seed(0)
    module = HookedModule(config)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return adapt(module, tiny_tokenizer(), "hooked")


def values(model: LanguageModel, layer: int, projection: str) -> Tensor:
    """What a layer's value projection puts out for the positives, [E, T, heads, d]."""
    found: list[Tensor] = []
    module = model.sites[layer].block.get_submodule(projection)
    hook = module.register_forward_hook(lambda _module, _args, output: found.append(output))
    batch = tokenize(model, PAIRS.positive)
    last_logits(model, batch.ids, batch.mask)
    hook.remove()
    return found[0].unflatten(-1, (-1, model.d_head))


def test_attention_is_causal_and_adds_up_in_every_family(any_model: LanguageModel) -> None:
    weights = attention_pattern(any_model, PAIRS.positive, 1, 2)
    mask = tokenize(any_model, PAIRS.positive).mask
    assert weights.shape == (2, mask.shape[1], mask.shape[1])
    assert torch.allclose(weights.sum(dim=-1), mask.float(), atol=1e-5)
    assert weights.triu(1).abs().max() == 0
    assert weights[1, :, ~mask[1]].abs().max() == 0
    other = attention_pattern(any_model, PAIRS.positive, 1, 3)
    assert not torch.allclose(weights, other, atol=1e-3)


def test_attention_makes_the_head_s_output_from_its_values() -> None:
    model = tiny_model("llama", num_key_value_heads=2)
    z = collect_head_outputs(model, tokenize(model, PAIRS.positive)).z
    v = values(model, 2, "self_attn.v_proj")
    for head in range(4):
        weights = attention_pattern(model, PAIRS.positive, 2, head)
        assert torch.allclose(weights @ v[:, :, head // 2], z[:, :, 2, head], atol=1e-5)


def test_attention_of_a_model_that_returns_none(hooked: LanguageModel) -> None:
    z = collect_head_outputs(hooked, tokenize(hooked, PAIRS.positive)).z
    v = values(hooked, 1, "self_attn.v_proj")
    weights = attention_pattern(hooked, PAIRS.positive, 1, 3)
    assert torch.allclose(weights @ v[:, :, 3], z[:, :, 1, 3], atol=1e-5)


def test_the_way_attention_is_computed_is_put_back() -> None:
    model = tiny_model("llama")
    expected = attention_pattern(model, PAIRS.positive, 1, 0)
    model.module.set_attn_implementation("sdpa")
    assert torch.allclose(attention_pattern(model, PAIRS.positive, 1, 0), expected, atol=1e-5)
    assert model.module.config._attn_implementation == "sdpa"
    with pytest.raises(UserError, match="empty"):
        attention_pattern(model, [""], 1, 0)
    assert model.module.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", SUMS)
def test_direct_effects_add_up_to_the_logit_difference(name: str) -> None:
    family = FAMILIES[name]
    model = tiny_model(family.kind, **family.options)
    if name == "gemma2":  # its soft cap comes after the sum
        model.module.config.final_logit_softcapping = None
    effects = direct_effects(model, PAIRS)
    batch = tokenize(model, PAIRS.positive)
    expected = task_metric(last_logits(model, batch.ids, batch.mask), answer_tokens(model.tokenizer, PAIRS))
    assert torch.allclose(effects.total.double(), expected, atol=1e-3)
    assert torch.allclose(direct_logit_effect(model, PAIRS), effects.heads.mean(dim=0))
    assert float(effects.heads.abs().max()) > 1e-2


def test_direct_effects_without_a_norm_are_plain_products(hooked: LanguageModel) -> None:
    effects = direct_effects(hooked, PAIRS)
    batch = tokenize(hooked, PAIRS.positive)
    logits = last_logits(hooked, batch.ids, batch.mask)
    expected = task_metric(logits, answer_tokens(hooked.tokenizer, PAIRS))
    assert torch.allclose(effects.total.double(), expected, atol=1e-3)
    assert effects.mlps.abs().max() < 1e-5
    if hooked.module.config.normalization is not None:
        return
    z, unembedding = collect_head_outputs(hooked, batch).z[:, -1], hooked.module.unembed.weight
    ids = answer_tokens(hooked.tokenizer, PAIRS)
    for row in range(2):
        best = max(ids.answer[row], key=lambda i: float(logits[row, i]))
        direction = unembedding[best] - unembedding[ids.distractor[row][0]]
        by_hand = torch.einsum("lhd,lhdm,m->lh", z[row], output_weights(hooked), direction)
        assert torch.allclose(effects.heads[row], by_hand, atol=1e-4)


def test_direct_effects_hold_the_final_norm_s_scale(tiny_model: LanguageModel, tiny_pairs: PromptPairs) -> None:
    effects = direct_effects(tiny_model, tiny_pairs)
    batch = tokenize(tiny_model, tiny_pairs.positive)
    outputs = collect_head_outputs(tiny_model, batch)
    hidden: list[Tensor] = []
    module = tiny_model.module
    hook = module.model.norm.register_forward_pre_hook(lambda _module, args: hidden.append(args[0][:, -1]))
    last_logits(tiny_model, batch.ids, batch.mask)
    hook.remove()
    rms = (hidden[0].square().mean(dim=-1) + module.config.rms_norm_eps).sqrt()
    ids = answer_tokens(tiny_model.tokenizer, tiny_pairs)
    for row in range(3):
        direction = module.lm_head.weight[ids.answer[row][0]] - module.lm_head.weight[ids.distractor[row][0]]
        direction = direction * module.model.norm.weight / rms[row]
        by_hand = torch.einsum("lhd,lhdm,m->lh", outputs.z[row, -1], output_weights(tiny_model), direction)
        assert torch.allclose(effects.heads[row], by_hand, atol=1e-4)


def test_a_probability_difference_weighs_all_its_answers_alike(tiny_model: LanguageModel) -> None:
    several = PromptPairs(
        ("Mary and Mary gave it to",),
        ("Mary and John gave it to",),
        ((" Mary", " Anna"),),
        ((" John",),),
        metric="probability_difference",
    )
    singles = [
        PromptPairs(several.positive, several.negative, ((answer,),), several.distractor)
        for answer in (" Mary", " Anna")
    ]
    expected = sum(direct_logit_effect(tiny_model, pairs) for pairs in singles) / 2
    assert torch.allclose(direct_logit_effect(tiny_model, several), expected, atol=1e-5)


def test_promoted_tokens_are_those_whose_logits_rise(tiny_model: LanguageModel, tiny_pairs: PromptPairs) -> None:
    last = read_last_position(tiny_model, tiny_pairs.positive)
    found = promoted_tokens(tiny_model, last, 1, 2, count=3)
    unembedding = tiny_model.module.lm_head.weight * tiny_model.module.model.norm.weight
    for row, tokens in enumerate(found):
        written = last.z[row, 1, 2] @ output_weights(tiny_model)[1, 2]
        order = (unembedding @ written).argsort(descending=True).tolist()
        names = [tiny_model.tokenizer.decode([i]) for i in order]
        assert [token.text for token in tokens.promoted] == names[:3]
        assert [token.text for token in tokens.suppressed] == names[::-1][:3]
        assert tokens.promoted[0].effect > 0 > tokens.suppressed[0].effect


def test_a_model_that_is_no_sum_is_refused() -> None:
    family = FAMILIES["opt norm last"]
    with pytest.raises(UserError, match="other than by adding to it"):
        direct_effects(tiny_model(family.kind, **family.options), PAIRS)


def test_something_between_the_last_block_and_the_norm_is_refused() -> None:
    model = tiny_model("opt", ffn_dim=48, word_embed_proj_dim=16)
    with pytest.raises(UserError, match="something else than one norm"):
        direct_effects(model, PAIRS)


def test_patching_one_head_is_what_patching_all_says_of_it(
    tiny_model: LanguageModel, solved_pairs: PromptPairs
) -> None:
    every = interchange_effects(tiny_model, solved_pairs, seed=3)
    one = patch_effect(tiny_model, solved_pairs, 1, 2, seed=3)
    assert one.effect == pytest.approx(float(every.effects[1, 2]), abs=1e-6)
    assert one.low == pytest.approx(float(every.low[1, 2]), abs=1e-5)
    assert one.high == pytest.approx(float(every.high[1, 2]), abs=1e-5)
    drop = one.metric_positive - one.metric_negative
    assert one.metric_patched == pytest.approx(one.metric_positive - one.effect * drop)
    assert one.pairs == 3


def test_what_cannot_be_inspected_is_refused(tiny_model: LanguageModel, solved_pairs: PromptPairs) -> None:
    reverse = PromptPairs(solved_pairs.positive, solved_pairs.negative, solved_pairs.distractor, solved_pairs.answer)
    blind = PromptPairs(solved_pairs.positive, solved_pairs.negative)
    uneven = PromptPairs(("the cat",), ("the cat ran",), ((" a",),), ((" b",),))
    with pytest.raises(UserError, match=r"no head 2\.0"):
        attention_pattern(tiny_model, solved_pairs.positive, 2, 0)
    with pytest.raises(UserError, match=r"no head 0\.4"):
        patch_effect(tiny_model, solved_pairs, 0, 4)
    with pytest.raises(UserError, match="does not do this task"):
        patch_effect(tiny_model, reverse, 0, 0)
    with pytest.raises(UserError, match="no answers"):
        patch_effect(tiny_model, blind, 0, 0)
    with pytest.raises(UserError, match="no answers"):
        direct_effects(tiny_model, blind)
    with pytest.raises(UserError, match="Row 1"):
        patch_effect(tiny_model, uneven, 0, 0)


def test_the_likeliest_next_token(tiny_model: LanguageModel, tiny_pairs: PromptPairs) -> None:
    batch = tokenize(tiny_model, tiny_pairs.positive)
    probabilities = last_logits(tiny_model, batch.ids, batch.mask).softmax(dim=-1)
    found = next_tokens(tiny_model, tiny_pairs.positive)
    for row, token in enumerate(found):
        assert token.text == tiny_model.tokenizer.decode([int(probabilities[row].argmax())])
        assert token.probability == pytest.approx(float(probabilities[row].max()))
