"""How far exact patching agrees with itself on other prompts: the most that any method can reach against it.

    python benchmarks/truth_agreement.py [--tasks ioi,greater_than,docstring,induction] [--prompts N] [--json FILE]
    python benchmarks/truth_agreement.py --stored [--tasks ...] [--json FILE]
    python benchmarks/truth_agreement.py first.json second.json

The first form measures every task twice, on halves of prompts that have none in common, and writes FILE after each
task. The second measures it once, on prompts none of which the stored circuit was measured on, and compares with that
circuit. The third compares two circuits that `dsae ground-truth` wrote. Of the two circuits it prints correlations of
the effects, overlap of the members, and ROC AUC and average precision of one's |effects| against the other's members.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from dsae_core.circuits import Circuit, read_circuit, stored_circuit
from dsae_core.errors import UserError
from dsae_core.files import write_atomic
from dsae_core.interventions import interchange_effects, measured_circuit
from dsae_core.metrics import evaluate
from dsae_core.models import LanguageModel, load_model
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import TASKS

SCHEMA = 1


def agreement(a: Circuit, b: Circuit) -> dict[str, float | None]:
    """What two measurements of one circuit have in common.

    Spearman and Pearson correlations over all heads; Spearman over heads in either circuit, None where they are fewer
    than three; heads in both as a share of those in either; and each one's |effects| as scores against the other's
    circuit, None where that has no heads or all of them.
    """
    first, second = np.array(a.effects), np.array(b.effects)
    shared, union = set(a.heads) & set(b.heads), sorted(set(a.heads) | set(b.heads))
    rows = [[effects[layer][head] for layer, head in union] for effects in (first, second)]
    ceilings = [_against(first, b), _against(second, a)]
    return {
        "heads_first": len(a),
        "heads_second": len(b),
        "heads_shared": len(shared),
        "overlap": len(shared) / len(union) if union else None,
        "spearman_all_heads": float(spearmanr(first.ravel(), second.ravel()).statistic),
        "pearson_all_heads": float(np.corrcoef(first.ravel(), second.ravel())[0, 1]),
        "spearman_members": float(spearmanr(*rows).statistic) if len(union) > 2 else None,
        "auc_first_on_second": ceilings[0][0],
        "auc_second_on_first": ceilings[1][0],
        "average_precision_first_on_second": ceilings[0][1],
        "average_precision_second_on_first": ceilings[1][1],
    }


def _against(effects: np.ndarray, truth: Circuit) -> tuple[float, float] | tuple[None, None]:
    """AUC and average precision of |effects| against a circuit."""
    if not 0 < len(truth) < effects.size:
        return None, None
    found = evaluate(torch.from_numpy(np.abs(effects)), torch.tensor(truth.membership(*effects.shape)))
    return found.auc, found.average_precision


def distinct(pairs: PromptPairs, n: int, seen: set[str]) -> PromptPairs:
    """The first n prompt pairs that have no prompt in common, with each other or with those seen.

    Raises:
        UserError: there are too few different ones.
    """
    taken = set(seen)
    rows = []
    for row, prompts in enumerate(zip(pairs.positive, pairs.negative, strict=True)):
        if not taken & set(prompts):
            rows.append(row)
            taken.update(prompts)
    if len(rows) < n:
        raise UserError(f"Only {len(rows)} of the {n} pairs needed have no prompt in common; give less --prompts.")
    return _take(pairs, rows[:n])


def halves(pairs: PromptPairs, n: int) -> tuple[PromptPairs, PromptPairs]:
    """Two times n prompt pairs that have no prompt in common; a repeated one is left out."""
    both = distinct(pairs, 2 * n, set())
    first, second = (_take(both, list(range(start, start + n))) for start in (0, n))
    return first, second


def _take(pairs: PromptPairs, rows: list[int]) -> PromptPairs:
    columns = (pairs.positive, pairs.negative, pairs.answer, pairs.distractor)
    positive, negative, answer, distractor = (tuple(column[row] for row in rows) for column in columns)
    return PromptPairs(positive, negative, answer, distractor, task=pairs.task, metric=pairs.metric)


def measure_twice(model: LanguageModel, task: str, n: int, seed: int, threshold: float) -> tuple[Circuit, Circuit]:
    """The circuit of a task on each of two halves of n pairs."""
    first, second = halves(TASKS[task].make(model.tokenizer, 4 * n, seed), n)
    return _measured(model, first, seed, threshold), _measured(model, second, seed, threshold)


def measure_beside_stored(
    model: LanguageModel, task: str, n: int, seed: int, threshold: float
) -> tuple[Circuit, Circuit]:
    """The stored circuit of a task, and one of n pairs that share no prompt with those it was measured on."""
    stored = stored_circuit(model.name, task)
    if stored is None or "seed" not in stored.provenance:
        raise UserError(f"No measured circuit is stored for {model.name} and {task}; leave --stored out.")
    used = TASKS[task].make(model.tokenizer, int(stored.provenance["prompts"]), int(stored.provenance["seed"]))
    pairs = distinct(TASKS[task].make(model.tokenizer, 4 * n, seed), n, {*used.positive, *used.negative})
    return stored, _measured(model, pairs, seed, threshold)


def _measured(model: LanguageModel, pairs: PromptPairs, seed: int, threshold: float) -> Circuit:
    effects = interchange_effects(model, pairs, seed=seed)
    return measured_circuit(model, pairs, effects, seed=seed, threshold=threshold)


def run(
    model: LanguageModel, tasks: list[str], *, n: int, seed: int, threshold: float, stored: bool, target: Path | None
) -> dict[str, Any]:
    """Measure and compare every task; the document is written to target after each."""
    for task in tasks:
        if task not in TASKS:
            raise UserError(f"There is no task {task!r}; choose among {', '.join(TASKS)}.")
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "settings": {
            "model": model.name,
            "model_digest": model.digest,
            "prompts": n,
            "seed": seed,
            "threshold": threshold,
            "ablation": "interchange",
            "against": "the stored circuit" if stored else "another half of prompts",
        },
        "tasks": {},
    }
    for task in tasks:
        measure = measure_beside_stored if stored else measure_twice
        circuits = measure(model, task, n, seed, threshold)
        document["tasks"][task] = {**agreement(*circuits), "circuits": [circuit.to_dict() for circuit in circuits]}
        print(task, json.dumps(agreement(*circuits), indent=1), flush=True)
        if target is not None:
            write_atomic(target, json.dumps(document) + "\n")
    return document


def main() -> None:
    """Compare two files, or measure and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="two circuit files, in place of measuring")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default="ioi,greater_than,docstring,induction")
    parser.add_argument("--prompts", type=int, default=32, help="pairs in each half")
    parser.add_argument("--stored", action="store_true", help="measure once, and compare with the stored circuit")
    parser.add_argument("--seed", type=int, default=3000)
    parser.add_argument("--threshold", type=float, default=0.02)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if len(arguments.files) not in (0, 2):
        parser.error("give two circuit files, or none")
    try:
        if arguments.files:
            print(json.dumps(agreement(*map(read_circuit, arguments.files)), indent=1))
            return
        run(
            load_model(arguments.model),
            arguments.tasks.split(","),
            n=arguments.prompts,
            seed=arguments.seed,
            threshold=arguments.threshold,
            stored=arguments.stored,
            target=arguments.json,
        )
    except UserError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
