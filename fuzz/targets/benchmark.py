"""Benchmark files: one that is read must be summed up, written and read back."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

from dsae_core.benchmark_record import Benchmark, BenchmarkRow, merge_benchmarks, read_benchmark
from dsae_core.errors import UserError
from fuzz.documents import mutate_json
from fuzz.scratch import scratch_file
from fuzz.target import Target, require


def _example() -> Benchmark:
    """Two methods on two draws."""
    row = BenchmarkRow("toy", "ioi", "paper", 0, 0.9, 0.8, 0.7, 0.7, 1.5, 20.0, 1.25)
    rows = tuple(replace(row, method=method, draw=draw) for method in ("paper", "norm") for draw in (0, 1))
    settings = {
        "models": [{"name": "toy", "digest": "0a", "truths": {"ioi": {"name": "measured", "heads": 2}}}],
        "tasks": ["ioi"],
        "methods": ["paper", "norm"],
        "draws": [0, 1, 2],
        "examples": 10,
        "threads": 2,
        "device": "cpu",
        "method_settings": {"paper": {"k": 1}},
    }
    scores = {row.key: [0.1, 0.4, 0.2 * row.draw] for row in rows}
    unsolved = ({"model": "toy", "task": "ioi", "draw": 2, "behaviour": {"share": 0.1}},)
    return Benchmark(rows, unsolved, settings, scores)


def _run(data: bytes) -> None:
    with scratch_file(data) as path:
        try:
            record = read_benchmark(path)
        except UserError:
            return
    text = json.dumps(record.to_dict(), allow_nan=False)
    again = Benchmark.from_dict(json.loads(text))
    require(again == record, "the benchmark does not read back")
    numbers = [value for row in record.rows for value in asdict(row).values() if isinstance(value, float)]
    require(all(map(math.isfinite, numbers)), "a number that is not finite was taken")
    if record.rows:
        record.markdown()
    record.truths()
    require(len(merge_benchmarks([record, again]).rows) <= len(record.rows), "merging made rows")


TARGETS = {"benchmark": Target(_run, (json.dumps(_example().to_dict()).encode(),), mutate_json)}
