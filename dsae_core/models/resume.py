"""Run only the last blocks of a model, from a recorded residual stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from dsae_core.models.language_model import LanguageModel


@contextmanager
def record_block_outputs(model: LanguageModel) -> Iterator[list[Any]]:
    """While open, a forward pass leaves what each block returned in the list, for `resume_at`."""
    outputs: list[Any] = []

    def keep(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        outputs.append(output)

    with model.lock, ExitStack() as hooks:
        for site in model.sites:
            hooks.callback(site.block.register_forward_hook(keep).remove)
        yield outputs


@contextmanager
def resume_at(model: LanguageModel, layer: int, block_outputs: list[Any], copies: int) -> Iterator[None]:
    """While open, blocks before `layer` are not computed: block `layer` reads the recorded residual stream.

    An edit of layer `layer` or later gives the same result as in a whole pass, at (L - layer) / L of its cost.

    Args:
        model: the model.
        layer: the first block that is computed.
        block_outputs: from `record_block_outputs`, on the same N prompts.
        copies: the passes are over the N prompts repeated this many times.
    """

    def pass_on(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Any:
        return (hidden_states,) if isinstance(block_outputs[0], tuple) else hidden_states

    def recall(*_args: Any, **_kwargs: Any) -> Any:
        return _repeat(block_outputs[layer - 1], copies)

    with model.lock, ExitStack() as undo:
        for index in range(layer):
            _replace_forward(model.sites[index].block, recall if index == layer - 1 else pass_on, undo)
        yield


def _replace_forward(block: nn.Module, forward: Callable[..., Any], undo: ExitStack) -> None:
    own = vars(block).get("forward")  # accelerate's, where the model is spread over devices
    block.forward = forward  # an instance attribute, found before the class's method
    if own is None:
        undo.callback(delattr, block, "forward")
    else:
        undo.callback(setattr, block, "forward", own)


def _repeat(output: Any, copies: int) -> Any:
    if isinstance(output, tuple):
        return (_repeat(output[0], copies), *output[1:])
    return output.repeat(copies, *[1] * (output.ndim - 1))
