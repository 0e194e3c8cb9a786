"""What all charts share: the drawing type, statuses with their shapes and colours, tooltips, axes of heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from dsae_core.ui.view import FALSE_POSITIVE, FOUND, MISSED, OUTSIDE, TRUE_POSITIVE

STATUSES = [TRUE_POSITIVE, FALSE_POSITIVE, MISSED, FOUND]
NO_ROLE = "no role known"
"""What a head without a role is called where others have one; the theme's fifth colour."""

SHAPES = ["circle", "diamond", "square", "circle"]
INK = "currentColor"
"""The colour of text, in light and dark: a chart's drawing inherits it from the page."""

GROUND = "var(--ground)"
"""The colour of the page behind a chart: a halo of it parts a mark from a cell of nearly its colour."""

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
"""Name of the selection in charts of heads; its value is a list of {"layer", "head"}."""

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

TOP_SCORE = f"extent(pluck(data('{HEADS}'), 'score'))[1]"
"""The highest score, as an expression of a specification that draws HEADS.

A specification that had the score itself would be another for every result, and a browser would build the chart anew.
"""


@dataclass(frozen=True)
class Grid:
    """What the specifications of charts of heads depend on.

    It knows no score: results of one model have equal grids and share their charts' specifications, which take a tenth
    of a second to make, and as long again in every browser.

    Attributes:
        n_layers: layers of the model.
        n_heads: heads a layer.
        has_truth: whether a circuit is known.
        has_effects: whether patching effects are known.
        has_rates: whether the scores have rates of false discoveries.
    """

    n_layers: int
    n_heads: int
    has_truth: bool
    has_effects: bool
    has_rates: bool = False

    @classmethod
    def of(cls, heads: pd.DataFrame, *, has_truth: bool) -> Grid:
        """The grid of View.heads."""
        return cls(
            n_layers=int(heads["layer"].max()) + 1,
            n_heads=int(heads["head"].max()) + 1,
            has_truth=has_truth,
            has_effects=bool(heads["effect"].notna().any()),
            has_rates=bool(heads["false_discovery_rate"].notna().any()),
        )

    def tooltip(self) -> list[alt.Tooltip]:
        """What hovering over a head shows."""
        fields = [
            alt.Tooltip("name:N", title="Head (layer.head)"),
            alt.Tooltip("score:Q", title="Score", format=".3~f"),
            alt.Tooltip("rank:Q", title="Rank"),
            alt.Tooltip("unique_codes:N", title="Unique codes"),
        ]
        if self.has_rates:
            fields.append(alt.Tooltip("rate_in_words:N", title="False discovery rate"))
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

    The first does not change with the threshold, so that a browser which is sent both draws the second alone. Both have
    what charts and their tooltips read, and no more: they are sent each time.
    """
    drawn = heads.drop(columns=["effect", "low", "high", "role", "false_discovery_rate"])
    return {HEADS: drawn.drop(columns=["status", "in_circuit"]), MARKED: drawn[drawn["status"] != OUTSIDE]}


def score_scale(**options: Any) -> alt.Scale:
    """A scale from 0 to the highest score."""
    return alt.Scale(domainMin=0, nice=False, **options)


def status_colour() -> alt.Scale:
    """Status to colour; the colours are the theme's, in this order."""
    return alt.Scale(domain=STATUSES)


def node_colour(roles: Sequence[str]) -> alt.Scale:
    """Status or role to colour; the theme has seven colours for roles after those for statuses and NO_ROLE."""
    return alt.Scale(domain=[*STATUSES, NO_ROLE, *roles])


def status_shape() -> alt.Scale:
    """Status to shape, so that nothing is told by colour alone."""
    return alt.Scale(domain=STATUSES, range=SHAPES)


def sign_colour() -> alt.Scale:
    """Sign to colour; the colours are the theme's, in this order. Charts draw the larger ones' signs as well."""
    return alt.Scale(domain=SIGNS)


def head_selection(*, nearest: bool = False) -> alt.Parameter:
    """Clicking a head selects it; to the chart, every click takes a head into the selection or out of it.

    With `nearest` a click need not hit the head's mark: that of the nearest one is meant.
    """
    return alt.selection_point(name=SELECTION, fields=["layer", "head"], toggle="true", clear=False, nearest=nearest)


def ticks(n: int, most: int) -> list[int]:
    """Evenly spaced indices below n from 0, at most `most` of them where that can be."""
    step = next(s for s in (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, n) if n <= s * most or s >= n)
    return list(range(0, n, step))
