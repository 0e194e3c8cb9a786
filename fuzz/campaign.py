"""Fuzz targets one after another, each in a process of its own, which a crash may end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

RESTARTS = 5
"""How often a target is taken up again after an input killed its process."""


@dataclass(frozen=True)
class Outcome:
    """What fuzzing one target gave.

    Attributes:
        target: its name.
        inputs: how many were tried.
        findings: what was wrong -> file with the input.
        seconds: wall time.
    """

    target: str
    inputs: int
    findings: dict[str, str]
    seconds: float


def fuzz_target(name: str, inputs: int, seed: int, folder: Path) -> Outcome:
    """Try `inputs` inputs on a target; goes on with another seed after a crash, which is a finding."""
    tried, seconds, findings = 0, 0.0, dict[str, str]()
    for attempt in range(RESTARTS + 1):
        place = folder / name / f"{seed + attempt}"
        log = _run(name, inputs - tried, seed + attempt, place)
        written = place / "report.json"  # a process that dies at once writes none
        report = json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}
        tried += report.get("inputs", 0)
        seconds += report.get("seconds", 0.0)
        findings |= {wrong: f"{place}/{file}" for wrong, file in report.get("findings", {}).items()}
        if tried >= inputs:
            break
        fatal = sorted(file for kind in ("crash", "timeout", "oom") for file in place.glob(f"{kind}-*"))
        input_file = str(fatal[0]) if fatal else str(place / "log.txt")
        findings[f"the process died ({log[-1] if log else 'silently'})"] = input_file
    return Outcome(name, tried, findings, round(seconds, 1))


def _run(name: str, inputs: int, seed: int, place: Path) -> list[str]:
    """One process; the lines it wrote."""
    place.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fuzz", name, "--inputs", str(inputs), "--seed", str(seed)]
    done = subprocess.run(
        [*command, "--findings", str(place)],
        cwd=Path(__file__).parents[1],
        env={"OMP_NUM_THREADS": "1", **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    (place / "log.txt").write_text(done.stdout, encoding="utf-8")
    return [line for line in done.stdout.splitlines() if line.strip()]
