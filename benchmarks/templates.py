"""Other sentences for the same behaviours: how methods do on templates that nothing was chosen on.

    python benchmarks/templates.py [--tasks ioi,greater_than,docstring] [--draws 10] [--first-draw 100] [--json FILE]

Each task's circuit is measured anew by exact patching on the other templates (32 prompts, seed 1000), and methods are
scored against it on draws of 10 + 10 prompts of the same templates. Also printed: how the circuit agrees with the
stored one, of the task's own templates.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dsae_core import load_model, stored_circuit, tasks
from dsae_core.behaviour import measure_behaviour
from dsae_core.benchmark import score_heads
from dsae_core.circuits import Circuit
from dsae_core.files import write_atomic
from dsae_core.interventions import interchange_effects, measured_circuit
from dsae_core.metrics import evaluate
from dsae_core.models import LanguageModel
from dsae_core.prompts import PromptPairs

METHODS = ("positional", "paired_flow", "paired_scaled", "attribution")
OTHER_TEMPLATES = {
    "ioi": (
        "At the {place}, {first} and {second} looked at a {thing}. Later {giver} showed it to",
        "{first} and {second} had a long talk at the {place}, and then {giver} sent a {thing} to",
        "Because {first} and {second} were both at the {place}, {giver} brought a {thing} for",
        "Last week {first} and {second} argued near the {place}, so {giver} returned the {thing} to",
    ),
    "greater_than": (
        "The {noun} began in the year {start} and ended in the year {century}",
        "Historians say that the {noun} went on from {start} to {century}",
    ),
    "docstring": (
        'def {name}({arguments}):\n    """\n    {summary}\n\n    :param {first}: {one}\n    :param {second}: {two}\n'
        "    :param",
        'class Worker:\n    def {name}(self, {arguments}):\n        """{summary}\n\n'
        "        @param {first}: {one}\n        @param {second}: {two}\n        @param",
    ),
}
MAKERS: dict[str, Callable[..., PromptPairs]] = {
    "ioi": tasks.ioi,
    "greater_than": tasks.greater_than,
    "docstring": tasks.docstring,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default=",".join(OTHER_TEMPLATES))
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--first-draw", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = load_model(options.model)
    seeds = range(options.first_draw, options.first_draw + options.draws)
    done = []
    for task in options.tasks.split(","):
        done.append(measure(model, task, seeds))
        print(summary(done[-1]), flush=True)
        if options.json is not None:
            document = {"model": model.name, "model_digest": model.digest, "tasks": done}
            write_atomic(options.json, json.dumps(document, indent=1) + "\n")


def measure(model: LanguageModel, task: str, seeds: range) -> dict[str, Any]:
    """The circuit on the other templates, and every method's scores against it; draws that are not solved are named."""
    templates = OTHER_TEMPLATES[task]
    truth = circuit_of(model, MAKERS[task](model.tokenizer, 32, 1000, templates=templates))
    stored = stored_circuit(model.name, task)
    rows, unsolved = [], []
    for seed in seeds:
        pairs = MAKERS[task](model.tokenizer, 10, seed, templates=templates)
        if not measure_behaviour(model, pairs).shown:
            unsolved.append(seed)
            continue
        for method in METHODS:
            scores = score_heads(model, pairs, method=method, seed=seed)
            against = evaluate(scores, torch.tensor(truth.membership(*scores.shape)))
            rows.append({"method": method, "draw": seed, "auc": against.auc, "ap": against.average_precision})
    return {
        "task": task,
        "templates": list(templates),
        "heads": len(truth),
        "heads_of_stored": 0 if stored is None else len(stored),
        "heads_of_both": 0 if stored is None else len(set(truth.heads) & set(stored.heads)),
        "circuit": [list(head) for head in truth.heads],
        "unsolved": unsolved,
        "rows": rows,
    }


def circuit_of(model: LanguageModel, pairs: PromptPairs) -> Circuit:
    """Exact patching of every head, as `dsae ground-truth` does it."""
    return measured_circuit(model, pairs, interchange_effects(model, pairs, seed=1000), seed=1000)


def summary(done: dict[str, Any]) -> str:
    """Mean AUC and average precision by method."""
    shared = f"{done['heads_of_both']} of them among the {done['heads_of_stored']} of its own templates"
    head = f"{done['task']}: {done['heads']} heads, {shared}; not solved in draws {done['unsolved'] or 'none'}"
    if not done["rows"]:
        return head
    frame = pd.DataFrame(done["rows"]).groupby("method", sort=False)[["auc", "ap"]].agg(["mean", "std"])
    return f"{head}\n{frame.round(3).to_string()}"


if __name__ == "__main__":
    main()
