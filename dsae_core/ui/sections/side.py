"""What a side job found, or how far it is, or what went wrong: drawn where it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

import streamlit as st

from dsae_core.ui import state
from dsae_core.ui.jobs import Job, Work
from dsae_core.ui.runs import shared_queue
from dsae_core.ui.sections import progress
from dsae_core.ui.text import escape_html, escape_markdown

PATIENCE = 0.7
"""Seconds for which the page waits for a job it has just asked for, so that quick ones come without a progress bar."""

T = TypeVar("T")


def ask(name: str, about: Hashable, make: Callable[[], Work[T]], title: str, *, lasting: bool = False) -> T | None:
    """The result of a side job, which is started where it was not yet; None while there is none.

    Args:
        name: of the session's slot.
        about: what is asked of.
        make: makes the work.
        title: what it does, in words.
        lasting: whether it outlives the result on show.
    """
    if state.side_result(name, about) is None and state.side_job(name, about) is None:
        start(name, about, make, title, lasting=lasting)
    return outcome(name, about)


def start(name: str, about: Hashable, make: Callable[[], Work[T]], title: str, *, lasting: bool = False) -> None:
    """Start a side job and give it a moment to end."""
    job = state.start_side(shared_queue(), name, make(), about=about, title=title, lasting=lasting)
    job.wait(PATIENCE)


def outcome(name: str, about: Hashable) -> T | None:
    """The result of a side job if it has one; in place of that its progress, or why there is none."""
    found: T | None = state.side_result(name, about)
    job = state.side_job(name, about)
    with st.container():  # there also when empty: what is below keeps its place, and is not drawn anew
        if found is None and job is not None:
            if job.over:
                _failure(name, job)
            else:
                progress.side(name, about)
    return found


def _failure(name: str, job: Job) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if job.status == "failed":
            st.error(escape_markdown(job.error))
        else:
            st.html(f'<p class="d-note stale">{escape_html(job.title)}: cancelled.</p>')
        st.button(
            "Try again",
            key=f"again_{name}",
            on_click=state.forget_side,
            args=(name,),
            help="Ask the model once more.",
        )
