"""Proves every promise again and writes docs/reliability.md: one table of promise, proof, figure and outcome.

    python benchmarks/trust.py [--minutes N] [--inputs N] [--audit PROGRAM] [--skip SUBJECT]... [--only SUBJECT]...
        [--json FILE] [--markdown FILE]

A promise is proven by a test marked `promise` (subject "suite") or by a script of its own, benchmarks/trust_SUBJECT.py,
which takes --json FILE and writes rows of promise, proof, figure and ok there. A promise that fails stands in the table
as failed; a subject that is skipped, or whose script is not there, stands as not run.

With --only the rows of all other subjects stay as the JSON file has them; every row has the date it was proven at.

The files are benchmarks/results/trust.json and docs/reliability.md unless named. The exit code is 1 where a promise
failed, or was not run without being skipped.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shlex
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dsae_core.files import write_atomic
from dsae_core.machine import machine_facts

ROOT = Path(__file__).parents[1]
SCHEMA = 1
UNKNOWN = 3
"""The exit code of a script that could not find out, and so wrote no row."""

SUBJECTS = {
    "suite": "The promises that tests carry",
    "fuzz": "No input, however broken, brings it down",
    "soak": "It stays up under many visitors at once",
    "installs": "It installs from its archive and its wheels",
    "audit": "What is installed with it has no known vulnerability",
}
"""What is proven, and what stands in the table where a subject's own rows cannot."""


@dataclass(frozen=True)
class Row:
    """One promise.

    Attributes:
        promise: one plain sentence.
        proof: the test or command that proves it.
        figure: what was counted or measured, or why it was not run.
        ok: None where it was not run.
        subject: a key of SUBJECTS.
        date: when it was proven.
    """

    promise: str
    proof: str
    figure: str
    ok: bool | None
    subject: str = ""
    date: str = ""


@dataclass(frozen=True)
class Report:
    """All rows, and what is needed to know where they come from; `only`: the subjects proven, where not all were."""

    rows: tuple[Row, ...]
    command: str
    date: str
    minutes: float
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    only: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"schema": SCHEMA, **asdict(self)}

    def markdown(self) -> str:
        """docs/reliability.md."""
        outcomes = [_outcome(row) for row in self.rows]
        counts = ", ".join(f"{outcomes.count(word)} {word}" for word in ("holds", "FAILED", "not run"))
        facts = self.machine
        machine = ", ".join(
            [
                str(facts["processor"]),
                f"{facts['cores']} cores",
                f"{facts['memory_gib']} GiB of memory",
                str(facts["gpu"] or "no GPU"),
                str(facts["system"]),
                *(f"{name} {version}" for name, version in self.versions.items()),
            ]
        )
        lines = [
            "# What can be relied on",
            "",
            "Written by `make trust`, which proves every promise again; nothing in it is written by hand.",
            "",
            f"Promises: {counts}. `{self.command}` took {self.minutes:.0f} minutes and ended {self.date}.",
            *self._earlier(),
            f"Machine: {machine}.",
            "",
            "| promise | proof | figure | |",
            "|---|---|---|---|",
            *(
                f"| {_cell(row.promise)} | `{_cell(row.proof)}` | {_cell(row.figure)} | {outcome} |"
                for row, outcome in zip(self.rows, outcomes, strict=True)
            ),
            "",
        ]
        return "\n".join(lines)

    def _earlier(self) -> list[str]:
        """Which subjects were proven before this command, and when."""
        dates = {row.subject: row.date for row in self.rows if self.only and row.subject not in self.only}
        if not dates:
            return []
        return ["Kept from earlier runs: " + ", ".join(f"{name} ({date})" for name, date in dates.items()) + "."]


def kept_rows(report: Path) -> dict[str, list[Row]]:
    """The rows of an earlier report by subject; none where there is no report."""
    kept: dict[str, list[Row]] = {subject: [] for subject in SUBJECTS}
    if report.exists():
        for row in json.loads(report.read_text())["rows"]:
            kept[row["subject"]].append(Row(**row))
    return kept


def suite_rows(report: Path) -> list[Row]:
    """The promises in a JUnit report of pytest. Tests that carry the same promise are one row, and all must pass."""
    found: dict[str, list[tuple[str, str, bool | None]]] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        properties = {item.get("name"): item.get("value", "") for item in case.iter("property")}
        promise = properties.get("promise")
        if promise is None:
            continue
        test = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '').partition('[')[0]}"
        ok: bool | None = case.find("failure") is None and case.find("error") is None
        skipped = case.find("skipped")
        figure = properties.get("figure", "")
        if skipped is not None:
            ok, figure = None, f"skipped: {skipped.get('message', '')}"
        found.setdefault(promise, []).append((test, figure, ok))
    return [_merged(promise, cases) for promise, cases in found.items()]


def _merged(promise: str, cases: Sequence[tuple[str, str, bool | None]]) -> Row:
    tests = ", ".join(dict.fromkeys(test for test, _, _ in cases))
    figures = list(dict.fromkeys(figure for _, figure, _ in cases if figure))
    if len(cases) > 1:
        figures.insert(0, f"{len(cases)} cases")
    oks = [ok for _, _, ok in cases]
    ok = False if False in oks else None if None in oks else True
    return Row(promise, tests, "; ".join(figures), ok)


def run_suite(command: Sequence[str]) -> list[Row]:
    """Run pytest on the marked tests."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        # The later form of the report has no properties of a test.
        code = subprocess.run([*command, f"--junitxml={report}", "-o", "junit_family=xunit1"], cwd=ROOT).returncode
        rows = suite_rows(report) if report.exists() else []
    if code not in (0, 1) or (code == 1 and all(row.ok for row in rows)):
        rows.append(_broken("suite", shlex.join(command), f"pytest ended with exit code {code}"))
    return rows


def run_script(subject: str, command: Sequence[str]) -> list[Row]:
    """Run a script that writes rows with --json."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "rows.json"
        code = subprocess.run([*command, "--json", str(report)], cwd=ROOT).returncode
        proof = shlex.join(["python", *command[1:]])
        try:
            rows = [Row(**row) for row in json.loads(report.read_text())]
        except (OSError, ValueError, TypeError) as error:
            return [_broken(subject, proof, f"exit code {code}, and no rows: {type(error).__name__}")]
    if code == UNKNOWN and not rows:
        return [Row(f"{SUBJECTS[subject]}.", proof, "nothing could be found out", None)]
    if not rows or (code and all(row.ok is not False for row in rows)):
        rows.append(_broken(subject, proof, f"{len(rows)} rows, but exit code {code}"))
    return rows


def _broken(subject: str, proof: str, figure: str) -> Row:
    return Row(f"{SUBJECTS[subject]}.", proof, figure, False)


def prove(subject: str, options: Mapping[str, Sequence[str]], scripts: Path = ROOT / "benchmarks") -> list[Row]:
    """All rows of one subject; `options` are further arguments of its command."""
    extra = options.get(subject, ())
    if subject == "audit" and not extra:
        return [Row(f"{SUBJECTS[subject]}.", "benchmarks/trust.py --audit", "no pip-audit was named", None)]
    if subject == "suite":
        return run_suite([sys.executable, "-m", "pytest", "-m", "promise", *extra])
    script = scripts / f"trust_{subject}.py"
    if not script.exists():
        return [Row(f"{SUBJECTS[subject]}.", f"python benchmarks/{script.name}", "its script is not here", None)]
    return run_script(subject, [sys.executable, f"{scripts.name}/{script.name}", *extra])


def prove_all(
    skip: Iterable[str], options: Mapping[str, Sequence[str]], kept: Mapping[str, Sequence[Row]] | None = None
) -> tuple[list[Row], bool]:
    """The rows of all subjects, and whether everything that was asked for was run and holds.

    kept: rows of an earlier report, for the subjects that are not to be proven again.
    """
    rows: list[Row] = []
    good = True
    for subject, promise in SUBJECTS.items():
        if kept is not None and kept.get(subject):
            rows += kept[subject]
            continue
        if subject in skip:
            found = [Row(f"{promise}.", f"benchmarks/trust.py --skip {subject}", "skipped by request", None)]
        else:
            print(f"== {subject}", flush=True)
            found = prove(subject, options)
            ran = any(row.ok is not None for row in found)
            good = good and ran and all(row.ok is not False for row in found)
        rows += [replace(row, subject=subject, date=_now()) for row in found]
    return rows, good


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="how long the soak lasts")
    parser.add_argument("--inputs", type=int, help="how many inputs the fuzzer tries")
    parser.add_argument("--audit", type=Path, help="the pip-audit to ask; `make audit` has one")
    parser.add_argument("--skip", action="append", default=[], choices=list(SUBJECTS), help="leave a subject out")
    parser.add_argument("--only", action="append", choices=list(SUBJECTS), help="prove this again, and keep the rest")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "trust.json")
    parser.add_argument("--markdown", type=Path, default=ROOT / "docs" / "reliability.md")
    asked = parser.parse_args(arguments)
    options: dict[str, Sequence[str]] = {}
    if asked.minutes is not None:
        options["soak"] = ["--minutes", f"{asked.minutes:g}"]
    if asked.audit is not None:
        options["audit"] = [str(asked.audit)]
    if asked.inputs is not None:
        options["fuzz"] = ["--inputs", str(asked.inputs)]
    start = time.monotonic()
    kept = None
    if asked.only:
        kept = {subject: rows for subject, rows in kept_rows(asked.json).items() if subject not in asked.only}
    rows, good = prove_all(asked.skip, options, kept)
    report = Report(
        rows=tuple(rows),
        command=shlex.join(["python", "benchmarks/trust.py", *(sys.argv[1:] if arguments is None else arguments)]),
        date=_now(),
        minutes=(time.monotonic() - start) / 60,
        machine=machine_facts(),
        versions={
            "Python": ".".join(map(str, sys.version_info[:3])),
            **_versions("dsae-core", "torch", "transformers"),
        },
        only=tuple(asked.only or ()),
    )
    write_atomic(asked.json, json.dumps(report.to_dict(), indent=1) + "\n")
    write_atomic(asked.markdown, report.markdown())
    print(report.markdown())
    return 0 if good else 1


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _versions(*names: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in names}


def _outcome(row: Row) -> str:
    return {True: "holds", False: "FAILED", None: "not run"}[row.ok]


def _cell(text: str) -> str:
    """Text that stays in its cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    sys.exit(main())
