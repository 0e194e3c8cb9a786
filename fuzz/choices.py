"""Reads an input as a row of decisions, so that a small change of it changes one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """Decisions, a byte each; 0 where the input has ended."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, n: int) -> int:
        """A number from 0 to n - 1, n at most 256."""
        byte = self._data[self._at] if self._at < len(self._data) else 0
        self._at += 1
        return byte % n

    def pick(self, options: Sequence[T]) -> T:
        """One of the options; the first where the input has ended."""
        return options[self.below(len(options))]

    def odd(self) -> bool:
        """Rarely True: whether the next thing should be a wrong one."""
        return self.below(16) == 15
