"""The circuit: heads in the places they have in the heatmap, joined where their unique codes come together."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from dsae_core.circuits import Head
from dsae_core.ui.charts.style import (
    AXIS_HEIGHT,
    INK,
    Drawing,
    Grid,
    head_selection,
    status_colour,
    status_shape,
)
from dsae_core.ui.text import head_name
from dsae_core.ui.view import MISSED, OUTSIDE

NOMINAL_WIDTH = 1000
"""Pixels that the plot is about wide; only the bend of edges depends on it."""

MAX_LABELS = 40
WIDEST_EDGE = 4.0
SMALLEST_NODE, LARGEST_NODE = 40, 260
"""Square pixels of a head with score 0 and with the highest."""


def circuit_graph(grid: Grid, heads: pd.DataFrame, edges: pd.DataFrame, selected: Head) -> Drawing:
    """Draw the heads that were found or missed, and the edges.

    Args:
        grid: of the heads.
        heads: View.at(threshold).
        edges: View.edges(threshold, limit).
        selected: the head to ring; its edges are drawn strongly.
    """
    nodes = heads[heads["status"] != OUTSIDE]
    chosen = (nodes["layer"] == selected[0]) & (nodes["head"] == selected[1])
    labelled = chosen | (nodes["score"].rank(ascending=False, method="first") <= MAX_LABELS)
    share = nodes["score"] / max(float(heads["score"].max()), 1e-9)
    area = SMALLEST_NODE + (LARGEST_NODE - SMALLEST_NODE) * share.clip(0, 1)
    nodes = nodes.assign(selected=chosen, label=np.where(labelled, nodes["name"], ""), area=area)
    paths = edge_paths(edges, selected, grid.n_layers, grid.n_heads)
    return Drawing(_spec(grid), {"nodes": nodes, "edges": paths})


def height(n_heads: int) -> int:
    """Pixels of the plot: some 36 a head, fewer where there are many."""
    return max(220, min(36 * n_heads, 460))


def edge_paths(edges: pd.DataFrame, selected: Head, n_layers: int, n_heads: int) -> pd.DataFrame:
    """Four points an edge, of a curve that bends to the right and towards the middle row.

    Returns:
        edge (its number), step (0 to 3), layer and head (where the point is), score, title, width (in pixels), lit
        (whether the edge is one of the selected head's, or that head has none).
    """
    unit_x, unit_y = NOMINAL_WIDTH / n_layers, height(n_heads) / n_heads
    strongest = max(float(edges["score"].max()), 1e-9) if len(edges) else 1.0
    columns = (edges[name].tolist() for name in ("layer_a", "head_a", "layer_b", "head_b", "score"))
    ends = [((la, ha), (lb, hb), score) for la, ha, lb, hb, score in zip(*columns, strict=True)]
    touching = [selected in (a, b) for a, b, _ in ends]
    rows = []
    for i, (a, b, score) in enumerate(ends):
        dx, dy = (b[0] - a[0]) * unit_x, (b[1] - a[1]) * unit_y
        length = math.hypot(dx, dy)
        bend = min(max(0.16 * length, 12.0), 60.0) / length
        inward = 1 if a[1] + b[1] >= n_heads - 1 else -1
        across = (abs(dy) * bend / unit_x, -inward * dx * bend / unit_y)
        title = f"{head_name(*a)} and {head_name(*b)}"
        width = 0.3 + (WIDEST_EDGE - 0.3) * score / strongest
        for step, (along, out) in enumerate(((0.0, 0.0), (1 / 3, 1.0), (2 / 3, 1.0), (1.0, 0.0))):
            x = a[0] + along * (b[0] - a[0]) + out * across[0]
            y = a[1] + along * (b[1] - a[1]) + out * across[1]
            rows.append((i, step, x, y, score, title, width, touching[i] or not any(touching)))
    return pd.DataFrame(rows, columns=["edge", "step", "layer", "head", "score", "title", "width", "lit"])


@lru_cache(maxsize=8)
def _spec(grid: Grid) -> dict[str, Any]:
    x, y = _axes(grid)
    points = alt.Chart(alt.NamedData("nodes")).encode(
        x=x,
        y=y,
        size=alt.Size("area:Q", scale=None, legend=None),
        shape=alt.Shape("status:N", scale=status_shape(), legend=None),
        color=alt.Color("status:N", scale=status_colour(), legend=None),
        tooltip=grid.tooltip(),
    )
    found = points.transform_filter(alt.datum.status != MISSED).mark_point(filled=True, opacity=1)
    missed = points.transform_filter(alt.datum.status == MISSED).mark_point(filled=False, strokeWidth=2, opacity=1)
    plain = alt.Chart(alt.NamedData("nodes")).encode(x=x, y=y)
    chosen = plain.transform_filter(alt.datum.selected)
    others = plain.transform_filter(~alt.datum.selected)
    ring = chosen.mark_point(filled=False, shape="circle", size=520, stroke=INK, strokeWidth=2, opacity=1)
    label = alt.Text("label:N")
    chart = alt.layer(
        _edges(x, y),
        ring,
        found.add_params(head_selection()),
        missed,
        others.mark_text(dy=-13, fontSize=11, color=INK).encode(text=label),
        chosen.mark_text(dy=-19, fontSize=12, fontWeight="bold", color=INK).encode(text=label),
    )
    return chart.properties(height=height(grid.n_heads) + AXIS_HEIGHT).to_dict()


def _edges(x: alt.X, y: alt.Y) -> alt.Chart:
    chart: alt.Chart = (
        alt.Chart(alt.NamedData("edges"))
        .mark_line(interpolate="basis", color=INK, strokeCap="round", clip=True)
        .encode(
            x=x,
            y=y,
            detail="edge:N",
            order="step:Q",
            strokeWidth=alt.StrokeWidth("width:Q", scale=None),
            opacity=alt.condition("datum.lit", alt.value(0.5), alt.value(0.12)),
            tooltip=[
                alt.Tooltip("title:N", title="Heads"),
                alt.Tooltip("score:Q", title="Pair score", format=".3~f"),
            ],
        )
    )
    return chart


def _axes(grid: Grid) -> tuple[alt.X, alt.Y]:
    """Quantitative axes on which a cell of the heatmap is one unit wide and high."""
    layers = alt.Scale(domain=[-0.5, grid.n_layers - 0.5], nice=False, zero=False)
    heads = alt.Scale(domain=[grid.n_heads - 0.4, -0.9], nice=False, zero=False)
    return (
        alt.X("layer:Q", title="Layer", scale=layers, axis=grid.layer_axis(grid=True)),
        alt.Y("head:Q", title="Head", scale=heads, axis=grid.head_axis()),
    )
