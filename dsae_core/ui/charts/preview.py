"""Scores of all heads before there are codes, in the heatmap that will have the codes' scores."""

from __future__ import annotations

import pandas as pd
from torch import Tensor

from dsae_core.ui.charts.heatmap import heatmap_of
from dsae_core.ui.charts.style import HEADS, MARKED, Drawing, Grid
from dsae_core.ui.text import head_name

LATER = "after the run"
"""What a tooltip of the heatmap says of a head where only the run's end will tell."""


def preview_frame(scores: Tensor) -> pd.DataFrame:
    """layer, head, name, score and rank of every head."""
    rows = [
        (layer, head, head_name(layer, head), value)
        for layer, values in enumerate(scores.tolist())
        for head, value in enumerate(values)
    ]
    frame = pd.DataFrame(rows, columns=["layer", "head", "name", "score"])
    frame["rank"] = frame["score"].rank(ascending=False, method="first").astype(int)
    return frame


def preview_map(scores: Tensor, grid: Grid | None = None) -> Drawing:
    """Draw scores [L, heads] in the heatmap.

    Args:
        scores: of the run under way.
        grid: of the result on show. Where it is a model's of the same shape the chart is the same one, and a browser
            only puts these scores in the place of the last ones.
    """
    shape = (int(scores.shape[0]), int(scores.shape[1]))
    if grid is None or (grid.n_layers, grid.n_heads) != shape:
        grid = Grid(*shape, has_truth=False, has_effects=False)
    frame = preview_frame(scores).assign(
        **dict.fromkeys(["unique_codes", "rate_in_words", "in_words", "effect_in_words"], LATER)
    )
    none = frame.iloc[:0].assign(status="", in_circuit=False)
    return heatmap_of(grid, {HEADS: frame, MARKED: none, "selected": none})
