"""How many of the best heads are there by chance: an empirical null for one run's scores.

Everything downstream of the tokens that differ does differ, so "this head does not change at all" is no null worth
testing. What is tested here is "this head is an ordinary one": most heads of a model have no part in a behaviour, and
their own scores, the lower half of all, say what an ordinary head scores (Efron 2004, "Large-scale simultaneous
hypothesis testing: the choice of a null hypothesis").
"""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor

POWER = 1 / 6
"""Ordinary heads' scores to this power are about normal; chosen on development draws, see docs/method.md."""

LOW, MIDDLE = 0.10, 0.45
"""Quantiles of all heads that the null is fitted to: all but surely ordinary heads' own."""

FEWEST_HEADS = 40
"""With fewer heads than this the quantiles say too little."""

RATE = 0.2
"""The rate of false discoveries at which a circuit is cut unless another is asked for."""


def p_values(scores: Tensor) -> Tensor | None:
    """How often an ordinary head would score as much or more.

    Args:
        scores: node scores of one run, any shape, 0 or more.

    Returns:
        The shape of scores, float64, 0 to 1; None where no null can be fitted: fewer than FEWEST_HEADS heads, or
        ordinary heads that all score alike (counts of codes, most of them 0).
    """
    if scores.numel() < FEWEST_HEADS:
        return None
    values = scores.double().clamp_min(0).pow(POWER)
    low, middle = torch.quantile(values, torch.tensor([LOW, MIDDLE], dtype=torch.float64)).tolist()
    normal = NormalDist()
    spread = (middle - low) / (normal.inv_cdf(MIDDLE) - normal.inv_cdf(LOW))
    if low <= 0 or spread <= 1e-6 * middle:
        return None
    center = middle - spread * normal.inv_cdf(MIDDLE)
    p: Tensor = torch.special.ndtr((center - values) / spread)
    return p


def false_discovery_rates(scores: Tensor) -> Tensor | None:
    """The smallest rate of false discoveries at which each head is in the circuit.

    Benjamini & Hochberg's procedure (1995) on p_values: the heads with a rate of q or less are a circuit of which a
    share of q is expected to be ordinary heads.

    Args:
        scores: as in p_values.

    Returns:
        The shape of scores, float64, 0 to 1, falling as scores rise; None where there are no p-values.
    """
    p = p_values(scores)
    if p is None:
        return None
    order = torch.argsort(p.flatten(), descending=True)
    ranks = torch.arange(p.numel(), 0, -1, dtype=torch.float64)
    rates = torch.empty_like(ranks)
    rates[order] = (p.flatten()[order] * p.numel() / ranks).cummin(dim=0).values.clamp_max(1)
    return rates.reshape(p.shape)
