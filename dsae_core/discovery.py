"""The whole method, top to bottom: collect head outputs, train a dictionary, encode, score.

E = examples (P positives, then the negatives), T = positions (prompts left-padded), L = layers,
H = all heads, d = d_head, D = d_model, F = dictionary features. z[e, t, h] in R^d is the input of the attention
output projection and W_O[h] in R^(d x D) its slice of that projection: head h writes z W_O[h].
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

import torch
from torch import Tensor

from dsae_core.codes import INACTIVE, codes_used
from dsae_core.contrast import code_contrast, peaks, shared_mass
from dsae_core.dictionary import fold, isometry, train_per_head, train_shared
from dsae_core.errors import ResultWarning, UserError
from dsae_core.flow import Surroundings
from dsae_core.looking import NO_ROUTES, anywhere, look, room, room_for_activations
from dsae_core.models import LanguageModel, tokenize
from dsae_core.ops import encode_codes, pair_scores, runs_on, unique_scores
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery
from dsae_core.roofline import synchronize
from dsae_core.settings import PaperSettings, PositionalSettings, method_settings, settings_to_dict
from dsae_core.stages import Progress, Stages

Scores = tuple[Tensor, Tensor, Tensor, Tensor]
"""node scores [H], pair scores [H, H], codes [E, T, H], activations [E, T, H]."""


def discover(
    model: LanguageModel,
    pairs: PromptPairs,
    *,
    method: str = "positional",
    seed: int = 0,
    progress: Progress | None = None,
    preview: Callable[[Tensor], None] | None = None,
    **options: Any,
) -> Discovery:
    """Find the heads that behave differently on positives and negatives. No gradients of the model, no ablations.

    Args:
        model: from load_model.
        pairs: prompts that show a behaviour and near-copies that cannot.
        method: "positional" (ours) or "paper" (O'Neill & Bui 2024); see docs/method.md.
        seed: of the dictionary's start; the same seed gives the same scores.
        progress: called with the stage and the share of it done; an exception it raises ends the run.
        preview: called with [L, heads], how differently heads write on the two sides of the first three pairs, which
            the model then reads beforehand.
        options: settings of the method, see PositionalSettings and PaperSettings.

    All is computed on the model's device; where that fails, lost or out of memory, on the CPU, and the result's
    warnings say so.

    Raises:
        UserError: a prompt is too long, a setting is wrong, or the prompts need more memory than there is.
    """
    method_settings(method, options)  # a wrong setting should cost no forward pass
    stages = Stages(progress)
    with stages.stage("tokenize"):
        batch = tokenize(model, [*pairs.positive, *pairs.negative], names=pairs.cells)
    positional = method == "positional"
    with room(model, batch, positional=positional) as routes:

        def discover_on(model: LanguageModel, notes: Sequence[str]) -> Discovery:
            seen = look(model, batch, len(pairs), stages, positional=positional, routes=routes, preview=preview)
            return _discover(
                seen.z,
                batch.mask,
                seen.w_o,
                len(pairs),
                seen.surroundings,
                method=method,
                seed=seed,
                stages=stages,
                options=options,
                tokens=batch.tokens,
                prompts=pairs,
                provenance={"model": model.name, "model_digest": model.digest},
                notes=notes,
            )

        return anywhere(model, [NO_ROUTES] if positional and not routes else [], discover_on)


def discover_from_activations(
    z_positive: Tensor,
    z_negative: Tensor,
    w_o: Tensor,
    mask: Tensor | None = None,
    *,
    surroundings: Surroundings | None = None,
    method: str = "positional",
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Discovery:
    """The same for people who hold a cache of head outputs, from TransformerLens or nnsight say.

    Args:
        z_positive: [P, T, L, heads, d], inputs of the attention output projections, aligned from the right.
        z_negative: [N, T, L, heads, d].
        w_o: [L, heads, d, D], each head's output weights.
        mask: [P + N, T], True on real tokens, positives first; None where all are.
        surroundings: what is known of the residual stream; without it the positional method is less accurate, and
            damps by depth instead (see docs/method.md).
        method: as in discover.
        seed: as in discover.
        progress: as in discover.
        options: as in discover.

    Raises:
        UserError: shapes do not fit together, a side is empty, a value is not finite, or a setting is wrong.
    """
    if z_positive.ndim != 5 or z_negative.ndim != 5 or z_positive.shape[1:] != z_negative.shape[1:]:
        raise UserError(
            f"z_positive {tuple(z_positive.shape)} and z_negative {tuple(z_negative.shape)} must be "
            "[examples, positions, layers, heads, d_head], alike but for the examples."
        )
    z = torch.cat([z_positive, z_negative]).float()
    if w_o.shape[:-1] != z.shape[2:]:
        raise UserError(f"w_o {tuple(w_o.shape)} must be [layers, heads, d_head, d_model] of the same heads as z.")
    if mask is None:
        mask = z.new_ones(z.shape[:2], dtype=torch.bool)
    elif mask.shape != z.shape[:2]:
        raise UserError(f"mask {tuple(mask.shape)} must be [examples, positions], here {tuple(z.shape[:2])}.")
    with room_for_activations(z, w_o, positional=method == "positional"):
        return _discover(
            z,
            mask.bool(),
            w_o.float(),
            z_positive.shape[0],
            surroundings,
            method=method,
            seed=seed,
            stages=Stages(progress),
            options=options,
        )


def _discover(
    z: Tensor,
    mask: Tensor,
    w_o: Tensor,
    n_positive: int,
    surroundings: Surroundings | None,
    *,
    method: str,
    seed: int,
    stages: Stages,
    options: dict[str, Any],
    tokens: tuple[tuple[str, ...], ...] = (),
    prompts: PromptPairs | None = None,
    provenance: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Discovery:
    settings = method_settings(method, options)
    n_layers, n_heads = z.shape[2:4]
    if not 0 < n_positive < z.shape[0]:
        raise UserError("Give at least one positive and one negative prompt.")
    if not bool(mask.any(dim=1).all()):
        raise UserError("The mask leaves a prompt without any token.")
    if not bool(torch.isfinite(z).all()):
        raise UserError("Some head outputs are not finite; the model or the activations are broken.")
    # All is computed where the head outputs are, unless the operators don't run there. Draws are made on the CPU.
    device = z.device if runs_on(z.device) else torch.device("cpu")
    z, mask, w_o = z.flatten(2, 3).to(device), mask.to(device), w_o.flatten(0, 1).to(device)
    generator = torch.Generator().manual_seed(seed)
    remarks = list(notes)
    edges: Tensor | None = None
    if isinstance(settings, PaperSettings):
        node, pair, codes, activations = _paper(z, mask, w_o, n_positive, settings, stages, generator)
    else:
        if surroundings is None:
            surroundings = Surroundings.unknown(n_positive, z.shape[1], n_layers, device=device)
        surroundings = surroundings.to(device)
        if not _aligned(mask, n_positive):
            remarks.append(
                "Positive and negative prompts differ in length, so positions cannot be compared; "
                "each prompt was pooled into its mean."
            )
            warnings.warn(remarks[-1], ResultWarning, stacklevel=3)
            z, mask = _pool(z, mask, "mean"), mask.new_ones(mask.shape[0], 1)
            surroundings = Surroundings.unknown(n_positive, 1, n_layers, device=device)
        node, pair, codes, activations = _positional(
            z, mask, w_o, n_positive, settings, stages, generator, surroundings
        )
        edges = surroundings.edges
    return Discovery(
        node_scores=node.reshape(n_layers, n_heads).float().cpu(),
        pair_scores=pair.float().cpu(),
        codes=codes.cpu(),
        activations=activations.cpu(),
        n_positive=n_positive,
        tokens=tokens,
        settings=settings_to_dict(method, seed, settings),
        timings=dict(stages.seconds),
        provenance={
            **(provenance or {}),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": {name: importlib.metadata.version(name) for name in ("dsae-core", "torch", "transformers")},
        },
        prompts=prompts,
        warnings=tuple(remarks),
        edge_scores=None if edges is None else edges.cpu(),
    )


def _paper(
    z: Tensor,
    mask: Tensor,
    w_o: Tensor,
    n_positive: int,
    settings: PaperSettings,
    stages: Stages,
    generator: torch.Generator,
) -> Scores:
    """O'Neill & Bui 2024: one dictionary for all heads, one code a prompt and head, codes only positives have."""
    pooled = _pool(z, mask, settings.pool)  # [E, 1, H, d]
    n_features = settings.n_features
    with stages.stage("train") as report:
        chosen = torch.randperm(len(pooled), generator=generator)[: settings.train_examples]
        written = torch.einsum("ehd,hdm->ehm", pooled[chosen.to(z.device), 0], w_o)
        dictionary = train_shared(
            written.flatten(0, 1),
            n_features=n_features,
            l1=settings.l1,
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            generator=generator,
            report=report,
        )
        synchronize(z.device)
    with stages.stage("encode"):
        codes, activations = encode_codes(pooled, *fold(dictionary, w_o), threshold=0.0)
        if settings.inactive == "zero":
            codes = codes.clamp_min(0)
        synchronize(z.device)
    with stages.stage("score"):
        counts, _ = unique_scores(codes, activations, n_positive, n_features)
        pair = pair_scores(codes[:, 0], n_positive, n_features)
        node = counts.float()
        if settings.per_union:
            node = node / codes_used(codes[:, 0], n_features).clamp_min(1)
        synchronize(z.device)
    return node, pair, codes, activations


def _positional(
    z: Tensor,
    mask: Tensor,
    w_o: Tensor,
    n_positive: int,
    settings: PositionalSettings,
    stages: Stages,
    generator: torch.Generator,
    surroundings: Surroundings,
) -> Scores:
    """One dictionary a head over all positions; heads score by how their codes differ between the sides."""
    n_heads = z.shape[2] // surroundings.weight.shape[2]
    weight = surroundings.weight.repeat_interleave(n_heads, dim=2)
    with stages.stage("train"):
        x, scale = _relative_rows(z, mask, w_o, surroundings.residual_norm)
        dictionaries = train_per_head(
            x[mask].transpose(0, 1),
            n_features=settings.n_features,
            k=settings.k,
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            generator=generator,
        )
        synchronize(z.device)
    with stages.stage("encode"):
        codes, activations = encode_codes(x, dictionaries.encoder, dictionaries.bias, threshold=settings.threshold)
        codes = codes.masked_fill(~mask.unsqueeze(-1), INACTIVE)
        synchronize(z.device)
    with stages.stage("score"):
        node = scale * code_contrast(codes, activations, dictionaries.decoder, n_positive, weight)
        node = node * surroundings.emphasis(settings.change_weight).flatten()
        pair = scale * shared_mass(peaks(codes, activations, n_positive, weight))
        synchronize(z.device)
    return node, pair, codes, activations


def _relative_rows(z: Tensor, mask: Tensor, w_o: Tensor, residual_norm: Tensor | None) -> tuple[Tensor, float]:
    """What heads write, in coordinates that keep its distances, relative to the stream, less what all prompts share.

    Divided by the square root of the residual stream's norm: the next layer sees a change relative to the stream it is
    added to. Less the mean over prompts at each position: what is left is what tells prompts apart.

    Returns:
        [E, T, H, d], of mean norm 1 over real tokens and heads; and the norm that was divided by.
    """
    written = torch.einsum("ethd,hdk->ethk", z, isometry(w_o))
    if residual_norm is not None:
        n_heads = z.shape[2] // residual_norm.shape[2]
        root = residual_norm.clamp_min(1e-6).sqrt().repeat_interleave(n_heads, dim=2)
        written = written / root.unsqueeze(-1)
    real = mask[:, :, None, None].to(written.dtype)
    mean = (written * real).sum(dim=0) / real.sum(dim=0).clamp_min(1)
    written = (written - mean) * real
    # Head by head and in double precision: in one sum, torch's rounding would depend on the number of threads.
    norms = written[mask].norm(dim=-1).double().mean(dim=0)
    scale = norms.mean().to(written.dtype).clamp_min(torch.finfo(written.dtype).tiny)
    return written / scale, float(scale)


def _pool(z: Tensor, mask: Tensor, how: str) -> Tensor:
    """[E, T, H, d] -> [E, 1, H, d]: each prompt's mean over its tokens, or its last token."""
    if how == "last":
        return z[:, -1:].contiguous()
    weights = mask / mask.sum(dim=1, keepdim=True)
    return torch.einsum("ethd,et->ehd", z, weights.to(z.dtype)).unsqueeze(1)


def _aligned(mask: Tensor, n_positive: int) -> bool:
    """Whether position t means the same in positives and negatives: pairs, or else all prompts, of one length."""
    lengths = mask.sum(dim=1)
    positive, negative = lengths[:n_positive], lengths[n_positive:]
    if len(positive) == len(negative):
        return torch.equal(positive, negative)
    return bool((lengths == lengths[0]).all())
