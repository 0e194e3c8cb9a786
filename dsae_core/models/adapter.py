"""Find a model's attention heads: one search by structure and one check by running, for every family."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dsae_core.errors import UserError
from dsae_core.models.language_model import HeadSite, LanguageModel, input_device, weights_present

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What the families call the attention output projection, e.g. llama, opt, gpt2 and gpt_neox.
PROJECTION_NAMES = ("o_proj", "out_proj", "c_proj", "dense")
# An MLP may use the same name (gpt2's c_proj), so one of these must be in the path that leads to it.
ATTENTION_NAMES = ("attn", "attention")
# Neither attention to another sequence nor a recurrence has the heads that are looked for.
FOREIGN_NAMES = ("cross", "encoder_attn", "linear_attn")


def adapt(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, digest: str = "") -> LanguageModel:
    """Find the heads of a loaded transformers model; puts it in evaluation mode.

    Three tokens are run through the model to see which norm, if any, follows each projection, and to check
    that what the heads write is what the residual stream receives.

    Raises:
        UserError: No heads were found, or what they write does not reach the residual stream as it is.
    """
    module.train(False)
    config = module.config.get_text_config()
    n_heads, d_model = getattr(config, "num_attention_heads", None), config.hidden_size
    if not isinstance(n_heads, int):
        raise UserError(
            f"{name} ({type(module).__name__}) has no num_attention_heads in its config that holds for every "
            "layer, so its heads cannot be told apart."
        )
    sites = _find_sites(module, name, config.num_hidden_layers, n_heads, d_model)
    sites = _resolve_norms(module, sites, name)
    return LanguageModel(
        name=name,
        digest=digest,
        module=module,
        tokenizer=tokenizer,
        n_layers=len(sites),
        n_heads=n_heads,
        d_head=_projection_matrix(sites[0].projection).shape[0] // n_heads,
        d_model=d_model,
        sites=sites,
    )


def output_weights(model: LanguageModel) -> Tensor:
    """Each head's output matrix W [L, heads, d, D], float32, such that ``z @ W`` is what the head writes.

    Where a norm follows the projection its gain is folded in; the division by the norm's RMS is in the z
    of `collect_head_outputs`.
    """
    with torch.no_grad():
        return torch.stack([_site_weights(site, model.n_heads).to(model.device) for site in model.sites])


def _site_weights(site: HeadSite, n_heads: int) -> Tensor:
    with weights_present(site.projection):
        matrix = _projection_matrix(site.projection).float()
    if site.gain is not None:
        matrix = matrix * site.gain
    return matrix.reshape(n_heads, -1, matrix.shape[1])


def _projection_matrix(projection: nn.Module) -> Tensor:
    """The projection's weight as [heads * d, D], which is how Conv1D stores it and Linear does not."""
    weight = projection.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(projection, nn.Linear) else weight


# --- finding the projections -------------------------------------------------------------------------------


def _find_sites(module: nn.Module, name: str, n_layers: int, n_heads: int, d_model: int) -> tuple[HeadSite, ...]:
    """The first list of `n_layers` blocks in which every block has one attention output projection."""
    lists = [
        (path, blocks)
        for path, blocks in module.named_modules()
        if isinstance(blocks, nn.ModuleList) and len(blocks) == n_layers
    ]
    for path, blocks in lists:
        found = [_find_projections(block, n_heads, d_model) for block in blocks]
        if all(len(candidates) == 1 for candidates in found):
            sites = tuple(
                HeadSite(f"{path}.{index}.{candidates[0][0]}", block, candidates[0][1])
                for index, (block, candidates) in enumerate(zip(blocks, found, strict=True))
            )
            if len({_projection_matrix(site.projection).shape for site in sites}) == 1:
                return sites
    raise UserError(
        f"No attention heads were found in {name} ({type(module).__name__}): every one of its {n_layers} layers "
        f"must have one linear module called {', '.join(PROJECTION_NAMES[:-1])} or {PROJECTION_NAMES[-1]}, "
        f"inside its attention, with {d_model} outputs and inputs that divide into {n_heads} heads."
    )


def _find_projections(block: nn.Module, n_heads: int, d_model: int) -> list[tuple[str, nn.Module]]:
    """Every (path, module) in the block that has the name, place, type and shape of an output projection."""
    return [
        (path, module)
        for path, module in block.named_modules()
        if path.rpartition(".")[2] in PROJECTION_NAMES
        and any(word in path.rpartition(".")[0] for word in ATTENTION_NAMES)
        and not any(word in path for word in FOREIGN_NAMES)
        and _is_output_projection(module, n_heads, d_model)
    ]


def _is_output_projection(module: nn.Module, n_heads: int, d_model: int) -> bool:
    from transformers.pytorch_utils import Conv1D

    if not isinstance(module, (nn.Linear, Conv1D)) or not module.weight.is_floating_point():
        return False
    if module.weight.ndim != 2:  # a quantised weight is packed, and has no columns to read
        return False
    inputs, outputs = _projection_matrix(module).shape
    return outputs == d_model and inputs % n_heads == 0


# --- what follows the projection ---------------------------------------------------------------------------


@dataclass
class _LayerTrace:
    """What passed through one layer while a few tokens ran; every tensor is [tokens, D] but `projected`."""

    residual: Tensor | None = None  # the block's input
    projected: Tensor | None = None  # the projection's output, as the module returned it
    inputs: list[tuple[nn.Module, Tensor]] = field(default_factory=list)  # of the block's other modules
    outputs: list[tuple[nn.Module, Tensor]] = field(default_factory=list)
    final: Tensor | None = None  # the block's output


def _resolve_norms(module: PreTrainedModel, sites: tuple[HeadSite, ...], name: str) -> tuple[HeadSite, ...]:
    """Run a few tokens, set each site's norm and gain, and check what reaches the residual stream."""
    traces = [_LayerTrace() for _ in sites]
    ids = torch.arange(3, device=input_device(module))[None]
    with ExitStack() as hooks, torch.no_grad():
        for site, trace in zip(sites, traces, strict=True):
            hooks.enter_context(_record(site, trace))
        run_module(module, ids, torch.ones_like(ids, dtype=torch.bool))
    for site, trace in zip(sites, traces, strict=True):
        _check_finite(site, trace, name)
    resolved = tuple(_with_norm(site, trace, name) for site, trace in zip(sites, traces, strict=True))
    for site, trace in zip(resolved, traces, strict=True):
        _check_written(site, trace, name)
    return resolved


@contextmanager
def _record(site: HeadSite, trace: _LayerTrace) -> Iterator[None]:
    """Fill the trace during one forward pass of the model."""

    def before_block(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        trace.residual = _rows(block_input(args, kwargs)).clone()

    def after_projection(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if args[0].ndim == 3:  # [batch, tokens, heads * d]: what the hooks of `collect` rely on
            trace.projected = output

    def after_any(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if trace.residual is None or trace.final is not None:
            return  # a module shared between layers, such as an activation, was called for another one
        value = output[0] if isinstance(output, (tuple, list)) else output
        if module is site.block:
            trace.final = _rows(value).clone()
        if args and isinstance(args[0], Tensor):
            trace.inputs.append((module, args[0]))
        if isinstance(value, Tensor):
            trace.outputs.append((module, value.clone()))  # the block may add to it in place

    with ExitStack() as hooks:
        hooks.callback(site.block.register_forward_pre_hook(before_block, with_kwargs=True).remove)
        hooks.callback(site.projection.register_forward_hook(after_projection).remove)
        for module in site.block.modules():
            if module is not site.projection:
                hooks.callback(module.register_forward_hook(after_any).remove)
        yield


def _with_norm(site: HeadSite, trace: _LayerTrace, name: str) -> HeadSite:
    """The site with the norm that was given exactly the tensor the projection returned, if there is one."""
    projected = trace.projected
    if projected is None:
        raise UserError(f"{name} does not call {site.path} on [batch, tokens, heads * d], so its heads cannot be read.")
    # A name would not do: post_attention_layernorm follows the attention in Gemma 2 and precedes the MLP in
    # Llama. The trace keeps every tensor alive, so an equal address means the same tensor.
    for norm, value in trace.inputs:
        if value.data_ptr() == projected.data_ptr() and "norm" in type(norm).__name__.lower():
            gain = _norm_gain(norm, projected)
            output = _output_of(norm, trace).reshape(projected.shape)
            fitted = projected.float() * gain * fit_inverse_rms(projected, output, gain)[..., None]
            if not torch.allclose(fitted, output.float(), atol=_rounding(output) * float(output.abs().max()), rtol=0):
                raise UserError(f"{name} has a norm after {site.path} that is no RMS norm, which is not supported.")
            return replace(site, norm=norm, gain=gain)
    return site


def _output_of(module: nn.Module, trace: _LayerTrace) -> Tensor:
    return next(value for candidate, value in trace.outputs if candidate is module)


def fit_inverse_rms(before: Tensor, after: Tensor, gain: Tensor) -> Tensor:
    """The factor [..] by which a norm turned before * gain into after, both [.., D].

    Read off what the norm did, so nobody needs to know how a family names its epsilon or where it adds it.
    """
    scaled = before.float() * gain
    return (scaled * after.float()).sum(-1) / scaled.square().sum(-1).clamp(min=1e-30)


def _rounding(value: Tensor) -> float:
    """How far sums in this precision may be off, as a share of their largest term."""
    return 1e-5 if value.dtype == torch.float32 else 5e-2


def _norm_gain(norm: nn.Module, like: Tensor) -> Tensor:
    """The gain [D] an RMS norm applies, float32, whether it keeps it as g or as g - 1.

    A vector of ones divided by its RMS stays what it is, so the output is the gain. The norm's epsilon makes
    it too small by a factor that `fit_inverse_rms` makes good.
    """
    with torch.no_grad():
        gain = norm(torch.ones(like.shape[-1], device=like.device))
    assert isinstance(gain, Tensor)
    return gain.float()


def _check_finite(site: HeadSite, trace: _LayerTrace, name: str) -> None:
    """Raise where finite weights give numbers that are not: a setting is none, or they overflow the dtype."""
    for value in (trace.residual, trace.projected, trace.final):
        if value is not None and not bool(torch.isfinite(value).all()):
            raise UserError(
                f"{name} computes numbers that are not finite (NaN or infinite) at {site.path}; its weights or its "
                "config are damaged, or too large for the dtype: fetch it again, or load it in float32."
            )


def _check_written(site: HeadSite, trace: _LayerTrace, name: str) -> None:
    """Raise unless residual + written turns up in the block, as some module's input or the block's output.

    In a parallel block it does so only without the MLP's share, hence the differences.
    """
    assert trace.residual is not None
    assert trace.projected is not None
    assert trace.final is not None
    written = _rows(trace.projected)
    if site.norm is not None:
        written = _rows(_output_of(site.norm, trace))
    residual = trace.residual.to(written.device)  # a block may be on another device than the one before it
    expected = (residual + written).float()
    final = trace.final.float()
    values = [_rows(value).float() for _, value in trace.outputs]
    candidates = [_rows(value).to(written.device).float() for _, value in trace.inputs]
    candidates += [final] + [final - value for value in values if value.shape == final.shape]
    # Sums are rounded at the size of their largest term, and only rows of the same token compare.
    size = torch.stack([residual.float().abs(), written.float().abs(), final.abs()]).amax(dim=(0, 2))
    tolerance = _rounding(written) * size[:, None]
    if not any(
        value.shape == expected.shape and bool(((value - expected).abs() <= tolerance).all()) for value in candidates
    ):
        raise UserError(
            f"{name} changes what its heads write between {site.path} and the residual stream "
            "(it scales or mixes it), which is not supported."
        )


def _rows(value: Tensor) -> Tensor:
    """[.., D] as [tokens, D]."""
    return value.reshape(-1, value.shape[-1])


# --- running -----------------------------------------------------------------------------------------------


def block_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The residual stream among a block's arguments: the first of them, or ``hidden_states``."""
    value = args[0] if args else kwargs["hidden_states"]
    assert isinstance(value, Tensor)
    return value


def run_module(module: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    """One forward pass over left-padded ids [B, T], mask [B, T] bool; logits [B, V] float32 at the last position.

    Positions count a prompt's own tokens, so padding changes nothing.
    """
    accepted = inspect.signature(module.forward).parameters
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    options: dict[str, Any] = {"position_ids": positions, "logits_to_keep": 1, "use_cache": False}
    supported = {key: value for key, value in options.items() if key in accepted}
    output = module(input_ids=ids, attention_mask=mask.long(), **supported)
    logits = output.logits[:, -1]
    assert isinstance(logits, Tensor)
    return logits.float()
