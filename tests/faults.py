"""Processes that are killed at a chosen moment, files that cannot grow, and memory that runs out."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tqdm import auto, std

Work = Callable[[], object]

CHANGES = {
    "open",
    "write",
    "writelines",
    "flush",
    "truncate",
    "fsync",
    "chmod",
    "replace",
    "rename",
    "unlink",
    "remove",
}
CHANGES |= {"mkdir", "rmdir", "flock", "connect", "execute", "close", "sendfile", "serialize_file", "save"}
"""Calls after and before which a killed process may leave its files in another state."""

HOMES = {
    "posix",
    "_io",
    "io",
    "fcntl",
    "_sqlite3",
    "sqlite3",
    "safetensors._safetensors_rust",
    "tokenizers",
    "builtins",
}


def run(work: Work) -> int:
    """Do the work in a forked copy of this process: 0, or the signal that ended it with a minus.

    Raises:
        AssertionError: the work raised something, which is on standard error.
    """
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(120)  # nobody waits for ever for a copy that hangs
            torch.set_num_threads(1)  # its threads were not copied
            for bar in (std.tqdm, auto.tqdm):  # their locks are shared between processes, and a killed one keeps them
                bar.set_lock(threading.RLock())
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code <= 0, "the work failed; its traceback is on standard error"
    return code


def killed_at(work: Work, moment: int) -> bool:
    """Do the work in a copy of this process that kills itself at the n-th moment; False where it ended before that.

    A moment is just before or just after a call that changes files.
    """
    left = moment

    def watch(frame: FrameType, event: str, called: Any) -> None:
        nonlocal left
        if event in ("c_call", "c_return") and _changes_files(called):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    def watched() -> None:
        sys.setprofile(watch)
        try:
            work()
        finally:
            sys.setprofile(None)

    return _killed(run(watched), signal.SIGKILL)


def killed_after_bytes(work: Work, n_bytes: int) -> bool:
    """The same, killed by the system in the middle of the write that makes any file longer than n bytes."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, and would raise an OSError
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
        work()

    return _killed(run(limited), signal.SIGXFSZ)


def moments(work: Work) -> int:
    """How many moments a whole run of the work has."""
    reader, writer = os.pipe()

    def count() -> None:
        seen = 0

        def watch(frame: FrameType, event: str, called: Any) -> None:
            nonlocal seen
            seen += event in ("c_call", "c_return") and _changes_files(called)

        sys.setprofile(watch)
        try:
            work()
        finally:
            sys.setprofile(None)
            os.write(writer, str(seen).encode())

    assert run(count) == 0
    os.close(writer)
    with os.fdopen(reader) as text:
        return int(text.read())


def _changes_files(called: Any) -> bool:
    if called.__name__ not in CHANGES:
        return False
    owner = getattr(called, "__self__", None)
    home = getattr(called, "__module__", None) or type(owner).__module__
    return home in HOMES or type(owner).__module__ in HOMES


def _killed(code: int, by: int) -> bool:
    assert code in (0, -by), f"the copy was ended by signal {-code}"
    return code != 0


def without_space(work: Work, n_bytes: int) -> None:
    """Do the work in a copy of this process in which a file cannot get longer than n bytes: writing more fails."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))  # Python turns the signal into an OSError
        work()

    assert run(limited) == 0


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGING = {f"os.{name}" for name in ("mkdir", "rmdir", "rename", "remove", "chmod", "truncate", "link", "symlink")}


def read_only(work: Work, folder: Path) -> None:
    """Do the work in a copy of this process for which a folder is on a file system that is mounted read-only.

    Whoever runs it: permissions would not bind root. What libraries of other languages write is not noticed.
    """
    inside = os.path.realpath(folder)

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & WRITING:
            paths = arguments[:1]
        elif event in CHANGING:
            paths = arguments[:2]
        else:
            return
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike):
                name = os.path.realpath(os.fsdecode(path))
                if name == inside or name.startswith(inside + os.sep):
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS), name)

    def mounted() -> None:
        sys.addaudithook(refuse)  # for good: this copy ends with the work
        work()

    assert run(mounted) == 0


def without_memory(work: Work, n_bytes: int) -> None:
    """Do the work in a copy of this process that can take so many bytes more and then is refused any."""

    def limited() -> None:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + n_bytes, taken + n_bytes))
        work()

    assert run(limited) == 0


def peak_growth(work: Work, warm_up: Work) -> int:
    """Bytes by which the resident memory of a copy of this process grows at most during the work, once warm."""
    reader, writer = os.pipe()

    def measured() -> None:
        warm_up()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed and not given back would hide what is taken
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        work()
        os.write(writer, str(_status("VmHWM") - before).encode())

    assert run(measured) == 0
    os.close(writer)
    with os.fdopen(reader) as text:
        return int(text.read())


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
