"""What is left of the behaviour with only the best heads, and without them, against random heads."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import altair as alt
import pandas as pd

from dsae_core.ui.charts.style import AXIS_HEIGHT, INK, RANKED, SOURCES, Drawing
from dsae_core.validation import Shares, Validation

HEIGHT = 230 + AXIS_HEIGHT
Side = Literal["kept", "removed"]


def found_frame(shares: Shares, side: Side) -> pd.DataFrame:
    """size, share of the ranked heads; source says that they are the ranked ones."""
    return pd.DataFrame({"size": shares.sizes, "share": getattr(shares, side), "source": RANKED})


def random_frame(found: Validation, side: Side) -> pd.DataFrame:
    """size, low, mean, high of the shares over random circuits."""
    rows = pd.DataFrame([getattr(shares, side) for shares in found.random], columns=found.random[0].sizes)
    return pd.DataFrame(
        {"size": rows.columns, "low": rows.min().values, "mean": rows.mean().values, "high": rows.max().values}
    )


def validation_frame(found: Validation) -> pd.DataFrame:
    """Everything that was measured: heads ("ranked" or "random 1" and on), size, kept, removed."""
    named = [("ranked", found.found), *((f"random {i}", shares) for i, shares in enumerate(found.random, start=1))]
    frames = [
        pd.DataFrame({"heads": name, "size": shares.sizes, "kept": shares.kept, "removed": shares.removed})
        for name, shares in named
    ]
    return pd.concat(frames, ignore_index=True)


def validation_curve(found: Validation, side: Side, size: int) -> Drawing:
    """Draw one side.

    Args:
        found: the validation.
        side: "kept" or "removed".
        size: of the circuit at the present threshold, marked by a line.
    """
    n = found.found.sizes[-1]
    ranked, random = found_frame(found.found, side), random_frame(found, side)
    low = min(0.0, float(ranked["share"].min()), float(random["low"].min()))
    high = max(1.0, float(ranked["share"].max()), float(random["high"].max()))
    data = {
        "ranked": ranked,
        "random": random,
        "size": pd.DataFrame({"size": [size]}),
        "ends": pd.DataFrame({"share": [0.0, 1.0]}),
    }
    return Drawing(_spec(n, round(low - 0.04, 2), round(high + 0.04, 2), side), data)


@lru_cache(maxsize=16)
def _spec(n: int, low: float, high: float, side: Side) -> dict[str, Any]:
    x = alt.X(
        "size:Q",
        title="Heads kept, all others ablated" if side == "kept" else "Heads ablated, all others kept",
        scale=alt.Scale(type="symlog", constant=1, domain=[0, n], nice=False),
        axis=alt.Axis(values=[v for v in (0, 1, 3, 10, 30, 100, 300, 1000) if v < 0.75 * n] + [n], grid=False),
    )
    scale = alt.Scale(domain=[low, high], nice=False)
    axis = alt.Axis(format=".0%", tickCount=5, gridOpacity=0.5)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title="Behaviour left", scale=scale, axis=axis)

    heads = alt.Tooltip("size:Q", title="Heads", format="d")
    random = alt.Chart(alt.NamedData("random")).encode(x=x)
    band = random.mark_area(color=INK, opacity=0.14).encode(y=y("low"), y2="high:Q")
    middle = random.mark_line(color=INK, strokeDash=[4, 3], strokeWidth=1.4, opacity=0.7).encode(y=y("mean"))
    squares = random.mark_point(shape="square", filled=False, size=34, color=INK, opacity=0.8).encode(
        y=y("mean"),
        tooltip=[
            heads,
            alt.Tooltip("mean:Q", title="Random heads, mean", format=".1%"),
            alt.Tooltip("low:Q", title="Lowest", format=".1%"),
            alt.Tooltip("high:Q", title="Highest", format=".1%"),
        ],
    )
    ranked = alt.Chart(alt.NamedData("ranked")).encode(
        x=x, y=y("share"), color=alt.Color("source:N", scale=alt.Scale(domain=SOURCES), legend=None)
    )
    line = ranked.mark_line(strokeWidth=2)
    dots = ranked.mark_point(filled=True, size=46, opacity=1).encode(
        tooltip=[heads, alt.Tooltip("share:Q", title="Ranked heads", format=".1%")]
    )
    ends = alt.Chart(alt.NamedData("ends")).mark_rule(color=INK, opacity=0.25).encode(y=y("share"))
    at = alt.Chart(alt.NamedData("size")).mark_rule(color=INK, strokeDash=[3, 3], opacity=0.7).encode(x=x)
    spec: dict[str, Any] = alt.layer(ends, band, middle, squares, at, line, dots).properties(height=HEIGHT).to_dict()
    return spec
