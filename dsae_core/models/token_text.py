"""What a single token says, also where its bytes are no whole character."""

from __future__ import annotations

import re
from typing import Any

_REPLACED = "\N{REPLACEMENT CHARACTER}"
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""A byte as tokenizers of the SentencePiece kind write it."""

_ESCAPED = re.compile("[\udc80-\udcff]+")
"""Bytes that are no UTF-8, as the error handler "surrogateescape" leaves them."""

# Byte-level tokenizers (GPT-2's and those after it) write a byte as itself where that is printable Latin-1, and the
# others, in order, as the characters from 256 on.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + n): byte for n, byte in enumerate(_OTHERS)}


def token_text(tokenizer: Any, token: int) -> str:
    """A token's own text, with the space before it that some tokenizers drop when they decode one alone.

    Bytes that are no whole character, which would decode to U+FFFD, are written out: "⟨E2 80⟩".
    """
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    raw = tokenizer.convert_ids_to_tokens(token)
    assert isinstance(text, str)
    if not isinstance(raw, str):
        return text
    if _REPLACED in text and (known := _raw_bytes(raw)) is not None:
        text = _ESCAPED.sub(_written_out, known.decode("utf-8", "surrogateescape"))
    return f" {text}" if raw.startswith("▁") and not text.startswith(" ") else text


def _raw_bytes(raw: str) -> bytes | None:
    """The bytes that a tokenizer's vocabulary writes as `raw`, None where it does not write bytes."""
    if fallback := _FALLBACK.fullmatch(raw):
        return bytes.fromhex(fallback[1])
    return bytes(_BYTES[mark] for mark in raw) if all(mark in _BYTES for mark in raw) else None


def _written_out(found: re.Match[str]) -> str:
    return f"⟨{' '.join(f'{ord(mark) - 0xDC00:02X}' for mark in found[0])}⟩"
