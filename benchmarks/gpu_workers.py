"""Processes for work that may take its process away, or that may not end: what they did is known all the same.

A worker notes each step that it begins and ends. Where it dies, or is silent for too long, another one goes on behind
the step it was at.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]


class Notes:
    """A worker's file of what it begins and ends, a JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.ended = {note["end"] for note in map(json.loads, lines) if "end" in note}

    def write(self, **note: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(note) + "\n")


class Worker:
    """A process that notes its steps. Where it dies, or is silent for `patience` seconds, another one goes on."""

    def __init__(self, name: str, command: list[str], folder: Path, patience: float = 90.0, **environment: str) -> None:
        self.name, self.patience, self.environment = name, patience, environment
        self.notes, self.said = folder / f"{name}.jsonl", folder / f"{name}.txt"
        self.command = [*command, "--notes", str(self.notes)]
        self.offset = 0
        self.begun: str | None = None
        self.done = False
        self.failed: str | None = None
        self.start()

    def start(self) -> None:
        with self.said.open("a") as said:
            self.process = start(self.command, said, **self.environment)
        self.heard_at = time.monotonic()
        self.moved = False

    def read(self) -> list[dict[str, Any]]:
        """Notes that are new."""
        if not self.notes.exists():
            return []
        with self.notes.open() as file:
            file.seek(self.offset)
            text = file.read()
        text = text[: text.rfind("\n") + 1]
        self.offset += len(text.encode())
        notes = [json.loads(line) for line in text.splitlines()]
        for note in notes:
            self.begun = note.get("begin")
        if notes:
            self.heard_at, self.moved = time.monotonic(), True
        return notes

    def poll(self) -> list[dict[str, Any]]:
        code = self.process.poll()
        notes = self.read()
        if code is None and time.monotonic() - self.heard_at <= self.patience:
            return notes
        if code == 0:
            self.done = True
            return notes
        kill(self.process)
        why = f"no end within {self.patience:.0f} s" if code is None else f"the process ended with code {code}"
        why += f": {self.said.read_text(errors='replace')[-1500:]}"
        if self.begun is not None:
            Notes(self.notes).write(end=self.begun, failed=why)
            notes += self.read()
        if self.moved:
            self.start()
        else:
            self.done, self.failed = True, why
        return notes

    def stop(self) -> None:
        if not self.done:
            kill(self.process)
            self.failed = "out of time"


def follow(workers: list[Worker], until: float, heard: Callable[[Worker, dict[str, Any]], None]) -> None:
    """Passes on what workers end, until all are done."""
    try:
        while not all(worker.done for worker in workers):
            for worker in workers:
                for note in worker.poll() if not worker.done else []:
                    if "end" in note:
                        heard(worker, note)
            if time.monotonic() > until:
                break
            time.sleep(0.1)
    finally:
        for worker in workers:
            worker.stop()


def start(command: list[str], said: IO[str], **environment: str) -> subprocess.Popen[Any]:
    """Into a file, not a pipe: a pipe stays open as long as anybody that it was handed on to lives."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[Any]) -> None:
    """With all that it started; one that the driver does not let go is not waited for."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)


FOUND_ERRORS = 9
"""Exit code that compute-sanitizer is told to have where it found any."""


def run_sanitizers(script: list[str], folder: Path, seconds: float) -> dict[str, Any]:
    """compute-sanitizer on a program, twice at once; torch's own pool of memory would hide small overruns from it."""
    sanitizer = find_sanitizer()
    if sanitizer is None:
        return {"skipped": "compute-sanitizer was not found; it comes with the CUDA toolkit"}
    # Calls of the CUDA API that fail are not asked for: torch makes some on purpose, and the operators look themselves.
    tools = {"memcheck": ["--report-api-errors", "no"], "racecheck": []}
    begin, processes = time.monotonic(), {}
    for tool, options in tools.items():
        command = [sanitizer, "--tool", tool, *options, "--error-exitcode", str(FOUND_ERRORS), *script]
        with (folder / f"{tool}.txt").open("w") as said:
            processes[tool] = start(command, said, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    found: dict[str, Any] = {}
    for tool, process in processes.items():
        try:
            code: int | None = process.wait(max(1.0, seconds - (time.monotonic() - begin)))
        except subprocess.TimeoutExpired:
            code = None
        kill(process)
        said = (folder / f"{tool}.txt").read_text(errors="replace")
        says = {0: "nothing found", None: "out of time", FOUND_ERRORS: "errors"}.get(code, "did not work here")
        found[tool] = {
            "exit_code": code,
            "says": says,
            "seconds": round(time.monotonic() - begin, 1),
            "said": said if len(said) <= 6000 else f"{said[:4000]}\n[...]\n{said[-2000:]}",
        }
    return found


def find_sanitizer() -> str | None:
    places = ["compute-sanitizer"]
    places += [
        str(Path(os.environ[name], "bin", places[0])) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ
    ]
    places += [f"/usr/local/cuda/{folder}/compute-sanitizer" for folder in ("bin", "compute-sanitizer")]
    return next(filter(None, map(shutil.which, places)), None)
