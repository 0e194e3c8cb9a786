"""Mutations of JSON documents and of text that keep most of their structure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

_DIGITS = "@digits@"
"""Stands for a number of 5000 digits, which Python refuses to read, while a document is no text yet."""

_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, -2, 0.5, -0.0, 7, 255, 2**31 - 1, 2**31, 2**53, 2**63, 10**30, 10**400),
    *(float("nan"), float("inf"), float("-inf"), 1e38, 1e39, 1e308, 5e-324),
    *("", " ", "a", "nan", "1", "custom", "ioi", "\x00", "\ud800", "ü🙂", "a" * 3000, _DIGITS, "schema"),
    *([], {}, [[]], [0], [[0]], [[0, 0]], ["a"], {"a": 1}, [[[0]]], [None], {"": None}),
)


def mutate_json(data: bytes, random: Random) -> bytes:
    """A JSON document with some of its values replaced, taken out, doubled or moved; other bytes as text."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_text(data, random)
    try:
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            document = _changed(document, random)
        text = json.dumps(document, ensure_ascii=random.random() < 0.7)
    except RecursionError:
        return data
    text = text.replace(f'"{_DIGITS}"', "9" * 5000)
    if random.random() < 0.5:
        text = text.replace("Infinity", "1e999")
    return text.encode(errors="surrogatepass")


def _changed(document: Any, random: Random) -> Any:
    slots = list(_slots(document))
    if not slots or random.random() < 0.01:
        return random.choice(_ODD)
    # Long lists of numbers must not take all the attention: half of the time, a field near the top.
    shallow = [slot for slot in slots if slot[2] <= 2]
    container, key, _ = random.choice(shallow if shallow and random.random() < 0.5 else slots)
    value = container[key]
    kind = random.randrange(9)
    if kind <= 2:
        container[key] = _copy(random.choice(_ODD))
    elif kind == 3:
        del container[key]
    elif kind == 4:
        other, at, _ = random.choice(slots)
        container[key] = _copy(other[at])
    elif kind == 5:
        container[key] = _nudged(value, random)
    elif kind == 6:
        container[key] = random.choice(([value], {"a": value}, [value, _copy(value)], _deep(value, random)))
    elif isinstance(container, list):
        container.insert(random.randrange(len(container) + 1), _copy(random.choice((value, random.choice(_ODD)))))
    else:
        container[random.choice(("", "method", "seed", "class", "\ud800", f"{key} ", "model", "k"))] = _copy(value)
    return document


def _slots(document: Any) -> Iterator[tuple[Any, Any, int]]:
    """Every (container, key or index, depth) of a document."""
    rest = [(document, 0)]
    while rest:
        value, depth = rest.pop()
        keys: Any = range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else ()
        for key in keys:
            yield value, key, depth
            rest.append((value[key], depth + 1))


def _nudged(value: Any, random: Random) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return random.choice((value + 1, value - 1, -value, float(value) if abs(value) < 1e300 else 0, str(value)))
    if isinstance(value, str):
        at = random.randrange(len(value) + 1)
        return (
            value[:at] + random.choice(("|", ",", '"', "\n", "\r", "\x00", "\ud83d", " ", "\ufeff", "é")) + value[at:]
        )
    return value[:-1] if isinstance(value, list) else dict(list(value.items())[:-1])


def _deep(value: Any, random: Random) -> Any:
    for _ in range(random.choice((5, 70, 500))):
        value = [value] if random.random() < 0.5 else {"a": value}
    return value


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value)) if isinstance(value, list | dict) else value


def mutate_text(data: bytes, random: Random, words: tuple[bytes, ...] = ()) -> bytes:
    """Bytes with some pieces put in, taken out, doubled or swapped."""
    pieces = (
        *words,
        b'"',
        b",",
        b"\n",
        b"\r",
        b"\r\n",
        b"{",
        b"]",
        b"\x00",
        b"\xff",
        b" ",
        "é🙂".encode(),
        b"\xef\xbb\xbf",
    )
    for _ in range(random.choice((1, 1, 2, 4))):
        begin = random.randrange(len(data) + 1)
        end = min(len(data), begin + random.choice((0, 0, 1, 2, 8, 40)))
        kind = random.randrange(4)
        if kind == 0:
            data = data[:begin] + random.choice(pieces) + data[begin:]
        elif kind == 1:
            data = data[:begin] + data[end:]
        elif kind == 2:
            data = data[:end] + data[begin:end] + data[end:]
        else:
            data = data[:begin] + random.choice(pieces) + data[end:]
    return data
