"""Run a model over the prompts of a discovery: in the memory that there is, and on a device that works."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from dsae_core.flow import Surroundings
from dsae_core.models import HeadOutputs, LanguageModel, TokenBatch, collect_head_outputs, output_weights, tokenize
from dsae_core.models.loading import device_failed
from dsae_core.models.memory import (
    DiscoverySize,
    PatchingSize,
    TooLittleMemoryError,
    available_memory,
    discovery_bytes,
    is_device_failure,
    memory_sentence,
    require_memory,
)
from dsae_core.models.rescue import on_cpu
from dsae_core.prompts import PromptPairs
from dsae_core.roofline import synchronize
from dsae_core.stages import Stages

CPU = torch.device("cpu")

PREVIEW_PAIRS = 3
"""Of more pairs than these, a preview is of the first ones, which the model reads beforehand: somebody waits for it."""

ADVICE = "Use fewer or shorter prompts."
NO_ROUTES = (
    "What attention moved between positions did not fit in the memory, so scores damp by depth in place of "
    "following the change to the prediction."
)


@dataclass(frozen=True, eq=False)
class Seen:
    """What forward passes showed, on the model's device."""

    z: Tensor  # [E, T, L, heads, d]
    w_o: Tensor  # [L, heads, d, D]
    surroundings: Surroundings | None


Found = TypeVar("Found")


def anywhere(
    model: LanguageModel, notes: Sequence[str], work: Callable[[LanguageModel, tuple[str, ...]], Found]
) -> Found:
    """Do work where the model is, and once more on the CPU where its device fails.

    Args:
        model: the model.
        notes: what the reader of the result should know, beside what the model says, one sentence each.
        work: called with the model, there or on the CPU, and everything that the reader should know.

    Raises:
        UserError: neither device can do it.
    """
    notes = (*model.notes, *notes)
    try:
        return work(model, notes)
    except (RuntimeError, TooLittleMemoryError) as error:
        if model.device.type == "cpu" or not is_device_failure(error):
            raise
        note = f"{device_failed(model.device, error)} The model ran on the CPU."
    warnings.warn(note, stacklevel=3)
    return work(on_cpu(model), (*notes, note))


def look(
    model: LanguageModel,
    batch: TokenBatch,
    n_positive: int,
    stages: Stages,
    *,
    positional: bool,
    routes: bool,
    preview: Callable[[Tensor], None] | None = None,
) -> Seen:
    """Run the model over P positives and then their negatives.

    Args:
        model: the model.
        batch: the prompts, tokenised.
        n_positive: P.
        stages: times "collect" and "follow".
        positional: follow the change to the prediction, which the positional method needs.
        routes: follow it along what attention moved, for which there is room.
        preview: given paired_change of the first PREVIEW_PAIRS as soon as it is known.
    """
    early = preview is not None and n_positive > PREVIEW_PAIRS
    with stages.stage("collect") as report:
        if preview is not None and early:
            preview(_first_change(model, batch, n_positive))
        outputs = collect_head_outputs(model, batch, routes=routes, progress=lambda _, fraction: report(fraction))
        w_o = output_weights(model)
        synchronize(w_o.device)
    if preview is not None and not early:
        preview(paired_change(outputs, w_o, n_positive).cpu())
    with stages.stage("follow"):
        around = Surroundings.of(outputs, w_o, n_positive) if positional else None
        synchronize(w_o.device)
    return Seen(outputs.z, w_o, around)


def _first_change(model: LanguageModel, batch: TokenBatch, n_positive: int) -> Tensor:
    """paired_change of the first PREVIEW_PAIRS pairs, on the CPU."""
    first = range(PREVIEW_PAIRS)
    outputs = collect_head_outputs(model, batch.rows([*first, *(n_positive + pair for pair in first)]), routes=False)
    return paired_change(outputs, output_weights(model), PREVIEW_PAIRS).cpu()


def paired_change(outputs: HeadOutputs, w_o: Tensor, n_positive: int) -> Tensor:
    """[L, heads]: how differently heads write on the two sides, before any dictionary is trained.

    The norm of what a head writes on a positive less on its negative, over the square root of the residual stream's
    norm there; its largest over positions, averaged over pairs. It is the baseline `paired_scaled`, too.

    Args:
        outputs: of P positives and then their P negatives.
        w_o: [L, heads, d, D], output weights.
        n_positive: P.
    """
    positive, negative = slice(n_positive), slice(n_positive, None)
    both = (outputs.mask[positive] & outputs.mask[negative]).to(w_o.device)
    change = outputs.z[positive] - outputs.z[negative]
    squared = torch.einsum("ptlhd,lhde,ptlhe->ptlh", change, w_o @ w_o.transpose(-1, -2), change)
    root = outputs.residual_norm[:, positive].permute(1, 2, 0).clamp_min(1e-6).sqrt()
    size = squared.clamp_min(0).sqrt() / root.to(w_o.device).unsqueeze(-1) * both[..., None, None]
    return size.amax(dim=1).mean(dim=0)


@contextmanager
def room(model: LanguageModel, batch: TokenBatch, *, positional: bool) -> Iterator[bool]:
    """Refuse prompts that need more memory than there is; yields whether it suffices for the routes, too.

    Memory that runs out while open becomes the same sentence.

    Raises:
        UserError: there is too little memory; names what is needed and what there is.
    """
    n_prompts, length = batch.ids.shape
    what, free = _in_words(n_prompts, length), available_memory(CPU)
    n_bytes = discovery_bytes(model, n_prompts, length, positional=positional, routes=positional)
    routes = positional and n_bytes <= free
    if not routes:
        n_bytes = discovery_bytes(model, n_prompts, length, positional=positional, routes=False)
        require_memory(n_bytes, CPU, what, ADVICE)
    with memory_sentence(n_bytes, CPU, what, ADVICE):
        yield routes


@contextmanager
def room_for_activations(z: Tensor, w_o: Tensor, *, positional: bool) -> Iterator[None]:
    """The same for head outputs [E, T, L, heads, d] that are there already, and output weights [L, heads, d, D]."""
    n_prompts, length, n_layers, n_heads, d_head = z.shape
    size = DiscoverySize(n_prompts, length, n_layers, n_heads, d_head, w_o.shape[-1], d_mlp=0, vocabulary=0)
    what, n_bytes = _in_words(n_prompts, length), size.scoring(positional=positional)
    require_memory(n_bytes - z.nbytes, CPU, what, ADVICE)
    with memory_sentence(n_bytes, CPU, what, ADVICE):
        yield


@contextmanager
def room_for_patching(
    model: LanguageModel, pairs: PromptPairs, needed: Callable[[PatchingSize], int], *, begun: bool = False
) -> Iterator[None]:
    """The same for what is done with a model on prompt pairs beside a discovery, on the model's device.

    A model that is spread over devices is not refused anything: which of them the memory is taken from is not known.

    Args:
        model: the model.
        pairs: the prompt pairs.
        needed: the bytes that it takes.
        begun: whether part of them is taken already, so that there is nothing to refuse.

    Raises:
        UserError: there is too little memory, or a prompt cannot be tokenised.
    """
    n_prompts, length = tokenize(model, [*pairs.positive, *pairs.negative], names=pairs.cells).ids.shape
    what, n_bytes = _in_words(n_prompts, length), needed(PatchingSize.of(model, len(pairs), length))
    if not begun and getattr(model.module, "hf_device_map", None) is None:
        require_memory(n_bytes, model.device, what, ADVICE)
    with memory_sentence(n_bytes, model.device, what, ADVICE):
        yield


def _in_words(n_prompts: int, length: int) -> str:
    return f"{n_prompts} prompts of {length} tokens"
