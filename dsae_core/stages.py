"""Stage times and progress of a long computation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, float], None]
"""Called with a stage's name and the share of it done, 0 to 1. An exception it raises ends the computation."""


def silent(_stage: str, _fraction: float) -> None:
    """Progress that nobody follows."""


class Stages:
    """Times named stages one after another and reports their start and end."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float], None]]:
        """Time a stage; yields a function that reports the share of it done."""

        def report(fraction: float) -> None:
            if self._progress is not None:
                self._progress(name, fraction)

        report(0.0)
        start = time.perf_counter()
        yield report
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        report(1.0)
