"""Figures for reports, drawn by altair and written as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from dsae_core.errors import UserError
from dsae_core.files import write_atomic

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#a3437f", "#8a6d00", "#56b4e9"]
"""Of Okabe and Ito's palette, told apart by readers who are colour-blind too; shapes go with them."""
SHAPES = ["circle", "diamond", "square", "triangle-up", "cross", "triangle-down"]
GREY = "#8a939c"


def save_svg(chart: alt.TopLevelMixin, path: str | Path) -> Path:
    """Write a chart as an SVG file, atomically.

    Raises:
        UserError: the file's name does not end in .svg, or it cannot be written.
    """
    require_svg(path)
    import vl_convert

    return write_atomic(path, vl_convert.vegalite_to_svg(chart.to_dict()))


def require_svg(path: str | Path) -> None:
    """Raise a UserError where a figure's name does not end in .svg."""
    if Path(path).suffix.lower() != ".svg":
        raise UserError(f"Figures are written as SVG; give {path} a name that ends in .svg.")


def stability_chart(stability: Sequence[Mapping[str, Any]]) -> alt.TopLevelMixin:
    """How alike a method ranks the heads on different draws of prompts: a line a method, a mark a task.

    Args:
        stability: from Benchmark.stability: model, task, method, rank_correlation.

    Raises:
        UserError: there is nothing to show, as with one draw only.
    """
    if not stability:
        raise UserError("A figure of stability needs at least two draws of a task; run more with --draws.")
    frame = pd.DataFrame(stability)
    tasks = list(dict.fromkeys(frame["task"]))
    methods = list(frame.groupby("method")["rank_correlation"].mean().sort_values(ascending=False).index)
    low = min(0.0, float(frame["rank_correlation"].min()))
    x = alt.X(
        "rank_correlation:Q",
        title="Mean Spearman correlation of head scores between draws",
        scale=alt.Scale(domain=[low, 1], nice=low < 0),
        axis=alt.Axis(format=".1f"),
    )
    y = alt.Y("method:N", title=None, sort=methods, axis=alt.Axis(grid=True, gridOpacity=0.6, ticks=False))
    chart = alt.Chart(frame).encode(x=x, y=y)
    # Marks of one line stand a little apart, so that none hides another.
    points = chart.mark_point(filled=True, size=55, opacity=1).encode(
        color=alt.Color("task:N", title="Task", scale=alt.Scale(domain=tasks, range=COLOURS[: len(tasks)])),
        shape=alt.Shape("task:N", title="Task", scale=alt.Scale(domain=tasks, range=SHAPES[: len(tasks)])),
        yOffset=alt.YOffset("task:N", scale=alt.Scale(domain=tasks, paddingOuter=0.5)),
    )
    layered = points.properties(width=420, height=alt.Step(24, **{"for": "position"}))
    if frame["model"].nunique() > 1:
        return _styled(layered.facet(row=alt.Row("model:N", title=None)))
    return _styled(layered)


def faithfulness_chart(curves: pd.DataFrame, *, n_heads: int, method: str) -> alt.TopLevelMixin:
    """What the best heads keep and what goes without them, beside random circuits of the same size.

    Args:
        curves: from FaithfulnessReport.points: size, share, kind ("kept" or "removed"), seed (-1 for the method).
        n_heads: heads of the model.
        method: the name of what ranked the heads.
    """
    frame = curves.assign(who=[method if seed < 0 else "random circuits" for seed in curves["seed"]])
    ticks = [size for size in (0, 1, 3, 10, 30, 100, 300, 1000, 3000) if size < n_heads / 1.5] + [n_heads]
    x = alt.X(
        "size:Q",
        title="Heads (logarithmic)",
        scale=alt.Scale(type="symlog", domain=[0, n_heads], nice=False),
        axis=alt.Axis(values=ticks, format="d", grid=False),
    )
    y = alt.Y("share:Q", title="Share of the behaviour", axis=alt.Axis(gridOpacity=0.6))
    domain = [method, "random circuits"] if (frame["seed"] >= 0).any() else [method]
    colour = alt.Color("who:N", title=None, scale=alt.Scale(domain=domain, range=[COLOURS[0], GREY][: len(domain)]))
    ends = alt.Chart(pd.DataFrame({"share": [0.0, 1.0]})).mark_rule(strokeDash=[3, 3], color=GREY).encode(y="share:Q")
    panels = []
    for kind, title in (("kept", "Only the best heads left"), ("removed", "The best heads ablated")):
        chart = alt.Chart(frame[frame["kind"] == kind]).encode(x=x, y=y, detail="seed:N", color=colour)
        null = chart.transform_filter(alt.datum.seed >= 0).mark_line(strokeWidth=1, opacity=0.6)
        own = chart.transform_filter(alt.datum.seed < 0).mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=20))
        panels.append(alt.layer(ends, null, own).properties(width=300, height=220, title=title))
    return _styled(alt.hconcat(*panels))


def _styled(chart: Any) -> alt.TopLevelMixin:
    styled: alt.TopLevelMixin = (
        chart.configure(background="white", font="sans-serif")
        .configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal", domain=False)
        .configure_view(stroke=None)
        .configure_legend(labelFontSize=12, titleFontSize=12)
    )
    return styled
