"""The circuit: heads in the places they have in the heatmap, joined where their unique codes come together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd

from dsae_core.circuits import Head
from dsae_core.ui.charts.style import (
    AXIS_HEIGHT,
    INK,
    NO_ROLE,
    Drawing,
    Grid,
    head_selection,
    node_colour,
    status_shape,
)
from dsae_core.ui.text import head_name
from dsae_core.ui.view import MISSED, OUTSIDE, is_head

NOMINAL_WIDTH = 1000
"""Pixels that the plot is about wide; only the bend of edges depends on it."""

WIDEST_EDGE = 4.0
SMALLEST_NODE, LARGEST_NODE = 40, 260
"""Square pixels of a head with score 0 and with the highest; the latter is less where rows are narrow."""

LABEL_ABOVE, LABEL_WIDTH, LABEL_HEIGHT = 13, 32, 12
"""Pixels that a name stands above its head, and its size."""

LEGEND_COLUMNS, LEGEND_ROW = 4, 19
"""Roles beside one another below the plot, and pixels of a row of them."""


def circuit_graph(grid: Grid, heads: pd.DataFrame, edges: pd.DataFrame, selected: Head) -> Drawing:
    """Draw the heads that were found or missed, and the edges.

    Where the known circuit has roles, a head's colour is that of its role; its shape says the status in any case.

    Args:
        grid: of the heads.
        heads: View.at(threshold).
        edges: View.edges(threshold, limit).
        selected: the head to ring; its edges are drawn strongly.
    """
    roles = tuple(dict.fromkeys(role for role in heads["role"] if role))
    nodes = heads[heads["status"] != OUTSIDE]
    chosen = is_head(nodes, selected)
    share = nodes["score"] / max(float(heads["score"].max()), 1e-9)
    unit_x, unit_y = _units(grid.n_layers, grid.n_heads)
    largest = min(LARGEST_NODE, math.pi / 4 * (unit_y - 1) ** 2)
    area = SMALLEST_NODE + (largest - SMALLEST_NODE) * share.clip(0, 1)
    places = list(zip(nodes["layer"].tolist(), nodes["head"].tolist(), strict=True))
    order = sorted(zip(places, nodes["score"].tolist(), strict=True), key=lambda node: (node[0] != selected, -node[1]))
    named = labelled([place for place, _ in order], unit_x, unit_y)
    names = [name if place in named else "" for place, name in zip(places, nodes["name"], strict=True)]
    kind = nodes["role"].where(nodes["role"] != "", NO_ROLE) if roles else nodes["status"]
    nodes = nodes.assign(selected=chosen, label=names, area=area, kind=kind)
    paths = edge_paths(edges, selected, grid.n_layers, grid.n_heads)
    return Drawing(_spec(grid, roles), {"nodes": nodes, "edges": paths})


def height(n_heads: int) -> int:
    """Pixels of the plot: some 36 a head, fewer where there are many."""
    return max(220, min(36 * n_heads, 460))


def labelled(heads: Sequence[Head], unit_x: float, unit_y: float) -> set[Head]:
    """Those of the heads drawn that have their name above them: the first ones, as long as it can be read.

    A name that would lie on another or on a head is left out.

    Args:
        heads: those drawn, the most important first.
        unit_x: pixels from layer to layer.
        unit_y: pixels from head to head.
    """
    radius = math.sqrt(min(LARGEST_NODE, math.pi / 4 * (unit_y - 1) ** 2) / math.pi)
    near = [(across, up) for across in range(-2, 3) for up in range(-2, 4) if (across, up) != (0, 0)]
    on_heads = [
        (across, up)
        for across, up in near
        if abs(across) * unit_x < LABEL_WIDTH / 2 + radius
        and abs(up * unit_y - LABEL_ABOVE) < LABEL_HEIGHT / 2 + radius - 2
    ]
    on_names = [
        (across, up) for across, up in near if abs(across) * unit_x < LABEL_WIDTH and abs(up) * unit_y < LABEL_HEIGHT
    ]
    if not on_heads and not on_names:
        return set(heads)
    drawn, named = set(heads), set()
    for i, (layer, head) in enumerate(heads):
        hidden = any((layer + across, head - up) in drawn for across, up in on_heads)
        hidden = hidden or any((layer + across, head - up) in named for across, up in on_names)
        if i == 0 or not hidden:
            named.add((layer, head))
    return named


def _units(n_layers: int, n_heads: int) -> tuple[float, float]:
    """Pixels from layer to layer and from head to head."""
    return NOMINAL_WIDTH / n_layers, height(n_heads) / n_heads


def edge_paths(edges: pd.DataFrame, selected: Head, n_layers: int, n_heads: int) -> pd.DataFrame:
    """Four points an edge, of a curve that bends to the right and towards the middle row.

    Where it would leave the plot on the right, it bends the other way.

    Returns:
        edge (its number), step (0 to 3), layer and head (where the point is), score, title, width (in pixels), lit
        (whether the edge is one of the selected head's, or that head has none).
    """
    unit_x, unit_y = _units(n_layers, n_heads)
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
        if b[0] + across[0] > n_layers - 0.5:
            across = (-across[0], -across[1])
        title = f"{head_name(*a)} and {head_name(*b)}"
        width = 0.3 + (WIDEST_EDGE - 0.3) * score / strongest
        for step, (along, out) in enumerate(((0.0, 0.0), (1 / 3, 1.0), (2 / 3, 1.0), (1.0, 0.0))):
            x = a[0] + along * (b[0] - a[0]) + out * across[0]
            y = a[1] + along * (b[1] - a[1]) + out * across[1]
            rows.append((i, step, x, y, score, title, width, touching[i] or not any(touching)))
    return pd.DataFrame(rows, columns=["edge", "step", "layer", "head", "score", "title", "width", "lit"])


@lru_cache(maxsize=8)
def _spec(grid: Grid, roles: tuple[str, ...]) -> dict[str, Any]:
    x, y = _axes(grid)
    points = alt.Chart(alt.NamedData("nodes")).encode(
        x=x,
        y=y,
        size=alt.Size("area:Q", scale=None, legend=None),
        shape=alt.Shape("status:N", scale=status_shape(), legend=None),
        color=alt.Color("kind:N", scale=node_colour(roles), legend=_legend(roles) if roles else None),
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
    below = AXIS_HEIGHT + (_legend_height(len(roles) + 1) if roles else 0)
    return chart.properties(height=height(grid.n_heads) + below).to_dict()


def _legend(roles: tuple[str, ...]) -> alt.Legend:
    """Below the layers, in columns that a narrow page has room for."""
    return alt.Legend(
        title=None,
        values=[*roles, NO_ROLE],
        orient="bottom",
        columns=LEGEND_COLUMNS,
        symbolType="circle",
        symbolOpacity=1,
        symbolSize=90,
        labelFontSize=12,
        rowPadding=LEGEND_ROW - 14,
        columnPadding=18,
        offset=4,
    )


def _legend_height(n_entries: int) -> int:
    return LEGEND_ROW * math.ceil(n_entries / LEGEND_COLUMNS) + 8


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
