"""How well edge scores rank the direct paths that path patching measured, beside what node scores alone give.

    python benchmarks/edges.py --first-draw 100 --draws 10 --json benchmarks/results/edges.json

For each task with stored edges, over draws of 10 + 10 prompts: the positional method's edge scores, its pair scores
(unique codes that come together), the product of its node scores, and the smaller of the two.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import torch

from dsae_core.circuits import Circuit, stored_circuit
from dsae_core.discovery import discover
from dsae_core.files import write_atomic
from dsae_core.models import LanguageModel, load_model
from dsae_core.tasks import TASKS


def main() -> None:
    """Run and print one line a task and score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default="ioi,docstring,induction")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--first-draw", type=int, default=100)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    model = load_model(asked.model)
    draws = range(asked.first_draw, asked.first_draw + asked.draws)
    rows = []
    for task in asked.tasks.split(","):
        truth = stored_circuit(model.name, task)
        assert truth is not None
        for draw in draws:
            rows += _rows(model, task, draw, truth)
        _print(task, truth, [row for row in rows if row["task"] == task])
    if asked.json is not None:
        write_atomic(asked.json, json.dumps({"schema": 1, "model_digest": model.digest, "rows": rows}, indent=1) + "\n")


def _rows(model: LanguageModel, task: str, draw: int, truth: Circuit) -> list[dict[str, Any]]:
    found = discover(model, TASKS[task].make(model.tokenizer, 10, draw), seed=draw)
    nodes = found.node_scores.flatten()
    assert found.edge_scores is not None
    scores = {
        "edge scores": found.edge_scores,
        "pair scores": found.pair_scores,
        "product of node scores": nodes[:, None] * nodes,
        "smaller node score": torch.minimum(nodes[:, None], nodes),
    }
    rows = []
    for name, values in scores.items():
        evaluation = found.evaluate_edges(truth, values)
        rows.append(
            {
                "task": task,
                "draw": draw,
                "score": name,
                "auc": evaluation.auc,
                "average_precision": evaluation.average_precision,
                "edges": evaluation.n_true,
                "paths": evaluation.n_heads,
            }
        )
    return rows


def _print(task: str, truth: Circuit, rows: list[dict[str, Any]]) -> None:
    print(f"{task}: {rows[0]['edges']} of {rows[0]['paths']} paths between {len(truth)} heads have an effect")
    for name in dict.fromkeys(row["score"] for row in rows):
        aucs = [row["auc"] for row in rows if row["score"] == name]
        aps = [row["average_precision"] for row in rows if row["score"] == name]
        print(f"  {name:<24} AUC {mean(aucs):.3f} (spread {pstdev(aucs):.3f}), average precision {mean(aps):.3f}")


if __name__ == "__main__":
    main()
