"""Score heads and pairs of heads by how their codes differ between positives and negatives.

P positives, E examples in all, T positions, H heads, d = d_head, F features. A code stands for a direction, and its
activation says how far along it: what a head writes is read as activation times direction, nothing where it has no
code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dsae_core.codes import blocks, unique_codes


def code_contrast(codes: Tensor, activations: Tensor, decoder: Tensor, n_positive: int, weight: Tensor) -> Tensor:
    """[H]: how differently a head's codes read on positives and on negatives.

    The geometric mean of two lengths, both at the position where they are largest: of the difference within a pair,
    averaged over pairs; and of the average over pairs of the difference. The first sees changes that go another way
    in every pair (one name for another), the second only what all pairs have in common, with the rest averaged out.

    Args:
        codes: [E, T, H], positives first, then their negatives; where there are not as many negatives, each positive
            is compared with the mean over negatives.
        activations: [E, T, H], 0 where there is no code.
        decoder: [H, d, F], unit columns, the features' directions.
        n_positive: P.
        weight: [P, T, H], what a difference counts at its place.
    """
    directions = decoder.transpose(1, 2).contiguous()
    partners = _partners(codes, activations, directions, n_positive)
    common = weight.new_zeros(())
    within = weight.new_zeros(codes.shape[2])
    for rows in blocks(n_positive, codes[0].numel() * directions.shape[2], codes.device):
        difference = decode(codes[rows], activations[rows], directions) - partners(rows)
        within += (difference.norm(dim=-1) * weight[rows]).amax(dim=1).sum(dim=0) / n_positive
        common = common + difference.sum(dim=0) / n_positive
    in_common = (common.norm(dim=-1) * weight.mean(dim=0)).amax(dim=0)
    return torch.sqrt(within * in_common)


def decode(codes: Tensor, activations: Tensor, directions: Tensor) -> Tensor:
    """[..., H, d]: what codes and activations [..., H] stand for, with each head's directions [H, F, d]."""
    heads = torch.arange(codes.shape[-1], device=codes.device)
    return directions[heads, codes.clamp_min(0).long()] * activations.clamp_min(0).unsqueeze(-1)


def _partners(codes: Tensor, activations: Tensor, directions: Tensor, n_positive: int) -> Callable[[slice], Tensor]:
    """What some positives are compared with: their negatives' reading, or the mean over negatives."""
    codes, activations = codes[n_positive:], activations[n_positive:]
    if len(codes) == n_positive:
        return lambda rows: decode(codes[rows], activations[rows], directions)
    mean = directions.new_zeros(())
    for rows in blocks(len(codes), codes[0].numel() * directions.shape[2], codes.device):
        mean = mean + decode(codes[rows], activations[rows], directions).sum(dim=0) / len(codes)
    return lambda _: mean


def peaks(codes: Tensor, activations: Tensor, n_positive: int, weight: Tensor) -> Tensor:
    """[P, H]: in each positive, the strongest activation of a code that no negative has at the same position.

    Arguments as in code_contrast.
    """
    return (activations[:n_positive] * unique_codes(codes, n_positive) * weight).amax(dim=1)


def shared_mass(peaks: Tensor) -> Tensor:
    """[H, H]: mean over positives of the smaller of two heads' peaks [P, H].

    Two heads score high together when the same prompts give both of them codes that negatives never do.
    """
    total = peaks.new_zeros(peaks.shape[1], peaks.shape[1])
    for rows in blocks(len(peaks), total.numel(), peaks.device):
        total += torch.minimum(peaks[rows, None], peaks[rows, :, None]).sum(dim=0)
    return total / len(peaks)
