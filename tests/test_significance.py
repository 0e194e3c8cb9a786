"""Rates of false discoveries: the null's fit, Benjamini and Hochberg's steps by hand, and where there is none."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch

from dsae_core import Circuit, Discovery, UserError
from dsae_core.significance import POWER, RATE, false_discovery_rates, p_values


def ordinary(n: int, *, center: float = 1.0, spread: float = 0.1) -> torch.Tensor:
    """Scores whose POWER is at n even quantiles of a normal distribution."""
    normal = NormalDist(center, spread)
    return torch.tensor([normal.inv_cdf((i + 0.5) / n) for i in range(n)], dtype=torch.float64) ** (1 / POWER)


def test_ordinary_scores_have_uniform_p_values() -> None:
    p = p_values(ordinary(1000))
    assert p is not None
    assert torch.allclose(p, 1 - (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000, atol=0.004)


def test_p_values_by_hand_of_a_score_two_spreads_above() -> None:
    scores = torch.cat([ordinary(2000), torch.tensor([1.2**6], dtype=torch.float64)])
    p = p_values(scores)
    assert p is not None
    assert float(p[-1]) == pytest.approx(0.0228, abs=0.002)


def test_rates_are_benjamini_and_hochbergs() -> None:
    scores = torch.cat([ordinary(200), torch.tensor([1.9, 2.0, 1.6], dtype=torch.float64) ** 6])
    p, rates = p_values(scores), false_discovery_rates(scores)
    assert p is not None
    assert rates is not None
    ranked = sorted(p.tolist())
    by_hand = [min(ranked[j] * 203 / (j + 1) for j in range(i, 203)) for i in range(203)]
    assert sorted(rates.tolist()) == pytest.approx([min(1.0, rate) for rate in by_hand])
    assert rates[-3:].max() < 0.01
    assert rates[:100].min() > 0.5


def test_rates_fall_as_scores_rise_and_keep_the_shape() -> None:
    scores = torch.rand(12, 10, generator=torch.Generator().manual_seed(0)) ** 4
    rates = false_discovery_rates(scores)
    assert rates is not None
    assert rates.shape == (12, 10)
    order = torch.argsort(scores.flatten(), descending=True)
    assert bool((rates.flatten()[order].diff() >= 0).all())


@pytest.mark.parametrize(
    "scores",
    [torch.rand(39), torch.zeros(100), torch.ones(100), torch.cat([torch.zeros(60), torch.rand(40)])],
    ids=["few heads", "no score", "one score", "mostly none"],
)
def test_no_rates_where_no_null_fits(scores: torch.Tensor) -> None:
    assert false_discovery_rates(scores) is None


def discovery(method: str) -> Discovery:
    scores = torch.cat([ordinary(57), torch.tensor([2.5, 3.0, 2.8]) ** 6]).float().reshape(6, 10)
    nothing = torch.full((2, 1, 60), -1, dtype=torch.int32)
    return Discovery(scores, torch.zeros(60, 60), nothing, torch.zeros(2, 1, 60), 1, settings={"method": method})


def test_a_circuit_of_a_rate() -> None:
    found = discovery("positional")
    circuit: Circuit = found.circuit(rate=0.1)
    assert circuit.heads == ((5, 7), (5, 8), (5, 9))
    assert circuit.provenance["rate"] == 0.1
    assert found.to_frame()["false_discovery_rate"].iloc[:3].max() <= 0.1
    assert len(found.circuit(rate=1.0)) == 60


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(UserError, match="from 0 to 1"):
        discovery("positional").circuit(rate=rate)


def test_counts_have_no_rates() -> None:
    found = discovery("paper")
    assert found.to_frame()["false_discovery_rate"].isna().all()
    with pytest.raises(UserError, match="no rate of false discoveries"):
        found.circuit(rate=RATE)
    with pytest.raises(UserError, match="Give one of"):
        found.circuit(rate=RATE, top_k=3)
