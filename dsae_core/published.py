"""The published experiment of O'Neill & Bui 2024 (arXiv 2405.12522), run again beside the authors' own figures.

Their models, settings and lists of heads: a dictionary trained on 10 prompts, codes of 250 positives and 250 negatives,
ROC AUC of the heads' scores against published circuits. The prompts are this package's own draws of the same tasks,
not the authors' files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dsae_core.circuits import Circuit, stored_circuit
from dsae_core.discovery import discover
from dsae_core.errors import UserError
from dsae_core.metrics import evaluate
from dsae_core.models import LanguageModel
from dsae_core.stages import Progress
from dsae_core.tasks import TASKS

SCHEMA = 1
PAIRS = 250
"""Positives, and as many negatives, that codes are counted over."""


@dataclass(frozen=True)
class Experiment:
    """One task of the paper.

    Attributes:
        model: the model's name.
        task: the task's name.
        circuits: names of the published lists to compare with, the authors' own first.
        l1: weight of the sparsity term.
        node_auc: the authors' mean AUC over 10 trials, and its standard deviation.
        pair_auc: the same of the pair-level scores (pair_node_scores).
    """

    model: str
    task: str
    circuits: tuple[str, ...]
    l1: float
    node_auc: tuple[float, float]
    pair_auc: tuple[float, float]


# Figures: github.com/charlieoneill11/sae-circuits at 10fd2e7826df9399b6189e5695a631898f4fe116,
# experiments/results/main_results.json; the settings are those of experiments/main_results.py beside it.
EXPERIMENTS = (
    Experiment("gpt2", "ioi", ("oneill2024", "wang2022"), 0.02, (0.868, 0.008), (0.840, 0.024)),
    Experiment("gpt2", "greater_than", ("acdc", "hanna2023"), 0.02, (0.855, 0.036), (0.873, 0.020)),
    Experiment("attn-only-4l", "docstring", ("oneill2024", "acdc"), 0.05, (0.869, 0.038), (0.896, 0.017)),
)

HOW_TO_GET = "Or bring its files from a machine that has a connection, and give --weights {model}=FOLDER."


@dataclass(frozen=True)
class PublishedRow:
    """One draw of an experiment against one list.

    Attributes:
        model: the model's name.
        task: the task's name.
        circuit: the list's name.
        heads: how many heads it has.
        draw: seed of the prompts and of the dictionary.
        node_auc: ROC AUC of the heads' scores.
        pair_auc: ROC AUC of pair_node_scores.
        seconds: wall time of the method, without loading the model; the same in all lists of a draw.
    """

    model: str
    task: str
    circuit: str
    heads: int
    draw: int
    node_auc: float
    pair_auc: float
    seconds: float


@dataclass(frozen=True)
class PublishedRun:
    """What ran, and what did not.

    Attributes:
        experiments: what was to run.
        rows: one a draw and list.
        missing: model -> why it could not be loaded and how to get it.
        settings: what is needed to run it again; `models` has the digests of those that ran.
    """

    experiments: tuple[Experiment, ...]
    rows: tuple[PublishedRow, ...]
    missing: dict[str, str]
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; the authors' figures are in `experiments`."""
        return {
            "schema": SCHEMA,
            "settings": self.settings,
            "experiments": [asdict(experiment) for experiment in self.experiments],
            "rows": [asdict(row) for row in self.rows],
            "missing": self.missing,
        }

    def markdown(self) -> str:
        """One line a list: mean AUC over draws +- standard deviation, the authors' beside it on the list they used."""
        lines = [
            "| model | task | list | heads | node AUC | authors' | pair-level AUC | authors' | seconds |",
            "|" + "---|" * 9,
        ]
        frame = pd.DataFrame([asdict(row) for row in self.rows])
        for experiment in self.experiments:
            for place, name in enumerate(experiment.circuits):
                rows = frame[
                    (frame["model"] == experiment.model)
                    & (frame["task"] == experiment.task)
                    & (frame["circuit"] == name)
                ]
                if rows.empty:
                    continue
                own = [_spread(rows[column].mean(), rows[column].std(ddof=0)) for column in ("node_auc", "pair_auc")]
                theirs = [_spread(*experiment.node_auc), _spread(*experiment.pair_auc)] if place == 0 else ["-", "-"]
                lines.append(
                    f"| {experiment.model} | {experiment.task} | {name} | {rows['heads'].iloc[0]} | {own[0]} | "
                    f"{theirs[0]} | {own[1]} | {theirs[1]} | {rows['seconds'].median():.1f} |"
                )
        return "\n".join(lines)


def _spread(mean: float, deviation: float) -> str:
    return f"{mean:.3f} ± {deviation:.3f}"


def pair_node_scores(pair_scores: Tensor, n_layers: int, n_heads: int) -> Tensor:
    """How often each head occurs in the best pairs, [L, heads]: what the paper calls its edge level.

    As in the authors' code (src/main.py and src/edge.py at the commit above): all ordered pairs of two heads, best
    first, are written out as a list of heads, of which the first `n_heads`^2 / 2 count; of equal pairs the later goes
    first. It scores heads, not edges.

    Args:
        pair_scores: [H, H], symmetric; the diagonal does not count.
        n_layers: layers.
        n_heads: heads a layer, H = n_layers * n_heads.
    """
    pairs = pair_scores.double().cpu().clone()
    pairs.fill_diagonal_(0)
    order = np.argsort(pairs.flatten().numpy(), kind="stable")[::-1]
    listed = np.stack(np.divmod(order, len(pairs)), axis=1).ravel()[: n_heads**2 // 2]
    counts = np.bincount(listed, minlength=len(pairs))
    return torch.from_numpy(counts).reshape(n_layers, n_heads).float()


def run_published(
    load: Callable[[str], LanguageModel],
    *,
    draws: Sequence[int],
    experiments: Sequence[Experiment] | None = None,
    pairs: int = PAIRS,
    progress: Progress | None = None,
) -> PublishedRun:
    """Run every experiment whose model can be loaded.

    Args:
        load: name -> model; a UserError of it means that the model is not to be had, and is kept.
        draws: seeds of prompts and dictionaries.
        experiments: what to run; EXPERIMENTS where not given.
        pairs: positives, and negatives, a draw.
        progress: called with the task's name and the share done.
    """
    chosen = EXPERIMENTS if experiments is None else tuple(experiments)
    rows: list[PublishedRow] = []
    missing: dict[str, str] = {}
    digests: dict[str, str] = {}
    models: dict[str, LanguageModel] = {}
    for experiment in chosen:
        name = experiment.model
        if name in missing:
            continue
        if name not in models:
            models.clear()  # one model in memory at a time
            try:
                models[name] = load(name)
            except UserError as error:
                missing[name] = f"{error} {HOW_TO_GET.format(model=name)}"
                continue
            digests[name] = models[name].digest
        for number, draw in enumerate(draws):
            if progress is not None:
                progress(experiment.task, number / len(draws))
            rows.extend(_run_draw(models[name], experiment, draw, pairs))
    settings = {
        "models": digests,
        "method": "paper",
        "train_examples": 10,
        "pairs": pairs,
        "draws": list(draws),
        "pool": "mean",
        "inactive": "zero",
        "threads": torch.get_num_threads(),
    }
    return PublishedRun(chosen, tuple(rows), missing, settings)


def _run_draw(model: LanguageModel, experiment: Experiment, draw: int, n_pairs: int) -> list[PublishedRow]:
    pairs = TASKS[experiment.task].make(model.tokenizer, n_pairs, draw)
    start = time.perf_counter()
    found = discover(
        model,
        pairs,
        method="paper",
        seed=draw,
        pool="mean",
        l1=experiment.l1,
        train_examples=10,
        inactive="zero",  # as in the authors' code: a head without an active feature has code 0
    )
    seconds = time.perf_counter() - start
    by_pairs = pair_node_scores(found.pair_scores, model.n_layers, model.n_heads)
    rows = []
    for name in experiment.circuits:
        truth = _list(experiment, name)
        members = torch.tensor(truth.membership(model.n_layers, model.n_heads))
        rows.append(
            PublishedRow(
                model=experiment.model,
                task=experiment.task,
                circuit=name,
                heads=len(truth),
                draw=draw,
                node_auc=found.evaluate(truth).auc,
                pair_auc=evaluate(by_pairs, members).auc,
                seconds=seconds,
            )
        )
    return rows


def _list(experiment: Experiment, name: str) -> Circuit:
    truth = stored_circuit(experiment.model, experiment.task, name)
    if truth is None:
        raise UserError(f"The list {name} of {experiment.model} for {experiment.task} is not in this installation.")
    return truth
