"""Compare: methods and baselines on the same prompts, and one kept run against another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pandas as pd
import streamlit as st

from dsae_core.benchmark import ALL_METHODS
from dsae_core.circuits import stored_circuit
from dsae_core.errors import UserError
from dsae_core.limits import demo_limits
from dsae_core.models import available_models
from dsae_core.tasks import TASKS
from dsae_core.ui import comparison, routes, state, theme
from dsae_core.ui.charts import comparison as charts
from dsae_core.ui.comparison import (
    USUAL_SECONDS,
    Board,
    CompareRequest,
    Difference,
    Line,
    method_title,
    offered,
)
from dsae_core.ui.controls import max_examples
from dsae_core.ui.demo import stored_demo
from dsae_core.ui.library import Entry, library, task_title
from dsae_core.ui.pages.saved import local_time
from dsae_core.ui.request import CUSTOM, MAX_SEED, RunRequest
from dsae_core.ui.runs import shared_queue
from dsae_core.ui.sections import progress
from dsae_core.ui.sections.charts import chart, heading
from dsae_core.ui.text import escape_html, escape_markdown, plural, seconds, share
from dsae_core.ui.view import FALSE_POSITIVE, MISSED, TRUE_POSITIVE, View

Mode = Literal["methods", "runs"]

MODES: dict[Mode, str] = {"methods": "Methods", "runs": "Two runs"}
SCALES: dict[charts.Scale, str] = {"rank": "Rank", "max": "Maximum"}
SHORT_TITLES = {
    "ig5": "IG, 5 steps",
    "ig10": "IG, 10 steps",
    "eap": "Edge attribution",
    "acdc": "Greedy pruning",
    "patching": "Exact patching",
}
"""Titles for a narrow sidebar, where there are shorter ones."""

IN_A_ROW = 3
"""Small heatmaps beside one another."""

MOST_CHANGED = 10
LISTED_RUNS = 200

_MODE, _ASKED, _BOARD, _SCALE, _PAIR, _VIEWS = (
    f"compare_{name}" for name in ("kept_mode", "asked", "board", "kept_scale", "pair", "views")
)


def page() -> None:
    """Draw the page."""
    theme.apply()
    if "compare_first" in st.session_state:  # the Runs page sent a run
        st.session_state[_PAIR] = (st.session_state.pop("compare_first"), None)
        st.session_state[_MODE] = "runs"
        for key in ("compare_a", "compare_b", "compare_mode"):
            st.session_state.pop(key, None)
    mode = st.segmented_control(
        "Compare",
        list(MODES),
        format_func=MODES.__getitem__,
        key=_seeded("mode", st.session_state.get(_MODE, "methods")),
        required=True,
        label_visibility="collapsed",
        help="Methods on the same prompts, or two finished runs head by head.",
    )
    st.session_state[_MODE] = mode
    if mode == "runs":
        _runs()
    else:
        _methods()


def _seeded(name: str, value: Any) -> str:
    """The key of a widget that starts with a value."""
    key = f"compare_{name}"
    if key not in st.session_state:
        st.session_state[key] = value
    return key


# --- methods on the same prompts ---------------------------------------------------------------------------


def _methods() -> None:
    with st.sidebar:
        asked = _settings()
        under_way = _job_runs()
        pressed = st.button(
            "Running" if under_way else "Compare methods",
            type="primary",
            width="stretch",
            disabled=under_way or not asked.methods or not asked.model,
            key="compare_run",
            help="Run the chosen methods one after another on the same prompts."
            if asked.methods
            else "Choose at least one method first.",
        )
    board: Board | None = st.session_state.get(_BOARD)
    if board is None:
        pressed = _first_words(asked) or pressed
    if pressed:
        _start(asked)
    if board is not None:
        _progress(board)
        _results(board, asked)


def _settings() -> CompareRequest:
    """Draw the settings; the request they stand for."""
    kept: CompareRequest = st.session_state.get(_ASKED, CompareRequest())
    limits, known = demo_limits(), [info.name for info in available_models()]
    if limits is not None:
        known = list(limits.models)
        kept = kept if kept.model in known else replace(kept, model=known[0])
    model = st.selectbox(
        "Model",
        known if kept.model in known else [*known, kept.model],
        key=_seeded("model", kept.model),
        accept_new_options=limits is None,
        help="A model of the list, or type a name of the Hugging Face hub or a local folder."
        if limits is None
        else "The models that this public demo runs.",
    )
    shown = state.shown()
    own = comparison.custom_pairs(shown.view if shown else None) or kept.pairs
    titles = {name: task.title for name, task in TASKS.items()}
    if own is not None:
        titles[CUSTOM] = f"Your own prompts ({plural(len(own), 'pair')})"
    task = str(
        st.selectbox(
            "Task",
            list(titles),
            format_func=titles.__getitem__,
            key=_seeded("task", kept.task if kept.task in titles else "ioi"),
            help="The behaviour whose heads are looked for. Your own prompts are those of the result on Discover.",
        )
    )
    if task == CUSTOM or stored_circuit((model or "").strip(), task) is None:
        st.caption("No circuit is known here: the methods are compared with one another.")
    examples = kept.examples
    if task != CUSTOM:
        examples = int(
            st.slider(
                "Examples",
                1,
                max_examples(),
                key=_seeded("examples", min(max(kept.examples, 1), max_examples())),
                help="Prompt pairs drawn; every method gets the same ones.",
            )
        )
    seed = st.number_input(
        "Seed", 0, MAX_SEED, key=_seeded("seed", kept.seed), help="Fixes the prompts drawn and what methods draw."
    )
    methods = st.pills(
        "Methods",
        offered(ALL_METHODS),
        selection_mode="multi",
        format_func=method_label,
        key=_seeded("methods", list(kept.methods)),
        help="Those with a time are slow: it is what they usually take on ten pairs with the default model on two "
        "processor cores.",
    )
    pairs = own if task == CUSTOM else None
    asked = CompareRequest(
        model=(model or "").strip(),
        task=task,
        examples=len(pairs) if pairs else examples,
        seed=int(seed),
        methods=tuple(method for method in ALL_METHODS if method in methods),
        pairs=pairs,
    )
    st.session_state[_ASKED] = asked
    return asked


def method_label(method: str) -> str:
    """A method's name, with its usual time where that is long."""
    usual = USUAL_SECONDS.get(method)
    return SHORT_TITLES.get(method, method_title(method)) + (f" · {usual} s" if usual else "")


def _first_words(asked: CompareRequest) -> bool:
    """What the page is for, before the first comparison; whether its button was pressed."""
    chosen = ", ".join(map(method_title, asked.methods)) or "none"
    st.html(
        '<h1 class="d-headline">Which method ranks the heads best?</h1>'
        '<p class="d-note">Every method gets the same prompts. Where a circuit was measured, a table says how well '
        "each ranks its heads and what that costs; heatmaps show where each sees the behaviour.</p>"
        f'<p class="d-note">Chosen in the sidebar: {escape_html(chosen)}.</p>'
    )
    return st.button(
        f"Compare {plural(len(asked.methods), 'method')}",
        type="primary",
        disabled=not asked.methods or not asked.model,
        key="compare_first_run",
        help="Run them one after another; lines appear as they finish.",
    )


def _start(asked: CompareRequest) -> None:
    board = Board(asked)
    st.session_state[_BOARD] = board
    title = f"Comparison of {plural(len(asked.methods), 'method')}"
    state.start_side(
        shared_queue(), "compare", comparison.comparison_work(board), about=board, title=title, lasting=True
    )
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


def _results(board: Board, asked: CompareRequest) -> None:
    lines, truth = board.lines, board.truth
    scored = [line for line in lines if line.scores is not None]
    _provenance(board.request, asked)
    if lines or _job_runs():
        st.html(f'<h1 class="d-headline">{escape_html(sentence(board))}</h1>{_notes(board)}')
    if not scored:
        return
    table = comparison.table(scored, has_truth=truth is not None)
    scored.sort(key=lambda line: table["name"].tolist().index(line.method))
    _table(table, len(truth) if truth is not None else 0)
    _overviews(scored, table, has_truth=truth is not None)
    _heatmaps(board, scored)


def _provenance(request: CompareRequest, asked: CompareRequest) -> None:
    task = "your own prompts" if request.task == CUSTOM else request.task
    parts = [request.model, task, f"{request.examples} + {request.examples} prompts", f"seed {request.seed}"]
    stale = '<span class="d-tag stale">Settings changed since this run</span>' if asked != request else ""
    st.html(f'<div class="d-eyebrow">{stale}<span>{escape_html(" · ".join(parts))}</span></div>')


def sentence(board: Board) -> str:
    """What came out so far, in plain words."""
    asked = len(board.request.methods)
    scored = [line for line in board.lines if line.scores is not None]
    if len(board.lines) < asked and _job_runs():
        return f"{len(board.lines)} of {plural(asked, 'method')} {'is' if len(board.lines) == 1 else 'are'} done."
    if not scored:
        return "No method gave scores."
    if board.truth is not None:
        best = max(scored, key=lambda line: line.auc or 0.0)
        kind = "measured" if board.truth.name == "measured" else f"“{board.truth.name}”"
        return (
            f"{best.title} ranks the {kind} circuit best: ROC AUC {share(best.auc or 0.0)} in {seconds(best.seconds)}."
        )
    if len(scored) == 1:
        return f"{scored[0].title} took {seconds(scored[0].seconds)}; choose a second method to compare."
    frame = comparison.agreement(scored)
    others = frame[frame["first"] != frame["second"]].dropna()
    if others.empty:
        return f"{plural(len(scored), 'method')} ranked the heads; no two of them can be correlated."
    alike = others.sort_values("correlation", ascending=False, kind="stable").iloc[0]
    return (
        f"{alike['first']} and {alike['second']} order the heads most alike: rank correlation "
        f"{_signed(float(alike['correlation']))}."
    )


def _notes(board: Board) -> str:
    said = [board.note] if board.note else []
    if board.lines and board.truth is None:
        said.append("No circuit is known for this model and these prompts, so nothing says which method is right.")
    elif board.truth is not None:
        said.append(
            f"Against {plural(len(board.truth), 'head')} of the {board.truth.name} circuit of {board.truth.model} on "
            f"{board.truth.task}. One draw of prompts: another seed moves these figures."
        )
    said += [f"{line.title}: {line.error}" for line in board.lines if line.error]
    return "".join(f'<p class="d-note">{escape_html(note)}</p>' for note in said)


def _table(table: pd.DataFrame, size: int) -> None:
    said = "click a column to sort by it" + (
        f"; a circuit of {size} best heads has as much precision as recall" if size else ""
    )
    heading("Methods", said, lambda: table, "compare_methods")
    number, columns = st.column_config.NumberColumn, st.column_config.TextColumn
    st.dataframe(
        table.drop(columns="name"),
        hide_index=True,
        key="compare_table",
        column_config={
            "method": columns("Method", help="Methods and baselines, see About."),
            "needs": columns("Needs", help="What it takes beside prompt pairs."),
            "auc": number(
                "ROC AUC",
                format="%.3f",
                help="Chance that a head of the circuit outscores one outside it; .5 is chance.",
            ),
            "average_precision": number(
                "Average precision", format="%.3f", help="Area under the precision-recall curve."
            ),
            "at_size": number(
                f"Precision = recall at {size}",
                format="%.3f",
                help="Share of the best heads, as many as the circuit has, that are in it; recall is the same number.",
            ),
            "seconds": number("Seconds", format="%.2f", help="Wall time here, without loading the model."),
        },
    )


def _overviews(scored: list[Line], table: pd.DataFrame, *, has_truth: bool) -> None:
    if len(scored) < 2:
        return
    agreement = comparison.agreement(scored)
    left, right = st.columns(2, gap="large") if has_truth else (None, st.container(width=760))
    if left is not None:
        with left:
            chart(
                "Accuracy and cost",
                "up and to the left is better",
                charts.cost_chart(table),
                lambda: table,
                key="compare_cost",
            )
    with right:
        chart(
            "Agreement",
            "rank correlation (Spearman) of the scores of two methods",
            charts.agreement_map(agreement),
            lambda: agreement,
            key="compare_agreement",
        )


def _heatmaps(board: Board, scored: list[Line]) -> None:
    title, control = st.columns([3, 1], vertical_alignment="bottom")
    with control:
        scale = st.segmented_control(
            "Shade by",
            list(SCALES),
            format_func=SCALES.__getitem__,
            key=_seeded("scale", st.session_state.get(_SCALE, "rank")),
            required=True,
            help="Rank: the share of heads that a head outscores, so that methods can be compared. Maximum: its score "
            "as a share of the method's highest.",
        )
    scale = scale or "rank"
    st.session_state[_SCALE] = scale
    how = (
        "the stronger, the more heads a head outscores"
        if scale == "rank"
        else "the stronger, the nearer to the best head"
    )
    with title:
        st.html(f'<div class="d-title">Where each method sees it<span>{how}</span></div>')
        if board.truth is not None:
            _legend(f"each method's best {len(board.truth)} heads")
    for start in range(0, len(scored), IN_A_ROW):
        for column, line in zip(st.columns(IN_A_ROW, gap="medium"), scored[start : start + IN_A_ROW], strict=False):
            with column:
                _small(line, board, scale)


def _small(line: Line, board: Board, scale: charts.Scale) -> None:
    heads = comparison.heads(line, board.truth)
    auc = f"ROC AUC {share(line.auc)}" if line.auc is not None else seconds(line.seconds)
    chart(line.title, auc, charts.small_heatmap(heads, scale), lambda: heads, key=f"compare_heads_{line.method}")


def _legend(said: str) -> None:
    marks = (("tp", TRUE_POSITIVE), ("fp", FALSE_POSITIVE), ("missed", MISSED))
    entries = "".join(f'<span><i class="d-mark {name}"></i>{text}</span>' for name, text in marks)
    st.html(f'<div class="d-legend">{entries}<span>{said}</span></div>')


# --- two runs ----------------------------------------------------------------------------------------------


def _runs() -> None:
    try:
        entries = library().entries(limit=LISTED_RUNS)
    except UserError as error:
        st.html('<h1 class="d-headline">The kept runs cannot be read.</h1>')
        st.error(escape_markdown(error))
        return
    choices = {entry.id: _choice(entry) for entry in entries}
    if stored_demo() is not None:
        choices[0] = "The stored demo · smollm2-135m, ten pairs of the IOI task"
    if len(choices) < 2:
        _too_few(len(choices))
        return
    first, second = _choose(choices)
    try:
        a, b = _view(first), _view(second)
        difference = Difference(a, b)
    except UserError as error:
        st.html('<h1 class="d-headline">These two cannot be compared.</h1>')
        st.error(escape_markdown(error))
        return
    if first == second:
        st.html('<p class="d-note stale">This is one run twice; choose another for B.</p>')
    _difference(difference, f"{first}_{second}")


def _too_few(n: int) -> None:
    st.html(
        '<h1 class="d-headline">Two runs are needed.</h1>'
        f'<p class="d-note">{plural(n, "run")} {"is" if n == 1 else "are"} kept. Runs are kept by themselves as they '
        "finish on Discover.</p>"
    )
    if st.button("Go to Discover", type="primary", help="Open the page that starts runs."):
        routes.go("discover")


def _choice(entry: Entry) -> str:
    return f"{entry.title} · {entry.model}, {local_time(entry.kept, st.context.timezone)}"


def _choose(choices: dict[int, str]) -> tuple[int, int]:
    """The two runs; the latest two at first."""
    ids = list(choices)
    kept = st.session_state.get(_PAIR, (None, None))
    first = kept[0] if kept[0] in choices else ids[0]
    second = kept[1] if kept[1] in choices else next(number for number in ids if number != first)
    for key in ("compare_a", "compare_b"):
        if st.session_state.get(key, first) not in choices:  # somebody deleted it
            del st.session_state[key]
    chosen = []
    with st.sidebar:
        for name, start in zip("AB", (first, second), strict=True):
            number = st.selectbox(
                f"Run {name}",
                ids,
                format_func=lambda number: choices.get(number, ""),
                key=_seeded(name.lower(), start),
                help="One of the runs that are kept, the latest first.",
            )
            st.caption(escape_markdown(choices[number]))
            chosen.append(int(number))
        st.caption("Runs come from Discover and from files imported on Runs.")
    st.session_state[_PAIR] = (chosen[0], chosen[1])
    return chosen[0], chosen[1]


def _view(number: int) -> View:
    """A run, kept in the session while it is compared."""
    if number == 0:
        demo = stored_demo()
        assert demo is not None
        return demo
    views: dict[int, View] = st.session_state.setdefault(_VIEWS, {})
    if number not in views:
        while len(views) >= 4:
            del views[next(iter(views))]
        views[number] = View.of(library().load(number))
    return views[number]


def difference_sentence(found: Difference) -> str:
    """What two runs have in common, in plain words."""
    overlap = found.overlap
    both, first, second = (overlap[side] for side in ("both", "first", "second"))
    verb = "is" if both == 1 else "are"
    return f"A finds {plural(both + first, 'head')}, B finds {both + second}; {both} of them {verb} the same."


def _difference(found: Difference, key: str) -> None:
    said = comparison.same_question(found.first, found.second)
    note = f'<p class="d-note stale">{escape_html(said)}</p>' if said else ""
    names = f"A: {_described(found.first)} — B: {_described(found.second)}"
    st.html(
        f'<div class="d-eyebrow"><span>{escape_html(names)}</span></div>'
        f'<h1 class="d-headline">{escape_html(difference_sentence(found))}</h1>{note}'
    )
    _figures(found)
    chart(
        "Difference",
        "the stronger, the more one run ranks a head above the other; circuits at their first thresholds: A, B, ● both",
        charts.difference_map(found.heads),
        lambda: found.heads,
        key=f"compare_difference_{key}",
    )
    if found.first.truth is not None:
        _legend(f"each run's best {len(found.first.truth)} heads")
    columns = st.columns(2, gap="large")
    for column, name, view in zip(columns, "AB", (found.first, found.second), strict=True):
        line = Line(view.discovery.task, view.discovery.node_scores, 0.0)
        with column:
            _run_heatmap(name, view, comparison.heads(line, view.truth), f"compare_{name}_{key}")
    left, right = st.columns(2, gap="large")
    with left:
        chart(
            "Every head, twice",
            "the best to the upper right; on the diagonal both runs rank it alike",
            charts.rank_scatter(found.heads),
            lambda: found.heads,
            key=f"compare_scatter_{key}",
        )
    with right:
        _changed(found, key)


def _run_heatmap(name: str, view: View, heads: pd.DataFrame, key: str) -> None:
    chart(
        f"Run {name}",
        f"{_described(view)}; shaded by rank",
        charts.small_heatmap(heads, "rank"),
        lambda: heads,
        key=key,
    )


def _described(view: View) -> str:
    """Task, settings and prompts; the last part tells runs of one task apart."""
    found, request = view.discovery, RunRequest.of(view.discovery)
    options = "".join(f", {name} {value}" for name, value in request.options)
    prompts = f"{found.n_positive} + {found.codes.shape[0] - found.n_positive} prompts"
    return f"{task_title(found.task)}, {request.method}, seed {request.seed}, {prompts}{options}"


def _figures(found: Difference) -> None:
    overlap, union = found.overlap, max(sum(found.overlap.values()), 1)
    values = [
        (str(overlap["both"]), "heads in both", "Heads at or above the threshold that either run starts with"),
        (str(overlap["first"]), "in A alone", "Heads at or above A's first threshold and below B's"),
        (str(overlap["second"]), "in B alone", "Heads at or above B's first threshold and below A's"),
        (share(overlap["both"] / union), "overlap", "Heads in both as a share of those in either (Jaccard)"),
        (_signed(found.correlation), "rank correlation", "Spearman correlation of the scores of all heads"),
    ]
    for name, view in (("A", found.first), ("B", found.second)):
        if view.evaluation is not None:
            values.append((share(view.evaluation.auc), f"ROC AUC of {name}", "Against the circuit stored for it"))
    blocks = "".join(
        f'<div class="d-figure" title="{escape_html(why)}"><b>{value}</b><span>{name}</span></div>'
        for value, name, why in values
    )
    st.html(f'<div class="d-figures">{blocks}</div>')


def _signed(value: float) -> str:
    return "none" if value != value else ("-" if value < 0 else "") + share(abs(value))


def _changed(found: Difference, key: str) -> None:
    changed = found.most_changed(MOST_CHANGED)[["name", "change", "first_rank", "second_rank", "found"]]
    changed = changed.assign(
        found=changed["found"].map({"both": "both", "first": "A", "second": "B", "neither": "neither"})
    )
    heading(
        "Heads that changed most",
        "of those that a run finds or ranks in its upper tenth",
        lambda: changed,
        f"compare_changed_{key}",
    )
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    st.dataframe(
        changed,
        hide_index=True,
        column_config={
            "name": text("Head", help="layer.head"),
            "change": number("Change", format="%+.2f", help="B less A in the share of heads that it outscores."),
            "first_rank": number("Rank in A", help="1 is the best."),
            "second_rank": number("Rank in B", help="1 is the best."),
            "found": text("In the circuit of", help="At or above the threshold that run starts with."),
        },
    )
