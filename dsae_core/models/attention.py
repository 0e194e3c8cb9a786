"""Read attention weights and values where a model computes them, for every family that transformers dispatches."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from dsae_core.models.language_model import LanguageModel

Observe = Callable[[int, Tensor, Tensor], None]
"""Called with a layer, its attention weights [B, heads, T, T] and its values [B, key/value heads, T, d]."""

OBSERVER = "dsae_observe_attention"
"""Attribute of an attention module that is given its weights and values in each forward pass, while it is set.

A module of our own has it from the start, None, and looks for it by itself.
"""

_NAME = "dsae_observed"


@contextmanager
def observe_attention(model: LanguageModel, observe: Observe) -> Iterator[bool]:
    """While open, every forward pass shows its attention; other threads' passes through the model wait.

    Attention is computed in the plain way meanwhile, the only one that has its weights to show.

    Yields:
        Whether the model can be observed: it can where its attention is dispatched by name, as in most families.
        GPT-Neo, for one, computes its own.
    """
    modules = [model.module.get_submodule(site.path.rpartition(".")[0]) for site in model.sites]
    with model.lock, ExitStack() as undo:
        possible = _switch(model, modules, undo)
        for layer, module in enumerate(modules if possible else ()):
            setattr(module, OBSERVER, functools.partial(observe, layer))
            undo.callback(delattr, module, OBSERVER)
        yield possible


def _switch(model: LanguageModel, modules: list[nn.Module], undo: ExitStack) -> bool:
    """Have the attention modules report; whether they will."""
    if all(hasattr(module, OBSERVER) for module in modules):
        return True
    if not all(hasattr(sys.modules[type(module).__module__], "eager_attention_forward") for module in modules):
        return False
    _register()
    before = model.module.config.get_text_config()._attn_implementation
    model.module.set_attn_implementation(_NAME)
    undo.callback(model.module.set_attn_implementation, before)
    return True


@functools.cache
def _register() -> None:
    """Make the name known to transformers; its documentation calls this a custom attention function."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(_NAME, _observed_attention)
    AttentionMaskInterface.register(_NAME, eager_mask)


def _observed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """The family's own plain attention, whose weights and values the module's observer sees."""
    plain = sys.modules[type(module).__module__].eager_attention_forward
    output, weights = plain(module, query, key, value, *args, **kwargs)
    observe = getattr(module, OBSERVER, None)
    if observe is not None:
        observe(weights, value)
    return output, weights
