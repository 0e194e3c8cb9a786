"""What the server does for a page: the one place where the dashboard meets models and discovery."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import streamlit as st
from torch import Tensor

from dsae_core.baselines.forward_only import paired_difference_scaled
from dsae_core.discovery import discover
from dsae_core.models import LanguageModel, load_model
from dsae_core.result import Discovery
from dsae_core.tasks import TASKS
from dsae_core.ui.jobs import JobQueue, Report, Work
from dsae_core.ui.request import RunRequest

STAGES = ("load", "tokenize", "collect", "follow", "train", "encode", "score")
"""The stages of every run, in order; a model's first use has others before them ("download", "convert")."""


@st.cache_resource(show_spinner=False)
def shared_queue() -> JobQueue:
    """The server's one queue."""
    return JobQueue()


def discovery_work(request: RunRequest, preview: Callable[[Tensor], None] | None = None) -> Work[Discovery]:
    """What a run does: load the model, draw the prompts, discover.

    Args:
        request: the run's settings.
        preview: given the scaled paired difference [L, heads] before a method that trains for long. It costs one
            more forward pass, so the positional method, which trains in a second, goes without.

    The work raises a UserError where any of these cannot be done as asked.
    """

    def work(report: Report) -> Discovery:
        start = time.perf_counter()
        model = loaded_model(request.model, report)
        loaded = time.perf_counter() - start
        pairs = request.pairs or TASKS[request.task].make(model.tokenizer, request.examples, request.seed)
        if preview is not None and request.method == "paper":
            report("preview", 0.0)
            preview(paired_difference_scaled(model, pairs, request.seed))
        found = discover(
            model, pairs, method=request.method, seed=request.seed, progress=report, **dict(request.options)
        )
        return replace(found, timings={"load": loaded, **found.timings})

    return work


class ModelShelf:
    """The models in use, shared by all sessions; the few used last are kept."""

    def __init__(self, keep: int = 2) -> None:
        self._keep = keep
        self._models: OrderedDict[str, LanguageModel] = OrderedDict()
        self._loading = threading.Lock()

    def get(self, name: str, report: Report) -> LanguageModel:
        """A model, loaded where it is not here yet.

        Raises:
            UserError: it cannot be loaded.
        """
        with self._loading:
            if name not in self._models:
                self._models[name] = load_model(name, progress=report)
            self._models.move_to_end(name)
            while len(self._models) > self._keep:
                self._models.popitem(last=False)
            return self._models[name]

    def peek(self, name: str) -> LanguageModel | None:
        """A model that is here, None where it would have to be loaded first."""
        return self._models.get(name)


@st.cache_resource(show_spinner=False)
def _shelf() -> ModelShelf:
    return ModelShelf()


def loaded_model(name: str, report: Report) -> LanguageModel:
    """A model, loaded once for all sessions; to be called in a job.

    Raises:
        UserError: it cannot be loaded.
    """
    report("load", 0.0)
    return _shelf().get(name, report)


def model_at_hand(name: str) -> LanguageModel | None:
    """A model that is loaded already, None where it is not; costs nothing."""
    return _shelf().peek(name)
