"""What the server does for a page: the one place where the dashboard meets models and discovery."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import streamlit as st
import torch
from torch import Tensor

from dsae_core.behaviour import CHECK, Behaviour, discover_checked
from dsae_core.discovery import discover
from dsae_core.errors import UserError
from dsae_core.limits import demo_limits
from dsae_core.looking import anywhere
from dsae_core.models import LanguageModel, ModelTokenizer, available_models, load_model, stored_tokenizer
from dsae_core.result import Discovery
from dsae_core.tasks import TASKS
from dsae_core.ui.jobs import JobQueue, Report, Work
from dsae_core.ui.pauses import keep_for_good
from dsae_core.ui.request import RunRequest

T = TypeVar("T")

_log = logging.getLogger(__name__)

STAGES = ("load", "tokenize", "collect", "follow", "train", "encode", "score")
"""The stages of every run, in order; a model's first use has others before them ("download", "convert")."""

TOKENIZER_PATIENCE = 0.3
"""Seconds for which a page waits for a tokenizer; one that is read for the first time comes later."""

RUN_NICE = 5
"""How far a public demo's runs step back behind its pages, on a scale that ends at 19."""


@st.cache_resource(show_spinner=False)
def shared_queue() -> JobQueue:
    """The server's one queue."""
    if (limits := demo_limits()) is None:
        return JobQueue()
    return JobQueue(most=limits.waiting, longest=limits.job_seconds, prepare=_leave_room)


def _leave_room() -> None:
    """To the threads that draw pages: somebody looks at one while another's run is computed.

    The run leaves them a core, and where they need one more they come first. A little only: a run that got no turn
    while it holds the interpreter's lock would have all pages wait. For the same reason it is not handed the lock more
    often than usual (sys.setswitchinterval).
    """
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    if sys.platform == "linux":  # elsewhere it would be the whole process that steps back
        os.nice(RUN_NICE)


def check_asked(request: RunRequest) -> None:
    """Raise a UserError where a public demo does not do what is asked; elsewhere everything may be asked."""
    if (limits := demo_limits()) is None:
        return
    limits.check_model(request.model)
    limits.check_options(dict(request.options))
    if request.pairs is None:
        limits.check_number(request.examples)
    else:
        limits.check_pairs(request.pairs)


def stages_of(request: RunRequest) -> tuple[str, ...]:
    """The stages of a run, in order: STAGES, and of one's own prompts with answers a check before them."""
    checked = request.pairs is not None and request.pairs.has_answers
    return (STAGES[0], CHECK, *STAGES[1:]) if checked else STAGES


def discovery_work(
    request: RunRequest, preview: Callable[[Tensor], None] | None = None, known: Behaviour | None = None
) -> Work[Discovery]:
    """What a run does: load the model, draw the prompts or check somebody's own, discover.

    Args:
        request: the run's settings.
        preview: given how differently heads [L, heads] write on the two sides of the first pairs, before all else.
        known: whether the model shows the behaviour on somebody's own prompts, where that was measured already.

    The work raises a UserError where any of these cannot be done as asked.
    """

    def work(report: Report) -> Discovery:
        check_asked(request)
        start = time.perf_counter()
        model = loaded_model(request.model, report)
        loaded = time.perf_counter() - start
        settings: dict[str, Any] = {"method": request.method, "seed": request.seed, **dict(request.options)}
        if request.pairs is None:
            pairs = TASKS[request.task].make(model.tokenizer, request.examples, request.seed)
            found = discover(model, pairs, progress=report, preview=preview, **settings)
        else:
            found = discover_checked(model, request.pairs, known=known, progress=report, preview=preview, **settings)
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
                while len(self._models) > self._keep:
                    self._models.popitem(last=False)
                keep_for_good()
            self._models.move_to_end(name)
            return self._models[name]

    def put(self, model: LanguageModel) -> None:
        """Have a model take the place of the one of its name."""
        with self._loading:
            self._models[model.name] = model

    def peek(self, name: str) -> LanguageModel | None:
        """A model that is here, None where it would have to be loaded first."""
        return self._models.get(name)


@st.cache_resource(show_spinner=False)
def _shelf() -> ModelShelf:
    return ModelShelf()


def loaded_model(name: str, report: Report) -> LanguageModel:
    """A model, loaded once for all sessions; to be called in a job.

    Raises:
        UserError: it cannot be loaded, or this is a public demo of other models.
    """
    if (limits := demo_limits()) is not None:
        limits.check_model(name)
    report("load", 0.0)
    return _shelf().get(name, report)


def asked_of(model: LanguageModel, ask: Callable[[LanguageModel], T]) -> T:
    """What a model answers; where its device fails, the same model on the CPU, which takes its place for all sessions.

    Raises:
        UserError: neither device can do it.
    """

    def ask_there(used: LanguageModel, notes: Sequence[str]) -> T:
        if used is not model:
            _shelf().put(replace(used, notes=tuple(notes)))
        return ask(used)

    return anywhere(model, [], ask_there)


def load_ahead() -> None:
    """Load the default model where it is fetched already, so that the first run need not wait for it.

    A run that is asked for meanwhile waits for this in place of loading it twice; what goes wrong is left for a run to
    find out and say.
    """
    name = RunRequest().model
    if not any(model.name == name and model.fetched for model in available_models()):
        return
    try:
        loaded_model(name, lambda stage, share: None)
    except UserError as error:
        _log.info("the model could not be loaded ahead: %s", error)


def notes_of(name: str) -> tuple[str, ...]:
    """What a reader of a model's results should know of the model as it is loaded now, a sentence each."""
    model = model_at_hand(name)
    return () if model is None else model.notes


def model_at_hand(name: str) -> LanguageModel | None:
    """A model that is loaded already, None where it is not; costs nothing."""
    return _shelf().peek(name)


# --- tokenizers alone --------------------------------------------------------------------------------------


@dataclass(eq=False)
class Reading:
    """A tokenizer that is being read, or was.

    Attributes:
        found: the tokenizer, or the model itself where it is loaded; None while it is read, and where there is none.
        ended: seconds of time.monotonic() at which reading ended, None before.
    """

    found: LanguageModel | ModelTokenizer | None = None
    ended: float | None = None
    _over: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.ended is not None

    def wait(self, seconds: float) -> None:
        """Wait for the end, so many seconds at most."""
        self._over.wait(seconds)

    def end(self, found: LanguageModel | ModelTokenizer | None) -> None:
        """Say what came of it."""
        self.found, self.ended = found, time.monotonic()
        self._over.set()


class TokenizerShelf:
    """The tokenizers of models on this machine, shared by all sessions and read beside the pages; a few are kept."""

    def __init__(self, keep: int = 4, again: float = 15.0) -> None:
        """
        Args:
            keep: how many are kept.
            again: seconds after which one that was not there is looked for again: its model may be fetched meanwhile.
        """
        self._keep = keep
        self._again = again
        self._readings: OrderedDict[str, Reading] = OrderedDict()
        self._changing = threading.Lock()

    def get(self, name: str, patience: float) -> Reading:
        """A model's tokenizer, read on a thread of its own where it was not yet.

        Args:
            name: of the model.
            patience: seconds to wait for it at most.
        """
        with self._changing:
            reading = self._readings.get(name)
            if reading is None or self._outdated(reading):
                reading = self._readings[name] = Reading()
                threading.Thread(target=_read_tokenizer, args=(name, reading), daemon=True).start()
            self._readings.move_to_end(name)
            while len(self._readings) > self._keep:
                self._readings.popitem(last=False)
        reading.wait(patience)
        return reading

    def _outdated(self, reading: Reading) -> bool:
        return reading.ended is not None and reading.found is None and time.monotonic() - reading.ended > self._again


def _read_tokenizer(name: str, reading: Reading) -> None:
    found = None
    try:
        found = stored_tokenizer(name)
    except UserError as error:  # loading the model will say so, in its place on the page
        _log.info("no tokenizer alone: %s", error)
    finally:
        reading.end(found)


@st.cache_resource(show_spinner=False)
def _tokenizers() -> TokenizerShelf:
    return TokenizerShelf()


def tokenizer_at_hand(name: str) -> Reading:
    """How a model cuts prompts, known without its weights where its files are on this machine; never fetches them.

    Costs a page TOKENIZER_PATIENCE at most; while the reading is not over, ask again a little later.
    """
    reading, limits = Reading(), demo_limits()
    if (model := model_at_hand(name)) is not None:
        reading.end(model)
        return reading
    if not name or (limits is not None and name not in limits.models):
        reading.end(None)
        return reading
    return _tokenizers().get(name, TOKENIZER_PATIENCE)
