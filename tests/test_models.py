"""Heads are found, read and edited exactly, in a tiny random model of every family."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from dsae_core.errors import UserError
from dsae_core.models import (
    LanguageModel,
    adapt,
    collect_head_outputs,
    edit_head_outputs,
    last_logits,
    output_weights,
    tokenize,
)
from dsae_core.models.attention import observe_attention

WORDS = "When Mary and John went to the store , gave a drink Anna book bakery".split()
PROMPTS = [
    "When Mary and John went to the store , John gave a drink to",
    "Anna gave",
    "John and Mary went to the bakery",
]


@dataclass(frozen=True)
class Family:
    """A tiny config, and where a reader of the family's code would find the residual stream after attention."""

    kind: str  # transformers' model_type
    after: str  # the block's submodule whose input is residual + attention; "" where the MLP runs in parallel
    options: dict[str, Any] = field(default_factory=dict)
    post_norm: str = ""  # the block's submodule between the projection and the residual stream
    n_heads: int = 4
    d_head: int = 8
    d_model: int = 32


GPT_NAMES = {"n_embd": 32, "n_head": 4, "n_layer": 3}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
FAMILIES = {
    "gpt2": Family("gpt2", "ln_2", GPT_NAMES),
    "llama": Family("llama", "post_attention_layernorm", {"attention_bias": True}),
    "llama grouped-query": Family("llama", "post_attention_layernorm", {"num_key_value_heads": 2}),
    "llama wide heads": Family("llama", "post_attention_layernorm", {"head_dim": 12}, d_head=12),
    "mistral": Family("mistral", "post_attention_layernorm", {"sliding_window": 4, "num_key_value_heads": 1}),
    "qwen2": Family("qwen2", "post_attention_layernorm", {"num_key_value_heads": 2}),
    "qwen3": Family("qwen3", "post_attention_layernorm", {"head_dim": 16, "num_key_value_heads": 2}, d_head=16),
    "gemma2": Family(
        "gemma2",
        "pre_feedforward_layernorm",
        {"head_dim": 16, "num_key_value_heads": 2, "attention_bias": True, "sliding_window": 4},
        post_norm="post_attention_layernorm",
        d_head=16,
    ),
    "gemma3": Family(
        "gemma3_text",
        "pre_feedforward_layernorm",
        {"head_dim": 16, "num_key_value_heads": 1, "sliding_window": 4},
        post_norm="post_attention_layernorm",
        d_head=16,
    ),
    "olmo2": Family("olmo2", "mlp", {"attention_bias": True}, post_norm="post_attention_layernorm"),
    "gpt_neox parallel": Family("gpt_neox", "", {"use_parallel_residual": True}),
    "gpt_neox sequential": Family("gpt_neox", "post_attention_layernorm", {"use_parallel_residual": False}),
    "opt": Family("opt", "final_layer_norm", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "opt norm last": Family(
        "opt", "self_attn_layer_norm", {"ffn_dim": 48, "word_embed_proj_dim": 32, "do_layer_norm_before": False}
    ),
    "phi": Family("phi", "", {}),
    # Not in any list of ours: found by structure alone.
    "gpt_neo": Family("gpt_neo", "ln_2", {"num_layers": 3, "num_heads": 4, "attention_types": [[["global"], 3]]}),
    "glm4": Family(
        "glm4",
        "post_attention_layernorm",
        {"head_dim": 8, "num_key_value_heads": 2, "pad_token_id": 0},
        post_norm="post_self_attn_layernorm",
    ),
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def tiny_module(kind: str, **options: Any) -> Any:
    """A random model of the kind, in which no bias is 0 and no norm gain is what it started as."""
    torch.manual_seed(0)
    sizes = {} if kind in ("gpt2", "gpt_neo") else SIZES
    extra = {"hidden_size": 32, "intermediate_size": 48} if kind == "gpt_neo" else {}
    settings = {"vocab_size": 40, "max_position_embeddings": 64, **sizes, **extra, **options}
    settings |= dict.fromkeys(("bos_token_id", "eos_token_id"))
    config = CONFIG_MAPPING[kind](**{"pad_token_id": None, **settings})
    module = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim == 1:
                weight.add_(0.3 * torch.randn_like(weight))
            else:
                weight.normal_(std=0.25)
    return module


def tiny_model(kind: str = "llama", **options: Any) -> LanguageModel:
    return adapt(tiny_module(kind, **options), tiny_tokenizer(), f"tiny-{kind}")


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest) -> tuple[Family, LanguageModel]:
    family = FAMILIES[request.param]
    return family, tiny_model(family.kind, **family.options)


class Recorder:
    """Inputs and outputs of modules in one forward pass, taken by plain hooks of the test's own."""

    def __init__(self) -> None:
        self.inputs: dict[nn.Module, Tensor] = {}
        self.outputs: dict[nn.Module, Tensor] = {}

    def watch(self, module: nn.Module) -> None:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self.inputs[module] = (args[0] if args else kwargs["hidden_states"]).clone()
            self.outputs[module] = (output[0] if isinstance(output, tuple) else output).clone()

        module.register_forward_hook(hook, with_kwargs=True)


def measure_written(family: Family, model: LanguageModel, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What attention adds to the residual stream and the bias's share of it, both [L, E, T, D]."""
    recorder = Recorder()
    for site in model.sites:
        names = [family.after or "mlp", family.post_norm]
        watched = [site.block.get_submodule(name) for name in names if name]
        for module in [site.block, site.projection, *watched]:
            recorder.watch(module)
    last_logits(model, ids, mask)
    written, biases = [], []
    for site in model.sites:
        before = recorder.inputs[site.block]
        if family.after:
            after = recorder.inputs[site.block.get_submodule(family.after)].reshape(before.shape)
        else:
            after = recorder.outputs[site.block] - recorder.outputs[site.block.get_submodule("mlp")]
        written.append(after - before)
        projected = recorder.outputs[site.projection].reshape(before.shape)
        bias = site.projection.bias
        share = torch.zeros_like(projected) if bias is None else bias.expand_as(projected)
        if family.post_norm:
            norm = site.block.get_submodule(family.post_norm)
            gain = norm.weight + (1.0 if family.kind.startswith("gemma") else 0.0)
            share = share * gain / (projected.square().mean(-1, keepdim=True) + model.module.config.rms_norm_eps).sqrt()
        biases.append(share)
    return torch.stack(written), torch.stack(biases)


def test_routes_make_up_what_heads_put_out(case: tuple[Family, LanguageModel]) -> None:
    family, model = case
    before = model.module.config._attn_implementation
    plain = collect_head_outputs(model, tokenize(model, PROMPTS))
    outputs = collect_head_outputs(model, tokenize(model, PROMPTS), routes=True)
    assert model.module.config._attn_implementation == before
    assert torch.allclose(outputs.z, plain.z, atol=1e-5)
    assert plain.routes is None
    if family.kind == "gpt_neo":  # computes its attention by itself
        assert outputs.routes is None
        return
    assert outputs.routes is not None
    attention, values = outputs.routes.attention, outputs.routes.values
    rebuilt = torch.einsum("lehts,leshd->etlhd", attention, values)
    assert torch.allclose(rebuilt, outputs.z, atol=1e-5)
    assert torch.allclose(outputs.routes.streams.norm(dim=-1), outputs.residual_norm, atol=1e-4)
    assert not attention.triu(1).any()


def test_observing_ends_however_the_block_ends() -> None:
    model = tiny_model("llama")
    with pytest.raises(KeyboardInterrupt), observe_attention(model, lambda *_: None):
        raise KeyboardInterrupt
    assert model.module.config._attn_implementation == "eager"
    seen: list[int] = []
    with observe_attention(model, lambda layer, *_: seen.append(layer)) as possible:
        last_logits(model, *_two(model))
    last_logits(model, *_two(model))
    assert possible
    assert seen == [0, 1, 2]


def _two(model: LanguageModel) -> tuple[Tensor, Tensor]:
    batch = tokenize(model, PROMPTS[:2])
    return batch.ids, batch.mask


def test_heads_sum_to_what_attention_adds(case: tuple[Family, LanguageModel]) -> None:
    family, model = case
    assert (model.n_layers, model.n_heads, model.d_head) == (3, family.n_heads, family.d_head)
    assert model.d_model == family.d_model
    assert model.n_all_heads == 12
    batch = tokenize(model, PROMPTS)
    outputs = collect_head_outputs(model, batch)
    weights = output_weights(model)
    assert outputs.z.shape == (3, 14, 3, family.n_heads, family.d_head)
    assert outputs.z.is_contiguous()
    assert weights.shape == (3, family.n_heads, family.d_head, family.d_model)
    by_heads = torch.einsum("etlhd,lhdm->letm", outputs.z, weights)
    with torch.no_grad():
        fresh = tiny_model(family.kind, **family.options)  # its hooks are never removed
        written, bias = measure_written(family, fresh, batch.ids, batch.mask)
    assert written[:, batch.mask].abs().max() > 0.3
    torch.testing.assert_close(by_heads[:, batch.mask], (written - bias)[:, batch.mask], atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing(case: tuple[Family, LanguageModel]) -> None:
    _, model = case
    batch = tokenize(model, PROMPTS)
    together = collect_head_outputs(model, batch)
    for row, prompt in enumerate(PROMPTS):
        single = tokenize(model, [prompt])
        alone = collect_head_outputs(model, single)
        length = single.ids.shape[1]
        torch.testing.assert_close(together.z[row, -length:], alone.z[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(together.logits[row], alone.logits[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(
            together.residual_norm[:, row, -length:], alone.residual_norm[:, 0], atol=2e-5, rtol=1e-4
        )
        assert not together.z[row, :-length].any()
        assert not together.residual_norm[:, row, :-length].any()


def test_logits_are_those_of_the_plain_model(case: tuple[Family, LanguageModel]) -> None:
    _, model = case
    batch = tokenize(model, PROMPTS[:1])
    with torch.no_grad():
        plain = model.module(input_ids=batch.ids).logits[:, -1]
    torch.testing.assert_close(collect_head_outputs(model, batch).logits, plain, atol=1e-5, rtol=1e-5)


def test_every_family_can_be_edited(case: tuple[Family, LanguageModel]) -> None:
    _, model = case
    batch = tokenize(model, PROMPTS)
    plain = last_logits(model, batch.ids, batch.mask)
    with edit_head_outputs(model, lambda layer, z: z):
        torch.testing.assert_close(last_logits(model, batch.ids, batch.mask), plain, atol=0, rtol=0)
    with edit_head_outputs(model, lambda layer, z: torch.zeros_like(z) if layer == 1 else z):
        assert (last_logits(model, batch.ids, batch.mask) - plain).abs().max() > 1e-3
    torch.testing.assert_close(last_logits(model, batch.ids, batch.mask), plain, atol=0, rtol=0)


def test_residual_norm_is_that_of_the_blocks_input() -> None:
    model = tiny_model("llama")
    batch = tokenize(model, PROMPTS[:1])
    with torch.no_grad():
        states = model.module(input_ids=batch.ids, output_hidden_states=True).hidden_states
    expected = torch.stack(states[:3]).norm(dim=-1)
    torch.testing.assert_close(collect_head_outputs(model, batch).residual_norm, expected)


def test_batch_size_changes_nothing_and_progress_is_told() -> None:
    model = tiny_model()
    batch = tokenize(model, PROMPTS)
    seen: list[tuple[str, float]] = []
    one = collect_head_outputs(model, batch, batch_size=2, progress=lambda *step: seen.append(step))
    whole = collect_head_outputs(model, batch)
    torch.testing.assert_close(one.z, whole.z)
    torch.testing.assert_close(one.logits, whole.logits)
    assert [fraction for _, fraction in seen] == [pytest.approx(2 / 3), 1.0]


def test_long_prompts_run_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    batch = tokenize(model, PROMPTS)
    steps: list[float] = []
    monkeypatch.setattr("dsae_core.models.collect.ATTENTION_NUMBERS", 4 * 14 * 14 + 1)
    one = collect_head_outputs(model, batch, progress=lambda _, done: steps.append(done))
    assert len(steps) == 3
    monkeypatch.setattr("dsae_core.models.collect.ATTENTION_NUMBERS", 1)
    torch.testing.assert_close(one.z, collect_head_outputs(model, batch).z)


def test_dropout_is_off_even_where_the_model_came_in_training_mode() -> None:
    module = tiny_module("gpt2", **GPT_NAMES)
    expected = collect_head_outputs(tiny_model("gpt2", **GPT_NAMES), tokenize(tiny_model(), PROMPTS)).z
    model = adapt(module.train(), tiny_tokenizer(), "tiny")
    torch.testing.assert_close(collect_head_outputs(model, tokenize(model, PROMPTS)).z, expected)


def test_z_can_be_trained_on() -> None:
    model = tiny_model()
    z = collect_head_outputs(model, tokenize(model, PROMPTS)).z
    weight = torch.ones(8, requires_grad=True)
    (z @ weight).square().sum().backward()  # an inference tensor would refuse
    assert weight.grad is not None


# --- edits -------------------------------------------------------------------------------------------------


def test_edit_swaps_one_head_exactly() -> None:
    """Interchange by hand: the residual stream changes by (z' - z) W of that head and nothing else."""
    model = tiny_model("gpt2", **GPT_NAMES)
    batch = tokenize(model, [PROMPTS[0], PROMPTS[0].replace("Mary", "Anna")])
    outputs = collect_head_outputs(model, batch)
    layer, head = 1, 2

    def swap(at: int, z: Tensor) -> Tensor:
        if at != layer:
            return z
        z = z.clone()
        z[:, :, head] = z[:, :, head].flip(0)
        return z

    with edit_head_outputs(model, swap):
        edited = collect_head_outputs(model, batch)
    # What later layers read differs through this head alone, so its own layer's other heads do not.
    torch.testing.assert_close(edited.z[:, :, :layer], outputs.z[:, :, :layer])
    assert (edited.z[:, :, layer + 1] - outputs.z[:, :, layer + 1]).abs().max() > 1e-4
    recorder = Recorder()
    recorder.watch(model.sites[layer].block.get_submodule("ln_2"))
    last_logits(model, batch.ids, batch.mask)
    plain = recorder.inputs[model.sites[layer].block.get_submodule("ln_2")]
    with edit_head_outputs(model, swap):
        last_logits(model, batch.ids, batch.mask)
    changed = recorder.inputs[model.sites[layer].block.get_submodule("ln_2")]
    z = outputs.z[:, :, layer, head]
    expected = (z.flip(0) - z) @ output_weights(model)[layer, head]
    torch.testing.assert_close(changed - plain, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("edit", "error"),
    [(lambda layer, z: z[:, 1:], ValueError), (lambda layer, z: 1 / 0, ZeroDivisionError)],
)
def test_hooks_are_removed_however_an_edit_ends(edit: Callable[[int, Tensor], Tensor], error: type[Exception]) -> None:
    model = tiny_model()
    batch = tokenize(model, PROMPTS)
    plain = last_logits(model, batch.ids, batch.mask)
    with pytest.raises(error), edit_head_outputs(model, edit):
        last_logits(model, batch.ids, batch.mask)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.module.modules())
    torch.testing.assert_close(last_logits(model, batch.ids, batch.mask), plain, atol=0, rtol=0)


def test_another_thread_does_not_see_an_edit() -> None:
    model = tiny_model()
    batch = tokenize(model, PROMPTS)
    plain = last_logits(model, batch.ids, batch.mask)
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(last_logits(model, batch.ids, batch.mask)))
    with edit_head_outputs(model, lambda layer, z: torch.zeros_like(z)):
        thread.start()
        thread.join(timeout=0.3)
        assert not found  # it waits
    thread.join(timeout=30)
    torch.testing.assert_close(found[0], plain, atol=0, rtol=0)


# --- prompts -----------------------------------------------------------------------------------------------


def test_prompts_are_padded_on_the_left_and_readable() -> None:
    batch = tokenize(tiny_model(), ["Mary gave a drink", "John went"])
    assert batch.ids.dtype == torch.int64
    assert batch.mask.tolist() == [[True] * 4, [False, False, True, True]]
    assert batch.ids[1, :2].tolist() == [0, 0]
    assert batch.tokens == (("Mary", "gave", "a", "drink"), ("", "", "John", "went"))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "no prompts"),
        (["Mary gave", "  "], "Row 2: the prompt is empty"),
        (["Mary gave", float("nan")], "Row 2: the prompt is not text"),
        (["Mary", "gave " * 10_000], "Row 2: the prompt has 10000 tokens, more than the 64 allowed"),
    ],
)
def test_bad_prompts_are_named_by_row(prompts: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tokenize(tiny_model(), prompts)


def test_max_tokens_is_a_limit() -> None:
    with pytest.raises(UserError, match="Row 1: the prompt has 4 tokens, more than the 3 allowed"):
        tokenize(tiny_model(), ["Mary gave a drink"], max_tokens=3)


def test_head_outputs_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr("dsae_core.models.memory.available_memory", lambda device: 1000)
    with pytest.raises(UserError, match=r"need 0\.0 GiB.*Use fewer or shorter prompts"):
        collect_head_outputs(model, tokenize(model, PROMPTS))


# --- models that cannot be used ----------------------------------------------------------------------------


def test_no_heads_names_what_was_looked_for() -> None:
    module = tiny_module("mamba", hidden_size=32, num_hidden_layers=2, state_size=4)
    module.config.num_attention_heads = 4
    with pytest.raises(UserError, match=r"No attention heads were found in tiny .*o_proj, out_proj, c_proj or dense"):
        adapt(module, tiny_tokenizer(), "tiny")


def test_a_model_without_a_head_count_is_refused() -> None:
    module = tiny_module("mamba", hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(UserError, match="No attention heads"):
        adapt(module, tiny_tokenizer(), "tiny")


def test_a_norm_that_centres_is_refused() -> None:
    module = tiny_module("gemma2", **FAMILIES["gemma2"].options)
    module.model.layers[1].post_attention_layernorm = nn.LayerNorm(32)
    with pytest.raises(UserError, match=r"norm after model\.layers\.1\.self_attn\.o_proj that is no RMS norm"):
        adapt(module, tiny_tokenizer(), "tiny")


@pytest.mark.parametrize("name", ["gemma2", "gpt_neox parallel", "opt"])
def test_half_precision_models_are_accepted(name: str) -> None:
    family = FAMILIES[name]
    model = adapt(tiny_module(family.kind, **family.options).bfloat16(), tiny_tokenizer(), "tiny")
    outputs = collect_head_outputs(model, tokenize(model, PROMPTS))
    assert outputs.z.dtype == outputs.logits.dtype == output_weights(model).dtype == torch.float32
    assert (model.sites[0].norm is not None) == bool(family.post_norm)


def test_scaled_writes_are_refused() -> None:
    with pytest.raises(UserError, match="changes what its heads write"):
        tiny_model("granite", residual_multiplier=0.3)
    tiny_model("granite", residual_multiplier=1.0)
