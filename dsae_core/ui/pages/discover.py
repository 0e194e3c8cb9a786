"""Discover: from prompt pairs to heads."""

from __future__ import annotations

import time

import pandas as pd
import streamlit as st
from torch import Tensor

from dsae_core.circuits import Head
from dsae_core.limits import demo_limits
from dsae_core.looking import PREVIEW_PAIRS
from dsae_core.significance import RATE
from dsae_core.ui import controls, state
from dsae_core.ui.charts import curves
from dsae_core.ui.charts.circuit_graph import circuit_graph
from dsae_core.ui.charts.heatmap import heatmap
from dsae_core.ui.charts.preview import preview_frame, preview_map
from dsae_core.ui.charts.style import Grid
from dsae_core.ui.demo import stored_demo
from dsae_core.ui.request import CUSTOM, RunRequest, threshold_of
from dsae_core.ui.runs import shared_queue
from dsae_core.ui.sections import header, progress
from dsae_core.ui.sections.charts import chart
from dsae_core.ui.sections.editor import editor, known_behaviour
from dsae_core.ui.sections.inspector import inspector
from dsae_core.ui.sections.seeds import seeded
from dsae_core.ui.sections.sight import bring_into_sight
from dsae_core.ui.sections.validation import validation
from dsae_core.ui.state import Shown
from dsae_core.ui.text import escape_html, escape_markdown
from dsae_core.ui.view import View

MAX_EDGES, FIRST_EDGES = 200, 40
_SEEN = "first_chart_seen"

FIRST_CHART_FIRST = 0.6
"""Seconds by which the other charts follow the first one on a first visit: so long a browser takes to draw it."""

WORDS_FIRST = 0.2
"""Seconds by which a public demo's charts follow the words that a moved threshold changes.

A browser draws what comes together together. Given a moment it has painted the words before it redraws the charts,
which on a busy machine takes it a second; there a shorter moment is over before the words have arrived. A browser that
has nothing else to do is done with both sooner without.
"""


def page() -> None:
    """Draw the page: settings in the sidebar, then a run under way, then the result on show."""
    first_visit = state.request() is None and state.shown() is None
    asked_at = threshold_of(st.query_params.to_dict()) if first_visit else None
    with st.sidebar:
        asked = controls.settings()
        _run_button(asked)
        back, times = st.container(), st.container()
    if first_visit and asked is None:
        state.show_demo()
    if first_visit and asked is not None:
        is_asked = state.first_result(asked, shared_queue())
        if is_asked and asked_at is not None:
            state.show_at(asked_at)
    with back:
        _demo_button()
    with st.container():  # one place for what comes and goes: a chart that moves down a place is drawn anew
        if state.job() is not None:
            progress.running()
        _message()
        if (settings := state.request()) is not None and settings.task == CUSTOM:
            editor(settings.model)
    shown = state.shown()
    if shown is None:
        if (early := state.preview()) is not None:
            _preview(early, None, "preview")
        else:
            _nothing_yet()
        return
    with times:
        progress.stage_times(shown.view.discovery.timings)
    header.provenance(shown, state.request())
    _result(shown)


def warm() -> None:
    """Work out what a first visit shows, so that the visit need not."""
    demo = stored_demo()
    if demo is None:
        return
    grid, heads = Grid.of(demo.heads, has_truth=demo.truth is not None), demo.at(demo.start)
    heatmap(grid, heads, demo.best)
    circuit_graph(grid, heads, demo.edges(demo.start, FIRST_EDGES), demo.best)
    curves.ranked_scores(grid, heads, demo.start, demo.best)
    confusion = demo.confusion(demo.start)
    if demo.evaluation is not None and confusion is not None:
        curves.precision_recall(demo.evaluation, confusion)
        curves.roc(demo.evaluation, confusion)
    demo.prompt_rows(demo.best)


def _run_button(asked: RunRequest | None) -> None:
    waiting = state.job() is not None
    pressed = st.button(
        ("Waiting" if progress.waits(state.job()) else "Running") if waiting else "Run discovery",
        type="primary",
        width="stretch",
        disabled=waiting or asked is None,
        key="run",
        help="Run the model forward on the prompts, learn the dictionary and score all heads."
        if asked is not None
        else "Complete the settings above first.",
    )
    if pressed and asked is not None:
        job = state.start(shared_queue(), asked, known_behaviour(asked))
        bring_into_sight(f"run {job.number}")
        st.rerun()


def _demo_button() -> None:
    shown = state.shown()
    if shown is not None and not shown.stored and state.job() is None and stored_demo() is not None:
        st.button(
            "Show the stored demo",
            type="tertiary",
            key="show_demo",
            on_click=state.show_demo,
            help="Put the result that stands here on a first visit back on the page.",
        )


def _message() -> None:
    said = state.message()
    if said is None:
        return
    if said.kind == "error":
        st.error(escape_markdown(said.text))
    else:
        st.html(f'<p class="d-note stale">{escape_html(said.text)}</p>')


def _nothing_yet() -> None:
    st.html(
        '<h1 class="d-headline">No result yet.</h1>'
        '<p class="d-note">Choose a model and a task in the sidebar and press Run discovery. '
        "The first run loads the model; later ones take seconds.</p>"
    )


@st.fragment
def _result(shown: Shown) -> None:
    """Everything that follows the threshold and the selected head; moving them draws only this."""
    view, key = shown.view, shown.key
    dial = seeded(f"{key}_threshold", view.start)
    threshold = float(st.session_state[dial])
    with st.container():
        asked = state.request() in (None, shown.request)
        header.headline(view, threshold, introduced=not shown.asked_for, following=shown.stored and asked)
    limit = _dials(shown, dial)
    header.legend(view, threshold)
    _let_words_be_painted(key, threshold)
    grid = Grid.of(view.heads, has_truth=view.truth is not None)
    heads, head = view.at(threshold), state.selected_head()
    if (early := state.preview()) is not None:
        _preview(early, grid, "heatmap")
    else:
        chart(
            "Scores",
            "every head by layer; select one to see its details below"
            + ("; outlined: in the circuit" if grid.has_truth else ""),
            heatmap(grid, heads, head),
            lambda: heads,
            key="heatmap",
            layers=grid.n_layers,
            leads=True,
        )
    _let_the_first_chart_be_drawn()
    edges = view.edges(threshold, limit)
    chart(
        "Circuit",
        f"an edge is as wide as its score: {view.edge_meaning}" + ("; heads by role" if view.has_roles else ""),
        circuit_graph(grid, heads, edges, head),
        lambda: edges,
        key="circuit",
        layers=grid.n_layers,
        leads=True,
    )
    _curves(shown, grid, heads, threshold, head)
    inspector(shown, grid)
    validation(shown, threshold)


def _preview(scores: Tensor, grid: Grid | None, key: str) -> None:
    """What is known of the run under way, where its scores will stand; `grid`: of the last result."""
    others = "" if grid is None else "; all else here is of the last result"
    chart(
        "Preview: paired difference",
        f"of the run under way: how differently each head writes on the two sides of the first {PREVIEW_PAIRS} pairs. "
        f"Its codes' scores come here next{others}",
        preview_map(scores, grid),
        lambda: preview_frame(scores),
        key=key,
        layers=None if grid is None else grid.n_layers,
    )


def _let_words_be_painted(key: str, threshold: float) -> None:
    """On a public demo, wait a moment where the threshold of a result already drawn has moved."""
    if demo_limits() is None:
        return
    drawn = f"{key}_drawn_at"
    if st.session_state.get(drawn, threshold) != threshold:
        time.sleep(WORDS_FIRST)
    st.session_state[drawn] = threshold


def _let_the_first_chart_be_drawn() -> None:
    """Wait a moment on a first visit: a browser builds charts that come together before it draws any of them."""
    if _SEEN not in st.session_state:
        time.sleep(FIRST_CHART_FIRST)
    st.session_state[_SEEN] = True


def _dials(shown: Shown, dial: str) -> int:
    """The threshold, whose key is `dial`, the number of edges, and the figures beside them; returns that number."""
    view = shown.view
    with st.container(key="dials"):
        slider, edges, numbers = st.columns([5, 3, 7], vertical_alignment="bottom", gap="medium")
    with slider:
        threshold = st.slider(
            "Threshold",
            0.0,
            max(view.top_score, view.step),
            step=view.step,
            key=dial,
            help=_threshold_help(view),
        )
    with edges:
        limit = st.slider(
            "Edges",
            0,
            MAX_EDGES,
            FIRST_EDGES,
            key=f"{shown.key}_edges",
            help="How many of the strongest pairs among the found heads the circuit shows.",
        )
    with numbers:
        header.figures(view, float(threshold))
    return int(limit)


def _threshold_help(view: View) -> str:
    """What the threshold does, and where it starts."""
    what = "Heads that score this much or more are the predicted circuit."
    if not view.has_rates:
        return f"{what} A score is a number of unique codes; it starts where the ranked scores bend."
    if view.lowest_rate > RATE:
        return f"{what} It starts where the ranked scores bend, for no threshold leaves but {RATE:.0%} ordinary heads."
    return f"{what} It starts where an estimated {RATE:.0%} of them are ordinary heads."


def _curves(shown: Shown, grid: Grid, heads: pd.DataFrame, threshold: float, head: Head) -> None:
    view = shown.view
    evaluation, confusion = view.evaluation, view.confusion(threshold)
    columns = st.columns(3 if evaluation else 1, gap="large")
    with columns[0]:
        ranked = curves.ranked_scores(grid, heads, threshold, head)
        chart("Ranked scores", "dashed: threshold", ranked, lambda: heads, key="ranked", selects=True)
    if evaluation is None or confusion is None:
        return
    with columns[1]:
        chart(
            "Precision and recall",
            "dot: threshold",
            curves.precision_recall(evaluation, confusion),
            lambda: curves.precision_recall_frame(evaluation),
            key="precision_recall",
        )
    with columns[2]:
        chart(
            "ROC curve",
            "dot: threshold",
            curves.roc(evaluation, confusion),
            lambda: curves.roc_frame(evaluation),
            key="roc",
        )
