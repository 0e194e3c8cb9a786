"""Methods beside one another, and one run against another."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import altair as alt
import pandas as pd

from dsae_core.ui.charts.style import AXIS_HEIGHT, GROUND, INK, Drawing, status_colour, status_shape, ticks
from dsae_core.ui.view import FALSE_POSITIVE, MISSED, TRUE_POSITIVE

Scale = Literal["rank", "max"]

SIDES = {"first": "higher in A", "second": "higher in B"}
CIRCUITS = {"first": "of A alone", "second": "of B alone", "both": "of both"}
"""Which run ranks a head higher, and whose circuit has it: a run has one of the theme's first two colours in both."""

ROW, SMALL_ROW = 24, 14
"""Pixels a head, in a whole-width chart and in one of several."""

RANK_POWER = 4
"""Of a rank's share for its ink: heads in the lower half differ by chance, and the power leaves them pale."""

COST_HEIGHT, COST_AROUND, LABEL_PIXELS, LABEL_COLUMN = 360, 110, 17, 184
"""Pixels of the chart of accuracy and cost: its least height, what of it the axis takes, a name, their column."""

LEGEND_COLUMNS = 2

NEEDS = ("a forward pass", "gradients, answers", "ablations, answers", "gradients", "nothing", "ablations")
"""What methods take, in the order of the theme's colours; shapes tell apart those for which there is none left."""


def small_heatmap(heads: pd.DataFrame, scale: Scale) -> Drawing:
    """One method's scores, small.

    Args:
        heads: comparison.heads(line, truth).
        scale: "rank" shades a head by the share of heads it outscores, "max" by its share of the highest score.
    """
    n_layers, n_heads = _shape(heads)
    return Drawing(_small_spec(n_layers, n_heads, scale, bool((heads["status"] != "").any())), {"heads": heads})


def difference_map(heads: pd.DataFrame) -> Drawing:
    """How far each head moved from one run to another; as in the heatmaps of ranks, the ink is kept for upper ranks.

    Args:
        heads: Difference.heads.
    """
    shown = heads.assign(
        side=heads["side"].map(SIDES).fillna("alike"),
        circuit=heads["found"].map(_in_circuit),
        ink=(heads["second_share"] ** RANK_POWER - heads["first_share"] ** RANK_POWER).abs(),
    )
    return Drawing(_difference_spec(*_shape(heads)), {"heads": shown})


def agreement_map(frame: pd.DataFrame) -> Drawing:
    """Rank correlation of every two methods.

    Args:
        frame: comparison.agreement(lines).
    """
    return Drawing(_agreement_spec(tuple(dict.fromkeys(frame["first"]))), {"pairs": frame})


def cost_chart(table: pd.DataFrame) -> Drawing:
    """Accuracy against seconds, a point a method; its name stands in a column beside the plot, a line leads to it.

    Args:
        table: comparison.table(lines, has_truth=True).
    """
    aucs = table["auc"].tolist()
    low, high = math.floor(20 * (min(aucs) - 0.01)) / 20, math.ceil(20 * (max(aucs) + 0.01)) / 20
    around = COST_AROUND + LABEL_PIXELS * math.ceil(table["needs"].nunique() / LEGEND_COLUMNS)
    height = max(COST_HEIGHT, LABEL_PIXELS * len(aucs) + around)
    gap = (high - low) * LABEL_PIXELS / (height - around)
    shown = table.assign(seconds=table["seconds"].clip(lower=0.01), label_at=spread(aucs, gap, low, high))
    legend = tuple(name for name in NEEDS if name in set(table["needs"]))
    return Drawing(_cost_spec(low, high, height, legend), {"methods": shown})


def spread(values: list[float], gap: float, lowest: float = -math.inf, highest: float = math.inf) -> list[float]:
    """Heights for names beside points at falling heights, `gap` apart or more, as near to their points as can be.

    Names that would overlap are moved together, so that their mean is that of their points (isotonic regression).
    All lie within lowest and highest where there is room for so many.
    """
    n = len(values)
    groups: list[tuple[float, int]] = []  # the mean of a group's members were there no gaps, and how many they are
    for i, value in enumerate(values):
        mean, size = value + i * gap, 1
        while groups and groups[-1][0] <= mean:
            earlier, members = groups.pop()
            mean, size = (earlier * members + mean * size) / (members + size), members + size
        groups.append((mean, size))
    level = [mean for mean, size in groups for _ in range(size)]
    inside = (min(level[i] - i * gap, highest - i * gap) for i in range(n))
    return [max(height, lowest + gap * (n - 1 - i)) for i, height in enumerate(inside)]


def rank_scatter(heads: pd.DataFrame) -> Drawing:
    """Each head's rank in one run against the other, the best in the upper right corner.

    Args:
        heads: Difference.heads.
    """
    return Drawing(_scatter_spec(), {"heads": heads.assign(circuit=heads["found"].map(_in_circuit))})


def _in_circuit(found: str) -> str:
    return CIRCUITS.get(found, "of neither")


def _shape(heads: pd.DataFrame) -> tuple[int, int]:
    return int(heads["layer"].max()) + 1, int(heads["head"].max()) + 1


def _cells(n_layers: int, n_heads: int, row: int) -> alt.Chart:
    """Marks in the cells of all layers and heads."""
    layers, heads = (alt.Scale(domain=list(range(n)), paddingInner=0.1, paddingOuter=0.05) for n in (n_layers, n_heads))
    plain: dict[str, Any] = {
        "format": "d",
        "ticks": False,
        "domain": False,
        "grid": False,
        "labelAngle": 0,
        "labelFlush": False,
    }
    small = row == SMALL_ROW
    chart: alt.Chart = alt.Chart().encode(
        x=alt.X(
            "layer:O", title="Layer", scale=layers, axis=alt.Axis(values=ticks(n_layers, 10 if small else 36), **plain)
        ),
        y=alt.Y("head:O", title="Head", scale=heads, axis=alt.Axis(values=ticks(n_heads, 5 if small else 16), **plain)),
    )
    return chart


def _height(n_heads: int, row: int) -> int:
    return max(4 * row, min(row * n_heads, 14 * row)) + AXIS_HEIGHT + 24


@lru_cache(maxsize=16)
def _small_spec(n_layers: int, n_heads: int, scale: Scale, has_truth: bool) -> dict[str, Any]:
    tooltip = [
        alt.Tooltip("name:N", title="Head (layer.head)"),
        alt.Tooltip("score:Q", title="Score", format=".3~g"),
        alt.Tooltip("rank:Q", title="Rank"),
    ]
    if has_truth:
        tooltip.append(alt.Tooltip("status:N", title="At the circuit's size"))
    domain = (
        alt.Scale(type="pow", exponent=RANK_POWER, domain=[0, 1])
        if scale == "rank"
        else alt.Scale(type="sqrt", domain=[0, 1])
    )
    base = _cells(n_layers, n_heads, SMALL_ROW).encode(tooltip=tooltip)
    cells = base.mark_rect(cornerRadius=1).encode(color=alt.Color(f"{scale}_share:Q", legend=None, scale=domain))
    layers: list[alt.Chart] = [cells]
    if has_truth:
        for missed in (False, True):
            wanted = [MISSED] if missed else [TRUE_POSITIVE]
            layers.append(
                base.transform_filter(alt.FieldOneOfPredicate("status", wanted))
                .mark_rect(filled=False, strokeWidth=1.4, strokeDash=[2, 1.5] if missed else [1, 0])
                .encode(stroke=alt.Stroke("status:N", scale=status_colour(), legend=None))
            )
        layers.append(
            base.transform_filter(alt.FieldOneOfPredicate("status", [FALSE_POSITIVE]))
            .mark_point(filled=True, size=34, opacity=1, stroke=GROUND, strokeWidth=1)
            .encode(
                fill=alt.Fill("status:N", scale=status_colour(), legend=None),
                shape=alt.Shape("status:N", scale=status_shape(), legend=None),
            )
        )
    chart = alt.layer(*layers, data=alt.NamedData("heads")).resolve_scale(color="independent")
    spec: dict[str, Any] = chart.properties(height=_height(n_heads, SMALL_ROW)).to_dict()
    return spec


@lru_cache(maxsize=8)
def _difference_spec(n_layers: int, n_heads: int) -> dict[str, Any]:
    base = _cells(n_layers, n_heads, ROW).encode(tooltip=_difference_tooltip())
    ground = base.mark_rect(cornerRadius=2, color=INK, opacity=0.05)
    colour = alt.Color(
        "side:N",
        scale=alt.Scale(domain=list(SIDES.values())),
        legend=alt.Legend(title=None, orient="bottom", symbolType="square", symbolOpacity=1),
    )
    moved = (
        base.transform_filter(alt.FieldOneOfPredicate("side", list(SIDES.values())))
        .mark_rect(cornerRadius=2)
        .encode(
            color=colour,
            opacity=alt.Opacity("ink:Q", legend=None, scale=alt.Scale(domain=[0, 0.4], range=[0, 1], clamp=True)),
        )
    )
    marks = (
        base.transform_filter(alt.FieldOneOfPredicate("found", ["both", "first", "second"]))
        .mark_text(fontSize=11, fontWeight="bold", color=INK)
        .encode(text=alt.Text("mark:N"))
        .transform_calculate(mark="datum.found == 'both' ? '●' : datum.found == 'first' ? 'A' : 'B'")
    )
    chart = alt.layer(ground, moved, marks, data=alt.NamedData("heads"))
    return chart.properties(height=_height(n_heads, ROW) + 26).to_dict()


def _difference_tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("name:N", title="Head (layer.head)"),
        alt.Tooltip("change:Q", title="Change, B less A", format="+.2f"),
        alt.Tooltip("first_rank:Q", title="Rank in A"),
        alt.Tooltip("second_rank:Q", title="Rank in B"),
        alt.Tooltip("first_score:Q", title="Score in A", format=".3~f"),
        alt.Tooltip("second_score:Q", title="Score in B", format=".3~f"),
        alt.Tooltip("circuit:N", title="In the circuit"),
    ]


@lru_cache(maxsize=16)
def _agreement_spec(methods: tuple[str, ...]) -> dict[str, Any]:
    plain: dict[str, Any] = {"ticks": False, "domain": False, "grid": False, "labelOverlap": False, "labelFlush": False}
    base = alt.Chart(alt.NamedData("pairs")).encode(
        x=alt.X("second:N", title="Method", sort=methods, axis=alt.Axis(labelAngle=-35, labelLimit=130, **plain)),
        y=alt.Y("first:N", title="Method", sort=methods, axis=alt.Axis(labelLimit=150, **plain)),
        tooltip=[
            alt.Tooltip("first:N", title="Method"),
            alt.Tooltip("second:N", title="and"),
            alt.Tooltip("correlation:Q", title="Rank correlation", format=".2f"),
        ],
    )
    cells = base.mark_rect(cornerRadius=2).encode(
        color=alt.Color("correlation:Q", legend=None, scale=alt.Scale(domain=[0, 1.6], clamp=True))
    )
    words = base.mark_text(fontSize=12, color=INK).encode(text=alt.Text("correlation:Q", format=".2f"))
    return alt.layer(cells, words).properties(height=30 * len(methods) + 140).to_dict()


@lru_cache(maxsize=16)
def _cost_spec(low: float, high: float, height: int, needs: tuple[str, ...]) -> dict[str, Any]:
    edge = f"max(60, width - {LABEL_COLUMN})"
    seconds = alt.Scale(type="log", domainMin=0.007, nice=False, padding=12, range=[0, alt.ExprRef(edge)])
    base = alt.Chart(alt.NamedData("methods")).encode(
        tooltip=[
            alt.Tooltip("method:N", title="Method"),
            alt.Tooltip("auc:Q", title="ROC AUC", format=".3f"),
            alt.Tooltip("seconds:Q", title="Seconds", format=".2~f"),
            alt.Tooltip("needs:N", title="Needs"),
        ],
    )
    axis = alt.Axis(format="~r", values=[0.01, 0.1, 1, 10, 100, 1000], grid=False, titleAnchor="start")
    x = alt.X("seconds:Q", title="Seconds (logarithmic)", scale=seconds, axis=axis)
    step = 0.05 if high - low <= 0.3 else 0.1
    marks = [round(i * step, 2) for i in range(math.ceil(round(low / step, 6)), round(1 / step) + 1)]
    y_axis = alt.Axis(format=".2f", values=[mark for mark in marks if mark <= high], gridOpacity=0.6)
    y = alt.Y("auc:Q", title="ROC AUC", scale=alt.Scale(domain=[low, high], nice=False), axis=y_axis)
    legend = alt.Legend(title=None, orient="bottom", columns=LEGEND_COLUMNS, symbolOpacity=1, values=list(needs))
    every = alt.Scale(domain=list(NEEDS))  # of all, so that a method that joins changes no other's mark
    lines = base.mark_rule(color=INK, opacity=0.22).encode(
        x=x, y=y, x2=alt.value(alt.ExprRef(f"{edge} + 8")), y2=alt.Y2("label_at:Q")
    )
    points = base.mark_point(filled=True, size=80, opacity=1).encode(
        x=x,
        y=y,
        color=alt.Color("needs:N", scale=every, legend=legend),
        shape=alt.Shape("needs:N", scale=every, legend=legend),
    )
    names = base.mark_text(align="left", dx=12, fontSize=12, color=INK, limit=LABEL_COLUMN - 14).encode(
        x=alt.value(alt.ExprRef(edge)), y=alt.Y("label_at:Q"), text="method:N"
    )
    return alt.layer(lines, points, names).properties(height=height).to_dict()


@lru_cache(maxsize=1)
def _scatter_spec() -> dict[str, Any]:
    # Logarithmic: what counts are the first tens of the ranking, and the order of the last ones is chance.
    ranks = alt.Scale(type="log", nice=False, reverse=True, padding=8)
    axis = alt.Axis(values=[1, 3, 10, 30, 100, 300, 1000, 3000], format="d", gridOpacity=0.6)
    circuits = alt.Scale(domain=list(CIRCUITS.values()))
    legend = alt.Legend(title="In the circuit", orient="bottom", titleFontWeight="normal")
    base = alt.Chart(alt.NamedData("heads")).encode(
        x=alt.X("first_rank:Q", title="Rank in A (logarithmic)", scale=ranks, axis=axis),
        y=alt.Y("second_rank:Q", title="Rank in B (logarithmic)", scale=ranks, axis=axis),
        tooltip=_difference_tooltip(),
    )
    inside = alt.FieldOneOfPredicate("found", ["both", "first", "second"])
    others = base.transform_filter(alt.datum.found == "neither").mark_point(
        filled=True, size=16, color=INK, opacity=0.3
    )
    found = (
        base.transform_filter(inside)
        .mark_point(filled=True, size=60, opacity=0.9)
        .encode(
            shape=alt.Shape("circuit:N", scale=circuits, legend=legend),
            color=alt.Color("circuit:N", scale=circuits, legend=legend),
        )
    )
    return alt.layer(others, found).properties(height=390).to_dict()
