"""Codes: what they mean and which of them only positives produce."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

INACTIVE = -1
"""The code of a row on which no feature is active. It is no code: never unique, never half of a pair."""


def unique_codes(codes: Tensor, n_positive: int) -> Tensor:
    """Which codes of positives no negative has at the same position in the same head.

    Args:
        codes: [E, T, H], the first n_positive examples being positives.
        n_positive: P.

    Returns:
        [P, T, H] bool.
    """
    positive, negative = codes[:n_positive], codes[n_positive:]
    found = positive != INACTIVE
    for rows in blocks(len(negative), positive.numel(), codes.device):
        found &= (positive[:, None] != negative[None, rows]).all(dim=1)
    return found


def codes_used(codes: Tensor, n_features: int) -> Tensor:
    """[H]: how many distinct codes each head has over all examples of codes [E, H]."""
    seen = torch.zeros(codes.shape[1], n_features + 1, dtype=torch.bool, device=codes.device)
    seen.scatter_(1, codes.T.long() + 1, True)  # column 0 takes INACTIVE
    return seen[:, 1:].sum(dim=1)


def blocks(n_examples: int, size: int, device: torch.device) -> Iterator[slice]:
    """The examples, some at a time: on the CPU one, whose numbers stay in its cache; elsewhere as many as fit well.

    Args:
        n_examples: how many there are.
        size: numbers that work on one of them makes.
        device: where it is done.
    """
    at_once = 1 if device.type == "cpu" else max(1, _AT_ONCE // max(1, size))
    for first in range(0, n_examples, at_once):
        yield slice(first, min(first + at_once, n_examples))


_AT_ONCE = 2**26
"""Numbers: a launch on a GPU costs as much as work on a million of them."""
