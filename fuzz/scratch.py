"""A file for readers that take a path."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_file(data: bytes) -> Iterator[Path]:
    """While open, a file that holds the bytes."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(data)
        file.flush()
        yield Path(file.name)
