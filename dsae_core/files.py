"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import tempfile
from pathlib import Path

from dsae_core.errors import UserError


def write_atomic(path: str | Path, text: str) -> Path:
    """Write text under a temporary name in the same folder, sync it, and rename it into place.

    Whatever stood at path before stays intact until the rename. A process that is killed meanwhile leaves its temporary
    file, which the next write of the same file removes. Returns the path.

    Raises:
        UserError: the folder does not exist or cannot be written, or the disk is full.
    """
    target = Path(path)
    try:
        _remove_leftovers(target)
        descriptor, temporary = _temporary_file(target)
        try:
            # The rename comes before the closing, which gives up the lock that says that somebody is at work.
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                temporary.chmod(0o644)  # mkstemp's 0600 would hide a shared result from its other readers
                temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"Cannot write {target}: {reason}. Choose another path or free some space.") from error
    return target


def _temporary_file(target: Path) -> tuple[int, Path]:
    """A new file beside the target, open for writing and locked for as long as this process lives."""
    while True:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        with contextlib.suppress(OSError):  # some network file systems have no locks; nothing is removed there either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, Path(name)
        os.close(descriptor)  # somebody took it for a leftover, in the moment before it was locked


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files of this target that no living process holds a lock on."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.????????.tmp"):
        with contextlib.suppress(OSError), leftover.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def read_text(path: str | Path, what: str) -> str:
    """Read a UTF-8 file; `what` names it in the error.

    Raises:
        UserError: the file is missing, unreadable or not UTF-8 text.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"Cannot read {what} {path}: {error.strerror or type(error).__name__}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"Cannot read {what} {path}: it is not UTF-8 text; save it as UTF-8.") from error
