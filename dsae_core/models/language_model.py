"""What the rest of the package knows about a language model: its sizes and where its heads write."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[str, float], None]
"""Called with a stage's name and how much of it is done, 0 to 1."""


@dataclass(frozen=True, eq=False)
class HeadSite:
    """Where one layer's heads write: ``z [.., heads * d] -> projection -> (norm) -> residual stream``."""

    path: str  # the projection's name in the module, e.g. "model.layers.0.self_attn.o_proj"
    block: nn.Module  # the layer; its first input is the residual stream
    projection: nn.Module  # Linear or Conv1D, from heads * d numbers to D
    norm: nn.Module | None = None  # the RMS norm between projection and residual stream, if there is one
    gain: Tensor | None = None  # that norm's gain, [D] float32


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model in evaluation mode, and the place of every attention head in it.

    ``digest`` names the weights: the SHA-256 of the file they came from (of a GGUF file for a converted
    model; of the list of shards and their digests where there are several), or "" where nobody computed one.
    ``notes`` say what a reader of its results should know, one sentence each: that its device failed, say.
    """

    name: str
    digest: str
    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    n_layers: int
    n_heads: int
    d_head: int
    d_model: int
    sites: tuple[HeadSite, ...]  # one a layer
    notes: tuple[str, ...] = ()
    # Hooks sit on the shared module: without the lock, one thread's edits would reach another's forward.
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def device(self) -> torch.device:
        """Where token ids must be put."""
        return input_device(self.module)

    @property
    def n_all_heads(self) -> int:
        """Heads in all layers together."""
        return self.n_layers * self.n_heads

    @property
    def positions(self) -> int | None:
        """The most tokens that it reads, None where its config does not say."""
        return positions(self.module.config)


@dataclass(frozen=True, eq=False)
class ModelTokenizer:
    """A model's tokenizer without the model: enough to see how it cuts prompts."""

    tokenizer: PreTrainedTokenizerBase
    positions: int | None  # the most tokens that the model reads, None where its config does not say


def positions(config: Any) -> int | None:
    """The most tokens that a model of this config reads, None where it does not say."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) else None


def input_device(module: PreTrainedModel) -> torch.device:
    """Where token ids must be put: where the embedding is, or is brought when it is needed."""
    device = embedding_weight(module).device
    if device.type != "meta":
        return device
    hook: Any = module.get_input_embeddings()._hf_hook  # accelerate's, where weights are kept elsewhere
    return torch.device(hook.execution_device)


@contextmanager
def weights_present(module: nn.Module) -> Iterator[None]:
    """While open, the module's own weights are where it computes, even if they are kept on the disk meanwhile."""
    if not hasattr(module, "_hf_hook"):
        yield
        return
    from accelerate.utils import align_module_device

    with align_module_device(module):
        yield


def embedding_weight(module: PreTrainedModel) -> Tensor:
    """The token embedding [V, D]."""
    weight = module.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight
