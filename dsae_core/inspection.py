"""Look into one head: where it attends, what it writes straight to the prediction, what patching it does.

The direct logit effect is that of Wang et al. 2022 (arXiv 2211.00593) and of the logit lens: what a component writes
at the last position, through the final norm with its scale held as it is, times the unembedding. It says nothing of
what later layers make of it; patching does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dsae_core.errors import UserError
from dsae_core.interventions import (
    metric_by_run,
    patch_heads,
    record_head_inputs,
    require_aligned,
    run_clean,
    tokenize_sides,
)
from dsae_core.looking import room_for_patching
from dsae_core.metrics import bootstrap_ratio
from dsae_core.models import HeadSite, LanguageModel, TokenBatch, last_logits, output_weights, tokenize
from dsae_core.models.adapter import block_input, fit_inverse_rms
from dsae_core.models.attention import observe_attention
from dsae_core.models.token_text import token_text
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import AnswerTokens, answer_tokens, task_metric

# --- attention ---------------------------------------------------------------------------------------------


def attention_pattern(model: LanguageModel, prompts: Sequence[str], layer: int, head: int) -> Tensor:
    """Where a head attends: weights [E, T, T] float32, from a position (second axis) to those before it (last axis).

    Prompts are left-padded as `tokenize` does it; rows and columns of padding are 0.

    Raises:
        UserError: a prompt cannot be tokenised, there is no such head, or the model's attention returns no weights.
    """
    _require_head(model, layer, head)
    batch = tokenize(model, prompts)
    found: list[Tensor] = []

    def read(at: int, weights: Tensor, values: Tensor) -> None:
        if at == layer:
            found.append(weights[:, head].detach().float())

    def read_returned(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        returned = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if isinstance(returned, Tensor) and returned.shape[1:2] == (model.n_heads,) and returned.ndim == 4:
            read(layer, returned, returned)

    with observe_attention(model, read) as possible, ExitStack() as hooks:
        if not possible:  # some families, GPT-Neo say, dispatch nothing and return the weights
            module = model.module.get_submodule(model.sites[layer].path.rpartition(".")[0])
            hooks.callback(module.register_forward_hook(read_returned).remove)
        last_logits(model, batch.ids, batch.mask)
    if not found:
        raise UserError(f"The attention of {model.name} gives no weights that could be shown.")
    real = batch.mask.to(found[0].device)
    return (found[0] * real[:, :, None] * real[:, None, :]).cpu()


def _require_head(model: LanguageModel, layer: int, head: int) -> None:
    if not (0 <= layer < model.n_layers and 0 <= head < model.n_heads):
        raise UserError(
            f"{model.name} has no head {layer}.{head}; it has layers 0 to {model.n_layers - 1} "
            f"of {model.n_heads} heads each."
        )


# --- direct effects ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DirectEffects:
    """What every part of the model writes straight to the answer's logit less the distractor's, in nats.

    For each prompt all parts add up to its logit difference, before a soft cap or scale that a family may put after
    the unembedding. Where a pair has several answers or distractors, the likeliest of each count for a logit
    difference, and their mean logits for a probability difference.

    Attributes:
        heads: [N, L, heads] float32.
        mlps: [N, L], what else each block adds; 0 where it has no MLP.
        embedding: [N], what enters the first block.
        biases: [N], everything that does not depend on the prompt: biases of projections, final norm, unembedding.
    """

    heads: Tensor
    mlps: Tensor
    embedding: Tensor
    biases: Tensor

    @property
    def total(self) -> Tensor:
        """[N], the logit difference."""
        return self.heads.sum(dim=(1, 2)) + self.mlps.sum(dim=1) + self.embedding + self.biases


@dataclass(frozen=True)
class TokenEffect:
    """A token and what a head adds to its logit, in nats above the mean over all tokens."""

    text: str
    effect: float


@dataclass(frozen=True)
class PromotedTokens:
    """The tokens whose logits a head raises and lowers most on one prompt, strongest first."""

    promoted: tuple[TokenEffect, ...]
    suppressed: tuple[TokenEffect, ...]


@dataclass(frozen=True)
class Readout:
    """How the last position's residual stream becomes logits, the final norm's scale held as it is for N prompts.

    Attributes:
        scale: [N], the factor of the norm.
        gain: [D], its gain.
        shift: [D], its bias.
        centred: whether it subtracts the mean over the D dimensions first.
        unembedding: [V, D].
        bias: [V], of the unembedding.
    """

    scale: Tensor
    gain: Tensor
    shift: Tensor
    centred: bool
    unembedding: Tensor
    bias: Tensor

    def logits_of(self, written: Tensor) -> Tensor:
        """[N, V]: what writing [N, D] to the last position adds to the logits."""
        if self.centred:
            written = written - written.mean(dim=-1, keepdim=True)
        return written * self.gain * self.scale[:, None] @ self.unembedding.T

    def direction(self, weights: Tensor) -> Tensor:
        """[N, D]: the vectors whose products with what is written are its effects on the logits weighted by [N, V]."""
        direction = weights @ self.unembedding * self.gain
        if self.centred:
            direction = direction - direction.mean(dim=-1, keepdim=True)
        return direction * self.scale[:, None]

    def constant(self, weights: Tensor) -> Tensor:
        """[N]: the part of the logits weighted by [N, V] that comes from biases alone."""
        return weights @ (self.unembedding @ self.shift + self.bias)


@dataclass(frozen=True)
class LastPosition:
    """What a forward pass over N prompts put into the residual stream at their last position.

    Attributes:
        z: [N, L, heads, d] float32; z @ output_weights is what each head writes.
        attention: [N, L, D], what all heads and the projection's bias write together.
        added: [N, L, D], what each block adds.
        embedding: [N, D], what enters the first block.
        logits: [N, V], what the model predicts.
        readout: how it becomes logits.
    """

    z: Tensor
    attention: Tensor
    added: Tensor
    embedding: Tensor
    logits: Tensor
    readout: Readout


def direct_logit_effect(model: LanguageModel, pairs: PromptPairs) -> Tensor:
    """[L, heads] float32: each head's direct effect on answer less distractor, mean over the positives, in nats.

    Raises:
        UserError: as direct_effects.
    """
    return direct_effects(model, pairs).heads.mean(dim=0)


def direct_effects(model: LanguageModel, pairs: PromptPairs, last: LastPosition | None = None) -> DirectEffects:
    """The direct effects of all parts of the model on each positive.

    Args:
        model: the model.
        pairs: prompt pairs with answers.
        last: read_last_position(model, pairs.positive), where it is known already.

    Raises:
        UserError: no answers, or a model whose last position is no sum of what its parts write.
    """
    answers = answer_tokens(model.tokenizer, pairs)
    last = read_last_position(model, pairs.positive) if last is None else last
    weights = _contrast(last.logits, answers)
    direction = last.readout.direction(weights)
    # d numbers a head in place of D: fold the direction into the output weights.
    folded = torch.einsum("lhdm,nm->nlhd", output_weights(model).to(direction.device), direction)
    heads = (last.z * folded).sum(dim=-1)
    attention, added = (torch.einsum("nlm,nm->nl", part, direction) for part in (last.attention, last.added))
    return DirectEffects(
        heads=heads.cpu(),
        mlps=(added - attention).cpu(),
        embedding=(last.embedding * direction).sum(dim=-1).cpu(),
        biases=(last.readout.constant(weights) + (attention - heads.sum(dim=-1)).sum(dim=-1)).cpu(),
    )


def promoted_tokens(
    model: LanguageModel, last: LastPosition, layer: int, head: int, *, count: int = 8
) -> tuple[PromotedTokens, ...]:
    """For each of the N prompts of `last`, the tokens that a head promotes and suppresses most."""
    _require_head(model, layer, head)
    written = last.z[:, layer, head] @ output_weights(model)[layer, head].to(last.z.device)
    effects = last.readout.logits_of(written)
    effects = effects - effects.mean(dim=-1, keepdim=True)
    up, down = (effects.topk(count, largest=largest) for largest in (True, False))
    return tuple(
        PromotedTokens(*(_token_effects(model, side.values[n], side.indices[n]) for side in (up, down)))
        for n in range(len(effects))
    )


def _token_effects(model: LanguageModel, values: Tensor, ids: Tensor) -> tuple[TokenEffect, ...]:
    return tuple(TokenEffect(token_text(model.tokenizer, int(i)), float(v)) for i, v in zip(ids, values, strict=True))


def _contrast(logits: Tensor, answers: AnswerTokens) -> Tensor:
    """[N, V] weights that turn logits into answer less distractor."""
    weights = torch.zeros_like(logits)
    for row in range(len(logits)):
        for ids, sign in ((list(answers.answer[row]), 1.0), (list(answers.distractor[row]), -1.0)):
            if answers.metric == "logit_difference":
                ids = [ids[int(logits[row, ids].argmax())]]
            weights[row, ids] += sign / len(ids)
    return weights


# --- the last position -------------------------------------------------------------------------------------


@dataclass
class _Written:
    """What passed through one block at the last position; every tensor is [N, D] but z."""

    before: Tensor  # the residual stream that enters
    z: Tensor  # [N, heads, d]
    attention: Tensor
    after: Tensor
    parts: list[Tensor]  # outputs of all modules inside


def read_last_position(model: LanguageModel, prompts: Sequence[str]) -> LastPosition:
    """Run prompts and keep what every part writes at their last position.

    Raises:
        UserError: a prompt cannot be tokenised, or the model is not built as a sum: a block changes the residual
            stream other than by adding to it, or something else than one norm stands before the unembedding.
    """
    batch = tokenize(model, prompts)
    with model.lock, ExitStack() as hooks:
        blocks = [hooks.enter_context(_reading_block(model, site, batch)) for site in model.sites]
        calls = hooks.enter_context(_reading_rest(model))
        logits = last_logits(model, batch.ids, batch.mask)
    written = [block[0] for block in blocks]
    for site, block in zip(model.sites, written, strict=True):
        _require_sum(model, site, block)
    return LastPosition(
        z=torch.stack([block.z for block in written], dim=1),
        attention=torch.stack([block.attention for block in written], dim=1),
        added=torch.stack([block.after - block.before for block in written], dim=1),
        embedding=written[0].before,
        logits=logits,
        readout=_readout(model, written[-1].after, calls),
    )


@contextmanager
def _reading_block(model: LanguageModel, site: HeadSite, batch: TokenBatch) -> Iterator[list[_Written]]:
    """While open, a forward pass leaves what the block did in the list."""
    found: list[_Written] = []
    seen: dict[str, Tensor] = {}
    parts: list[Tensor] = []
    n, length = batch.ids.shape

    def last(value: Tensor) -> Tensor:
        return value.detach().reshape(n, length, -1)[:, -1].float().clone()

    def before_block(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["before"] = last(block_input(args, kwargs))

    def after_projection(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen["z"] = last(args[0]).reshape(n, model.n_heads, model.d_head)
        seen["projected"] = seen["attention"] = last(output)

    def after_norm(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        assert site.gain is not None
        seen["attention"] = last(output)
        factor = fit_inverse_rms(seen["projected"], seen["attention"], site.gain)
        seen["z"] = seen["z"] * factor[:, None, None]

    def after_part(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        value = output[0] if isinstance(output, (tuple, list)) else output
        if isinstance(value, Tensor) and value.numel() == n * length * model.d_model:
            parts.append(last(value))

    def after_block(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        value = output[0] if isinstance(output, (tuple, list)) else output
        found.append(_Written(seen["before"], seen["z"], seen["attention"], last(value), parts))

    with ExitStack() as hooks:
        hooks.callback(site.block.register_forward_pre_hook(before_block, with_kwargs=True).remove)
        hooks.callback(site.projection.register_forward_hook(after_projection).remove)
        if site.norm is not None:
            hooks.callback(site.norm.register_forward_hook(after_norm).remove)
        for module in site.block.modules():
            if module is not site.block:
                hooks.callback(module.register_forward_hook(after_part).remove)
        hooks.callback(site.block.register_forward_hook(after_block).remove)
        yield found


def _require_sum(model: LanguageModel, site: HeadSite, block: _Written) -> None:
    """Raise unless the block added to the residual stream what its attention and one other part put out."""
    rest = block.after - block.before - block.attention
    size = torch.stack([block.before.abs(), block.after.abs(), block.attention.abs()]).amax(dim=(0, 2))
    tolerance = (1e-4 if model.module.dtype == torch.float32 else 5e-2) * size[:, None]
    if not any(bool(((part - rest).abs() <= tolerance).all()) for part in [torch.zeros_like(rest), *block.parts]):
        raise UserError(
            f"A block of {model.name} ({site.path}) changes the residual stream other than by adding to it, so what "
            "its heads write has no direct effect of its own; patch the head to see what it does."
        )


@contextmanager
def _reading_rest(model: LanguageModel) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
    """While open, a forward pass leaves the modules outside the blocks in the list, with input and output."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []
    inside = {id(part) for site in model.sites for part in site.block.modules()}

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor) and output.ndim == 3:
            calls.append((module, args[0].detach()[:, -1], output.detach()[:, -1]))

    with ExitStack() as hooks:
        for module in model.module.modules():
            if id(module) not in inside and not any(True for _ in module.children()):
                hooks.callback(module.register_forward_hook(after).remove)
        yield calls


def _readout(model: LanguageModel, final: Tensor, calls: list[tuple[nn.Module, Tensor, Tensor]]) -> Readout:
    """The final norm and the unembedding, from the residual stream [N, D] and the modules called outside blocks."""
    at = next((i for i in reversed(range(len(calls))) if isinstance(calls[i][0], nn.Linear)), None)
    unembed, entering = (calls[at][0], calls[at][1].float()) if at is not None else (None, final)
    norm = next((module for module, given, _ in calls[:at] if torch.equal(given.float(), final)), None)
    gain, shift, centred = _norm_weights(norm, final)
    normed = final - final.mean(dim=-1, keepdim=True) if centred else final
    if isinstance(unembed, nn.Linear) and entering.shape == final.shape:
        scale = fit_inverse_rms(normed, entering - shift, gain)
        fitted = normed * gain * scale[:, None] + shift
        tolerance = (1e-3 if model.module.dtype == torch.float32 else 5e-2) * float(entering.abs().max())
        if torch.allclose(fitted, entering, atol=tolerance, rtol=0):
            weight = unembed.weight.detach().float()
            bias = torch.zeros_like(weight[:, 0]) if unembed.bias is None else unembed.bias.detach().float()
            return Readout(scale, gain, shift, centred, weight, bias)
    raise UserError(
        f"Between the last block of {model.name} and its logits there is something else than one norm and the "
        "unembedding, so direct effects on logits are not defined for it."
    )


def _norm_weights(norm: nn.Module | None, like: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Gain [D], bias [D] and whether the mean is subtracted; those of no norm where it is None or an Identity."""
    ones, zeros = torch.ones_like(like[0]), torch.zeros_like(like[0])
    if isinstance(norm, nn.LayerNorm):
        gain, shift = norm.weight, norm.bias
        return (
            ones if gain is None else gain.detach().float(),
            zeros if shift is None else shift.detach().float(),
            True,
        )
    if norm is None or isinstance(norm, nn.Identity):
        return ones, zeros, False
    dtype = next((weight.dtype for weight in norm.parameters()), ones.dtype)
    with torch.no_grad():  # ones divided by their RMS stay ones, so this is the gain, kept as g or as g - 1
        return norm(ones.to(dtype)).float(), zeros, False


# --- patching one head -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PatchEffect:
    """What interchange patching of one head does to the task metric on N pairs.

    Attributes:
        effect: mean loss of the metric, as a share of its drop from positives to negatives.
        low: lower end of the 95 % bootstrap interval over pairs.
        high: upper end.
        metric_positive: mean metric on the positives.
        metric_negative: mean metric on the negatives, with the positives' answers.
        metric_patched: mean metric on the positives with the head patched.
        pairs: N.
    """

    effect: float
    low: float
    high: float
    metric_positive: float
    metric_negative: float
    metric_patched: float
    pairs: int


def patch_effect(model: LanguageModel, pairs: PromptPairs, layer: int, head: int, *, seed: int = 0) -> PatchEffect:
    """Have one head put out on every positive, at all positions, what it puts out on the matched negative.

    Args:
        model: the model.
        pairs: prompt pairs with answers, each pair of one length in tokens.
        layer: the head's layer.
        head: the head.
        seed: of the bootstrap.

    Raises:
        UserError: no answers, a pair whose prompts differ in length, no such head, too little memory, or a model that
            does not do the task (its metric is no higher on positives than on negatives).
    """
    _require_head(model, layer, head)
    answers = answer_tokens(model.tokenizer, pairs)
    positive, negative = tokenize_sides(model, pairs)
    require_aligned(positive, negative)
    with room_for_patching(model, pairs, lambda size: size.patching(1)):  # a head in a pass
        clean = run_clean(model, positive)
        recorded, negative_logits = record_head_inputs(model, negative)
        on_positive, on_negative = (task_metric(logits, answers).cpu() for logits in (clean.logits, negative_logits))
        drop = on_positive - on_negative
        if float(drop.mean()) <= 0:
            raise UserError(
                f"{model.name} does not do this task: its metric is {float(on_positive.mean()):.3f} on positives and "
                f"{float(on_negative.mean()):.3f} on negatives, so there is no behaviour that a head could carry."
            )
        patched = patch_heads(model, clean, layer, [head], [recorded[layer][:, :, head]])
        losses = on_positive - metric_by_run(patched, answers)[0]
    low, high = bootstrap_ratio(losses, drop, generator=torch.Generator().manual_seed(seed))
    return PatchEffect(
        effect=float(losses.mean() / drop.mean()),
        low=float(low),
        high=float(high),
        metric_positive=float(on_positive.mean()),
        metric_negative=float(on_negative.mean()),
        metric_patched=float((on_positive - losses).mean()),
        pairs=len(pairs),
    )


# --- what comes next ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NextToken:
    """The likeliest next token of a prompt and its probability."""

    text: str
    probability: float


def next_tokens(model: LanguageModel, prompts: Sequence[str]) -> tuple[NextToken, ...]:
    """The model's likeliest continuation of each prompt, one token long.

    Raises:
        UserError: a prompt cannot be tokenised.
    """
    batch = tokenize(model, prompts)
    best = torch.softmax(last_logits(model, batch.ids, batch.mask), dim=-1).max(dim=-1)
    return tuple(
        NextToken(token_text(model.tokenizer, int(i)), float(p)) for p, i in zip(best.values, best.indices, strict=True)
    )
