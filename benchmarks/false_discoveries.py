"""What share of an automatic circuit is not in the measured one, by the rate of false discoveries asked for.

    python benchmarks/false_discoveries.py benchmarks/results/accuracy.test.json

Reads the head scores that `dsae benchmark --json` keeps; runs no model. Printed, and with --json written: for each
task and rate, means over draws of the circuit's size, the share of it that is not in the measured circuit (0 where it
is empty), and the share of the measured circuit that it has.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
import torch

from dsae_core import stored_circuit
from dsae_core.benchmark_record import read_benchmark
from dsae_core.files import write_atomic
from dsae_core.significance import false_discovery_rates

RATES = (0.05, 0.1, 0.2, 0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("benchmark", type=Path, help="file of dsae benchmark --json")
    parser.add_argument("--method", default="positional")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = circuits(options.benchmark, options.method)
    by_task = rows.groupby(["rate", "task"], sort=False)[["heads", "false", "recall"]].mean()
    over_tasks = by_task.groupby("rate").mean()
    print(by_task.round(3).to_string())
    print("\nmean over tasks\n" + over_tasks.round(3).to_string())
    if options.json is not None:
        document = {
            "benchmark": options.benchmark.name,
            "method": options.method,
            "draws": sorted(int(draw) for draw in rows["draw"].unique()),
            "by_task": by_task.round(4).reset_index().to_dict("records"),
            "over_tasks": over_tasks.round(4).reset_index().to_dict("records"),
        }
        write_atomic(options.json, json.dumps(document, indent=1) + "\n")


def circuits(path: Path, method: str) -> pd.DataFrame:
    """One row for each draw and rate: task, draw, rate, heads, false, recall."""
    rows = []
    for name, scores in read_benchmark(path).scores.items():
        model, task, method_of_scores, draw = name.rsplit("/", 3)
        truth = stored_circuit(model, task)
        if method_of_scores != method or truth is None:
            continue
        rates = false_discovery_rates(torch.tensor(scores))
        if rates is None:
            raise SystemExit(f"{method} has no rates of false discoveries: its scores do not fit a null.")
        per_layer = len(truth.effects[0])
        true = {layer * per_layer + head for layer, head in truth.heads}
        for rate in RATES:
            found = set(torch.nonzero(rates.flatten() <= rate).flatten().tolist())
            hits = len(found & true)
            wrong = 1 - hits / len(found) if found else 0.0
            rows.append((task, int(draw), rate, len(found), wrong, hits / len(true)))
    return pd.DataFrame(rows, columns=["task", "draw", "rate", "heads", "false", "recall"])


if __name__ == "__main__":
    main()
