"""Where one head attends on the two prompts of a pair, and the difference: tokens on both axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt
import pandas as pd

from dsae_core.ui.charts.style import INK, SIGNED_INK, SIGNS, Drawing, sign_colour
from dsae_core.ui.text import MINUS, visible

SIDE_BY_SIDE = 24
"""Up to so many tokens, three panels fit side by side."""

TALL = 50
"""Up to so many tokens, a panel has the height that they all need."""

LABEL_ROOM = 92
"""Pixels for the tokens and the title beside an axis."""

MARKED = 0.1
"""Differences from this on have their sign in the cell, so that it is not told by colour alone."""

Weights = npt.NDArray[np.float32]


def attention_frame(weights: Weights, tokens: Sequence[str], other: Weights | None = None) -> pd.DataFrame:
    """One row for each pair of a token and one at or before it, padding left out.

    Args:
        weights: [T, T], from a position (first axis) to those before it.
        tokens: the T tokens, "" where padded.
        other: [T, T] weights to take off, those of the matched prompt; None where the weights themselves are shown.

    Returns:
        query, key (positions), from_token, to_token, value, size (its absolute value), sign (one of SIGNS), mark.
    """
    real = [t for t, token in enumerate(tokens) if token]
    rows = []
    for query in real:
        for key in (t for t in real if t <= query):
            value = float(weights[query, key]) - (0.0 if other is None else float(other[query, key]))
            sign = SIGNS[value < 0]
            mark = ("+" if value > 0 else MINUS) if other is not None and abs(value) >= MARKED else ""
            rows.append((query, key, visible(tokens[query]), visible(tokens[key]), value, abs(value), sign, mark))
    columns = ["query", "key", "from_token", "to_token", "value", "size", "sign", "mark"]
    return pd.DataFrame(rows, columns=columns)


def attention_map(frame: pd.DataFrame, tokens: Sequence[str], changed: Sequence[int], *, difference: bool) -> Drawing:
    """Draw attention weights, or their difference between positive and negative.

    Args:
        frame: from attention_frame.
        tokens: the T tokens, "" where padded.
        changed: positions at which the other prompt has another token; their labels are bold.
        difference: whether the frame has differences.
    """
    n_shown = sum(map(bool, tokens))
    known = {
        "tokens": [visible(token) for token in tokens],
        "changed": list(changed),
        "top": max(float(frame["size"].max()), 1e-6) if len(frame) else 1.0,
    }
    spec = _spec(n_shown > SIDE_BY_SIDE, n_shown > TALL, difference=difference)
    return Drawing(_with_values({**spec, "height": height(n_shown)}, known), {"cells": frame})


@lru_cache(maxsize=8)
def _spec(many_below: bool, many_beside: bool, *, difference: bool) -> dict[str, Any]:
    """Whatever the prompts: tokens, those that changed and the largest value are parameters of the chart."""
    cells = alt.Chart(alt.NamedData("cells")).encode(
        x=_axis("key", "Attended to", many_below, orient="bottom"),
        y=_axis("query", "Attending", many_beside, orient="left"),
        tooltip=[
            alt.Tooltip("from_token:N", title="From"),
            alt.Tooltip("to_token:N", title="To"),
            alt.Tooltip(
                "value:Q", title="Difference" if difference else "Attention", format="+.3f" if difference else ".3f"
            ),
        ],
    )
    ground = cells.mark_rect(color=INK, opacity=0.05)
    strongest = SIGNED_INK if difference else 1
    sizes = alt.Scale(type="sqrt", domainMin=0, domainMax=alt.ExprRef("top"), range=[0, strongest])
    ink = cells.mark_rect().encode(
        color=alt.Color("sign:N", scale=sign_colour(), legend=None),
        opacity=alt.Opacity("size:Q", scale=sizes, legend=None),
    )
    layers = [ground, ink]
    if difference:
        layers.append(cells.mark_text(color=INK, fontSize=11, fontWeight="bold").encode(text="mark:N"))
    spec: dict[str, Any] = alt.layer(*layers).to_dict()
    return spec


def height(n_tokens: int) -> int:
    """Pixels of a panel: some 18 a token, fewer where there are many."""
    return LABEL_ROOM + max(120, min(18 * n_tokens, 18 * TALL))


def _axis(field: str, title: str, many: bool, *, orient: Any) -> Any:
    """Positions from the first; each stands in the data, as it is paired with itself."""
    weight = alt.condition("indexof(changed, datum.value) >= 0", alt.value("bold"), alt.value("normal"))
    axis = alt.Axis(
        labelExpr="tokens[datum.value]",
        labelLimit=76,
        labelAngle=-60 if orient == "bottom" else 0,
        labelFontWeight=weight,
        labelOverlap="parity" if many else False,
        labelFontSize=10,
        labelFlush=False,
        labelPadding=3,
        ticks=False,
        domain=False,
        grid=False,
        orient=orient,
    )
    scale = alt.Scale(paddingInner=0.06, paddingOuter=0.03)
    channel = alt.X if orient == "bottom" else alt.Y
    return channel(f"{field}:O", title=title, scale=scale, axis=axis)


def _with_values(spec: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A specification with the values of the parameters that it reads, by name."""
    added = [{"name": name, "value": value} for name, value in values.items()]
    return {**spec, "params": [*spec.get("params", []), *added]}
