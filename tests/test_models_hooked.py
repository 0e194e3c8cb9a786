"""HookedTransformer checkpoints give the logits of the paper's equations and of TransformerLens, or are refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import errors as hub_errors
from safetensors.torch import save_file
from test_models import tiny_tokenizer
from torch import Tensor

from dsae_core.errors import UserError
from dsae_core.models import (
    LanguageModel,
    collect_head_outputs,
    edit_head_outputs,
    last_logits,
    load_model,
    output_weights,
    record_block_outputs,
    resume_at,
    tokenize,
    wheel,
)

DATA = Path(__file__).parent / "data"
PROMPTS = ["When Mary and John went to the store", "Anna gave", "John and Mary went to"]
LAYERS, HEADS, D_HEAD, D_MODEL, N_CTX, VOCABULARY = 3, 4, 6, 20, 16, 24
SIZES = {
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "d_head": D_HEAD,
    "d_model": D_MODEL,
    "n_ctx": N_CTX,
    "d_vocab": VOCABULARY,
}
# What the code that trained the attn-only models writes beside the sizes, as its create_cfg makes it.
TRAINING: dict[str, Any] = {
    **{"d_mlp": 2048, "lr_hidden": 2e-3, "lr_vector": 1e-3, "batch_size_per_device": 32, "batches_per_step": 1},
    **{"seed": 259123, "save_checkpoints": True, "debug": False, "debug_batch": False, "normalization": "LN"},
    **{"max_tokens": 22 * 10**9, "version": 185, "use_bfloat16_matmul": True, "betas": [0.9, 0.99]},
    **{"weight_decay": 0.05, "dataset_name": "c4_code", "grad_norm_clip": 1.0, "n_devices": 8, "act_fn": "solu_ln"},
    **{"shortformer_pos": False, "attn_only": True, "ln_eps": 1e-5, "lr_schedule": "cosine_warmup"},
    **{"warmup_tokens": 3 * 10**8, "train_loss_ewma_beta": 0.99, "truncate_tokens": 10**12, "log_interval": 50},
    **{"initializer_scale_global": 1.0, "initializer_scale_hidden": 0.02, "initializer_scale_embed": 0.1},
    **{"initializer_scale_unembed": 0.02, "neuron_scale": 1.0, "neuron_temp": 1.0, "use_acc": False},
    **{"weight_init_scheme": "gpt2", "fixed_init": "", "store_init": False, "control": 1.0, "n_params": 3145728},
    **{"tokens_per_step": 262144, "batch_size": 256, "max_steps": 83923, "warmup_steps": 1144},
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSAE_CACHE", str(tmp_path / "cache"))


# --- checkpoints -------------------------------------------------------------------------------------------


def random_weights(normalization: str | None) -> dict[str, Tensor]:
    """No weight and no bias of it is zero, so that leaving one out shows."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, mean: float = 0.0, std: float = 0.3) -> Tensor:
        return mean + std * torch.randn(shape, generator=generator)

    weights = {"embed.W_E": draw(VOCABULARY, D_MODEL), "pos_embed.W_pos": draw(N_CTX, D_MODEL)}
    norms = ["ln_final", *(f"blocks.{layer}.ln1" for layer in range(LAYERS))] if normalization == "LN" else []
    for norm in norms:
        weights |= {f"{norm}.w": draw(D_MODEL, mean=1.0), f"{norm}.b": draw(D_MODEL)}
    for attention in (f"blocks.{layer}.attn" for layer in range(LAYERS)):
        for letter in "QKV":
            weights[f"{attention}.W_{letter}"] = draw(HEADS, D_MODEL, D_HEAD)
            weights[f"{attention}.b_{letter}"] = draw(HEADS, D_HEAD)
        weights |= {f"{attention}.W_O": draw(HEADS, D_HEAD, D_MODEL), f"{attention}.b_O": draw(D_MODEL)}
    return weights | {"unembed.W_U": draw(D_MODEL, VOCABULARY), "unembed.b_U": draw(VOCABULARY)}


def save(folder: Path, weights: Mapping[str, Any], **options: Any) -> Path:
    """A checkpoint as TransformerLens's users save it, with a tokenizer beside it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**SIZES, "attn_only": True, **options}))
    torch.save(dict(weights), folder / "model_final.pth")
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "<unk>"
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "checkpoint", random_weights("LN"), normalization_type="LN")


def edit_config(folder: Path, **changes: Any) -> None:
    """Change options; None takes one out."""
    path = folder / "config.json"
    options = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in options.items() if value is not None}))


def edit_weights(folder: Path, **changes: Any) -> None:
    """Change weights, whose names have _ for the dots here; None takes one out."""
    weights = torch.load(folder / "model_final.pth")
    names = {name.replace(".", "_"): name for name in weights}
    weights |= {names.get(key, key.replace("__", ".")): value for key, value in changes.items()}
    torch.save({key: value for key, value in weights.items() if value is not None}, folder / "model_final.pth")


# --- the equations -----------------------------------------------------------------------------------------


def normed(x: Tensor, weights: Mapping[str, Tensor], norm: str, kind: str | None) -> Tensor:
    if kind is None:
        return x
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{norm}.w"] + weights[f"{norm}.b"] if kind == "LN" else scaled


def with_one(x: Tensor) -> Tensor:
    """[T, D] as [T, D + 1], so that a bias is one more row of the matrix."""
    return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)


def equations(
    weights: Mapping[str, Tensor], ids: Tensor, kind: str | None, shortformer: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Logits [T, V] of ids [T], and what each head writes [L, heads, T, D].

    Elhage et al. 2021, A Mathematical Framework for Transformer Circuits: a head is ``A (x) W_OV`` with
    ``A = softmax*(x^T W_QK x)``, the softmax going over a position and those before it.
    """
    weights = {name: weight.double() for name, weight in weights.items()}
    position = weights["pos_embed.W_pos"][: len(ids)]
    residual = weights["embed.W_E"][ids] + (0 if shortformer else position)
    written = torch.zeros(LAYERS, HEADS, len(ids), D_MODEL, dtype=torch.float64)
    for layer in range(LAYERS):
        attention = f"blocks.{layer}.attn"
        x = normed(residual, weights, f"blocks.{layer}.ln1", kind)
        for head in range(HEADS):
            w_q, w_k, w_v = (
                torch.cat([weights[f"{attention}.W_{letter}"][head], weights[f"{attention}.b_{letter}"][head][None]])
                for letter in "QKV"
            )
            w_qk = torch.einsum("id,jd->ij", w_q, w_k)
            w_ov = torch.einsum("jd,dm->jm", w_v, weights[f"{attention}.W_O"][head])
            where = with_one(x + position if shortformer else x)
            for at in range(len(ids)):
                scores = torch.einsum("i,ij,tj->t", where[at], w_qk, where[: at + 1]) / scale
                pattern = scores.exp() / scores.exp().sum()
                written[layer, head, at] = torch.einsum("t,tj,jm->m", pattern, with_one(x[: at + 1]), w_ov)
        residual = residual + written[layer].sum(0) + weights[f"{attention}.b_O"]
    logits = normed(residual, weights, "ln_final", kind) @ weights["unembed.W_U"] + weights["unembed.b_U"]
    return logits, written


KINDS = [(kind, positions) for kind in ("LN", "LNPre", None) for positions in ("standard", "shortformer")]


@pytest.mark.parametrize(("kind", "positions"), KINDS)
def test_logits_and_heads_are_those_of_the_papers_equations(tmp_path: Path, kind: str | None, positions: str) -> None:
    weights = random_weights(kind)
    save(tmp_path, weights, normalization_type=kind, positional_embedding_type=positions)
    model = load_model(str(tmp_path))
    assert (model.n_layers, model.n_heads, model.d_head, model.d_model) == (LAYERS, HEADS, D_HEAD, D_MODEL)
    batch = tokenize(model, PROMPTS)
    outputs = collect_head_outputs(model, batch)
    by_heads = torch.einsum("etlhd,lhdm->elhtm", outputs.z, output_weights(model))
    assert by_heads.abs().max() > 1
    for row, mask in enumerate(batch.mask):
        ids = batch.ids[row, mask]
        logits, written = equations(weights, ids, kind, positions == "shortformer", math.sqrt(D_HEAD))
        with torch.no_grad():
            whole = model.module(input_ids=ids[None]).logits[0]
        torch.testing.assert_close(whole, logits.float(), atol=1e-4, rtol=0)
        torch.testing.assert_close(outputs.logits[row], logits[-1].float(), atol=1e-4, rtol=0)
        torch.testing.assert_close(by_heads[row][:, :, mask], written.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({"attn_scale": 3.5}, 3.5),
        ({"attn_scale": -1.0}, math.sqrt(D_HEAD)),
        ({"use_attn_scale": False, "attn_scale": 3.5}, 1.0),
    ],
)
def test_attention_scale(folder: Path, options: dict[str, Any], scale: float) -> None:
    edit_config(folder, **options)
    model = load_model(str(folder))
    ids = torch.tensor([3, 1, 4, 1, 5])
    logits, _ = equations(random_weights("LN"), ids, "LN", False, scale)
    torch.testing.assert_close(
        last_logits(model, ids[None], torch.ones(1, 5).bool())[0], logits[-1].float(), atol=1e-4, rtol=0
    )


def test_heads_sum_to_what_attention_adds(folder: Path) -> None:
    model = load_model(str(folder))
    batch = tokenize(model, PROMPTS)
    seen: list[tuple[Tensor, Tensor]] = []
    handles = [
        site.block.register_forward_hook(lambda _, args, output: seen.append((args[0], output))) for site in model.sites
    ]
    outputs = collect_head_outputs(model, batch)
    for handle in handles:
        handle.remove()
    by_heads = torch.einsum("etlhd,lhdm->letm", outputs.z, output_weights(model))
    for layer, (before, after) in enumerate(seen):
        bias = random_weights("LN")[f"blocks.{layer}.attn.b_O"]
        added = (after - before)[batch.mask]
        torch.testing.assert_close(by_heads[layer][batch.mask] + bias, added, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(outputs.residual_norm[layer][batch.mask], before.norm(dim=-1)[batch.mask])
    assert len(seen) == LAYERS


@pytest.mark.parametrize("positions", ["standard", "shortformer"])
def test_padding_changes_nothing(folder: Path, positions: str) -> None:
    edit_config(folder, positional_embedding_type=positions)
    model = load_model(str(folder))
    together = collect_head_outputs(model, tokenize(model, PROMPTS))
    assert not together.mask.all()
    for row, prompt in enumerate(PROMPTS):
        alone = collect_head_outputs(model, tokenize(model, [prompt]))
        length = alone.z.shape[1]
        torch.testing.assert_close(together.z[row, -length:], alone.z[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.logits[row], alone.logits[0], atol=1e-5, rtol=1e-4)


def test_attention_and_values_make_up_what_heads_put_out(folder: Path) -> None:
    model = load_model(str(folder))
    outputs = collect_head_outputs(model, tokenize(model, PROMPTS), routes=True)
    assert outputs.routes is not None
    rebuilt = torch.einsum("lehts,leshd->etlhd", outputs.routes.attention, outputs.routes.values)
    torch.testing.assert_close(rebuilt, outputs.z, atol=1e-5, rtol=1e-4)
    assert all(site.block.self_attn.dsae_observe_attention is None for site in model.sites)


def test_positions_are_counted_from_the_mask_where_they_are_not_given(folder: Path) -> None:
    model = load_model(str(folder))
    batch = tokenize(model, PROMPTS)
    with torch.no_grad():
        own = model.module(input_ids=batch.ids, attention_mask=batch.mask.long()).logits[:, -1]
    torch.testing.assert_close(own, last_logits(model, batch.ids, batch.mask))


def test_positions_that_are_given_are_taken(folder: Path) -> None:
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        given = load_model(str(folder)).module(input_ids=ids, position_ids=torch.full_like(ids, 7)).logits
        row = random_weights("LN")["pos_embed.W_pos"][7]
        edit_weights(folder, pos_embed_W_pos=row.repeat(N_CTX, 1))
        torch.testing.assert_close(given, load_model(str(folder)).module(input_ids=ids).logits)


def test_heads_can_be_edited_and_passes_resumed(folder: Path) -> None:
    model = load_model(str(folder))
    batch = tokenize(model, PROMPTS)
    with record_block_outputs(model) as recorded:
        plain = last_logits(model, batch.ids, batch.mask)

    def without_a_head(layer: int, z: Tensor) -> Tensor:
        kept = z.clone()
        kept[:, :, 1] *= layer != 2
        return kept

    with edit_head_outputs(model, without_a_head):
        whole = last_logits(model, batch.ids, batch.mask)
        with resume_at(model, 2, recorded, copies=1):
            resumed = last_logits(model, batch.ids, batch.mask)
    assert (whole - plain).abs().max() > 0.1
    torch.testing.assert_close(resumed, whole)


# --- TransformerLens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hooked_tiny", "hooked_shortformer"])
def test_equals_transformerlens(tmp_path: Path, name: str) -> None:
    """Logits and heads that TransformerLens computed from the same file (tests/data/make_hooked.py)."""
    folder = Path(shutil.copytree(DATA / name, tmp_path / name))
    tiny_tokenizer().save_pretrained(folder)
    edit_config(folder, default_prepend_bos=False)
    expected = json.loads((folder / "expected.json").read_text())
    model = load_model(str(folder))
    ids = torch.tensor(expected["ids"])
    with torch.no_grad():
        logits = model.module(input_ids=ids).logits
    torch.testing.assert_close(logits, torch.tensor(expected["logits"]), atol=1e-5, rtol=1e-5)

    z: list[Tensor] = []
    with edit_head_outputs(model, lambda _, value: z.append(value) or value):  # type: ignore[func-returns-value]
        last_logits(model, ids, torch.ones_like(ids, dtype=torch.bool))
    torch.testing.assert_close(torch.stack(z), torch.tensor(expected["z"]), atol=1e-5, rtol=1e-5)

    padded = {key: torch.tensor(value) for key, value in expected["padded"].items()}
    torch.testing.assert_close(
        last_logits(model, padded["ids"], padded["mask"].bool()), padded["logits"], atol=1e-5, rtol=1e-5
    )


# --- what is read ------------------------------------------------------------------------------------------


def logits_of(folder: Path, **options: Any) -> Tensor:
    model = load_model(str(folder), **options)
    return last_logits(model, torch.tensor([[3, 1, 4, 1, 5]]), torch.ones(1, 5).bool())


def test_the_options_of_the_training_code_are_read(folder: Path) -> None:
    plain = logits_of(folder)
    edit_config(folder, eps=0.5)
    large_eps = logits_of(folder)
    assert (large_eps - plain).abs().max() > 1e-2
    edit_config(folder, normalization_type=None, eps=None)
    edit_config(folder, **TRAINING)
    torch.testing.assert_close(logits_of(folder), plain, atol=0, rtol=0)
    edit_config(folder, ln_eps=0.5)
    torch.testing.assert_close(logits_of(folder), large_eps, atol=0, rtol=0)
    edit_config(folder, ln_eps=1e-5, shortformer_pos=True)
    assert (logits_of(folder) - plain).abs().max() > 1e-2


def test_heads_follow_from_the_widths_where_nobody_counts_them(tmp_path: Path) -> None:
    weights = random_weights("LNPre")
    save(tmp_path, weights, normalization_type="LNPre", n_heads=-1, d_head=5)
    with pytest.raises(UserError, match=r"W_Q as float32 \[4, 20, 6\].*\[4, 20, 5\]"):
        load_model(str(tmp_path))


def test_safetensors_is_read_too(folder: Path) -> None:
    plain = logits_of(folder)
    save_file(torch.load(folder / "model_final.pth"), folder / "weights.safetensors")
    (folder / "model_final.pth").unlink()
    torch.testing.assert_close(logits_of(folder), plain, atol=0, rtol=0)


def test_the_final_weights_go_before_earlier_ones(folder: Path) -> None:
    digest = load_model(str(folder)).digest
    assert digest == wheel.file_sha256(folder / "model_final.pth")
    (folder / "model_init.pth").write_bytes(b"nothing")
    assert load_model(str(folder)).digest == digest


def test_no_unembedding_bias_and_a_stored_mask(folder: Path) -> None:
    bias = random_weights("LN")["unembed.b_U"]
    plain = logits_of(folder)
    edit_weights(
        folder,
        unembed_b_U=None,
        blocks__1__attn__mask=torch.ones(N_CTX, N_CTX).tril().bool(),
        blocks__1__attn__IGNORE=torch.tensor(-1e5),
    )
    torch.testing.assert_close(logits_of(folder), plain - bias)


def test_dtype(folder: Path) -> None:
    model = load_model(str(folder), dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.module.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(logits_of(folder, dtype=torch.bfloat16), logits_of(folder), atol=0.5, rtol=0.1)


def test_too_little_memory_gives_both_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_bytes = 4 * sum(weight.numel() for weight in random_weights("LN").values())
    monkeypatch.setattr("dsae_core.models.memory.GIB", 1)
    monkeypatch.setattr("dsae_core.models.memory.available_memory", lambda device: n_bytes - 1)
    with pytest.raises(UserError, match=rf"need {n_bytes}\.0 GiB of memory, and {n_bytes - 1}\.0 GiB"):
        load_model(str(folder))
    assert load_model(str(folder), dtype=torch.bfloat16).n_layers == LAYERS


# --- what is refused ---------------------------------------------------------------------------------------


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("kind", ["code", "code beside", "number", "list", "numbered", "nested", "bytes"])
def test_a_pickle_of_anything_but_tensors_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    marker, weights = tmp_path / "ran", random_weights("LN")
    content: dict[str, Any] = {
        "code": Payload(marker),
        "code beside": weights | {"extra": Payload(marker)},
        "number": weights | {"step": 3},
        "list": list(weights.values()),
        "numbered": dict(enumerate(weights.values())),
        "nested": {"state_dict": weights},
    }
    if kind == "bytes":
        (folder / "model_final.pth").write_bytes(b"neither a pickle nor an archive")
    else:
        torch.save(content[kind], folder / "model_final.pth")
    with pytest.raises(UserError, match="something other than tensors by name, which could run code; it is not read"):
        load_model(str(folder))
    assert not marker.exists()


def cut_short(folder: Path) -> None:
    data = (folder / "model_final.pth").read_bytes()
    (folder / "model_final.pth").write_bytes(data[: len(data) // 2])


def no_weights(folder: Path) -> None:
    (folder / "model_final.pth").unlink()


def two_weights(folder: Path) -> None:
    (folder / "model_final.pth").rename(folder / "a.pth")
    (folder / "b.pth").touch()


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, "cannot be loaded"),
        (no_weights, r"and no weights; put its model_final\.pth there"),
        (two_weights, r"holds 2 files \*\.pth"),
        (no_tokenizer, r"has no tokenizer; put its tokenizer\.json into"),
        (lambda f: edit_weights(f, blocks_1_attn_W_K=None), r"lacks the weight blocks\.1\.attn\.W_K"),
        (lambda f: edit_weights(f, blocks_0_ln1_b=None), r"lacks the weight blocks\.0\.ln1\.b"),
        (lambda f: edit_weights(f, embed_W_E=torch.ones(3, 4)), r"embed\.W_E as float32 \[3, 4\].* \[24, 20\]"),
        (
            lambda f: edit_weights(f, blocks_2_attn_W_O=torch.ones(HEADS, D_MODEL, D_HEAD)),
            r"blocks\.2\.attn\.W_O as float32 \[4, 20, 6\].* \[4, 6, 20\]",
        ),
        (lambda f: edit_weights(f, unembed_b_U=torch.ones(VOCABULARY).long()), r"unembed\.b_U as int64 \[24\]"),
        (lambda f: edit_weights(f, unembed_b_U=torch.full((VOCABULARY,), math.nan)), r"not numbers .*in unembed\.bias"),
        (lambda f: edit_weights(f, blocks__0__mlp__W_in=torch.ones(2, 2)), r"a weight blocks\.0\.mlp\.W_in, which has"),
        (lambda f: edit_weights(f, blocks__7__attn__W_Q=torch.ones(2)), r"a weight blocks\.7\.attn\.W_Q, which has"),
        (lambda f: edit_config(f, normalization_type="LNPre"), r"a weight blocks\.0\.ln1\.b, which has no place"),
        (lambda f: edit_config(f, n_heads=2), r"W_Q as float32 \[4, 20, 6\].* \[2, 20, 6\]"),
        (lambda f: edit_config(f, d_vocab=5), r"embed\.W_E as float32"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "cannot be loaded"),
    ],
)
def test_a_folder_that_cannot_be_used(folder: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message) as raised:
        load_model(str(folder))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attn_only": False}, "says attn_only = false; .* with attn_only = true are supported"),
        ({"attn_only": None}, "says attn_only = false"),
        (
            {"positional_embedding_type": "rotary"},
            'positional_embedding_type = "rotary"; .*"standard" or "shortformer"',
        ),
        ({"positional_embedding_type": "alibi"}, 'says positional_embedding_type = "alibi"'),
        ({"normalization_type": "RMS"}, 'says normalization_type = "RMS"; .*"LN", "LNPre" or null'),
        ({"normalization": "RMSPre"}, 'says normalization = "RMSPre"'),
        ({"parallel_attn_mlp": True}, "says parallel_attn_mlp = true; .*parallel_attn_mlp = false"),
        ({"attention_dir": "bidirectional"}, 'says attention_dir = "bidirectional"; .*"causal"'),
        ({"architecture": "mingpt"}, 'says architecture = "mingpt"'),
        ({"final_rms": True}, "says final_rms = true"),
        ({"use_local_attn": True, "window_size": 4}, "says use_local_attn = true"),
        ({"window_size": 4}, "says window_size = 4; .*window_size = null"),
        ({"scale_attn_by_inverse_layer_idx": True}, "says scale_attn_by_inverse_layer_idx"),
        ({"n_key_value_heads": 2}, "says n_key_value_heads = 2; .*n_key_value_heads = 4"),
        ({"d_vocab_out": 3}, "says d_vocab_out = 3; .*d_vocab_out = 24"),
        ({"attn_scores_soft_cap": 50.0}, r"says attn_scores_soft_cap = 50\.0"),
        ({"use_qk_norm": True}, "says use_qk_norm = true"),
        ({"some_new_thing": 1}, "has an option some_new_thing, which is unknown here"),
        ({"n_ctx": None}, "a positive whole number as its n_ctx, not None"),
        ({"d_head": 0}, "a positive whole number as its d_head, not 0"),
        ({"n_heads": 2.5}, r"a positive whole number as its n_heads, not 2\.5"),
        ({"d_vocab": True}, "a positive whole number as its d_vocab, not True"),
    ],
)
def test_options_that_are_not_computed_are_named(folder: Path, options: dict[str, Any], message: str) -> None:
    edit_config(folder, **options)
    with pytest.raises(UserError, match=message):
        load_model(str(folder))


# --- the start token ---------------------------------------------------------------------------------------


def first_prompt(folder: Path) -> list[str]:
    model = load_model(str(folder))
    (ids,) = tokenize(model, ["Mary gave"]).ids.tolist()
    assert model.tokenizer.encode("Mary gave", add_special_tokens=False) == ids[-2:]
    tokens = model.tokenizer.convert_ids_to_tokens(ids)
    assert isinstance(tokens, list)
    return tokens


def set_tokens(folder: Path, **settings: str | bool) -> None:
    tokenizer = tiny_tokenizer()
    for key, value in settings.items():
        setattr(tokenizer, key, value)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("adds", [False, True])
def test_every_prompt_has_one_start_token(folder: Path, adds: bool) -> None:
    set_tokens(folder, bos_token="John", add_bos_token=adds)
    assert first_prompt(folder) == ["John", "Mary", "gave"]


@pytest.mark.parametrize("adds", [False, True])
def test_the_config_can_do_without_a_start_token(folder: Path, adds: bool) -> None:
    set_tokens(folder, bos_token="John", add_bos_token=adds)
    edit_config(folder, default_prepend_bos=False)
    assert first_prompt(folder) == ["Mary", "gave"]


def test_an_end_token_serves_as_start_token(folder: Path) -> None:
    set_tokens(folder, eos_token="Anna")
    assert first_prompt(folder) == ["Anna", "Mary", "gave"]


def test_no_start_token(folder: Path) -> None:
    set_tokens(folder)
    with pytest.raises(UserError, match="has no start token; name one as its bos_token, or set default_prepend_bos"):
        load_model(str(folder))
    edit_config(folder, default_prepend_bos=False)
    assert first_prompt(folder) == ["Mary", "gave"]


def test_a_tokenizer_that_does_not_listen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.add_bos_token", property(None, lambda *_: None))
    with pytest.raises(UserError, match="cannot be told whether to put <unk> before a text"):
        load_model(str(folder))


# --- the hub -----------------------------------------------------------------------------------------------


class Hub:
    """Stands in for the hub: a download leaves only the files that were asked for."""

    def __init__(self, repositories: dict[str, Path], target: Path) -> None:
        self.repositories = repositories
        self.target = target
        self.asked: list[str] = []

    def download(self, name: str, *, allow_patterns: list[str], ignore_patterns: list[str], **_: Any) -> str:
        self.asked.append(name)
        if name not in self.repositories:
            raise hub_errors.LocalEntryNotFoundError("not\nhere")
        local = self.target / name.replace("/", "--")
        local.mkdir(parents=True, exist_ok=True)
        for file in self.repositories[name].iterdir():
            if any(file.match(pattern) for pattern in allow_patterns):
                shutil.copy(file, local)
        assert "*/*" in ignore_patterns  # checkpoints/ holds gigabytes
        return str(local)


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Holds the checkpoint as attn-only-4l and, apart from it, its tokenizer."""
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for file in folder.glob("tokenizer*"):
        file.rename(tokenizer / file.name)
    (tokenizer / "model.safetensors").touch()
    edit_config(folder, tokenizer_name="some/tokenizer")
    names = {"NeelNanda/Attn_Only_4L512W_C4_Code": folder, "some/tokenizer": tokenizer}
    hub = Hub(names, tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.download)
    monkeypatch.setattr("dsae_core.models.hub._hub_answers", lambda name: True)
    return hub


def test_attn_only_4l_comes_from_the_hub(hub: Hub) -> None:
    model = load_model("attn-only-4l")
    assert model.name == "attn-only-4l"
    assert hub.asked == ["NeelNanda/Attn_Only_4L512W_C4_Code"] * 2 + ["some/tokenizer"]
    assert tokenize(model, ["Mary gave"]).tokens == (("<unk>", "Mary", "gave"),)
    assert not (hub.target / "some--tokenizer" / "model.safetensors").exists()


def test_safetensors_of_the_hub_are_fetched_once(hub: Hub, folder: Path) -> None:
    save_file(torch.load(folder / "model_final.pth"), folder / "model.safetensors")
    load_model("attn-only-4l")
    assert hub.asked == ["NeelNanda/Attn_Only_4L512W_C4_Code", "some/tokenizer"]


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_no_hub(hub: Hub, layers: int) -> None:
    hub.repositories.clear()
    with pytest.raises(UserError, match=rf"Attn_Only_{layers}L512W_C4_Code is not on this machine and the hub cannot"):
        load_model(f"attn-only-{layers}l")


def test_no_tokenizer_on_the_hub(hub: Hub) -> None:
    del hub.repositories["some/tokenizer"]
    with pytest.raises(UserError, match=r"no tokenizer of its own, and some/tokenizer, .* downloaded \(not\)"):
        load_model("attn-only-4l")


def test_no_weights_on_the_hub(hub: Hub, folder: Path) -> None:
    (folder / "model_final.pth").unlink()
    with pytest.raises(UserError, match="holds a HookedTransformer's config and no weights"):
        load_model("attn-only-4l")


def test_weights_that_cannot_be_downloaded(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_on_weights(name: str, *, allow_patterns: list[str], **options: Any) -> str:
        if "*final.pth" in allow_patterns:
            raise OSError("the disk is full")
        return hub.download(name, allow_patterns=allow_patterns, **options)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail_on_weights)
    with pytest.raises(UserError, match=r"C4_Code could not be downloaded \(the disk is full\)"):
        load_model("attn-only-4l")


def test_a_model_of_transformers_is_none(folder: Path) -> None:
    edit_config(folder, model_type="gpt2")
    with pytest.raises(UserError, match="pickles, which can run code"):
        load_model(str(folder))


def test_the_loaded_model_is_ready_for_use(folder: Path) -> None:
    model: LanguageModel = load_model(str(folder))
    assert not model.module.training
    assert not any(weight.requires_grad for weight in model.module.parameters())
    assert model.device == torch.device("cpu")
    with pytest.raises(UserError, match="more than the 16 allowed"):
        tokenize(model, ["a " * 17])
