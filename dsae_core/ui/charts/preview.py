"""Scores of all heads before there are codes: a heatmap with nothing to select."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd
from torch import Tensor

from dsae_core.ui.charts.heatmap import height
from dsae_core.ui.charts.style import AXIS_HEIGHT, Drawing, Grid, score_scale
from dsae_core.ui.text import head_name


def preview_frame(scores: Tensor) -> pd.DataFrame:
    """layer, head, name and score of every head."""
    rows = [
        (layer, head, head_name(layer, head), value)
        for layer, values in enumerate(scores.tolist())
        for head, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["layer", "head", "name", "score"])


def preview_map(scores: Tensor) -> Drawing:
    """Draw scores [L, heads] in the places that heads have in the heatmap."""
    grid = Grid(scores.shape[0], scores.shape[1], has_truth=False, has_effects=False)
    return Drawing(_spec(grid), {"heads": preview_frame(scores)})


@lru_cache(maxsize=4)
def _spec(grid: Grid) -> dict[str, Any]:
    layers, heads = (
        alt.Scale(domain=list(range(n)), paddingInner=0.1, paddingOuter=0.05) for n in (grid.n_layers, grid.n_heads)
    )
    chart = (
        alt.Chart(alt.NamedData("heads"))
        .mark_rect(cornerRadius=2)
        .encode(
            x=alt.X("layer:O", title="Layer", scale=layers, axis=grid.layer_axis(grid=False)),
            y=alt.Y("head:O", title="Head", scale=heads, axis=grid.head_axis()),
            color=alt.Color("score:Q", legend=None, scale=score_scale(type="sqrt")),
            tooltip=[
                alt.Tooltip("name:N", title="Head (layer.head)"),
                alt.Tooltip("score:Q", title="Paired difference", format=".3~f"),
            ],
        )
    )
    spec: dict[str, Any] = chart.properties(height=height(grid.n_heads) + AXIS_HEIGHT).to_dict()
    return spec
