"""The CUDA operators on this machine's GPU: tests, memory and race checks, agreement with float64, and speed.

    make gpu-check
    python benchmarks/gpu_check.py [--json FILE] [--minutes 7] [--rehearse]

Writes one JSON file, benchmarks/results/gpu.<device>.json, again and again within --minutes, so that it has what was
found even where this program is stopped; what failed, and what there was no time or memory for, is named in it. Exit
code 0: everything agreed; 1: something did not; 2: there is no GPU here, or the operators were built without CUDA.
--rehearse runs the same steps on the CPU with small shapes, to see that this program works; then FILE is written only
if given.

A fault in a kernel takes the whole process's device away, and a kernel that does not end takes its time: so tests and
steps run in processes of their own (gpu_workers.py). How times are measured: gpu_measure.py.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from gpu_cases import MODELS, REHEARSED, Model, all_cases
from gpu_steps import SHARES, all_steps, run_tests, small_cases, work_through
from gpu_workers import FOUND_ERRORS, ROOT, Notes, Worker, follow, run_sanitizers

from dsae_core import _native
from dsae_core.files import write_atomic

THIS = [sys.executable, str(Path(__file__).resolve())]


class Check:
    """The whole of it; `report` is complete at every moment as far as it goes."""

    def __init__(self, rehearse: bool, seconds: float, path: Path | None) -> None:
        self.rehearse, self.path = rehearse, path
        self.begin = time.monotonic()
        self.until = self.begin + seconds
        self.models = REHEARSED if rehearse else MODELS
        self.report: dict[str, Any] = {
            "schema": 2,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": {},
            "codes": [],
            "training": [],
            "ceilings": None,
            "times": {},
            "kernel_times": {},
            "discoveries": [],
            "failures": {},
        }
        self.part = ""
        self.written_at = 0.0

    def run(self) -> None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            folder = Path(name)
            seconds = self.until - self.begin
            if not self.rehearse:
                print("Tests that need a GPU ...", flush=True)
                self.run_tests(folder, self.begin + min(150.0, seconds / 2))
            self.run_steps(folder, self.until - (0 if self.rehearse else min(60.0, seconds / 6)))
            left = self.until - time.monotonic()
            if not self.rehearse and left > 15:
                print("compute-sanitizer ...", flush=True)
                self.report["sanitizers"] = run_sanitizers([*THIS, "--small-cases"], folder, left - 5)
                for tool, result in self.report["sanitizers"].items():
                    print(f"    {result if tool == 'skipped' else tool + ': ' + result['says']}", flush=True)

    def run_tests(self, folder: Path, until: float) -> None:
        tests: dict[str, Any] = {"passed": 0, "failed": {}, "unfinished": {}, "seconds": 0.0}
        self.report["tests"] = tests
        threads = str(max(1, (os.cpu_count() or 1) // SHARES))
        limits = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        workers = [
            Worker(f"share {i + 1} of {SHARES}", [*THIS, "--tests", str(i)], folder, **limits) for i in range(SHARES)
        ]
        passed = {worker.name: 0 for worker in workers}

        def heard(worker: Worker, note: dict[str, Any]) -> None:
            if "failed" in note:
                tests["failed"][note["end"]] = note["failed"]
                print(f"    {told('tests', note['end'], note)}", flush=True)
            elif note["result"] == "passed":
                passed[worker.name] += 1
                tests["passed"] += 1
            self.write()

        begin = time.monotonic()
        try:
            follow(workers, until, heard)
        finally:
            tests["unfinished"] = {w.name: w.failed for w in workers if w.failed is not None}
            for name, some in passed.items():
                if not some:
                    tests["unfinished"].setdefault(name, "none passed")
            tests["seconds"] = round(time.monotonic() - begin, 1)
        print(f"    {tests['passed']} passed, {len(tests['failed'])} failed", flush=True)
        for name, why in tests["unfinished"].items():
            print(f"    {name}: {why.strip().splitlines()[-1]}", flush=True)

    def run_steps(self, folder: Path, until: float) -> None:
        labels = [step.label for step in all_steps(self.models)]
        worker = Worker("steps", [*THIS, "--steps", *(["--rehearse"] if self.rehearse else [])], folder)

        def heard(_: Worker, note: dict[str, Any]) -> None:
            labels.remove(note["end"])
            part, _, name = note["end"].partition(": ")
            if part != self.part:
                self.part = part
                print(f"{part} ...", flush=True)
            print(f"    {told(part, name, note)}", flush=True)
            if "failed" in note:
                self.report["failures"][note["end"]] = note["failed"]
            elif part in ("codes", "training", "discoveries"):
                self.report[part].append(note["result"])
            elif part in ("times", "kernel_times"):
                self.report[part][name] = note["result"]
            else:
                self.report[part] = note["result"]
            self.write()

        try:
            follow([worker], until, heard)
        finally:
            self.report["not_done"] = labels
        if labels:
            why = (worker.failed or "out of time").strip().splitlines()[-1]
            print(f"    {len(labels)} steps were not done, from {labels[0]} on: {why}", flush=True)
        if worker.failed is not None and worker.failed != "out of time":
            self.report["failures"]["steps"] = worker.failed

    def write(self, *, last: bool = False) -> None:
        """At most once in two seconds, but for the last time."""
        if self.path is None or (not last and time.monotonic() - self.written_at < 2):
            return
        self.written_at = time.monotonic()
        rows = rows_of(self.report, self.models)
        report = {key: value for key, value in self.report.items() if key not in ("times", "kernel_times")}
        wrong = disagreements(self.report)
        report |= {"rows": rows, "wrong": wrong, "everything_agreed": last and not wrong, "finished": last}
        report["seconds"] = round(time.monotonic() - self.begin, 1)
        write_atomic(self.path, json.dumps(report, indent=2) + "\n")


def rows_of(report: dict[str, Any], models: list[Model]) -> list[dict[str, Any]]:
    """A row a case, with shares of the ceilings by the kernels' own time where it is known."""
    limits = report.get("ceilings") or {}
    rows = []
    for case in all_cases(models):
        found = {**report["times"].get(case.name, {}), **report["kernel_times"].get(case.name, {})}
        row: dict[str, Any] = {
            "operator": case.operator,
            "model": case.model,
            "shape": case.shape,
            **{key: found.get(key) for key in ("ms", "kernel_ms", "eager_ms")},
            "bytes": case.bytes,
            "flops": case.flops,
            "share_of_copy_bandwidth": None,
            "share_of_matmul_rate": None,
            "skipped": found.get("skipped") or (None if "ms" in found else "not measured"),
        }
        ms = row["kernel_ms"] or row["ms"]
        if ms and limits:
            row["share_of_copy_bandwidth"] = 1e3 * case.bytes / ms / limits["copy_bytes_per_s"]
            if case.flops is not None:
                row["share_of_matmul_rate"] = 1e3 * case.flops / ms / limits["matmul_flops_per_s"]
        rows.append(row)
    return rows


def disagreements(report: dict[str, Any]) -> list[str]:
    """What was not as it must be."""
    # Some machines forbid profiling.
    wrong = [f"{label} failed" for label in report["failures"] if not label.startswith("kernel_times: ")]
    for row in report["codes"]:
        if row["wrong_beyond_rounding"] or row["values_beyond_rounding"]:
            wrong.append(f"codes or values of {row['model']} in {row['dtype']}")
    for row in report["training"]:
        if not (row["same_numbers_twice"] and row["largest_relative_difference_of_loss"] < 0.02):
            wrong.append(f"{row['operator']} of {row['model']}")
    tests = report.get("tests")
    if tests is not None:
        wrong += [f"test {name}" for name in tests["failed"]]
        wrong += [f"tests, {name}: {why}" for name, why in tests["unfinished"].items()]
    for tool, result in report.get("sanitizers", {}).items():
        if tool != "skipped" and result["exit_code"] == FOUND_ERRORS:
            wrong.append(f"{tool} found errors")
    return wrong


def told(part: str, name: str, note: dict[str, Any]) -> str:
    """A step's result in a line."""
    if "failed" in note:
        return f"{name}: FAILED: {note['failed'].strip().splitlines()[-1]}"
    result = note["result"]
    if part == "codes":
        wrong = result["wrong_beyond_rounding"] + result["values_beyond_rounding"]
        return f"{name}: {result['same']} of {result['codes']} codes are float64's, {wrong} wrong beyond rounding"
    if part == "training":
        return f"{name}: loss within {result['largest_relative_difference_of_loss']:.1e} of the CPU's"
    if part == "ceilings":
        return f"{result['copy_bytes_per_s'] / 1e12:.2f} TB/s, {result['matmul_flops_per_s'] / 1e12:.1f} TFLOP/s"
    if part == "times":
        eager = milliseconds(result.get("eager_ms"))
        return f"{name}: {result.get('skipped') or milliseconds(result['ms'])}, eager torch {eager}"
    if part == "kernel_times":
        return f"{name}: {result.get('skipped') or milliseconds(result['kernel_ms'])}"
    if part == "discoveries":
        return f"{name}: {result['ms']:.1f} ms for {result['pairs']} pairs"
    return name


def milliseconds(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f} ms"


def named_after_device() -> Path:
    name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    return ROOT / "benchmarks" / "results" / f"gpu.{name}.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the report")
    parser.add_argument("--minutes", type=float, default=7.0, help="time to stay within")
    parser.add_argument("--rehearse", action="store_true", help="the same steps on the CPU, small")
    # For what this program starts itself.
    parser.add_argument("--small-cases", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--steps", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--tests", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--notes", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.rehearse:
        if not torch.cuda.is_available():
            print(
                f"There is no GPU that this torch ({torch.__version__}) can use, so nothing was checked.",
                file=sys.stderr,
            )
            return 2
        if _native.build_info()["cuda_version"] is None:
            print("The operators were built without CUDA; install nvcc and run `make setup` again.", file=sys.stderr)
            return 2
    if options.tests is not None:
        return run_tests(options.tests, Notes(options.notes))
    if options.small_cases or options.steps:
        device = torch.device("cpu") if options.rehearse else torch.device("cuda", torch.cuda.current_device())
        if options.small_cases:
            small_cases(device)
            return 0
        return work_through(all_steps(REHEARSED if options.rehearse else MODELS), Notes(options.notes), device)
    path = options.json or (None if options.rehearse else named_after_device())
    check = Check(options.rehearse, 60 * options.minutes, path)
    try:
        check.run()
    finally:
        check.write(last=True)
    if path is not None:
        print(f"Written to {path}.")
    wrong = disagreements(check.report)
    print("Everything agreed." if not wrong else "Something did not agree:", flush=True)
    for what in wrong:
        print(f"    {what.strip().splitlines()[-1]}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # A device that is lost can keep the interpreter from ending.
    os._exit(code)
