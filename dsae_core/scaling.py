"""How the time of discoveries and of pair scores grows with heads and examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dsae_core import ops
from dsae_core.discovery import discover_from_activations
from dsae_core.roofline import timed
from dsae_core.stages import Progress, silent


@dataclass(frozen=True)
class Scaling:
    """How time grows with a quantity.

    Attributes:
        name: what was run.
        quantity: what was varied: "heads" or "examples".
        points: (value, seconds), seconds the best of some runs.
        exponent: p of seconds = c * value^p, least squares over the logarithms: 1 is linear, 2 quadratic.
        expected: the exponent that its arithmetic has.
    """

    name: str
    quantity: str
    points: tuple[tuple[int, float], ...]
    exponent: float
    expected: int


def measure_scaling(
    *,
    heads: Sequence[int] = (128, 256, 512, 1024),
    examples: Sequence[int] = (20, 40, 80, 160),
    pair_heads: Sequence[int] = (512, 1024, 2048, 4096),
    repeats: int = 3,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> tuple[Scaling, ...]:
    """Positional discovery against heads and against examples, and pair_scores against heads.

    Discoveries run on random head outputs of 16 positions, d_head 64 and d_model 576, from activations on, so
    without a model; against heads with 20 examples, against examples with 128 heads. pair_scores has 20 examples and
    64 features.

    Args:
        heads: numbers of heads to discover with.
        examples: numbers of examples, positives and negatives together.
        pair_heads: numbers of heads for pair_scores.
        repeats: runs a point, of which the fastest counts.
        device: where the head outputs and codes are.
        progress: called with "scaling" and the share of points done.
    """
    report, place = progress if progress is not None else silent, torch.device(device)
    series: list[tuple[str, str, int, Sequence[int], Callable[[int], Callable[[], object]]]] = [
        ("positional discovery", "heads", 1, heads, lambda n: _synthetic_discovery(n, 20, place)),
        ("positional discovery", "examples", 1, examples, lambda n: _synthetic_discovery(128, n, place)),
        ("pair_scores", "heads", 2, pair_heads, lambda n: _synthetic_pairs(n, 20, place)),
    ]
    total, done = sum(len(values) for _, _, _, values, _ in series), 0
    found = []
    for name, quantity, expected, values, make in series:
        points = []
        for value in values:
            report("scaling", done / total)
            run = make(value)
            run()
            points.append((value, min(timed(run, place) for _ in range(repeats))))
            done += 1
        found.append(Scaling(name, quantity, tuple(points), fitted_exponent(points), expected))
    report("scaling", 1.0)
    return tuple(found)


def fitted_exponent(points: Sequence[tuple[int, float]]) -> float:
    """p of seconds = c * value^p by least squares over the logarithms; needs two different values."""
    x, y = torch.tensor(points, dtype=torch.float64).log().unbind(dim=1)
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def _synthetic_discovery(n_heads: int, n_examples: int, device: torch.device) -> Callable[[], object]:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(n_examples, 16, 1, n_heads, 64, generator=g).to(device)
    w_o = (torch.randn(1, n_heads, 64, 576, generator=g) / 24).to(device)
    half = n_examples // 2
    return lambda: discover_from_activations(z[:half], z[half:], w_o)


def _synthetic_pairs(n_heads: int, n_examples: int, device: torch.device) -> Callable[[], object]:
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(-1, 64, (n_examples, n_heads), dtype=torch.int32, generator=g).to(device)
    return lambda: ops.pair_scores(codes, n_examples // 2, 64)
