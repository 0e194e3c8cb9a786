"""What one session remembers between reruns: the result on show, the selected head, the settings, its jobs."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal

import streamlit as st
from torch import Tensor

from dsae_core.behaviour import Behaviour
from dsae_core.circuits import Head
from dsae_core.errors import UserError
from dsae_core.limits import demo_limits
from dsae_core.ui import library
from dsae_core.ui.demo import stored_demo
from dsae_core.ui.jobs import Job, JobQueue, Work
from dsae_core.ui.request import RunRequest
from dsae_core.ui.runs import STAGES, discovery_work, stages_of
from dsae_core.ui.view import View

_SHOWN, _HEAD, _JOB, _MESSAGE, _REQUEST = "shown", "selected_head", "job", "message", "request"
_SIDES, _SIDE_RESULTS, _PREVIEW, _STAGES = "side_jobs", "side_results", "preview", "job_stages"
_KEPT_SIDE_RESULTS = 64

NOT_KEPT = (
    "The run that this link asks for is not kept here: Run discovery computes it. Until then you see the stored demo, "
    "which is another run."
)


@dataclass(frozen=True)
class Shown:
    """The result on the page.

    Attributes:
        view: the discovery and the circuit it is compared with.
        request: the settings it was made with.
        stored: whether it is the stored demo.
        asked_for: whether it was run or opened in this visit, and did not just stand there.
        key: tells this result's widgets from an earlier result's.
    """

    view: View
    request: RunRequest
    stored: bool
    asked_for: bool
    key: str


@dataclass(frozen=True)
class Side:
    """A job beside the session's run, the latest of its name; under way or over.

    Attributes:
        queue: where it was put.
        job: the job.
        about: what it was asked of (a head, settings): its result belongs to nothing else.
        lasting: whether it outlives the result on show.
    """

    queue: JobQueue
    job: Job
    about: Hashable
    lasting: bool


@dataclass(frozen=True)
class Message:
    """What came of the last run, where that is not a result."""

    kind: Literal["error", "note"]
    text: str


def shown() -> Shown | None:
    """The result on the page, None where there is none."""
    found: Shown | None = st.session_state.get(_SHOWN)
    return found


def show(view: View, *, stored: bool = False, asked_for: bool = False) -> None:
    """Put a result on the page and select its best head; what was asked about the last one is dropped."""
    _drop_sides()
    number = st.session_state.get("results_shown", 0) + 1
    st.session_state["results_shown"] = number
    st.session_state[_SHOWN] = Shown(view, RunRequest.of(view.discovery), stored, asked_for, f"result{number}")
    st.session_state[_HEAD] = view.best


def selected_head() -> Head:
    """The head that is selected everywhere on the page."""
    head: Head = st.session_state[_HEAD]
    return head


def select_head(head: Head) -> None:
    """Select a head everywhere on the page."""
    st.session_state[_HEAD] = head


def request() -> RunRequest | None:
    """The sidebar's settings at its last run, None before the first."""
    kept: RunRequest | None = st.session_state.get(_REQUEST)
    return kept


def remember_request(value: RunRequest) -> None:
    """Keep the sidebar's settings, which widgets forget when another page is opened."""
    st.session_state[_REQUEST] = value


def job() -> Job | None:
    """This session's run, None where none is queued or running."""
    under_way: Job | None = st.session_state.get(_JOB)
    return under_way


def start(queue: JobQueue, asked: RunRequest, known: Behaviour | None = None) -> Job:
    """Queue a run, and its job; what was said of the last one is forgotten.

    Args:
        queue: the server's.
        asked: the run.
        known: what was measured already of its prompts and model.
    """
    found: list[Tensor] = []
    st.session_state[_PREVIEW] = found
    # A public demo forgets the results of a visitor's own prompts; those of tasks are nobody's secret.
    key = asked if asked.pairs is None or demo_limits() is None else None
    st.session_state[_STAGES] = stages_of(asked)
    job = queue.submit(discovery_work(asked, found.append, known), key=key, title="Discovery")
    st.session_state[_JOB], st.session_state[_MESSAGE] = job, None
    return job


def stages() -> tuple[str, ...]:
    """The stages of this session's run, in order."""
    named: tuple[str, ...] = st.session_state.get(_STAGES, STAGES)
    return named


def preview() -> Tensor | None:
    """Scores [L, heads] to look at while the run under way goes on; None while there are none."""
    found: list[Tensor] = st.session_state.get(_PREVIEW, [])
    return found[-1] if found and job() is not None else None


def message() -> Message | None:
    """What came of the last run, where that is not a result."""
    said: Message | None = st.session_state.get(_MESSAGE)
    return said


def say(kind: Literal["error", "note"], text: str) -> None:
    """Leave a message for the page."""
    st.session_state[_MESSAGE] = Message(kind, text)


def take_finished() -> bool:
    """Take over the result of this session's run if it has ended; whether it had."""
    ended = job()
    if ended is None or not ended.over:
        return False
    st.session_state[_JOB] = None
    if ended.status == "failed":
        say("error", ended.error)
    elif ended.status == "cancelled":
        say("note", "The run was cancelled; nothing of it was kept.")
    elif ended.result is not None:
        try:
            show(View.of(ended.result), asked_for=True)
            if problem := library.keep(ended.result):
                say("note", problem)
        except UserError as error:
            say("error", str(error))
    return True


def first_result(asked: RunRequest, queue: JobQueue) -> bool:
    """Show something on a first visit: the asked-for result where it is remembered or kept, else the demo.

    Whether it is the result that was asked for.
    """
    try:
        if (remembered := queue.recall(asked)) is not None:
            show(View.of(remembered))
        elif asked != RunRequest() and (kept := library.recall(asked)) is not None:
            show(View.of(kept))
        elif (demo := stored_demo()) is not None:
            show(demo, stored=True)
            if asked != RunRequest():
                if message() is None:  # what is wrong with the link says enough
                    say("note", NOT_KEPT)
                return False
    except UserError as error:
        say("error", str(error))
        return False
    return True


def show_demo() -> None:
    """Put the stored demo on the page."""
    if (demo := stored_demo()) is not None:
        show(demo, stored=True)


def show_at(threshold: float) -> None:
    """Move the threshold of the result on show."""
    if (now := shown()) is not None:
        st.session_state[f"{now.key}_threshold"] = now.view.on_grid(threshold)


# --- side jobs ---------------------------------------------------------------------------------------------


def start_side(
    queue: JobQueue, name: str, work: Work[Any], *, about: Hashable, title: str, lasting: bool = False
) -> Job:
    """Queue a side job. An earlier one of its name that is still under way is cancelled.

    Args:
        queue: the server's queue.
        name: of the session's slot; one job at a time has it.
        work: does the job.
        about: what is asked of; side_result() wants an equal value.
        title: what it does, in words for the page.
        lasting: whether it outlives the result on show (a check of prompts does, a head's inspection does not).
    """
    _collect_sides()
    sides = _sides()
    if name in sides:
        queue.cancel(sides[name].job)
    sides[name] = Side(queue, queue.submit(work, title=title), about, lasting)
    return sides[name].job


def side_job(name: str, about: Hashable) -> Job | None:
    """The latest job of a name, under way, failed or cancelled, if it was asked about this; else None."""
    _collect_sides()
    side = _sides().get(name)
    return side.job if side is not None and side.about == about else None


def side_result(name: str, about: Hashable) -> Any:
    """What a side job of this name found about this; None where nothing is known (yet)."""
    _collect_sides()
    found, _ = _side_results().get((name, about), (None, False))
    return found


def latest_side(name: str) -> Any:
    """The latest result of a side job of this name, whatever it was asked of; None where there is none."""
    _collect_sides()
    return next((found for (n, _), (found, _) in reversed(_side_results().items()) if n == name), None)


def forget_side(name: str) -> None:
    """End the latest job of a name and forget what came of it, to ask anew."""
    if (side := _sides().pop(name, None)) is not None:
        side.queue.cancel(side.job)


def _collect_sides() -> None:
    """Keep the results of side jobs that are done."""
    results = _side_results()
    for name, side in list(_sides().items()):
        if side.job.status == "done":
            results.pop((name, side.about), None)  # the latest comes last
            results[name, side.about] = (side.job.result, side.lasting)
            del _sides()[name]
    while len(results) > _KEPT_SIDE_RESULTS:
        del results[next(iter(results))]


def _drop_sides() -> None:
    """Cancel side jobs about the result on show, and forget what they found."""
    _collect_sides()
    for name, side in list(_sides().items()):
        if not side.lasting:
            forget_side(name)
    kept = {asked: found for asked, found in _side_results().items() if found[1]}
    st.session_state[_SIDE_RESULTS] = kept


def _sides() -> dict[str, Side]:
    sides: dict[str, Side] = st.session_state.setdefault(_SIDES, {})
    return sides


def _side_results() -> dict[tuple[str, Hashable], tuple[Any, bool]]:
    """What was found, and whether it outlives the result on show, by name and what was asked of."""
    results: dict[tuple[str, Hashable], tuple[Any, bool]] = st.session_state.setdefault(_SIDE_RESULTS, {})
    return results
