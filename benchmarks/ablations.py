"""What each step of the positional method brings, on the development draws (seeds 0 to 4) of three tasks.

    python benchmarks/ablations.py --json benchmarks/results/ablations.json

Each line takes one step out of the method, or changes one setting, and leaves the rest. Settings were chosen on these
draws; figures that are reported come from others (seeds from 100 on).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from dsae_core.circuits import Circuit, stored_circuit
from dsae_core.discovery import discover_from_activations
from dsae_core.files import write_atomic
from dsae_core.flow import Surroundings, depth_weight
from dsae_core.metrics import evaluate
from dsae_core.models import LanguageModel, collect_head_outputs, load_model, output_weights, tokenize
from dsae_core.tasks import TASKS


@dataclass(frozen=True)
class Variant:
    """The method with one thing changed."""

    name: str
    change: Callable[[Surroundings], Surroundings] = lambda around: around
    options: dict[str, Any] = field(default_factory=dict)


def _unweighted(around: Surroundings) -> Surroundings:
    return replace(around, weight=torch.ones_like(around.weight))


def _by_depth(around: Surroundings) -> Surroundings:
    return replace(around, weight=depth_weight(*around.weight.shape))


VARIANTS = (
    Variant("the method"),
    Variant("without its share of the change", lambda around: replace(around, shares=None)),
    Variant("depth in place of reach", _by_depth),
    Variant("neither reach nor depth", _unweighted),
    Variant("without the stream's norm", lambda around: replace(around, residual_norm=None)),
    Variant("head outputs alone", lambda around: Surroundings.unknown(*around.weight.shape)),
    Variant("32 features", options={"n_features": 32}),
    Variant("128 features", options={"n_features": 128}),
    Variant("k = 2", options={"k": 2}),
    Variant("no training", options={"epochs": 0}),
    Variant("15 epochs", options={"epochs": 15}),
    Variant("threshold 0", options={"threshold": 0.0}),
    Variant("threshold 1", options={"threshold": 1.0}),
)


def main() -> None:
    """Run and print one line a variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default="ioi,greater_than,docstring")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    model, tasks = load_model(asked.model), asked.tasks.split(",")
    rows = []
    for task in tasks:
        truth = stored_circuit(model.name, task)
        assert truth is not None
        for draw in range(asked.draws):
            rows += _rows(model, task, draw, truth)
    print(f"| variant | {' | '.join(tasks)} | mean |\n|{'---|' * (len(tasks) + 2)}")
    for variant in VARIANTS:
        cells = [_cell(rows, variant, [task]) for task in tasks]
        print(f"| {variant.name} | {' | '.join(cells)} | {_cell(rows, variant, tasks)} |")
    if asked.json is not None:
        write_atomic(asked.json, json.dumps({"schema": 1, "model_digest": model.digest, "rows": rows}, indent=1) + "\n")


def _cell(rows: list[dict[str, Any]], variant: Variant, tasks: list[str]) -> str:
    chosen = [row for row in rows if row["variant"] == variant.name and row["task"] in tasks]
    return f"{mean(r['auc'] for r in chosen):.3f} / {mean(r['average_precision'] for r in chosen):.2f}"


def _rows(model: LanguageModel, task: str, draw: int, truth: Circuit) -> list[dict[str, Any]]:
    pairs = TASKS[task].make(model.tokenizer, 10, draw)
    batch = tokenize(model, [*pairs.positive, *pairs.negative])
    outputs, w_o = collect_head_outputs(model, batch, routes=True), output_weights(model)
    around = Surroundings.of(outputs, w_o, len(pairs))
    members = torch.tensor(truth.membership(model.n_layers, model.n_heads))
    rows = []
    for variant in VARIANTS:
        found = discover_from_activations(
            outputs.z[:10],
            outputs.z[10:],
            w_o,
            batch.mask,
            surroundings=variant.change(around),
            seed=draw,
            **variant.options,
        )
        evaluation = evaluate(found.node_scores, members)
        rows.append(
            {
                "task": task,
                "draw": draw,
                "variant": variant.name,
                "auc": evaluation.auc,
                "average_precision": evaluation.average_precision,
            }
        )
    return rows


if __name__ == "__main__":
    main()
