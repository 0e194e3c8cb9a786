"""A job under way: its stage, how far it is, and Cancel. And the stage times of a finished run."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import streamlit as st

from dsae_core.limits import demo_limits
from dsae_core.ui import state
from dsae_core.ui.jobs import Job, JobQueue
from dsae_core.ui.runs import shared_queue
from dsae_core.ui.text import escape_html, escape_markdown, plural, seconds

POLL_SECONDS = 0.2
VISITOR_SECONDS = 0.8
"""On a public demo, whose server has other pages to draw; and every look has a browser go through its whole page."""
WAITING_SECONDS = 2.0
"""A job that waits for others has little to tell, and there may be many of them, each with a page that asks."""

STAGE_WORDS = {
    "download": "downloading the model",
    "convert": "converting the model",
    "load": "loading the model",
    "check": "checking that the model shows the behaviour",
    "tokenize": "tokenizing",
    "collect": "collecting head outputs",
    "follow": "following the change to the prediction",
    "train": "training the dictionary",
    "encode": "encoding",
    "score": "scoring",
    "attend": "reading attention",
    "logits": "reading direct effects",
    "patch": "patching",
    "ablate": "replacing heads",
    "predict": "asking what comes next",
}


def running() -> None:
    """The run under way, looked at again and again.

    Once there is something to look at, and once it ends, the whole page is drawn anew.
    """
    waiting = waits(state.job())
    st.fragment(_running, run_every=_pace(waiting))(waiting, state.preview() is not None)


def _pace(waiting: bool) -> float:
    """Seconds from one look at a job to the next."""
    if waiting:
        return WAITING_SECONDS
    return POLL_SECONDS if demo_limits() is None else VISITOR_SECONDS


def _running(waited: bool, previewed: bool) -> None:
    if state.take_finished():
        st.rerun()
    job = state.job()
    if job is None:
        return
    if waited and not waits(job):
        st.rerun()  # from now on looked at more often
    if not previewed and state.preview() is not None:
        st.rerun()  # the page shows it in the place of the scores
    with st.container(border=True):
        stages = state.stages()
        done = share_done(job, stages)
        _bar(job, shared_queue(), "cancel", "End this run; the result below stays.", done, steps(job, stages))


def side(name: str, about: Hashable) -> None:
    """A side job under way, drawn where it was asked for; once it ends the whole page is drawn anew."""
    waiting = waits(state.side_job(name, about))
    st.fragment(_side, run_every=_pace(waiting))(name, about, waiting)


def _side(name: str, about: Hashable, waited: bool) -> None:
    job = state.side_job(name, about)
    if job is None or job.over or (waited and not waits(job)):
        st.rerun()
    with st.container(border=True):
        _bar(job, shared_queue(), f"cancel_{name}", "End this; what stands on the page stays.", job.fraction)


def waits(job: Job | None) -> bool:
    """Whether other jobs come first."""
    return job is not None and not job.over and shared_queue().look(job) > 0


def _bar(job: Job, queue: JobQueue, key: str, cancel_help: str, done: float, below: str = "") -> None:
    """How far a job is, and the button that ends it."""
    bar, button = st.columns([6, 1], vertical_alignment="center")
    with bar:
        st.progress(done, text=escape_markdown(status_line(job, queue.look(job))))
        if below:
            st.html(f'<div class="d-steps">{below}</div>')
    button.button(
        "Cancel",
        key=key,
        disabled=job.stopping,
        on_click=queue.cancel,
        args=(job,),
        width="stretch",
        help=cancel_help,
    )


def status_line(job: Job, ahead: int) -> str:
    """What the run is doing, in words."""
    if job.stopping:
        return "Cancelling: the run ends at its next step."
    if ahead:
        return f"Waiting: {plural(ahead, 'run')} before this one."
    stage = STAGE_WORDS.get(job.stage, job.stage or "starting")
    return f"{stage[:1].upper()}{stage[1:]} · {seconds(job.elapsed)}"


def share_done(job: Job, stages: Sequence[str]) -> float:
    """How far a run is through its stages, each as long as any other; a fetch before them counts by itself."""
    if job.stage not in stages:
        return job.fraction
    return (stages.index(job.stage) + job.fraction) / len(stages)


def steps(job: Job, stages: Sequence[str]) -> str:
    """All stages in order, those done and the present one marked; as HTML."""
    at = stages.index(job.stage) if job.stage in stages else 0
    marks = []
    for i, stage in enumerate(stages):
        name = "done" if i < at else "now" if i == at and job.status == "running" else ""
        marks.append(f'<span class="{name}">{i + 1} {stage}</span>')
    return "".join(marks)


def stage_times(timings: Mapping[str, float]) -> None:
    """Seconds by stage, with bars."""
    longest = max(timings.values(), default=0.0) or 1.0
    rows = "".join(
        f'<span>{escape_html(name)}</span><i style="width: {100 * value / longest:.0f}%"></i>'
        f"<span>{seconds(value)}</span>"
        for name, value in timings.items()
    )
    total = f"<b>this result</b><span></span><b>{seconds(sum(timings.values()))}</b>"
    st.html(f'<div class="d-times">{total}<div class="rule"></div>{rows}</div>')
