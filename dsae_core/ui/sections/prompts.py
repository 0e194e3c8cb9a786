"""Prompts and codes: every prompt as the selected head sees it."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dsae_core.circuits import Head
from dsae_core.ui.sections.charts import heading
from dsae_core.ui.text import escape_html, head_name, number, plural, rate
from dsae_core.ui.view import PromptRow, TokenCell, View, is_head


def prompts_and_codes(view: View, head: Head, key: str) -> None:
    """The table of all prompts."""
    heading(
        f"Prompts and codes of head {head_name(*head)}",
        "each positive above its negative, what differs underlined; unique codes are "
        + (
            "those that no negative has"
            if view.pooled
            else "shaded, darker where more active: no negative has them at the same position"
        )
        + ". Numbers name them as in the code table; the activation is the strongest one's",
        lambda: codes_frame(view, head),
        f"{key}_codes",
    )
    rows = view.prompt_rows(head)
    if not any(row.cells for row in rows):
        st.html('<p class="d-note">Only activations were given, so there are no prompts to show.</p>')
    st.html(f'<div class="d-scroll">{codes_table(rows, pooled=view.pooled)}</div>')


def facts(view: View, head: Head) -> str:
    """A head's numbers in one line."""
    row = view.heads[is_head(view.heads, head)].iloc[0]
    parts = [
        f"Score {number(float(row['score']))}",
        f"rank {row['rank']} of {len(view.heads)}",
        plural(int(row["unique_codes"]), "unique code") + ("" if view.pooled else ", counted at every position"),
    ]
    if pd.notna(row["false_discovery_rate"]):
        parts.append(f"false discovery rate {rate(float(row['false_discovery_rate']))}")
    if row["role"]:
        parts.append(str(row["role"]))
    if view.truth is not None:
        parts.append("in the circuit" if row["in_circuit"] else "not in the circuit")
    if row["effect_in_words"]:
        parts.append(f"patching effect {row['effect_in_words']} on {measured_on(view)}")
    return f"{', '.join(parts)}."


def measured_on(view: View) -> str:
    """The prompts that a known circuit's patching effects are an average over, in words."""
    n = view.truth.provenance.get("prompts") if view.truth is not None else None
    return f"the {plural(n, 'pair')} the circuit was measured on" if isinstance(n, int) else "the circuit's own pairs"


def codes_table(rows: list[PromptRow], *, pooled: bool) -> str:
    """The table as HTML; everything that comes from prompts and tokens is escaped."""
    strongest = max((row.activation for row in rows), default=0.0) or 1.0
    body = "".join(_row(row, strongest, pooled) for row in rows)
    heads = '<th class="n">Pair</th><th>Side</th><th>Prompt</th><th>Unique codes</th><th class="n">Activation</th>'
    return f'<table class="d-codes"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def _row(row: PromptRow, strongest: float, pooled: bool) -> str:
    kind = "positive" if row.positive else "negative"
    codes = " ".join(f'<span class="d-code">{code}</span>' for code in row.codes)
    if pooled and not row.codes:
        other = "no code" if row.pooled_code is None else f"{row.pooled_code}{' (shared)' * row.positive}"
        codes = f'<span class="d-code other">{other}</span>'
    tokens = "".join(_token(cell, strongest) for cell in row.cells)
    return (
        f'<tr class="{kind}{" pair" if row.positive else ""}">'
        f'<td class="n">{row.number if row.positive else ""}</td><td>{kind}</td>'
        f'<td class="tokens">{tokens}</td><td class="codes">{codes}</td>'
        f'<td class="n">{number(row.activation) if row.codes else ""}</td></tr>'
    )


def _token(cell: TokenCell, strongest: float) -> str:
    text = escape_html(cell.text.replace("\n", "↵"))
    names = ["d-tok"] + ["changed"] * cell.changed + ["on"] * (cell.code is not None)
    if cell.code is None:
        return f'<span class="{" ".join(names)}">{text}</span>'
    strength = 15 + round(55 * cell.activation / strongest)
    title = f"code {cell.code}, activation {number(cell.activation)}"
    return f'<span class="{" ".join(names)}" style="--a: {strength}%" title="{title}">{text}</span>'


def codes_frame(view: View, head: Head) -> pd.DataFrame:
    """The table as data: pair, kind, prompt, unique codes, activation."""
    rows = [
        (
            row.number,
            "positive" if row.positive else "negative",
            "".join(cell.text for cell in row.cells),
            " ".join(map(str, row.codes)),
            row.activation,
        )
        for row in view.prompt_rows(head)
    ]
    return pd.DataFrame(rows, columns=["pair", "kind", "prompt", "unique_codes", "activation"])
