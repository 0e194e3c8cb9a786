"""What a worker does: hold one model, and compute what it is asked for. It knows no cluster and no other worker."""

from __future__ import annotations

import importlib.metadata
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsae_core.benchmark import BenchmarkRow, run_row, unsolved_draw
from dsae_core.circuits import Circuit, Head
from dsae_core.interventions import Ablation, HeadGroup, HeadPatching
from dsae_core.looking import room_for_patching
from dsae_core.models import LanguageModel, load_model
from dsae_core.models.memory import PatchingSize
from dsae_core.paths import PathGroup, PathPatching
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import TASKS


@dataclass(frozen=True)
class ModelFacts:
    """What is to be known of a model that a worker holds."""

    name: str
    digest: str
    device: torch.device
    n_layers: int
    n_heads: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scored:
    """A method's row and every head's score, [L, heads]; where the model does not do the draw, what is kept of it."""

    row: BenchmarkRow | None = None
    scores: Tensor | None = None
    unsolved: dict[str, Any] | None = None


@dataclass(frozen=True)
class Opened:
    """Prompts that can be patched, and the metric on their positives and negatives, [N] float64 each."""

    facts: ModelFacts
    pairs: PromptPairs
    metric_positive: Tensor
    metric_negative: Tensor


class Worker:
    """Holds one model at a time, and what it last prepared on it."""

    def __init__(self, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._device = device
        self._model: LanguageModel | None = None
        self._draw: tuple[str, int, int] | None = None  # task, draw, examples
        self._pairs: PromptPairs | None = None
        self._unsolved: dict[str, Any] | None = None
        self._heads: tuple[PromptPairs, Ablation, HeadPatching] | None = None
        self._paths: tuple[PromptPairs, tuple[Head, ...], PathPatching] | None = None

    def hello(self) -> tuple[str, str]:
        """Where this worker is, and its version of the package."""
        return f"{socket.gethostname()}, process {os.getpid()}", importlib.metadata.version("dsae-core")

    def load(self, name: str) -> ModelFacts:
        """Load a model in place of the one that is held."""
        self._model = self._draw = self._heads = self._paths = None  # before the next takes its memory
        self._model = load_model(name, device=self._device)
        return self._facts()

    def _held(self) -> LanguageModel:
        assert self._model is not None
        return self._model

    def _facts(self) -> ModelFacts:
        model = self._held()
        return ModelFacts(model.name, model.digest, model.device, model.n_layers, model.n_heads, model.notes)

    # --- benchmarks --------------------------------------------------------------------------------------------

    def score(self, task: str, draw: int, examples: int, method: str, truth: Circuit) -> Scored:
        """Run one method on one draw of a task."""
        model = self._held()
        if self._draw != (task, draw, examples):
            self._pairs = TASKS[task].make(model.tokenizer, examples, draw)
            self._unsolved = unsolved_draw(model, task, draw, self._pairs)
            self._draw = (task, draw, examples)
        assert self._pairs is not None
        if self._unsolved is not None:
            return Scored(unsolved=self._unsolved)
        row, scores = run_row(model, task, method, draw, self._pairs, truth, engine="ray")
        return Scored(row, scores)

    # --- exact patching ----------------------------------------------------------------------------------------

    def open(self, task: str, examples: int, seed: int, pairs: PromptPairs | None, ablation: Ablation) -> Opened:
        """Draw a task's prompts, unless they are given, and run both sides."""
        if pairs is None:
            pairs = TASKS[task].make(self._held().tokenizer, examples, seed)
        patching = self._head_patching(pairs, ablation)
        return Opened(self._facts(), pairs, patching.metric_positive, patching.metric_negative)

    def patch(self, pairs: PromptPairs, ablation: Ablation, layer: int, heads: Sequence[int]) -> Tensor:
        """[N, heads] float64: the loss where one head of a layer at a time is patched."""
        patching = self._head_patching(pairs, ablation)
        with room_for_patching(self._held(), pairs, PatchingSize.patching, begun=True):
            return patching.losses(HeadGroup(layer, tuple(heads)))

    def paths(self, pairs: PromptPairs, heads: tuple[Head, ...], receiver: Head, senders: Sequence[Head]) -> Tensor:
        """[N, senders] float64: the loss where one direct path between two of `heads` at a time is patched."""
        if self._paths is None or self._paths[:2] != (pairs, heads):
            self._paths = None
            self._paths = (pairs, heads, PathPatching(self._held(), pairs, heads))
        with room_for_patching(self._held(), pairs, lambda size: size.paths(heads), begun=True):
            return self._paths[2].losses(PathGroup(receiver, tuple(senders)))

    def _head_patching(self, pairs: PromptPairs, ablation: Ablation) -> HeadPatching:
        if self._heads is None or self._heads[:2] != (pairs, ablation):
            self._heads = None
            self._heads = (pairs, ablation, HeadPatching.prepare(self._held(), pairs, ablation))
        return self._heads[2]
