"""A user's own prompt pairs, from CSV."""

from __future__ import annotations

import csv
import io

from dsae_core.errors import UserError
from dsae_core.prompts import PromptPairs

HEADER = "positive,negative[,answer,distractor]"
SEPARATORS = (",", ";", "\t")
"""What may part cells: spreadsheets write semicolons where a comma is the decimal sign."""


def read_pairs_csv(text: str) -> PromptPairs:
    """Read prompt pairs from CSV text with the columns positive, negative and, both or neither, answer, distractor.

    Cells are taken as written, spaces included (an answer that starts a word needs the space before it).
    Several answers or distractors in one cell are separated by "|". Other columns and blank lines are ignored. A
    semicolon or a tab parts cells where the header has both columns with it and not with a comma.

    Raises:
        UserError: the text is not CSV, a column is missing, there are no rows, or a cell is empty; the row is
            counted from 1, without the header.
    """
    if "\x00" in text:
        raise UserError("The prompts are not text: the file has NUL bytes. Save it as a UTF-8 CSV file.")
    separator = next((separator for separator in SEPARATORS if _parts_header(text, separator)), ",")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    try:
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise UserError(f"The prompts are not a CSV table: line {reader.line_num}: {error}.") from error
    names = _names(rows[0]) if rows else []
    for name in ("positive", "negative"):
        if names.count(name) != 1:
            raise UserError(
                f"The CSV needs a header row with exactly one column {name!r} ({HEADER}); "
                f"its first row is {', '.join(map(repr, names)) or 'empty'}."
            )
    if names.count("answer") != names.count("distractor") or names.count("answer") > 1:
        raise UserError("The CSV needs both columns answer and distractor, once each, or neither.")
    if len(rows) == 1:
        raise UserError("The CSV has a header but no rows; give at least one prompt pair.")
    columns: dict[str, list[str]] = {}
    for name in ("positive", "negative", "answer", "distractor"):
        if name in names:
            place = names.index(name)
            columns[name] = [_cell(row, names, place, number, separator) for number, row in enumerate(rows[1:], 1)]
    return PromptPairs(
        positive=tuple(columns["positive"]),
        negative=tuple(columns["negative"]),
        answer=tuple(tuple(cell.split("|")) for cell in columns.get("answer", [])),
        distractor=tuple(tuple(cell.split("|")) for cell in columns.get("distractor", [])),
    )


def _parts_header(text: str, separator: str) -> bool:
    """Whether the first row that is not blank has both columns of prompts, once each, with this separator."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    try:
        names = _names(next((row for row in reader if row), []))
    except csv.Error:
        return False
    return names.count("positive") == names.count("negative") == 1


def _names(header: list[str]) -> list[str]:
    return [cell.strip().lower() for cell in header]


def _cell(row: list[str], names: list[str], place: int, number: int, separator: str) -> str:
    if len(row) > len(names):
        mark = {",": "comma", ";": "semicolon"}.get(separator, "tab")
        raise UserError(
            f"Row {number} has {len(row)} cells for {len(names)} columns; put a prompt that has a {mark} in quotes."
        )
    cell = row[place] if place < len(row) else ""
    text = cell.strip()
    if not text or text.lower() == "nan":
        raise UserError(f"Row {number}, column {names[place]}: the cell is {'NaN' if text else 'empty'}.")
    return cell


def write_pairs_csv(pairs: PromptPairs) -> str:
    """The CSV text that read_pairs_csv reads back.

    Raises:
        UserError: an answer has the "|" that parts answers in a cell.
    """
    for row, texts in enumerate(zip(pairs.answer, pairs.distractor, strict=True), start=1):
        if any("|" in text for column in texts for text in column):
            raise UserError(f'Row {row}: an answer has a "|", which parts the answers of a CSV cell; save it as JSON.')
    columns: dict[str, tuple[str, ...]] = {"positive": pairs.positive, "negative": pairs.negative}
    if pairs.has_answers:
        columns["answer"] = tuple("|".join(a) for a in pairs.answer)
        columns["distractor"] = tuple("|".join(d) for d in pairs.distractor)
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\r\n")  # cells with either are quoted, which "\n" alone would not do
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return file.getvalue()
