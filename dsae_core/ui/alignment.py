"""How a tokenizer cuts prompt pairs, and where that stands in the way of comparing them position by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from dsae_core.errors import UserError
from dsae_core.models import LanguageModel, ModelTokenizer, tokenize
from dsae_core.tasks.vocabulary import continuation_ids
from dsae_core.ui.drafts import Row


@dataclass(frozen=True)
class Token:
    """A token and whether the other prompt of the pair has another one in its place."""

    text: str
    differs: bool


@dataclass(frozen=True)
class AlignedRow:
    """A row of the table as the tokenizer sees it.

    Attributes:
        number: of the row, from 1.
        positive: its tokens; empty where the cell is.
        negative: likewise.
        problem: why the two cannot be compared position by position, "" where they can.
        notes: what else should be looked at: an answer that is no single token, or has no space before it.
    """

    number: int
    positive: tuple[Token, ...]
    negative: tuple[Token, ...]
    problem: str
    notes: tuple[str, ...]


def align(model: LanguageModel | ModelTokenizer, row: Row) -> AlignedRow:
    """Tokenise a row's prompts and compare them."""
    try:
        positive, negative = (_tokens(model, text) for text in (row.positive, row.negative))
    except UserError as error:
        return AlignedRow(row.number, (), (), str(error).removeprefix("Row 1: "), ())
    differs = _differing(positive, negative)
    sides = [
        tuple(Token(text, t in places) for t, text in enumerate(texts))
        for texts, places in zip((positive, negative), differs, strict=True)
    ]
    notes = [
        note
        for name, cell in (("answer", row.answer), ("distractor", row.distractor))
        for text in (cell.split("|") if cell and row.positive else ())
        if (note := _answer_note(model, row.positive, text, name))
    ]
    return AlignedRow(row.number, sides[0], sides[1], _problem(positive, negative), tuple(notes))


def _tokens(model: LanguageModel | ModelTokenizer, text: str) -> list[str]:
    return list(tokenize(model, [text]).tokens[0]) if text else []


def _problem(positive: Sequence[str], negative: Sequence[str]) -> str:
    if not positive or not negative:
        return "one of the two prompts is missing"
    if len(positive) != len(negative):
        return f"{len(positive)} tokens against {len(negative)}"
    return "both prompts are the same" if positive == negative else ""


def _differing(positive: Sequence[str], negative: Sequence[str]) -> tuple[set[int], set[int]]:
    """Positions that differ; where the lengths do, those that the shortest edit from one to the other touches."""
    if len(positive) == len(negative):
        at = {t for t, (a, b) in enumerate(zip(positive, negative, strict=True)) if a != b}
        return at, at
    edits = SequenceMatcher(None, positive, negative, autojunk=False).get_opcodes()
    changed = [edit for edit in edits if edit[0] != "equal"]
    return {t for e in changed for t in range(e[1], e[2])}, {t for e in changed for t in range(e[3], e[4])}


def _answer_note(model: LanguageModel | ModelTokenizer, prompt: str, text: str, name: str) -> str:
    if text[:1].isalnum() and not prompt[-1:].isspace():
        spaced = continuation_ids(model.tokenizer, prompt, f" {text}")
        if len(spaced) == 1:
            return f"{name} “{text}” has no space before it; the model would write “ {text}”"
    n = len(continuation_ids(model.tokenizer, prompt, text))
    if n != 1:
        return f"{name} “{text}” is {f'{n} tokens' if n else 'no token of its own'} after the prompt; give one token"
    return ""
