"""Follow what heads write to the prediction, with forward passes only: who can reach it, and who carries the change.

P prompt pairs, T positions, L layers, h heads a layer, d = d_head, D = d_model; tensors as in
`dsae_core.models.Routes`. Nothing here differentiates the model: both quantities are read off what the forward passes
moved. They replace a fixed damping with depth; docs/method.md has the ablation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from dsae_core.codes import blocks
from dsae_core.models import HeadOutputs, Routes

SMALLEST_SHARE = 1e-3
"""Shares of the change are told apart down to about this one."""


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What is known of the stream that heads write to. L layers of h heads; T positions.

    Attributes:
        weight: [P, T, L], how far what is written there gets to the last position, 0 to 1.
        residual_norm: [E, T, L], norm of the residual stream as it enters the layer; None where it is not known.
        shares: [P, T, L, h], of the change, see change_shares; None where it is not known.
        edges: [H, H], likewise.
    """

    weight: Tensor
    residual_norm: Tensor | None = None
    shares: Tensor | None = None
    edges: Tensor | None = None

    def emphasis(self, power: float) -> Tensor:
        """[L, h]: each head's share of the change, without sign and averaged over pairs, to a power; 1 where not known.

        SMALLEST_SHARE is added first, so that a head without a share keeps a score.
        """
        if self.shares is None:
            return self.weight.new_ones(())
        return (self.shares.abs().sum(dim=1).mean(dim=0) + SMALLEST_SHARE) ** power

    @classmethod
    def of(cls, outputs: HeadOutputs, w_o: Tensor, n_positive: int) -> Surroundings:
        """What forward passes over P positives and then their P negatives show.

        Args:
            outputs: of collect_head_outputs, with routes where they could be had.
            w_o: [L, h, d, D], output weights.
            n_positive: P.
        """
        residual_norm = outputs.residual_norm.permute(1, 2, 0)
        routes = outputs.routes
        if routes is None:
            return cls(depth_weight(n_positive, *residual_norm.shape[1:], device=w_o.device), residual_norm)
        positive, negative = (
            Routes(routes.attention[:, rows], routes.values[:, rows], routes.streams[:, rows])
            for rows in (slice(n_positive), slice(n_positive, None))
        )
        return cls(
            reach(positive, outputs.residual_norm[:, :n_positive], w_o),
            residual_norm,
            *change_shares(positive, negative, outputs.z[:n_positive] - outputs.z[n_positive:], w_o),
        )

    @classmethod
    def unknown(
        cls, n_positive: int, length: int, n_layers: int, *, device: torch.device | None = None
    ) -> Surroundings:
        """Where there are only head outputs."""
        return cls(depth_weight(n_positive, length, n_layers, device=device))

    def to(self, device: torch.device) -> Surroundings:
        """The same on another device."""
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in known.items() if value is not None})


def depth_weight(n_positive: int, length: int, n_layers: int, *, device: torch.device | None = None) -> Tensor:
    """[P, T, L]: in place of reach, the root of the share of layers that are still to come; 1 at the last position."""
    weight = (1 - torch.arange(n_layers, device=device) / n_layers).sqrt().repeat(n_positive, length, 1)
    weight[:, -1] = 1
    return weight


def reach(routes: Routes, residual_norm: Tensor, w_o: Tensor) -> Tensor:
    """How far what is written at a layer and position can get to the last position, 0 to 1.

    What is written at the last position arrives. What is written at s arrives as far as later layers' attention takes
    it to positions that arrive: by the length of what the heads move from s to t, relative to the residual stream at t
    (their root of summed squares, for heads write in directions of their own). It is attention rollout (Abnar &
    Zuidema 2020, arXiv 2005.00928) with value-weighted attention (Kobayashi et al. 2020, arXiv 2004.10102).

    Args:
        routes: of the positives.
        residual_norm: [L, P, T], norms of their residual streams.
        w_o: [L, h, d, D], output weights.

    Returns:
        [P, T, L].
    """
    n_layers, n_prompts, _, length, _ = routes.attention.shape
    gram = w_o @ w_o.transpose(-1, -2)
    reached = w_o.new_zeros(n_prompts, length, n_layers)
    now = w_o.new_zeros(n_prompts, length)
    now[:, -1] = 1
    for layer in reversed(range(n_layers)):
        reached[:, :, layer] = now
        values = routes.values[layer]
        written = torch.einsum("pshd,hde,pshe->psh", values, gram[layer], values).clamp_min(0).sqrt()
        moved = routes.attention[layer] * written.transpose(1, 2)[:, :, None, :]
        moved = moved.square().sum(dim=1).sqrt() / residual_norm[layer].clamp_min(1e-6)[:, :, None]  # [P, t, s]
        now = (now + torch.einsum("pt,pts->ps", now, moved)).clamp_max(1)
    return reached


def change_shares(positive: Routes, negative: Routes, z_difference: Tensor, w_o: Tensor) -> tuple[Tensor, Tensor]:
    """How much of the change at the last position each head accounts for, and each direct path between two heads.

    The residual stream of a positive less that of its negative is a sum of what came in and what each head wrote.
    Starting from the last position, a layer's change is shared out among these terms by their projection on the sum,
    which adds up to 1. A head's share goes on to where its own change came from: to the values it read (of the
    position they stood at), or to its pattern, half to the position that asked and half to those that were asked.
    What an MLP adds is charged to the stream it read.

    Args:
        positive: routes of the P positives.
        negative: routes of their negatives.
        z_difference: [P, T, L, h, d], head outputs of the positives less those of the negatives, 0 on padding.
        w_o: [L, h, d, D], output weights.

    Returns:
        shares: [P, T, L, h]; one may be negative, or above 1 where others are negative.
        edges: [H, H], for each sender (first axis) and later receiver the mean over pairs of how much of the
            receiver's share the sender put into the streams that the receiver read, without its sign.
    """
    first = _first_change(positive.streams[0] - negative.streams[0], z_difference[:, :, 0])
    changes = (positive.streams - negative.streams)[:, :, first:]
    z_changed = z_difference[:, first:]
    gram = w_o @ w_o.transpose(-1, -2)
    shares = torch.zeros_like(z_difference[..., 0])
    now = z_changed.new_zeros(z_changed.shape[:2])
    now[:, -1] = 1
    read = []
    for layer in reversed(range(len(w_o))):
        z = z_changed[:, :, layer]
        matrix = w_o[layer].flatten(0, 1)  # [h d, D]
        total = changes[layer] + z.flatten(2) @ matrix
        size = total.square().sum(dim=-1).clamp_min(_TINY)
        along = (total @ matrix.T).reshape(z.shape)  # W_O total, so that z . along = written . total
        of_heads = now[..., None] * (z * along).sum(dim=-1) / size[..., None]
        shares[:, first:, layer] = of_heads
        read.append(_sources(positive, negative, layer, z, gram[layer], of_heads))
        now = now * (changes[layer] * total).sum(dim=-1) / size + read[-1].sum(dim=1)
    return shares, _edges(changes, z_changed, w_o, read[::-1])


def _first_change(stream: Tensor, z: Tensor) -> int:
    """The first position at which a pair differs in the first layer, and so in any; the last one where none does.

    From the stream's change [P, T, D] and its heads' [P, T, h, d]. Positions see only those before them, so what comes
    before this one is alike in all layers, and need not be looked at.
    """
    differs = (stream != 0).any(dim=-1) | (z != 0).flatten(2).any(dim=-1)
    differs = differs.any(dim=0)
    return int(differs.int().argmax()) if bool(differs.any()) else len(differs) - 1


_TINY = 1e-9
"""A change shorter than this, squared, is none."""


def _sources(positive: Routes, negative: Routes, layer: int, z: Tensor, gram: Tensor, of_heads: Tensor) -> Tensor:
    """[P, h, t]: the shares [P, t, h] of heads that changed by z [P, t, h, d], handed on to the positions they read.

    These are the last t positions; what is handed on to the others, where nothing changed, is left out.
    """
    first = positive.values.shape[2] - z.shape[1]
    direction = torch.einsum("pthd,hde->phte", z, gram)
    size = torch.einsum("phte,pthe->pht", direction, z).clamp_min(_TINY)
    direction = direction / size[..., None]
    weights, other_weights = (side.attention[layer][:, :, first:] for side in (positive, negative))
    values, other_values = positive.values[layer], negative.values[layer]
    # A product's change is exactly the change of each factor times the mean of the other.
    by_value = torch.einsum("phte,pshe->phts", direction, (values - other_values)[:, first:])
    by_value = by_value * (weights + other_weights)[..., first:] / 2
    by_pattern = torch.einsum("phte,pshe->phts", direction, (values + other_values) / 2) * (weights - other_weights)
    asked = by_pattern.abs()
    asked = asked[..., first:] / asked.sum(dim=-1, keepdim=True).clamp_min(_TINY)
    share = of_heads.transpose(1, 2)  # [P, h, t]
    half = share * by_pattern.sum(dim=-1) / 2
    handed = torch.einsum("pht,phts->phs", share, by_value) + torch.einsum("pht,phts->phs", half, asked)
    return handed + half


def _edges(changes: Tensor, z_difference: Tensor, w_o: Tensor, read: list[Tensor]) -> Tensor:
    """[H, H] from the streams' changes [L, P, T, D] and what each layer's heads read of each position, [P, h, T]."""
    n_layers, n_heads = w_o.shape[:2]
    edges = w_o.new_zeros(n_layers, n_layers * n_heads, n_heads)  # receiving layer, sender, receiver
    sizes = changes.square().sum(dim=-1, keepdim=True).clamp_min(_TINY)
    matrices = w_o.flatten(0, 1)
    length, width = z_difference.shape[1], matrices.shape[2]
    # What all heads wrote is large.
    for rows in blocks(len(z_difference), length * len(matrices) * width, w_o.device):
        z = z_difference[rows].flatten(2, 3).permute(2, 0, 1, 3).flatten(1, 2)  # [H, P T, d]
        written = torch.bmm(z, matrices).transpose(0, 1)  # [P T, H, D]
        directions = (changes[:, rows] / sizes[:, rows]).flatten(1, 2).permute(1, 2, 0)  # [P T, D, L]
        put = torch.bmm(written, directions).reshape(-1, length, len(matrices), n_layers)  # [P, T, H, L]
        heads = torch.stack([of_layer[rows] for of_layer in read])  # [L, P, h, T]
        of_rows = torch.bmm(put.permute(0, 3, 2, 1).flatten(0, 1), heads.permute(1, 0, 3, 2).flatten(0, 1))
        edges += of_rows.reshape(-1, *edges.shape).abs().sum(dim=0) / len(z_difference)
    layer = torch.arange(n_layers, device=edges.device).repeat_interleave(n_heads)
    return edges.permute(1, 0, 2).flatten(1) * (layer[:, None] < layer)
