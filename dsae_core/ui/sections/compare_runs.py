"""Two kept runs, head by head."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from dsae_core.errors import UserError
from dsae_core.ui import comparison, routes, sharing
from dsae_core.ui.charts import comparison as charts
from dsae_core.ui.comparison import Difference, Line
from dsae_core.ui.demo import stored_demo
from dsae_core.ui.library import Entry, library, task_title
from dsae_core.ui.request import RunRequest
from dsae_core.ui.sections.charts import chart, heading
from dsae_core.ui.sections.compare_board import correlation_text, legend
from dsae_core.ui.sections.seeds import seeded
from dsae_core.ui.text import escape_html, escape_markdown, local_time, plural, share, signed
from dsae_core.ui.view import View

MOST_CHANGED = 10
LISTED_RUNS = 200

_PAIR, _VIEWS = "compare_pair", "compare_views"


def compare_with(number: int) -> None:
    """Have a kept run as run A, and another one as run B."""
    st.session_state[_PAIR] = (number, None)
    for key in ("compare_a", "compare_b"):
        st.session_state.pop(key, None)


def runs() -> None:
    """Draw the choice of two runs and how they differ."""
    try:
        entries = library().entries(limit=LISTED_RUNS)
    except UserError as error:
        st.html('<h1 class="d-headline">The kept runs cannot be read.</h1>')
        st.error(escape_markdown(error))
        return
    choices = {entry.id: choice(entry, st.context.timezone) for entry in entries}
    asked = {entry.id: (entry.model, entry.task) for entry in entries}
    if (demo := stored_demo()) is not None:
        choices[0] = "The stored demo · smollm2-135m, ten pairs of the IOI task"
        asked[0] = (demo.discovery.model_name, demo.discovery.task)
    if len(choices) < 2:
        _too_few(len(choices))
        return
    first, second = _choose(choices, asked)
    try:
        a, b = _view(first), _view(second)
        difference = Difference(a, b)
    except UserError as error:
        st.html('<h1 class="d-headline">These two cannot be compared.</h1>')
        st.error(escape_markdown(error))
        return
    if first == second:
        st.html('<p class="d-note stale">This is one run twice; choose another for B.</p>')
    names = {entry.id: entry.name for entry in entries}
    _difference(difference, f"{first}_{second}", [names.get(number, "the stored demo") for number in (first, second)])


def _too_few(n: int) -> None:
    st.html(
        '<h1 class="d-headline">Two runs are needed.</h1>'
        f'<p class="d-note">{plural(n, "run")} {"is" if n == 1 else "are"} kept. Runs are kept by themselves as they '
        "finish on Discover.</p>"
    )
    if st.button("Go to Discover", type="primary", help="Open the page that starts runs."):
        routes.go("discover")


def choice(entry: Entry, zone: str | None) -> str:
    """A run in a line, what tells it from others first: its name, or else its seed."""
    name = entry.name or f"seed {entry.seed} · {task_title(entry.task)}, {entry.method}"
    return f"{name} · {entry.model}, {local_time(entry.kept, zone)}"


def alike(asked: Mapping[int, Hashable], first: int | None = None) -> tuple[int, int]:
    """The latest two runs that were asked the same; the latest two where no two were.

    Args:
        asked: by run, the latest first, what it was asked; two runs or more.
        first: one of them, where it is given already.
    """
    firsts = list(asked) if first is None else [first]
    pairs = [(a, b) for a in firsts for b in asked if b != a]
    return next((pair for pair in pairs if asked[pair[0]] == asked[pair[1]]), pairs[0])


def _choose(choices: dict[int, str], asked: Mapping[int, Hashable]) -> tuple[int, int]:
    """The two runs; at first the latest two of one model and task."""
    ids = list(choices)
    kept = st.session_state.get(_PAIR, (None, None))
    first, second = alike(asked, kept[0] if kept[0] in choices else None)
    if kept[1] in choices:
        second = kept[1]
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
                key=seeded(f"compare_{name.lower()}", start),
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


def _difference(found: Difference, key: str, names: Sequence[str]) -> None:
    """How two runs differ; `names` are those that somebody gave them, "" where nobody did."""
    said = comparison.same_question(found.first, found.second)
    note = f'<p class="d-note stale">{escape_html(said)}</p>' if said else ""
    described = [_described(view, name) for view, name in zip((found.first, found.second), names, strict=True)]
    st.html(
        f'<div class="d-eyebrow"><span>{escape_html(f"A: {described[0]} — B: {described[1]}")}</span></div>'
        f'<h1 class="d-headline">{escape_html(difference_sentence(found))}</h1>{note}'
    )
    _figures(found)
    chart(
        "Difference",
        "the stronger, the more one run ranks a head above the other; circuits at their first thresholds: A, B, ● both",
        charts.difference_map(found.heads),
        lambda: found.heads,
        key=f"compare_difference_{key}",
        width=sharing.WIDE,
    )
    if said := marked(found.first, found.second):
        legend(said)
    columns = st.columns(2, gap="large")
    for column, side, view, words in zip(columns, "AB", (found.first, found.second), described, strict=True):
        line = Line(view.discovery.task, view.discovery.node_scores, 0.0)
        with column:
            _run_heatmap(side, words, comparison.heads(line, view.truth), f"compare_{side}_{key}")
    left, right = st.columns(2, gap="large")
    with left:
        chart(
            "Every head, twice",
            "the best to the upper right; on the diagonal both runs rank it alike",
            charts.rank_scatter(found.heads),
            lambda: found.heads,
            key=f"compare_scatter_{key}",
            width=sharing.HALF,
        )
    with right:
        _changed(found, key)


def marked(first: View, second: View) -> str:
    """Whose heads the marks of the small heatmaps are on, "" where no circuit is known."""
    sizes = {name: len(view.truth) for name, view in zip("AB", (first, second), strict=True) if view.truth is not None}
    if len(sizes) == 1:
        ((name, size),) = sizes.items()
        return f"run {name}'s best {size} heads; no circuit is known for run {'B' if name == 'A' else 'A'}"
    if len(set(sizes.values())) == 1:
        return f"each run's best {sizes['A']} heads"
    return "each run's best heads, as many as its circuit has" if sizes else ""


def _run_heatmap(side: str, words: str, heads: pd.DataFrame, key: str) -> None:
    chart(
        f"Run {side}",
        f"{words}; shaded by rank",
        charts.small_heatmap(heads, "rank"),
        lambda: heads,
        key=key,
        width=sharing.HALF,
    )


def _described(view: View, name: str) -> str:
    """A run's name where it has one, task, settings and prompts; the last part tells runs of one task apart."""
    found, request = view.discovery, RunRequest.of(view.discovery)
    options = "".join(f", {name} {value}" for name, value in request.options)
    prompts = f"{found.n_positive} + {found.codes.shape[0] - found.n_positive} prompts"
    named = f"{name}, " if name else ""
    return f"{named}{task_title(found.task)}, {request.method}, seed {request.seed}, {prompts}{options}"


def _figures(found: Difference) -> None:
    overlap, union = found.overlap, max(sum(found.overlap.values()), 1)
    values = [
        (str(overlap["both"]), "heads in both", "Heads at or above the threshold that either run starts with"),
        (str(overlap["first"]), "in A alone", "Heads at or above A's first threshold and below B's"),
        (str(overlap["second"]), "in B alone", "Heads at or above B's first threshold and below A's"),
        (share(overlap["both"] / union), "overlap", "Heads in both as a share of those in either (Jaccard)"),
        (correlation_text(found.correlation), "rank correlation", "Spearman correlation of the scores of all heads"),
    ]
    for name, view in (("A", found.first), ("B", found.second)):
        if view.evaluation is not None:
            values.append((share(view.evaluation.auc), f"ROC AUC of {name}", "Against the circuit stored for it"))
    blocks = "".join(
        f'<div class="d-figure" title="{escape_html(why)}"><b>{value}</b><span>{name}</span></div>'
        for value, name, why in values
    )
    st.html(f'<div class="d-figures">{blocks}</div>')


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
    if changed.empty:
        st.html('<p class="d-note">Both runs rank these heads alike.</p>')
        return
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    st.dataframe(
        changed.style.format({"change": partial(signed, digits=2)}),
        hide_index=True,
        column_config={
            "name": text("Head", help="layer.head"),
            "change": number("Change", help="B less A in the share of heads that it outscores."),
            "first_rank": number("Rank in A", help="1 is the best."),
            "second_rank": number("Rank in B", help="1 is the best."),
            "found": text("In the circuit of", help="At or above the threshold that run starts with."),
        },
    )
