"""Methods on the same prompts: the settings of a comparison, its start, and how far it is."""

from __future__ import annotations

import streamlit as st

from dsae_core.benchmark import ALL_METHODS
from dsae_core.circuits import stored_circuit
from dsae_core.limits import demo_limits
from dsae_core.models import available_models
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import TASKS
from dsae_core.ui import comparison, state
from dsae_core.ui.comparison import USUAL_SECONDS, Board, CompareRequest, method_title, offered
from dsae_core.ui.controls import max_examples
from dsae_core.ui.request import CUSTOM, MAX_SEED
from dsae_core.ui.runs import shared_queue
from dsae_core.ui.sections import progress
from dsae_core.ui.sections.compare_board import explain, results
from dsae_core.ui.sections.seeds import seeded
from dsae_core.ui.sections.sight import bring_into_sight
from dsae_core.ui.text import escape_html, escape_markdown, plural

_ASKED, _BOARD = "compare_asked", "compare_board"


def methods() -> None:
    """Draw the settings, and the comparison under way or over."""
    board: Board | None = st.session_state.get(_BOARD)
    with st.sidebar:
        asked = _settings()
        under_way = _job_runs()
        pressed = st.button(
            "Running" if under_way else "Compare methods",
            type="secondary" if board is None else "primary",  # before the first one the page itself has the button
            width="stretch",
            disabled=under_way or not asked.methods or not asked.model,
            key="compare_run",
            help="Run the chosen methods one after another on the same prompts."
            if asked.methods
            else "Choose at least one method first.",
        )
    if board is None:
        pressed = _first_words(asked) or pressed
    if pressed:
        _start(asked)
    if board is not None:
        _progress(board)
        results(board, asked, under_way=_job_runs())


def _settings() -> CompareRequest:
    """Draw the settings; the request they stand for."""
    kept: CompareRequest = st.session_state.get(_ASKED, CompareRequest())
    shown = state.shown()
    own = comparison.custom_pairs(shown.view if shown else None) or kept.pairs
    model = _choose_model(kept.model)
    task = _choose_task(kept.task, own)
    if task == CUSTOM or stored_circuit(model, task) is None:
        st.caption("No circuit is known here: the methods are compared with one another.")
    pairs = own if task == CUSTOM else None
    examples = len(pairs) if pairs else kept.examples
    if task != CUSTOM:
        examples = st.slider(
            "Examples",
            1,
            max_examples(),
            key=seeded("compare_examples", min(max(kept.examples, 1), max_examples())),
            help="Prompt pairs drawn; every method gets the same ones.",
        )
    seed = st.number_input(
        "Seed",
        0,
        MAX_SEED,
        key=seeded("compare_seed", kept.seed),
        help="Fixes the prompts drawn and what methods draw.",
    )
    chosen = st.pills(
        "Methods",
        offered(ALL_METHODS),
        selection_mode="multi",
        format_func=method_label,
        key=seeded("compare_methods", list(kept.methods)),
        help="Those with a time are slow: it is what they usually take on ten pairs with the default model on two "
        "processor cores.",
    )
    asked = CompareRequest(
        model=model,
        task=task,
        examples=int(examples),
        seed=int(seed),
        methods=tuple(method for method in ALL_METHODS if method in chosen),
        pairs=pairs,
    )
    st.session_state[_ASKED] = asked
    return asked


def _choose_model(kept: str) -> str:
    """The model's choice, at first the one that was kept; on a public demo among its own."""
    limits, known = demo_limits(), [info.name for info in available_models()]
    if limits is not None:
        known = list(limits.models)
        kept = kept if kept in known else known[0]
    model = st.selectbox(
        "Model",
        known if kept in known else [*known, kept],
        key=seeded("compare_model", kept),
        accept_new_options=limits is None,
        help="A model of the list, or type a name of the Hugging Face hub or a local folder."
        if limits is None
        else "The models that this public demo runs.",
    )
    return (model or "").strip()


def _choose_task(kept: str, own: PromptPairs | None) -> str:
    """The task's choice, at first the one that was kept; one's own prompts where there are any."""
    titles = {name: task.title for name, task in TASKS.items()}
    if own is not None:
        titles[CUSTOM] = f"Your own prompts ({plural(len(own), 'pair')})"
    task = st.selectbox(
        "Task",
        list(titles),
        format_func=titles.__getitem__,
        key=seeded("compare_task", kept if kept in titles else "ioi"),
        help="The behaviour whose heads are looked for. Your own prompts are those of the result on Discover.",
    )
    return str(task)


def method_label(method: str) -> str:
    """A method's name, with its usual time where that is long."""
    usual = USUAL_SECONDS.get(method)
    return method_title(method) + (f" · {usual} s" if usual else "")


def _first_words(asked: CompareRequest) -> bool:
    """What the page is for, before the first comparison; whether its button was pressed."""
    chosen = ", ".join(map(method_title, asked.methods)) or "none"
    st.html(
        '<h1 class="d-headline">Which method ranks the heads best?</h1>'
        '<p class="d-note">Every method gets the same prompts. Where a circuit was measured, a table says how well '
        "each ranks its heads and what that costs; heatmaps show where each sees the behaviour.</p>"
        f'<p class="d-note">Chosen in the sidebar: {escape_html(chosen)}.</p>'
    )
    pressed = st.button(
        f"Compare {plural(len(asked.methods), 'method')}",
        type="primary",
        disabled=not asked.methods or not asked.model,
        key="compare_first_run",
        help="Run them one after another; lines appear as they finish.",
    )
    explain(offered(ALL_METHODS))
    return pressed


def _start(asked: CompareRequest) -> None:
    board = Board(asked)
    st.session_state[_BOARD] = board
    title = f"Comparison of {plural(len(asked.methods), 'method')}"
    work = comparison.comparison_work(board)
    job = state.start_side(shared_queue(), "compare", work, about=board, title=title, lasting=True)
    bring_into_sight(f"run {job.number}")
    st.rerun()


def _job_runs() -> bool:
    board: Board | None = st.session_state.get(_BOARD)
    job = state.side_job("compare", board) if board is not None else None
    return job is not None and not job.over


def _progress(board: Board) -> None:
    """How far the comparison is, and why it ended where it ended early."""
    job = state.side_job("compare", board)
    if job is None:
        return
    if not job.over:
        progress.side("compare", board)
        _watch(board, len(board.lines))
    elif job.status == "failed":
        st.error(escape_markdown(job.error))
    else:
        st.html('<p class="d-note stale">The comparison was cancelled; what had finished is below.</p>')


@st.fragment(run_every=progress.POLL_SECONDS)
def _watch(board: Board, drawn: int) -> None:
    """Draws the page anew when another method has finished."""
    if len(board.lines) != drawn:
        st.rerun()
