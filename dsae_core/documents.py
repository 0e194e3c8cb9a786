"""JSON that anybody may have written, read strictly: what is odd is refused here, and nothing behind need expect it.

Every reader of a field raises a ValueError that names the field; whoever reads a whole document makes it a UserError.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

WRITABLE = (-(2**63), 2**64 - 1)
"""The whole numbers that orjson, and much else, writes as JSON."""

MAX_DEPTH = 32
"""How deep lists and objects may be nested: far more than any document here is, far less than Python can walk."""


def parse_json(text: str) -> Any:
    """The value that a JSON text stands for.

    Raises:
        ValueError: it is not JSON; NaN, Infinity and numbers of thousands of digits, which Python would take or not
            according to its version, are not.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def field(data: Any, name: str) -> Any:
    """A field of an object."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{name} is sought in what is no object")
    if name not in data:
        raise ValueError(f"it has no {name}")
    return data[name]


def text(value: Any, name: str) -> str:
    """A string that can be written as UTF-8: JSON may hold half of a surrogate pair."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    if not is_unicode(value):
        raise ValueError(f"{name} is no Unicode text")
    return value


def is_unicode(value: str) -> bool:
    """Whether a string has no half of a surrogate pair, which no file and no tokenizer takes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole(value: Any, name: str, low: int = 0, high: int = 2**31 - 1) -> int:
    """A whole number from low to high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is no whole number from {low} to {high}")
    return value


def number(value: Any, name: str) -> float:
    """A finite number."""
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number beyond all floats
        pass
    raise ValueError(f"{name} is no finite number")


def items(value: Any, name: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} is no list")
    return list(value)


def texts(value: Any, name: str) -> tuple[str, ...]:
    """A list of texts."""
    return tuple(text(item, f"one of {name}") for item in items(value, name))


def members(value: Any, name: str) -> dict[str, Any]:
    """An object."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is no object")
    return {text(key, f"a key of {name}"): item for key, item in value.items()}


def plain(value: Any, name: str) -> dict[str, Any]:
    """An object of any fields, all of which can be written as JSON and shown."""
    found = members(value, name)
    rest: list[tuple[Any, int]] = [(item, 1) for item in found.values()]
    while rest:
        item, depth = rest.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"{name} is nested too deeply")
        if isinstance(item, Mapping):
            rest += [(inner, depth + 1) for inner in members(item, name).values()]
        elif isinstance(item, list | tuple):
            rest += [(inner, depth + 1) for inner in item]
        elif isinstance(item, str):
            text(item, f"a value in {name}")
        elif isinstance(item, int) and not isinstance(item, bool):
            whole(item, f"a value in {name}", *WRITABLE)
        elif item is not None and not isinstance(item, bool):
            number(item, f"a value in {name}")
    return found


def tensor(value: Any, name: str, n_dims: int, *, whole: bool = False) -> Tensor:
    """Nested lists of finite numbers as a float32 tensor; of whole numbers as an int32 one."""
    import torch  # circuits are read without it

    dtype, kind = (torch.int32, "whole ") if whole else (torch.float32, "")
    try:
        found = torch.tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{name} is no array of {kind}numbers") from error
    made = found.to(dtype)
    if found.dtype == torch.bool or (whole and not torch.equal(found, made.to(found.dtype))):
        raise ValueError(f"{name} is no array of {kind}numbers")
    if made.ndim != n_dims or not bool(torch.isfinite(made).all()):
        raise ValueError(f"{name} is no array of {n_dims} dimensions and finite numbers")
    return made
