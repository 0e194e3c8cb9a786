"""load_model: from a name, a folder or a file to a checked LanguageModel."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dsae_core.errors import UserError
from dsae_core.models.adapter import adapt
from dsae_core.models.confined import require_confined, require_plain_name
from dsae_core.models.convert import read_gguf, read_gguf_tokenizer
from dsae_core.models.digest import weights_digest
from dsae_core.models.hooked import HUB_NAMES, fetch_hooked, is_hooked, read_hooked, read_tokenizer, weights_file
from dsae_core.models.hub import fetch_snapshot, first_line, stored_snapshot
from dsae_core.models.language_model import (
    LanguageModel,
    ModelTokenizer,
    Progress,
    embedding_weight,
    positions,
    weights_present,
)
from dsae_core.models.memory import TooLittleMemoryError, is_device_failure, require_memory
from dsae_core.models.quiet import quiet_transformers
from dsae_core.models.registry import KNOWN_MODELS, fetch_model, stored_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DeviceMap = Mapping[str, str | int | torch.device]
"""Where accelerate puts each part of a model, by the part's name; "disk" leaves it on the disk."""

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")


def load_model(
    name_or_path: str,
    *,
    device: str | torch.device | DeviceMap = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> LanguageModel:
    """Load a known model (`available_models`), a local folder or GGUF file, or a model of the hub.

    Only safetensors and GGUF weights are read, and HookedTransformer's .pth files as tensors only; no code that
    comes with a model is run, and no file outside its folder is read. A known name, ``attn-only-4l`` among them, goes
    before a folder of that name, and a folder before the hub; write ``./name`` for the folder.

    With the device "auto" accelerate spreads the layers over the GPUs that are there, then the CPU's memory, then the
    disk; a mapping from modules to devices (accelerate's `device_map`) says itself where each goes.

    Where a GPU fails meanwhile, lost or out of memory, the model is loaded on the CPU, and its notes say so; not where
    a mapping was given.

    Raises:
        UserError: The model cannot be found, read, held in memory or used; the message says what to do.
    """
    if isinstance(device, Mapping):
        return _load(name_or_path, torch.device("cpu"), dtype, progress, device)
    spread = "auto" if device == "auto" else None
    target = torch.device("cpu") if spread else _device(device)
    try:
        return _load(name_or_path, target, dtype, progress, spread)
    except (RuntimeError, TooLittleMemoryError) as error:
        uses_gpu = torch.cuda.is_available() if spread else target.type != "cpu"
        if not uses_gpu or not is_device_failure(error):
            raise
        note = f"{device_failed('cuda' if spread else target, error)} {name_or_path} was loaded on the CPU."
    return replace(_load(name_or_path, torch.device("cpu"), dtype, progress), notes=(note,))


def stored_tokenizer(name_or_path: str) -> ModelTokenizer | None:
    """The tokenizer that load_model would read, from files on this machine; None where the model is not here.

    Nothing is fetched, no weights are read, and no code that comes with a model is run.

    Raises:
        UserError: The files are damaged, or of a kind that load_model refuses.
    """
    if name_or_path in KNOWN_MODELS:
        path = stored_model(name_or_path)
    elif (path := _named_path(name_or_path)) is None:
        path = stored_snapshot(HUB_NAMES.get(name_or_path, name_or_path))
    if path is None:
        return None
    with _read_errors(name_or_path, "fetch it"):
        return _read_tokenizer(_inside(path) if path.is_dir() else path, name_or_path)


def device_failed(device: torch.device | str, error: Exception) -> str:
    """The sentence on a device that raised this."""
    return f"The device {device} failed ({first_line(error)})."


def _load(
    name_or_path: str,
    target: torch.device,
    dtype: torch.dtype,
    progress: Progress | None,
    spread: str | DeviceMap | None = None,
) -> LanguageModel:
    """Load onto one device, or spread over several."""
    known = KNOWN_MODELS.get(name_or_path)
    path = fetch_model(known.name, progress) if known is not None else _find(name_or_path, progress)
    if progress is not None:
        progress("load", 0.0)
    damaged = f"remove the folder {path}, and it is fetched" if known is not None else "fetch it"
    with quiet_transformers(), _read_errors(name_or_path, damaged):
        module, tokenizer = _read(path, name_or_path, dtype, target, spread)
        _check_tokenizer(module, tokenizer, name_or_path)
    _check_finite(module, name_or_path)
    digest = known.gguf_sha256 if known is not None else weights_digest(_weight_files(path))
    module.requires_grad_(False)
    if spread is None:
        nn.Module.to(module, target)
    with _read_errors(name_or_path, damaged):  # a config may fit its weights and be impossible to run
        model = adapt(module, tokenizer, name_or_path, digest)
    if progress is not None:
        progress("load", 1.0)
    return model


def _device(device: str | torch.device) -> torch.device:
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"{device!r} is no device; write cpu, cuda, cuda:1 or auto.") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise UserError("No CUDA device can be used here; choose the device cpu, or install a CUDA build of torch.")
    return target


# --- what to read ------------------------------------------------------------------------------------------


def _find(name: str, progress: Progress | None) -> Path:
    """The folder or GGUF file that a name which is not a known model's stands for, fetched where it is the hub's."""
    if (path := _named_path(name)) is not None:
        return path
    name = HUB_NAMES.get(name, name)
    folder = fetch_snapshot(name, progress)
    if is_hooked(folder) and not any(folder.glob("*.safetensors")):
        folder = fetch_hooked(name)
    return _inside(folder)


def _named_path(name: str) -> Path | None:
    """The local folder or GGUF file that a name stands for, None where it can only be one of the hub."""
    if not name.strip():
        raise UserError("The model has no name; give a known name, a folder, a GGUF file or a name of the hub.")
    name = HUB_NAMES.get(name, name)
    try:
        path = Path(name).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, of a user who is not there, with NUL
        raise UserError(f"{name[:60]!r} can be no model's name or path ({first_line(error)[:60]}).") from error
    if is_folder:
        return _inside(path)
    if is_file:
        if path.suffix != ".gguf":
            raise UserError(f"{path} is no GGUF file; give the folder that holds the model's files.")
        return path
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise UserError(f"There is no folder or file {path}; check the path, or give a model's name.")
    return None


def _inside(folder: Path) -> Path:
    """The folder itself if its weights are safetensors or a HookedTransformer's, or the one GGUF file in it."""
    require_confined(folder)
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds an adapter, not a model; merge it into its base model and save that.")
    if is_hooked(folder) or any(folder.glob("*.safetensors")):
        return folder
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return ggufs[0]
    if ggufs:
        raise UserError(f"{folder} holds {len(ggufs)} GGUF files; give the path of one of them.")
    if any(file for pattern in PICKLES for file in folder.glob(pattern)):
        raise UserError(
            f"{folder} has its weights as pickles, which can run code and are not read; convert them where you "
            "trust them, with transformers' from_pretrained and save_pretrained, which writes safetensors."
        )
    raise UserError(f"{folder} holds no weights: neither *.safetensors nor one *.gguf is there.")


def _weight_files(path: Path) -> list[Path]:
    """The files that are read from a folder, or the GGUF file itself: the index's shards, or the one file."""
    if path.is_file():
        return [path]
    if is_hooked(path):
        return [weights_file(path)]
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if single.is_file():  # transformers reads this one where there are both
        return [single]
    if not index.is_file():
        return sorted(path.glob("*.safetensors"))
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{index} is damaged; fetch the model again.") from error
    for name in names:
        require_plain_name(str(name), index)
    missing = sorted(name for name in names if not (path / name).is_file())
    if missing:
        raise UserError(f"{path} lacks {missing[0]}, which its index names; fetch the model again.")
    return sorted(path / name for name in names)


# --- reading -----------------------------------------------------------------------------------------------


def _read(
    path: Path, name: str, dtype: torch.dtype, device: torch.device, spread: str | DeviceMap | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoConfig, AutoModelForCausalLM

    if spread is not None and (path.is_file() or is_hooked(path)):
        raise UserError(
            f"{name} cannot be spread over devices, only a model in transformers' own format can; choose the device "
            "cpu or cuda."
        )
    if is_hooked(path):
        return read_hooked(path, name, dtype, device)
    sizes = [size for file in _weight_files(path) for size in _weight_sizes(file)]
    if spread is None:  # else what no memory holds stays on the disk
        n_bytes = sum(sizes) * dtype.itemsize
        require_memory(n_bytes, device, f"The weights of {name}", "Choose a smaller model or dtype.")
    if path.is_file():
        return read_gguf(path, dtype)
    _refuse_own_code(path, name)
    config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    if any(getattr(part, "quantization_config", None) for part in (config, config.get_text_config())):
        raise UserError(f"{name} has quantised weights; use the model they were made from, or its GGUF file.")
    _check_layers(config.get_text_config(), len(sizes), name)
    config.transformers_weights = None  # a config may name other weights than those that are sized and digested here
    config._experts_implementation = None  # a config may name one that would be downloaded, like an attention
    tokenizer = _tokenizer_reader(path).from_pretrained(path, trust_remote_code=False, local_files_only=True)
    auto: Any = AutoModelForCausalLM
    module, report = auto.from_pretrained(
        path,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        # Every model has the plain implementation and it leaves nothing out (sdpa knows no soft cap). A config
        # may name another, compiled code of the hub; only beside `config=` does this argument overrule it.
        attn_implementation="eager",
        output_loading_info=True,
        **({} if spread is None else {"device_map": spread if isinstance(spread, str) else dict(spread)}),
    )
    if report["missing_keys"]:  # transformers would go on with random numbers in their place
        raise UserError(f"{name} lacks the weights {sorted(report['missing_keys'])[0]}; fetch the model again.")
    _check_surplus(module, report["unexpected_keys"], name)
    return module, tokenizer


def _read_tokenizer(path: Path, name: str) -> ModelTokenizer:
    """The tokenizer in a folder or a GGUF file, and how many tokens the config beside it allows."""
    from transformers import AutoConfig

    if path.is_file():
        config, tokenizer = read_gguf_tokenizer(path)
        return ModelTokenizer(tokenizer, positions(config))
    if is_hooked(path):
        options = json.loads((path / "config.json").read_text(encoding="utf-8"))
        return ModelTokenizer(read_tokenizer(path, options, name, fetch=False), options.get("n_ctx"))
    _refuse_own_code(path, name)
    config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    tokenizer = _tokenizer_reader(path).from_pretrained(path, trust_remote_code=False, local_files_only=True)
    return ModelTokenizer(tokenizer, positions(config))


def _weight_sizes(file: Path) -> list[int]:
    """How many numbers each tensor of a weights file has, read from its header."""
    if file.suffix == ".gguf":
        from gguf import GGUFReader

        return [int(tensor.n_elements) for tensor in GGUFReader(file).tensors]
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        return [torch.Size(weights.get_slice(key).get_shape()).numel() for key in weights.keys()]  # noqa: SIM118


def _tokenizer_reader(path: Path) -> Any:
    """The class that reads a folder's tokenizer as it was saved.

    AutoTokenizer goes by the model's family for some of them, and cuts the text as that family does even where the
    folder says that its tokenizer is one of another kind.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        named = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))["tokenizer_class"]
    except (OSError, ValueError, KeyError, TypeError):
        return AutoTokenizer
    is_plain = named in ("TokenizersBackend", "PreTrainedTokenizerFast") and (path / "tokenizer.json").is_file()
    return PreTrainedTokenizerFast if is_plain else AutoTokenizer


def _refuse_own_code(path: Path, name: str) -> None:
    """Raise where a model is of a kind that only code beside its weights knows; transformers would offer to run it."""
    from transformers import CONFIG_MAPPING

    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if isinstance(config, dict) and "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING:
        raise UserError(
            f"{name} brings code of its own, which is not run; choose a model of a kind that transformers knows."
        )


def _check_layers(config: Any, n_tensors: int, name: str) -> None:
    """Raise where a config names more layers than there are tensors: to build them all could take for ever."""
    n_layers = getattr(config, "num_hidden_layers", None)
    if isinstance(n_layers, int) and n_layers > n_tensors:
        raise UserError(
            f"The config of {name} names {n_layers} layers, and its weights are {n_tensors} tensors; fetch it again."
        )


def _check_surplus(module: PreTrainedModel, unexpected: Collection[str], name: str) -> None:
    """Raise where the weights have layers that the config does not name: the model would be another one."""
    known = set(module.state_dict())
    for key in sorted(unexpected):
        if re.sub(r"\.\d+\.", ".0.", key, count=1) in known:
            raise UserError(f"{name} has weights of a layer that its config does not name, {key}; fetch it again.")


def _check_tokenizer(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise where the tokenizer could give an id that the model has no embedding for."""
    rows = embedding_weight(module).shape[0]
    added: list[int] = tokenizer("a")["input_ids"]  # what it puts around a text need not be in its vocabulary
    largest = max([*tokenizer.get_vocab().values(), *added], default=-1)
    if largest >= rows:
        raise UserError(
            f"The tokenizer of {name} has ids up to {largest} and the model embeds only {rows}; "
            "use the tokenizer that belongs to the model."
        )


def _check_finite(module: PreTrainedModel, name: str) -> None:
    for path, part in module.named_modules():
        with weights_present(part):
            for key, weight in part.named_parameters(prefix=path, recurse=False):
                if not bool(torch.isfinite(weight).all()):
                    raise UserError(
                        f"{name} has weights that are not numbers (NaN or infinite), in {key}; fetch it again."
                    )


@contextmanager
def _read_errors(name: str, remedy: str) -> Iterator[None]:
    """Turn whatever is raised for a model that cannot be read into one sentence; the remedy goes before "again"."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # tokenizers raises plain Exception, transformers half a dozen kinds
        if is_device_failure(error):
            raise
        reason = first_line(error)
        if "ignore_mismatched_sizes" in reason:  # an option of transformers that nobody here can set
            reason = "its weights have other sizes than its config names"
        raise UserError(
            f"{name} cannot be loaded: {reason}; if its files are damaged, {remedy} again, and else choose another "
            "model."
        ) from error
