"""Direct effects on the prediction: of all heads, and the tokens one head promotes and suppresses."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt
import pandas as pd

from dsae_core.circuits import Head
from dsae_core.ui.charts.heatmap import height
from dsae_core.ui.charts.style import AXIS_HEIGHT, INK, SIGNED_INK, SIGNS, Drawing, Grid, head_selection, sign_colour
from dsae_core.ui.text import MINUS, head_name
from dsae_core.ui.view import is_head

MARKED = 0.08
"""Effects from this share of the largest on have their sign in the cell."""


def effects_frame(effects: npt.NDArray[np.float32], selected: Head) -> pd.DataFrame:
    """layer, head, name, effect, rank, size, sign (one of SIGNS), mark and selected of every head."""
    layers, heads = np.divmod(np.arange(effects.size), effects.shape[1])
    frame = pd.DataFrame({"layer": layers, "head": heads, "effect": effects.flatten()})
    frame["name"] = [head_name(*pair) for pair in zip(layers.tolist(), heads.tolist(), strict=True)]
    frame["size"] = frame["effect"].abs()
    frame["rank"] = frame["size"].rank(ascending=False, method="first").astype(int)
    frame["sign"] = np.where(frame["effect"] < 0, SIGNS[1], SIGNS[0])
    large = frame["size"] >= MARKED * max(float(frame["size"].max()), 1e-9)
    frame["mark"] = np.where(large, np.where(frame["effect"] < 0, MINUS, "+"), "")
    frame["selected"] = is_head(frame, selected)
    return frame


def effects_map(grid: Grid, frame: pd.DataFrame) -> Drawing:
    """Draw the direct effects of all heads in the places they have in the heatmap; a click selects one."""
    return Drawing(
        _spec(grid, max(float(frame["size"].max()), 1e-6)),
        {"heads": frame.drop(columns="selected"), "selected": frame[frame["selected"]]},
    )


@lru_cache(maxsize=8)
def _spec(grid: Grid, top: float) -> dict[str, Any]:
    layers, heads = (
        alt.Scale(domain=list(range(n)), paddingInner=0.1, paddingOuter=0.05) for n in (grid.n_layers, grid.n_heads)
    )
    cells, chosen = (
        alt.Chart(alt.NamedData(name)).encode(
            x=alt.X("layer:O", title="Layer", scale=layers, axis=grid.layer_axis(grid=False)),
            y=alt.Y("head:O", title="Head", scale=heads, axis=grid.head_axis()),
            tooltip=[
                alt.Tooltip("name:N", title="Head (layer.head)"),
                alt.Tooltip("effect:Q", title="Direct effect (nats)", format="+.3f"),
                alt.Tooltip("rank:Q", title="Rank by size"),
            ],
        )
        for name in ("heads", "selected")
    )
    ink = cells.mark_rect(cornerRadius=2).encode(
        color=alt.Color("sign:N", scale=sign_colour(), legend=None),
        opacity=alt.Opacity(
            "size:Q", scale=alt.Scale(type="sqrt", domain=[0, top], range=[0, SIGNED_INK]), legend=None
        ),
    )
    frame = chosen.mark_rect(filled=False, stroke=INK, strokeWidth=2.5, cornerRadius=2)
    chart = alt.layer(
        cells.mark_rect(color=INK, opacity=0.05, cornerRadius=2).add_params(head_selection()),
        ink,
        cells.mark_text(color=INK, fontSize=12, fontWeight="bold").encode(text="mark:N"),
        frame,
    )
    spec: dict[str, Any] = chart.properties(height=height(grid.n_heads) + AXIS_HEIGHT).to_dict()
    return spec
