"""Scores of all heads, layers from left to right, heads from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from dsae_core.circuits import Head
from dsae_core.ui.charts.style import (
    AXIS_HEIGHT,
    GROUND,
    HEADS,
    INK,
    MARKED,
    TOP_SCORE,
    Drawing,
    Grid,
    by_status,
    head_selection,
    score_scale,
    status_colour,
    status_shape,
)
from dsae_core.ui.view import MISSED, is_head

LEGEND_SCORES = "[" + ", ".join(f"{i * i} / 16 * {TOP_SCORE}" for i in range(5)) + "]"
"""Five scores from 0 to the highest, a quarter of the (square root) colour scale apart, as an expression."""


def heatmap(grid: Grid, heads: pd.DataFrame, selected: Head) -> Drawing:
    """Draw the scores.

    Args:
        grid: of the heads; where a circuit is known, its heads have an outline, dashed if they were missed.
        heads: View.at(threshold); found heads have a mark.
        selected: the head to frame.
    """
    return heatmap_of(grid, {**by_status(heads), "selected": heads[is_head(heads, selected)]})


def heatmap_of(grid: Grid, data: Mapping[str, pd.DataFrame]) -> Drawing:
    """The heatmap of data sets that are there: HEADS, MARKED and "selected"."""
    return Drawing(_spec(grid), data)


def height(n_heads: int) -> int:
    """Pixels of the plot: some 24 a head, fewer where there are many."""
    return max(96, min(24 * n_heads, 340))


@lru_cache(maxsize=8)
def _spec(grid: Grid) -> dict[str, Any]:
    row = height(grid.n_heads) / grid.n_heads
    colour = alt.Color("score:Q", legend=_legend(), scale=score_scale(type="sqrt"))
    cells = _cells(grid, HEADS).mark_rect(cornerRadius=2).encode(color=colour).add_params(head_selection())
    marks = (
        _cells(grid, MARKED)
        .transform_filter(alt.datum.status != MISSED)
        .mark_point(filled=True, size=max(20.0, min(60.0, 2.8 * row)), opacity=1, stroke=GROUND, strokeWidth=1.5)
        .encode(
            fill=alt.Fill("status:N", scale=status_colour(), legend=None),
            shape=alt.Shape("status:N", scale=status_shape(), legend=None),
        )
    )
    frame = _cells(grid, "selected").mark_rect(
        filled=False,
        stroke=INK,
        strokeWidth=2.5,
        cornerRadius=4,
        width=alt.RelativeBandSize(band=1.14),  # around the outline of a head of the circuit
        height=alt.RelativeBandSize(band=1.22),
    )
    outlines = [_outline(grid, missed=False), _outline(grid, missed=True)] if grid.has_truth else []
    chart = alt.layer(cells, *outlines, marks, frame)
    chart = chart.resolve_scale(color="independent").properties(height=height(grid.n_heads) + AXIS_HEIGHT)
    spec: dict[str, Any] = chart.to_dict()
    return spec


def _cells(grid: Grid, data: str) -> alt.Chart:
    """Marks in the cells of the heads that are in this data set."""
    layers, heads = (
        alt.Scale(domain=list(range(n)), paddingInner=0.1, paddingOuter=0.05) for n in (grid.n_layers, grid.n_heads)
    )
    chart: alt.Chart = alt.Chart(alt.NamedData(data)).encode(
        x=alt.X("layer:O", title="Layer", scale=layers, axis=grid.layer_axis(grid=False)),
        y=alt.Y("head:O", title="Head", scale=heads, axis=grid.head_axis()),
        tooltip=grid.tooltip(),
    )
    return chart


def _outline(grid: Grid, *, missed: bool) -> alt.Chart:
    """Outlines of the circuit's heads, of those found or of those missed."""
    wanted = alt.datum.status == MISSED if missed else alt.datum.status != MISSED
    chart: alt.Chart = (
        _cells(grid, MARKED)
        .transform_filter(alt.datum.in_circuit & wanted)
        .mark_rect(filled=False, strokeWidth=1.8, strokeDash=[3, 2] if missed else [1, 0], cornerRadius=2)
        .encode(stroke=alt.Stroke("status:N", scale=status_colour(), legend=None))
    )
    return chart


def _legend() -> alt.Legend:
    """Under the plot's left end, below the layers, where it takes no room from the plot."""
    return alt.Legend(
        title=None,
        type="symbol",
        symbolType="square",
        symbolSize=110,
        symbolStrokeWidth=0,
        values=alt.ExprRef(LEGEND_SCORES),
        format=".2~r",
        orient="none",
        direction="horizontal",
        legendX=0,
        legendY=alt.ExprRef("height + 26"),
        columnPadding=10,
        padding=0,
    )
