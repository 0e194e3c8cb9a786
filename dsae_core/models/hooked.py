"""Read HookedTransformer checkpoints: TransformerLens's own format, which its attention-only models are kept in."""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from dsae_core.errors import UserError
from dsae_core.models.hub import UNWANTED, WANTED, first_line
from dsae_core.models.memory import require_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dsae_core.models.hooked_module import HookedConfig

HUB_NAMES = {f"attn-only-{layers}l": f"NeelNanda/Attn_Only_{layers}L512W_C4_Code" for layers in (1, 2, 3, 4)}
"""The names that TransformerLens gives to models of the hub in this format."""

TOKENIZER_FILES = ("tokenizer*", "*token*.json", "vocab*", "merges.txt", "*.model", "config.json")


def read_hooked(
    folder: Path, name: str, dtype: torch.dtype, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and the tokenizer in a folder of config.json and one .pth or .safetensors file, on the CPU.

    Nothing in a .pth file is run: it is unpickled with ``weights_only=True``. The tokenizer is the folder's own, or
    the config's ``tokenizer_name`` from the hub. It puts its start token before every prompt, as TransformerLens
    does by default, unless the config has ``default_prepend_bos`` false.

    Raises:
        UserError: An option of the config is not supported; a weight is missing, unknown or of another shape than
            the config says; the file holds anything but tensors; the weights would not fit on `device`; or there
            is no tokenizer.
    """
    from dsae_core.models.hooked_module import HookedModule

    options = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = read_config(options, name)
    layout = tuple(_layout(config))
    n_weights = sum(math.prod(weight.shape) for weight in layout)
    require_memory(n_weights * dtype.itemsize, device, f"The weights of {name}", "Choose a smaller dtype.")
    tokenizer = read_tokenizer(folder, options, name)
    weights = _convert(_read_tensors(weights_file(folder)), layout, name)
    with torch.device("meta"):  # takes no memory, as every weight is replaced
        module = HookedModule(config)
    module.load_state_dict({key: weight.to(dtype) for key, weight in weights.items()}, assign=True)
    return module, tokenizer


# --- files -------------------------------------------------------------------------------------------------


def is_hooked(path: Path) -> bool:
    """Whether a folder's config.json is a HookedTransformer's; transformers' own would name a model_type."""
    try:
        options = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whoever reads the folder next says what is wrong with it
    return isinstance(options, dict) and "model_type" not in options and {"d_model", "n_layers"} <= options.keys()


def weights_file(folder: Path) -> Path:
    """The one file of weights in a folder.

    Raises:
        UserError: There is none, or there are several and nothing says which of them is meant.
    """
    for pattern in ("*.safetensors", "*final.pth", "*.pth"):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise UserError(f"{folder} holds {len(found)} files {pattern}; leave only the one that is to be read.")
        if found:
            return found[0]
    raise UserError(f"{folder} holds a HookedTransformer's config and no weights; put its model_final.pth there.")


def fetch_hooked(name: str) -> Path:
    """The local folder of a hub model in this format, with its weights in .pth.

    Raises:
        UserError: It could not be downloaded.
    """
    return _download(name, (*WANTED, "*final.pth"), f"{name} could not be downloaded")


def _download(name: str, patterns: Sequence[str], failure: str, *, local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=list(patterns),
                ignore_patterns=list(UNWANTED),
                local_files_only=local_files_only,
            )
        )
    except (OSError, ValueError) as error:  # ValueError where it is no possible name
        raise UserError(f"{failure} ({first_line(error)}).") from error


def _read_tensors(file: Path) -> dict[str, Tensor]:
    """Everything in a .safetensors or .pth file, as long as it is tensors by name."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    refusal = f"{file} is damaged or holds something other than tensors by name, which could run code; it is not read."
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(refusal) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise UserError(refusal)
    return dict(state)


# --- options -----------------------------------------------------------------------------------------------

# Every option is in one of these lists or refused. They are those of HookedTransformerConfig in TransformerLens 2.18
# and of the code that trained the attn-only models (neelnanda-io's solu), whose config.json they have unchanged:
# it calls three of them "normalization", "ln_eps" and "shortformer_pos".
SIZES = ("n_layers", "d_model", "d_head", "n_ctx", "d_vocab")
READ = {
    *SIZES,
    *("n_heads", "n_key_value_heads", "d_vocab_out", "normalization", "normalization_type", "eps", "ln_eps"),
    *("positional_embedding_type", "shortformer_pos", "use_attn_scale", "attn_scale"),
    *("tokenizer_name", "default_prepend_bos"),
}
# What has no part here, by the value that means it is absent.
ABSENT: dict[str, Any] = {
    "architecture": "neel",
    "attention_dir": "causal",
    "attn_scores_soft_cap": -1.0,
    "output_logits_soft_cap": -1.0,
    **dict.fromkeys(("use_local_attn", "scale_attn_by_inverse_layer_idx", "final_rms", "parallel_attn_mlp"), False),
    **dict.fromkeys(("gated_mlp", "post_embedding_ln", "use_normalization_before_and_after", "use_qk_norm"), False),
    **dict.fromkeys(("tie_word_embeddings", "load_in_4bit", "rotary_adjacent_pairs", "use_NTK_by_parts_rope"), False),
    **dict.fromkeys(("window_size", "attn_types", "rotary_dim", "rotary_base_local", "decoder_start_token_id")),
    **dict.fromkeys(("num_experts", "experts_per_token")),
    **dict.fromkeys(("relative_attention_max_distance", "relative_attention_num_buckets")),
}
# What a forward pass does not depend on where there are neither MLPs nor rotary positions.
WITHOUT_EFFECT = {
    *("model_name", "original_architecture", "from_checkpoint", "init_mode", "init_weights", "trust_remote_code"),
    *("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in", "use_attn_in", "use_hook_tokens", "n_params"),
    *("device", "n_devices", "dtype", "seed", "tokenizer_prepends_bos", "ungroup_grouped_query_attention"),
    *("d_mlp", "act_fn", "neuron_scale", "neuron_temp", "rotary_base", "NTK_original_ctx_len"),
    *("NTK_by_parts_factor", "NTK_by_parts_low_freq_factor", "NTK_by_parts_high_freq_factor"),
    # of the training
    *("version", "debug", "control", "betas", "weight_decay", "grad_norm_clip", "truncate_tokens", "tokens_per_step"),
    *("use_acc", "use_bfloat16_matmul", "weight_init_scheme", "fixed_init", "store_init"),
}
TRAINING = re.compile("(lr|batch|batches|max|warmup|train|log|save|debug|dataset|checkpoint|initializer)_.+")


def read_config(options: Mapping[str, Any], name: str) -> HookedConfig:
    """What a `HookedModule` needs to know, from the options of a HookedTransformer.

    Raises:
        UserError: An option is missing, unknown, or says something that the module does not compute; it is named.
    """
    from dsae_core.models.hooked_module import HookedConfig

    _check_options(options, name)
    layers, d_model, d_head, n_ctx, d_vocab = (_size(options, key, name) for key in SIZES)
    n_heads = d_model // d_head if options.get("n_heads", -1) == -1 else _size(options, "n_heads", name)
    for key, expected in (("d_vocab_out", d_vocab), ("n_key_value_heads", n_heads)):
        if options.get(key) not in (None, -1, expected):
            raise _unsupported(name, key, options[key], f"{key} = {expected}")
    return HookedConfig(
        num_hidden_layers=layers,
        hidden_size=d_model,
        head_dim=d_head,
        num_attention_heads=n_heads,
        max_position_embeddings=n_ctx,
        vocab_size=d_vocab,
        normalization=_normalization(options, name),
        layer_norm_eps=float(options.get("eps", options.get("ln_eps", 1e-5))),
        shortformer=_shortformer(options, name),
        attention_scale=_attention_scale(options, d_head),
    )


def _check_options(options: Mapping[str, Any], name: str) -> None:
    if options.get("attn_only") is not True:  # where it is missing there are MLPs
        raise _unsupported(name, "attn_only", options.get("attn_only", False), "attn_only = true")
    for key, value in options.items():
        if key in ABSENT and value != ABSENT[key]:
            raise _unsupported(name, key, value, f"{key} = {json.dumps(ABSENT[key])}")
        if not (key in READ or key in ABSENT or key in WITHOUT_EFFECT or key == "attn_only" or TRAINING.fullmatch(key)):
            raise UserError(f"The config of {name} has an option {key}, which is unknown here and not passed over.")


def _unsupported(name: str, key: str, value: Any, supported: str) -> UserError:
    return UserError(
        f"The config of {name} says {key} = {json.dumps(value)}; of the HookedTransformers, those with {supported} "
        "are supported."
    )


def _size(options: Mapping[str, Any], key: str, name: str) -> int:
    value = options.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"The config of {name} must have a positive whole number as its {key}, not {value!r}.")
    return value


def _normalization(options: Mapping[str, Any], name: str) -> str | None:
    key = "normalization" if "normalization" in options else "normalization_type"
    value = options.get(key, "LN")
    if value not in ("LN", "LNPre", None):
        raise _unsupported(name, key, value, f'{key} = "LN", "LNPre" or null')
    return None if value is None else str(value)


def _shortformer(options: Mapping[str, Any], name: str) -> bool:
    kind = options.get("positional_embedding_type", "shortformer" if options.get("shortformer_pos") else "standard")
    if kind not in ("standard", "shortformer"):
        key = "positional_embedding_type"
        raise _unsupported(name, key, kind, f'{key} = "standard" or "shortformer"')
    return bool(kind == "shortformer")


def _attention_scale(options: Mapping[str, Any], d_head: int) -> float:
    """What the attention scores are divided by."""
    if not options.get("use_attn_scale", True):
        return 1.0
    scale = float(options.get("attn_scale", -1.0))
    return math.sqrt(d_head) if scale == -1.0 else scale


# --- weights -----------------------------------------------------------------------------------------------

BUFFERS = re.compile(r"blocks\.\d+\.attn\.(mask|IGNORE)")
"""The causal mask and the number it writes, which some checkpoints have beside the weights."""


class _Weight(NamedTuple):
    source: str  # its name in the checkpoint
    shape: tuple[int, ...]  # its shape there
    target: str  # its name in the module
    convert: Callable[[Tensor], Tensor]  # into the module's shape


def _layout(config: HookedConfig) -> Iterator[_Weight]:
    """Every weight of a checkpoint, and what it is called and shaped like in the module."""
    d_model, n_heads, d_head = config.hidden_size, config.num_attention_heads, config.head_dim
    yield _Weight("embed.W_E", (config.vocab_size, d_model), "embed_tokens.weight", _same)
    yield _Weight("pos_embed.W_pos", (config.max_position_embeddings, d_model), "embed_positions.weight", _same)
    for layer in range(config.num_hidden_layers):
        block, attention = f"blocks.{layer}", f"blocks.{layer}.attn"
        yield from _norm_layout(f"{block}.ln1", f"{block}.norm", config)
        for letter in "QKV":
            target = f"{block}.self_attn.{letter.lower()}_proj"
            yield _Weight(f"{attention}.W_{letter}", (n_heads, d_model, d_head), f"{target}.weight", _input_matrix)
            yield _Weight(f"{attention}.b_{letter}", (n_heads, d_head), f"{target}.bias", torch.flatten)
        target = f"{block}.self_attn.o_proj"
        yield _Weight(f"{attention}.W_O", (n_heads, d_head, d_model), f"{target}.weight", _output_matrix)
        yield _Weight(f"{attention}.b_O", (d_model,), f"{target}.bias", _same)
    yield from _norm_layout("ln_final", "norm", config)
    yield _Weight("unembed.W_U", (d_model, config.vocab_size), "unembed.weight", torch.t)
    yield _Weight("unembed.b_U", (config.vocab_size,), "unembed.bias", _same)


def _norm_layout(source: str, target: str, config: HookedConfig) -> Iterator[_Weight]:
    if config.normalization == "LN":
        yield _Weight(f"{source}.w", (config.hidden_size,), f"{target}.weight", _same)
        yield _Weight(f"{source}.b", (config.hidden_size,), f"{target}.bias", _same)


def _same(value: Tensor) -> Tensor:
    return value


def _input_matrix(value: Tensor) -> Tensor:
    """[heads, D, d] as [heads * d, D]."""
    return value.transpose(1, 2).flatten(0, 1)


def _output_matrix(value: Tensor) -> Tensor:
    """[heads, d, D] as [D, heads * d]."""
    return value.flatten(0, 1).t()


def _convert(state: Mapping[str, Tensor], layout: Sequence[_Weight], name: str) -> dict[str, Tensor]:
    """The module's weights, each of them from exactly one of the checkpoint's."""
    known = {weight.source for weight in layout}
    for key in sorted(state):
        if key not in known and not BUFFERS.fullmatch(key):
            raise UserError(f"{name} has a weight {key}, which has no place in the model that its config describes.")
    converted = {}
    for source, shape, target, convert in layout:
        value = state.get(source)
        if value is None and source == "unembed.b_U":  # the attn-only models were trained without
            value = torch.zeros(shape)
        if value is None:
            raise UserError(f"{name} lacks the weight {source}; fetch the model again.")
        if value.shape != shape or not value.is_floating_point():
            raise UserError(
                f"{name} has its weight {source} as {str(value.dtype).removeprefix('torch.')} {list(value.shape)}, "
                f"where its config calls for numbers {list(shape)}."
            )
        converted[target] = convert(value).contiguous()
    return converted


# --- tokenizer ---------------------------------------------------------------------------------------------


def read_tokenizer(
    folder: Path, options: Mapping[str, Any], name: str, *, fetch: bool = True
) -> PreTrainedTokenizerBase:
    """The folder's own tokenizer, or the config's ``tokenizer_name`` from the hub, or from its cache unless `fetch`.

    Raises:
        UserError: there is none.
    """
    from transformers import AutoTokenizer, PretrainedConfig

    # AutoTokenizer looks for the tokenizer's class in config.json too, and cannot read a HookedTransformer's.
    config: PretrainedConfig | None = PretrainedConfig()
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
        source = options.get("tokenizer_name")
        if not isinstance(source, str):
            raise UserError(f"{name} has no tokenizer; put its tokenizer.json into {folder}.")
        failure = f"{name} has no tokenizer of its own, and {source}, which its config names, could not be downloaded"
        folder = _download(source, TOKENIZER_FILES, failure, local_files_only=not fetch)
        config = None if (folder / "config.json").is_file() else config
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, config=config, trust_remote_code=False, local_files_only=True
    )
    _set_start_token(tokenizer, bool(options.get("default_prepend_bos", True)), name)
    return tokenizer


def _set_start_token(tokenizer: Any, wanted: bool, name: str) -> None:
    """Have the tokenizer put its start token before every text, or not."""
    token = tokenizer.bos_token or tokenizer.eos_token  # TransformerLens takes the one for the other too
    if token is None:
        if wanted:
            raise UserError(
                f"The tokenizer of {name} has no start token; name one as its bos_token, or set default_prepend_bos "
                "to false in the model's config."
            )
        return
    tokenizer.bos_token = token
    tokenizer.add_bos_token = wanted
    start = [tokenizer.bos_token_id] if wanted else []
    plain = tokenizer.encode("a", add_special_tokens=False)
    if tokenizer.encode("a") != start + plain:
        raise UserError(f"The tokenizer of {name} cannot be told whether to put {token} before a text.")
