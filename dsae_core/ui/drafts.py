"""The prompts somebody is writing: the table behind the editor, kept in the session."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from dsae_core.errors import UserError
from dsae_core.limits import demo_limits
from dsae_core.prompts import Metric, PromptPairs

COLUMNS = ("positive", "negative", "answer", "distractor")
_BASE, _NOW, _VERSION, _METRIC = "draft_base", "draft_now", "draft_version", "draft_metric"
_EXAMPLE = (
    ("When Mary and John went to the store, {} gave a drink to", "Mary", "John", "Anna"),
    ("When Tom and James went to the park, {} gave a ring to", "Tom", "James", "Mark"),
    ("When Sarah and Paul met at the station, {} handed a ticket to", "Paul", "Sarah", "Lisa"),
    ("After Emma and David left the office, {} sent a letter to", "David", "Emma", "Kate"),
    ("While Alice and Peter were at the market, {} offered a book to", "Peter", "Alice", "Jane"),
    ("When Simon and Laura walked to the garden, {} gave a flower to", "Simon", "Laura", "Ruth"),
)
"""A sentence, who is the answer, who is named twice, and who takes the second place on the negative. The answer comes
first in one half and second in the other: a model that likes first names better then solves half of the negatives."""

EXAMPLE = PromptPairs(
    positive=tuple(sentence.format(named) for sentence, _, named, _ in _EXAMPLE),
    negative=tuple(sentence.format(other) for sentence, _, _, other in _EXAMPLE),
    answer=tuple((f" {answer}",) for _, answer, _, _ in _EXAMPLE),
    distractor=tuple((f" {named}",) for _, _, named, _ in _EXAMPLE),
)


class Row(NamedTuple):
    """A row of the table that is not empty; cells as written, "" where empty."""

    number: int  # its place in the table, from 1
    positive: str
    negative: str
    answer: str
    distractor: str


@dataclass(frozen=True)
class Draft:
    """The table as it stands.

    Attributes:
        rows: its rows.
        pairs: the prompt pairs it stands for; None where it is empty or not complete.
        problem: what is missing, in a sentence; "" where nothing is, or there are no rows.
        too_large: whether the problem is that this server does not take so much.
    """

    rows: tuple[Row, ...]
    pairs: PromptPairs | None
    problem: str
    too_large: bool = False


def frame_of(pairs: PromptPairs | None) -> pd.DataFrame:
    """The table of prompt pairs: COLUMNS as text, several answers parted by "|"."""
    if pairs is None:
        return pd.DataFrame({name: pd.Series([], dtype=object) for name in COLUMNS})
    blank = ("",) * len(pairs)
    answer, distractor = (
        tuple("|".join(texts) for texts in column) or blank for column in (pairs.answer, pairs.distractor)
    )
    columns = (pairs.positive, pairs.negative, answer, distractor)
    return pd.DataFrame({name: pd.Series(v, dtype=object) for name, v in zip(COLUMNS, columns, strict=True)})


def read(frame: pd.DataFrame, metric: Metric = "logit_difference") -> Draft:
    """What a table stands for."""
    every = (Row(number, *map(_text, cells)) for number, cells in enumerate(frame[list(COLUMNS)].to_numpy(), start=1))
    rows = tuple(row for row in every if any(row[1:]))
    if not rows:
        return Draft((), None, "")
    has_answers = any(row.answer or row.distractor for row in rows)
    for row in rows:
        for name in COLUMNS if has_answers else COLUMNS[:2]:
            if not getattr(row, name):
                rest = "; fill answer and distractor in every row, or in none" if name in COLUMNS[2:] else ""
                return Draft(rows, None, f"Row {row.number}, column {name}: the cell is empty{rest}.")
    pairs = PromptPairs(
        positive=tuple(row.positive for row in rows),
        negative=tuple(row.negative for row in rows),
        answer=tuple(tuple(row.answer.split("|")) for row in rows) if has_answers else (),
        distractor=tuple(tuple(row.distractor.split("|")) for row in rows) if has_answers else (),
        metric=metric,
    )
    return Draft(rows, pairs, "")


def _text(cell: Any) -> str:
    """A cell as written, "" where it is empty or nothing but space."""
    return cell if isinstance(cell, str) and cell.strip() else ""


def current() -> Draft:
    """The session's draft; on a public demo, one with too many or too long prompts stands for none."""
    draft, limits = read(table(), st.session_state.get(_METRIC, "logit_difference")), demo_limits()
    if limits is not None:
        try:
            limits.check_texts({name: [getattr(row, name) for row in draft.rows] for name in COLUMNS})
        except UserError as error:
            return Draft(draft.rows, None, str(error), too_large=True)
    return draft


def table() -> pd.DataFrame:
    """The session's table as it stands, edits included."""
    if not begun():
        open_pairs(None)
    frame: pd.DataFrame = st.session_state[_NOW]
    return frame


def begun() -> bool:
    """Whether this session has a table yet."""
    return _NOW in st.session_state


def open_pairs(pairs: PromptPairs | None) -> None:
    """Put prompt pairs in the editor, an empty table where None."""
    _open(frame_of(pairs))
    st.session_state[_METRIC] = "logit_difference" if pairs is None else pairs.metric


def _open(frame: pd.DataFrame) -> None:
    st.session_state[_BASE] = st.session_state[_NOW] = frame
    st.session_state[_VERSION] = st.session_state.get(_VERSION, 0) + 1


def editor_key() -> str:
    """The key of the editor's widget; another one for each table that was opened."""
    table()
    return f"draft_editor_{st.session_state[_VERSION]}"


def base() -> pd.DataFrame:
    """The table that the editor was opened with, which its edits are relative to.

    The widget forgets its edits while it is not drawn, so an editor that comes back is opened with the present table.
    """
    now = table()
    frame: pd.DataFrame = st.session_state[_BASE]
    if editor_key() not in st.session_state and not frame.equals(now):
        _open(now)
        return now
    return frame


def take_edits() -> None:
    """Bring the table up to date; the editor calls this at every edit."""
    edits = st.session_state.get(editor_key())
    if edits is None:
        return
    frame = edited(st.session_state[_BASE], edits)
    if frame.map(lambda cell: "\t" in str(cell)).any(axis=None):
        _open(spread_blocks(frame))
    else:
        st.session_state[_NOW] = frame


def spread_blocks(frame: pd.DataFrame) -> pd.DataFrame:
    """A table in which cells that hold a block of a spreadsheet, columns parted by tabs, are the rows they mean.

    The grid takes such a block apart where it is pasted over a selected cell, but not where the cell is being written.
    """
    rows: list[list[str]] = []
    for cells in frame[list(COLUMNS)].to_numpy().tolist():
        at = next((i for i, cell in enumerate(cells) if "\t" in str(cell)), None)
        if at is None:
            rows.append(cells)
            continue
        for n, line in enumerate(csv.reader(io.StringIO(cells[at]), delimiter="\t")):
            before = cells[:at] if n == 0 else [""] * at
            rows.append([*before, *line, *[""] * len(COLUMNS)][: len(COLUMNS)])
    return pd.DataFrame({name: pd.Series([row[i] for row in rows], dtype=object) for i, name in enumerate(COLUMNS)})


def lacks_spaces(draft: Draft) -> bool:
    """Whether an answer or distractor starts with a letter or digit, where the model would write a space before it."""
    return any(_spaced(cell) != cell for row in draft.rows for cell in (row.answer, row.distractor))


def add_spaces() -> None:
    """Put the space before every answer and distractor that has none."""
    frame = table().copy()
    for name in COLUMNS[2:]:
        frame[name] = [_spaced(cell) if isinstance(cell, str) else cell for cell in frame[name]]
    _open(frame)


def _spaced(cell: str) -> str:
    return "|".join(f" {part}" if part[:1].isalnum() else part for part in cell.split("|"))


def edited(frame: pd.DataFrame, edits: Mapping[str, Any]) -> pd.DataFrame:
    """A table with the edits of Streamlit's data editor: edited_rows, added_rows and deleted_rows."""
    rows = frame.to_dict("records")
    for index, cells in edits.get("edited_rows", {}).items():
        rows[int(index)].update(cells)
    deleted = set(edits.get("deleted_rows", []))
    kept = [row for index, row in enumerate(rows) if index not in deleted]
    kept += [dict(row) for row in edits.get("added_rows", [])]
    cells = {name: pd.Series([row.get(name) or "" for row in kept], dtype=object) for name in COLUMNS}
    return pd.DataFrame(cells)
