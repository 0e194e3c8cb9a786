"""Prompts in, head outputs out; and forward passes in which head outputs are edited."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dsae_core.errors import UserError
from dsae_core.models.adapter import block_input, fit_inverse_rms, run_module
from dsae_core.models.attention import observe_attention
from dsae_core.models.language_model import HeadSite, LanguageModel, ModelTokenizer, Progress
from dsae_core.models.memory import FORWARD_PROMPTS, available_memory, require_memory
from dsae_core.models.token_text import token_text

ATTENTION_NUMBERS = 2**28
"""The most attention weights [B, heads, T, T] that one layer may hold at a time: 1 GiB in float32."""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """E tokenised prompts, left-padded to T positions so that they are aligned at their ends."""

    ids: Tensor  # [E, T] int64, 0 on padding
    mask: Tensor  # [E, T] bool, False on padding
    tokens: tuple[tuple[str, ...], ...]  # E times T readable tokens, "" on padding

    def rows(self, chosen: Sequence[int]) -> TokenBatch:
        """Some of the prompts, in this order, in the same positions."""
        return TokenBatch(self.ids[list(chosen)], self.mask[list(chosen)], tuple(self.tokens[row] for row in chosen))


@dataclass(frozen=True, eq=False)
class HeadOutputs:
    """What every head put out for E prompts of T positions, on the model's device.

    ``z @ output_weights`` is what each head writes to the residual stream. z and residual_norm are 0 on padding.
    """

    z: Tensor  # [E, T, L, heads, d] float32
    mask: Tensor  # [E, T] bool
    residual_norm: Tensor  # [L, E, T] float32: norm of the residual stream as it enters each layer
    logits: Tensor  # [E, V] float32, at the last position
    routes: Routes | None = None  # where asked for, and where the model shows them and they fit in memory


@dataclass(frozen=True, eq=False)
class Routes:
    """What a forward pass moved between positions, so that a change can be followed to the prediction.

    What head h writes at position t is the sum over s of ``attention[.., t, s] * values[s] @ W_O[h]``, plus what a
    bias of the values adds. All float32, on the model's device, attention 0 on padding.
    """

    attention: Tensor  # [L, E, heads, T, T]; divided by the RMS of the norm after the projection where there is one
    values: Tensor  # [L, E, T, heads, d]
    streams: Tensor  # [L, E, T, D], the residual stream as it enters each layer


def tokenize(
    model: LanguageModel | ModelTokenizer,
    prompts: Sequence[str],
    *,
    max_tokens: int = 1024,
    names: Sequence[str] | None = None,
) -> TokenBatch:
    """Tokenise prompts as the model's tokenizer does by default (with its start token, where it has one).

    Args:
        model: the model, or its tokenizer alone.
        prompts: E texts.
        max_tokens: more tokens than this, or than the model has positions, are refused.
        names: what to call each prompt in an error; "Row 1" and so on where not given.

    Raises:
        UserError: There are no prompts, or one, named, is not text, is empty or is too long.
    """
    if not prompts:
        raise UserError("There are no prompts; give at least one.")
    names = [f"Row {row}" for row in range(1, len(prompts) + 1)] if names is None else names
    for name, prompt in zip(names, prompts, strict=True):
        if not isinstance(prompt, str):
            raise UserError(f"{name}: the prompt is not text but {prompt!r}.")
        if not prompt.strip():
            raise UserError(f"{name}: the prompt is empty; write some text or take the row out.")
    encoded: list[list[int]] = model.tokenizer(list(prompts), padding=False, verbose=False)["input_ids"]
    limit = min(max_tokens, model.positions or max_tokens)
    for name, ids in zip(names, encoded, strict=True):
        if not ids:
            raise UserError(f"{name}: the prompt has no tokens for this model.")
        if len(ids) > limit:
            raise UserError(f"{name}: the prompt has {len(ids)} tokens, more than the {limit} allowed; shorten it.")
    return _pad_left(model, encoded)


def _pad_left(model: LanguageModel | ModelTokenizer, encoded: list[list[int]]) -> TokenBatch:
    length = max(map(len, encoded))
    ids = torch.zeros(len(encoded), length, dtype=torch.long)
    mask = torch.zeros(len(encoded), length, dtype=torch.bool)
    for row, row_ids in enumerate(encoded):
        ids[row, length - len(row_ids) :] = torch.tensor(row_ids)
        mask[row, length - len(row_ids) :] = True
    text = {token: token_text(model.tokenizer, token) for token in {token for row_ids in encoded for token in row_ids}}
    tokens = tuple(("",) * (length - len(row)) + tuple(text[token] for token in row) for row in encoded)
    return TokenBatch(ids, mask, tokens)


def collect_head_outputs(
    model: LanguageModel,
    batch: TokenBatch,
    *,
    batch_size: int = FORWARD_PROMPTS,
    routes: bool = False,
    progress: Progress | None = None,
) -> HeadOutputs:
    """Run the prompts forward, at most `batch_size` at once, and keep every head's z at every position.

    z is the input of the attention output projection, divided by the RMS of the norm after it where there is one.

    Args:
        model: the model.
        batch: from tokenize.
        batch_size: prompts in one forward pass.
        routes: also keep attention, values and streams, where they take at most half of the memory that is free.
        progress: called as ("collect", share done).

    Raises:
        UserError: The outputs do not fit in the memory that is free.
    """
    n_prompts, length = batch.ids.shape
    shape = (n_prompts, length, model.n_layers, model.n_heads, model.d_head)
    require_memory(4 * torch.Size(shape).numel(), model.device, "The head outputs", "Use fewer or shorter prompts.")
    z = torch.zeros(shape, device=model.device)
    residual_norm = torch.zeros(model.n_layers, n_prompts, length, device=model.device)
    kept = _empty_routes(model, n_prompts, length) if routes else None
    logits = []
    batch_size = max(1, min(batch_size, ATTENTION_NUMBERS // (model.n_heads * length**2)))
    for start in range(0, n_prompts, batch_size):
        rows = slice(start, min(start + batch_size, n_prompts))
        with model.lock, ExitStack() as hooks:
            for layer, site in enumerate(model.sites):
                hooks.enter_context(_reading(site, z[rows, :, layer], residual_norm[layer, rows]))
            if kept is not None and not hooks.enter_context(_reading_routes(model, kept, rows)):
                kept = None
            logits.append(last_logits(model, batch.ids[rows], batch.mask[rows]))
        if progress is not None:
            progress("collect", rows.stop / n_prompts)
    mask = batch.mask.to(model.device)
    if not bool(mask.all()):  # whatever a model computes on padding means nothing
        z.masked_fill_(~mask[:, :, None, None, None], 0.0)
        residual_norm.masked_fill_(~mask, 0.0)
        if kept is not None:
            kept.attention.masked_fill_(~(mask[:, None, :, None] & mask[:, None, None, :]), 0.0)
            kept.streams.masked_fill_(~mask[..., None], 0.0)
    return HeadOutputs(z, mask, residual_norm, torch.cat(logits), kept)


def _empty_routes(model: LanguageModel, n_prompts: int, length: int) -> Routes | None:
    """Room for the routes of n prompts, None where they would take more than half of the free memory."""
    n_layers, n_heads = model.n_layers, model.n_heads
    shapes = (
        (n_layers, n_prompts, n_heads, length, length),
        (n_layers, n_prompts, length, n_heads, model.d_head),
        (n_layers, n_prompts, length, model.d_model),
    )
    if 4 * sum(torch.Size(shape).numel() for shape in shapes) > available_memory(model.device) // 2:
        return None
    return Routes(*(torch.zeros(shape, device=model.device) for shape in shapes))


@contextmanager
def _reading_routes(model: LanguageModel, routes: Routes, rows: slice) -> Iterator[bool]:
    """While open, a forward pass over these rows is copied into routes; yields whether the model allows it."""

    def read_attention(layer: int, weights: Tensor, values: Tensor) -> None:
        repeats = model.n_heads // values.shape[1]  # grouped heads share keys and values
        routes.attention[layer, rows] = weights.float()
        routes.values[layer, rows] = values.float().repeat_interleave(repeats, dim=1).transpose(1, 2)

    def reading_block(layer: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def read_stream(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            routes.streams[layer, rows] = block_input(args, kwargs).float()

        return read_stream

    def reading_norm(layer: int, gain: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def divide_by_rms(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            factor = fit_inverse_rms(args[0], output, gain).to(routes.attention.device)
            routes.attention[layer, rows] *= factor[:, None, :, None]

        return divide_by_rms

    with observe_attention(model, read_attention) as possible, ExitStack() as hooks:
        for layer, site in enumerate(model.sites):
            hooks.callback(site.block.register_forward_pre_hook(reading_block(layer), with_kwargs=True).remove)
            if site.norm is not None and site.gain is not None:
                hooks.callback(site.norm.register_forward_hook(reading_norm(layer, site.gain)).remove)
        yield possible


@contextmanager
def _reading(site: HeadSite, z: Tensor, residual_norm: Tensor) -> Iterator[None]:
    """While open, a forward pass copies one layer's z [B, T, heads, d] and residual norms [B, T]."""

    def read_residual(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        residual_norm.copy_(block_input(args, kwargs).float().norm(dim=-1))

    def read_z(module: nn.Module, args: tuple[Any, ...]) -> None:
        z.copy_(args[0].reshape(z.shape))

    def divide_by_rms(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        assert site.gain is not None
        z.mul_(fit_inverse_rms(args[0], output, site.gain).to(z.device)[..., None, None])

    with ExitStack() as hooks:
        hooks.callback(site.block.register_forward_pre_hook(read_residual, with_kwargs=True).remove)
        hooks.callback(site.projection.register_forward_pre_hook(read_z).remove)
        if site.norm is not None:
            hooks.callback(site.norm.register_forward_hook(divide_by_rms).remove)
        yield


@contextmanager
def edit_head_outputs(model: LanguageModel, edit: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """While open, every forward pass replaces each layer's z by ``edit(layer, z)``.

    z [B, T, heads, d] is the raw input of the output projection, in the model's dtype; the edit returns the same
    shape (z itself, to leave a layer alone). The hooks go away however the block ends, and other threads' passes
    through the same model wait until then.

    Raises:
        ValueError: During a forward pass, if the edit returns another shape.
    """

    def hook_for(layer: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            flat: Tensor = args[0]
            z = flat.reshape(*flat.shape[:-1], model.n_heads, model.d_head)
            edited = edit(layer, z)
            if edited.shape != z.shape:
                raise ValueError(f"the edit of layer {layer} returned {tuple(edited.shape)} for {tuple(z.shape)}")
            return (edited.to(flat.dtype).flatten(-2), *args[1:])

        return hook

    with model.lock, ExitStack() as hooks:
        for layer, site in enumerate(model.sites):
            hooks.callback(site.projection.register_forward_pre_hook(hook_for(layer)).remove)
        yield


def last_logits(model: LanguageModel, ids: Tensor, mask: Tensor, *, gradients: bool = False) -> Tensor:
    """Logits [B, V] float32 at the last position of left-padded ids [B, T], mask [B, T].

    With `gradients`, the result can be differentiated with respect to what `edit_head_outputs` put in.
    """
    with model.lock, torch.set_grad_enabled(gradients):
        return run_module(model.module, ids.to(model.device), mask.to(model.device))
