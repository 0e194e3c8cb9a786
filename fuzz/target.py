"""What a fuzz target is, and how an input becomes a finding."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

LIMIT_SECONDS = 1.0
"""Processor time that one input may take."""


class FindingError(Exception):
    """The code under test broke its contract without raising anything."""


@dataclass(frozen=True)
class Target:
    """One thing to fuzz.

    Attributes:
        run: takes an input; returns where the contract holds, raises anything where it does not.
        seeds: inputs to start from.
        mutate: another input, made from one with an understanding of its structure.
    """

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    mutate: Callable[[bytes, Random], bytes]


def complaint(target: Target, data: bytes) -> str:
    """What is wrong with how an input was taken: the exception and the line that raised it; "" where nothing is."""
    try:
        # What is slow once may have imported something.
        slow = _seconds(target, data) > LIMIT_SECONDS and _seconds(target, data) > LIMIT_SECONDS
    except Exception as error:
        return f"{type(error).__name__} at {_place(error)}"
    return f"it took more than {LIMIT_SECONDS:g} s" if slow else ""


def _seconds(target: Target, data: bytes) -> float:
    begin = time.process_time()
    target.run(data)
    return time.process_time() - begin


def require(holds: bool, message: str) -> None:
    """Raise a FindingError with the message unless a condition holds."""
    if not holds:
        raise FindingError(message)


def _place(error: BaseException) -> str:
    """module:line where an exception was raised; the message too where the harness raised it."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = "" if frame is None else f"{frame.tb_frame.f_globals.get('__name__', '?')}:{frame.tb_lineno}"
    return f"{error} ({where})" if isinstance(error, FindingError) else where
