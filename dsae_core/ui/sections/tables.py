"""Tables of words and numbers that nobody sorts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from dsae_core.ui.text import escape_html


def rows_of(frame: pd.DataFrame) -> list[Any]:
    """A frame's rows, columns as attributes."""
    return list(frame.itertuples(index=False))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: set[str]) -> None:
    """A table of words and numbers; those columns in `right` are numbers. Where it is too wide, keys scroll it too."""
    kinds = ["n" if column in right else "nowrap" for column in columns]
    head = "".join(f'<th class="{kind}">{escape_html(name)}</th>' for kind, name in zip(kinds, columns, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{kind}">{escape_html(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    st.html(
        f'<div class="d-scroll" tabindex="0" role="region" aria-label="{escape_html(title)}">'
        f'<table class="d-codes d-lines"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
