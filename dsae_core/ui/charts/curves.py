"""Ranked scores, precision against recall, and the ROC curve, each with the place of the current threshold."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from dsae_core.circuits import Head
from dsae_core.metrics import Confusion, Evaluation
from dsae_core.ui.charts.style import (
    AXIS_HEIGHT,
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

HEIGHT = 190 + AXIS_HEIGHT


def ranked_scores(grid: Grid, heads: pd.DataFrame, threshold: float, selected: Head) -> Drawing:
    """Every head's score against its rank, with the threshold as a line.

    Args:
        grid: of the heads.
        heads: View.at(threshold).
        threshold: where the line is.
        selected: the head to ring.
    """
    data = {"selected": heads[is_head(heads, selected)], "threshold": pd.DataFrame({"score": [threshold]})}
    return Drawing(_ranked_spec(grid), {**by_status(heads), **data})


def precision_recall(evaluation: Evaluation, confusion: Confusion) -> Drawing:
    """Precision against recall as the threshold falls; dashed: what chance gives."""
    chance = evaluation.n_true / evaluation.n_heads
    data = {
        "curve": precision_recall_frame(evaluation),
        "chance": pd.DataFrame({"recall": [0.0, 1.0], "precision": [chance, chance]}),
        "point": pd.DataFrame({"recall": [confusion.recall], "precision": [confusion.precision]}),
    }
    # A step back: the precision at a recall is that of the first threshold that reaches it.
    return Drawing(_curve_spec("recall", "Recall", "precision", "Precision", "step-before"), data)


def roc(evaluation: Evaluation, confusion: Confusion) -> Drawing:
    """True against false positive rate as the threshold falls; dashed: what chance gives."""
    outside = max(evaluation.n_heads - evaluation.n_true, 1)
    rate = confusion.false_positives / outside
    x, y = "false_positive_rate", "true_positive_rate"
    data = {
        "curve": roc_frame(evaluation),
        "chance": pd.DataFrame({x: [0.0, 1.0], y: [0.0, 1.0]}),
        "point": pd.DataFrame({x: [rate], y: [confusion.recall]}),
    }
    return Drawing(_curve_spec(x, "False positive rate", y, "True positive rate", "linear"), data)


def precision_recall_frame(evaluation: Evaluation) -> pd.DataFrame:
    """order, recall, precision, threshold of every point, from the highest threshold down."""
    curve = evaluation.precision_recall
    return _frame({"recall": curve.x[::-1], "precision": curve.y[::-1]}, curve.thresholds[::-1])


def roc_frame(evaluation: Evaluation) -> pd.DataFrame:
    """order, false_positive_rate, true_positive_rate, threshold of every point, from the highest threshold down."""
    curve = evaluation.roc
    return _frame({"false_positive_rate": curve.x, "true_positive_rate": curve.y}, curve.thresholds)


def _frame(columns: dict[str, Any], thresholds: Any) -> pd.DataFrame:
    """A curve's points; a threshold above every score is left empty."""
    frame = pd.DataFrame({"order": np.arange(len(thresholds)), **columns, "threshold": thresholds})
    return frame.replace(np.inf, np.nan)


@lru_cache(maxsize=8)
def _ranked_spec(grid: Grid) -> dict[str, Any]:
    n = grid.n_layers * grid.n_heads
    x = alt.X(
        "rank:Q",
        title="Rank of the head (logarithmic)",
        scale=alt.Scale(type="log", domain=[0.9, n * 1.05], nice=False),
        axis=alt.Axis(values=[v for v in (1, 3, 10, 30, 100, 300, 1000, 3000) if v <= n], grid=False),
    )
    scale = score_scale(domainMax=alt.ExprRef(f"1.04 * {TOP_SCORE}"))
    y = alt.Y("score:Q", title="Score", axis=alt.Axis(tickCount=5), scale=scale)
    points, marked, selected = (
        alt.Chart(alt.NamedData(name)).encode(x=x, y=y, tooltip=grid.tooltip()) for name in (HEADS, MARKED, "selected")
    )
    marked = marked.encode(
        color=alt.Color("status:N", scale=status_colour(), legend=None),
        shape=alt.Shape("status:N", scale=status_shape(), legend=None),
    )
    line = alt.Chart(alt.NamedData("threshold")).mark_rule(color=INK, strokeDash=[3, 3], opacity=0.7)
    chart = alt.layer(
        line.encode(y=y),
        points.mark_point(filled=True, size=9, color=INK, opacity=0.3).add_params(head_selection(nearest=True)),
        marked.transform_filter(alt.datum.status == MISSED).mark_point(filled=False, size=30, opacity=1),
        marked.transform_filter(alt.datum.status != MISSED).mark_point(filled=True, size=48, opacity=1),
        selected.mark_point(filled=False, size=130, color=INK, strokeWidth=1.8, opacity=1),
    )
    return chart.properties(height=HEIGHT).to_dict()


@lru_cache(maxsize=2)
def _curve_spec(x_field: str, x_title: str, y_field: str, y_title: str, interpolate: Any) -> dict[str, Any]:
    """A curve in the unit square, with the line of chance and the point of the threshold."""
    scale = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".2~f", gridOpacity=0.6)
    x = alt.X(f"{x_field}:Q", title=x_title, scale=scale, axis=axis)
    y = alt.Y(f"{y_field}:Q", title=y_title, scale=scale, axis=axis)
    rates = [
        alt.Tooltip(f"{y_field}:Q", title=y_title, format=".2f"),
        alt.Tooltip(f"{x_field}:Q", title=x_title, format=".2f"),
    ]
    chance, line, point = (alt.Chart(alt.NamedData(name)).encode(x=x, y=y) for name in ("chance", "curve", "point"))
    line = line.encode(order="order:Q")
    threshold = alt.Tooltip("threshold:Q", title="Threshold", format=".3~f")
    chart = alt.layer(
        chance.mark_line(color=INK, strokeDash=[3, 3], strokeWidth=1, opacity=0.4),
        line.mark_line(color=INK, strokeWidth=1.6, interpolate=interpolate, opacity=0.8),
        line.mark_point(size=60, opacity=0).encode(tooltip=[*rates, threshold]),
        point.mark_point(filled=True, size=110, color=INK, opacity=1).encode(tooltip=rates),
    )
    return chart.properties(height=HEIGHT).to_dict()
