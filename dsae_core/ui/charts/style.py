"""What all charts share: the drawing type, statuses with their shapes and colours, tooltips, axes of heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import pandas as pd

from dsae_core.ui.view import FALSE_POSITIVE, FOUND, MISSED, OUTSIDE, TRUE_POSITIVE

STATUSES = [TRUE_POSITIVE, FALSE_POSITIVE, MISSED, FOUND]
SHAPES = ["circle", "diamond", "square", "circle"]
INK = "currentColor"
"""The colour of text, in light and dark: a chart's drawing inherits it from the page."""

WORDS = {"labelColor": INK, "labelOpacity": 0.75, "titleColor": INK, "titleOpacity": 0.75}
"""Of axes and legends: Streamlit's own grey is too pale on white for words this small."""

SIGNS = ["more", "less"]
"""Whether a difference or an effect is above or below zero; the theme's first two colours, blue and orange."""

SIGNED_INK = 0.75
"""Opacity of the largest cell where cells have their sign written in: at full colour it could hardly be read."""

RANKED = "ranked"
SOURCES = [RANKED]
"""Where the heads of a circuit come from; the theme's first colour."""

SELECTION = "head"
"""Name of the selection in charts of heads; its value is a list with one {"layer", "head"}."""

AXIS_WIDTH = 38
"""Pixels left of a plot with heads on its y axis, the same in all of them so that their layers line up."""

AXIS_HEIGHT = 42
"""Pixels below a plot, for the axis and its title: a chart's height includes them."""


@dataclass(frozen=True)
class Drawing:
    """A chart apart from its data: moving the threshold changes data only, and the browser redraws just that.

    Attributes:
        spec: the Vega-Lite specification, with the names of its data sets.
        data: the data sets by name.
    """

    spec: Mapping[str, Any]
    data: Mapping[str, pd.DataFrame]


HEADS, MARKED = "heads", "marked"
"""Names of the data sets that by_status() makes."""

TOP_SCORE, LEGEND_SCORES = "top_score", "legend_scores"
"""Names of the parameters by which a specification reads a result's scores."""


def with_values(spec: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A specification with the values of the parameters that it reads, by name."""
    added = [{"name": name, "value": value} for name, value in values.items()]
    return {**spec, "params": [*spec.get("params", []), *added]}


@dataclass(frozen=True)
class Grid:
    """What the specifications of charts of heads depend on.

    A specification takes up to a tenth of a second to make, and a server has one result after another. So the highest
    score is no part of it: it reads TOP_SCORE and LEGEND_SCORES, which drawing() gives it. Grids that differ in nothing
    else are equal, and caches of specifications keep one for both.

    Attributes:
        n_layers: layers of the model.
        n_heads: heads a layer.
        top_score: the highest score; grids are compared without it.
        has_truth: whether a circuit is known.
        has_effects: whether patching effects are known.
        has_rates: whether the scores have rates of false discoveries.
    """

    n_layers: int
    n_heads: int
    top_score: float = field(compare=False)
    has_truth: bool
    has_effects: bool
    has_rates: bool = False

    @classmethod
    def of(cls, heads: pd.DataFrame, *, has_truth: bool) -> Grid:
        """The grid of View.heads."""
        return cls(
            n_layers=int(heads["layer"].max()) + 1,
            n_heads=int(heads["head"].max()) + 1,
            top_score=max(float(heads["score"].max()), 1e-9),
            has_truth=has_truth,
            has_effects=bool(heads["effect"].notna().any()),
            has_rates=bool(heads["false_discovery_rate"].notna().any()),
        )

    def drawing(self, spec: Mapping[str, Any], data: Mapping[str, pd.DataFrame]) -> Drawing:
        """A specification made for any grid equal to this one, with this one's scores."""
        known = {TOP_SCORE: self.top_score, LEGEND_SCORES: legend_scores(self.top_score)}
        return Drawing(with_values(spec, known), data)

    def tooltip(self) -> list[alt.Tooltip]:
        """What hovering over a head shows."""
        fields = [
            alt.Tooltip("name:N", title="Head (layer.head)"),
            alt.Tooltip("score:Q", title="Score", format=".3~f"),
            alt.Tooltip("rank:Q", title="Rank"),
            alt.Tooltip("unique_codes:Q", title="Unique codes"),
        ]
        if self.has_rates:
            fields.append(alt.Tooltip("false_discovery_rate:Q", title="False discovery rate", format=".2~r"))
        if self.has_truth:
            fields.append(alt.Tooltip("in_words:N", title="In the circuit"))
        if self.has_effects:
            fields.append(alt.Tooltip("effect_in_words:N", title="Patching effect"))
        return fields

    def layer_axis(self, *, grid: bool) -> alt.Axis:
        """The axis of layers; its title stands before the first of them, where charts that scroll start."""
        return alt.Axis(
            values=ticks(self.n_layers, 36),
            format="d",
            labelAngle=0,
            ticks=False,
            domain=False,
            grid=grid,
            gridOpacity=0.5,
            labelPadding=5,
            minExtent=AXIS_HEIGHT - 6,
            titleAlign="right",
            titleAnchor="start",
            titleBaseline="top",
            titleX=-6,
            titleY=5,
        )

    def head_axis(self) -> alt.Axis:
        """The axis of heads, as wide in every chart."""
        return alt.Axis(
            values=ticks(self.n_heads, 16),
            format="d",
            ticks=False,
            domain=False,
            grid=False,
            minExtent=AXIS_WIDTH,
            maxExtent=AXIS_WIDTH,
        )


def by_status(heads: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """View.at(threshold) as two data sets: HEADS, all of them, and MARKED, those found or missed.

    The first does not change with the threshold, so that a browser which is sent both draws the second alone.
    """
    return {HEADS: heads.drop(columns="status"), MARKED: heads[heads["status"] != OUTSIDE]}


def score_scale(room: float = 1.0, **options: Any) -> alt.Scale:
    """A scale from 0 to so many times the highest score."""
    return alt.Scale(domainMin=0, domainMax=alt.ExprRef(f"{TOP_SCORE} * {room}"), nice=False, **options)


def legend_scores(top_score: float) -> list[float]:
    """Five scores from 0 to the highest, a quarter of the (square root) colour scale apart, to two digits."""
    return [float(f"{top_score * (i / 4) ** 2:.2g}") for i in range(5)]


def status_colour() -> alt.Scale:
    """Status to colour; the colours are the theme's, in this order."""
    return alt.Scale(domain=STATUSES)


def status_shape() -> alt.Scale:
    """Status to shape, so that nothing is told by colour alone."""
    return alt.Scale(domain=STATUSES, range=SHAPES)


def sign_colour() -> alt.Scale:
    """Sign to colour; the colours are the theme's, in this order. Charts draw the larger ones' signs as well."""
    return alt.Scale(domain=SIGNS)


def head_selection() -> alt.Parameter:
    """Clicking a head selects it."""
    return alt.selection_point(name=SELECTION, fields=["layer", "head"])


def ticks(n: int, most: int) -> list[int]:
    """Evenly spaced indices below n from 0, at most `most` of them where that can be."""
    step = next(s for s in (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, n) if n <= s * most or s >= n)
    return list(range(0, n, step))
