"""Read GGUF files, and rewrite them as safetensors, which load ten times faster."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dsae_core.models.language_model import Progress
from dsae_core.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def read_gguf(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A GGUF file's model, its weights expanded to plain ones, and its tokenizer (6 s for 135M weights)."""
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
    # Newer versions keep weights packed where they can, for which they download compiled kernels.
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    module: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path.parent, dtype=dtype, attn_implementation="eager", **options
    )
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    return module, tokenizer


def read_gguf_tokenizer(path: Path) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """A GGUF file's config and tokenizer, without its weights."""
    from transformers import AutoConfig, AutoTokenizer

    options: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False, "local_files_only": True}
    return AutoConfig.from_pretrained(path.parent, **options), AutoTokenizer.from_pretrained(path.parent, **options)


def convert_gguf(gguf: Path, folder: Path, progress: Progress | None = None) -> None:
    """Write a GGUF file's model and tokenizer to a new folder, float32, flushed to disk."""
    from safetensors.torch import save_file

    if progress is not None:
        progress("convert", 0.0)
    with quiet_transformers():
        module, tokenizer = read_gguf(gguf, torch.float32)
    if progress is not None:
        progress("convert", 0.7)
    folder.mkdir()
    # A model read from GGUF refuses save_pretrained, so its config and its weights are written one by one,
    # with nothing left in the config (some versions of transformers do leave it) of how they were packed.
    config = module.config
    vars(config).pop("quantization_config", None)
    config.architectures = [type(module).__name__]
    with _system_errors():
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        save_file(_untied(module), folder / "model.safetensors", metadata={"format": "pt"})
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes 0600, which would lock a shared cache's other users out
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    if progress is not None:
        progress("convert", 1.0)


@contextmanager
def _system_errors() -> Iterator[None]:
    """Raise the OSError that tokenizers and safetensors, which are not Python, only quote: of a full disk, say."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # tokenizers raises nothing more special
        quoted = re.search(r"\(os error (\d+)\)", str(error))
        if quoted is None:
            raise
        raise OSError(int(quoted[1]), os.strerror(int(quoted[1]))) from error


def _untied(module: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights by name, each once: an output layer tied to the embedding is the same tensor."""
    # named_parameters leaves out duplicates; buffers that belong in a file are the state dict's.
    names = {name for name, _ in module.named_parameters()} | {name for name, _ in module.named_buffers()}
    return {name: value.contiguous() for name, value in module.state_dict().items() if name in names}
