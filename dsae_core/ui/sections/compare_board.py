"""What a comparison of methods found: the table, what accuracy costs, agreement, and a heatmap a method."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from dsae_core.ui import comparison, sharing
from dsae_core.ui.charts import comparison as charts
from dsae_core.ui.comparison import Board, CompareRequest, Line
from dsae_core.ui.request import CUSTOM
from dsae_core.ui.sections.charts import chart, heading
from dsae_core.ui.sections.seeds import seeded
from dsae_core.ui.text import MINUS, escape_html, plural, seconds, share
from dsae_core.ui.view import FALSE_POSITIVE, MISSED, TRUE_POSITIVE

SCALES: dict[charts.Scale, str] = {"rank": "Rank", "max": "Maximum"}

IN_A_ROW = 3
"""Small heatmaps beside one another."""

_SCALE = "compare_kept_scale"


def results(board: Board, asked: CompareRequest, *, under_way: bool) -> None:
    """Draw what a comparison found so far.

    Args:
        board: the comparison.
        asked: the settings in the sidebar, which may have moved on.
        under_way: whether methods are still to come.
    """
    lines, truth = board.lines, board.truth
    scored = [line for line in lines if line.scores is not None]
    _provenance(board.request, asked)
    if lines or under_way:
        st.html(f'<h1 class="d-headline">{escape_html(sentence(board, under_way=under_way))}</h1>{_notes(board)}')
    if not scored:
        return
    table = comparison.table(scored, has_truth=truth is not None)
    scored.sort(key=lambda line: table["name"].tolist().index(line.method))
    _table(table, len(truth) if truth is not None else 0, method_width(board.request.methods))
    explain([line.method for line in scored])
    _overviews(scored, table, has_truth=truth is not None)
    _heatmaps(board, scored)


def _provenance(request: CompareRequest, asked: CompareRequest) -> None:
    task = "your own prompts" if request.task == CUSTOM else request.task
    parts = [request.model, task, f"{request.examples} + {request.examples} prompts", f"seed {request.seed}"]
    stale = '<span class="d-tag stale">Settings changed since this run</span>' if asked != request else ""
    st.html(f'<div class="d-eyebrow">{stale}<span>{escape_html(" · ".join(parts))}</span></div>')


def sentence(board: Board, *, under_way: bool) -> str:
    """What came out so far, in plain words."""
    asked = len(board.request.methods)
    scored = [line for line in board.lines if line.scores is not None]
    if len(board.lines) < asked and under_way:
        return f"{len(board.lines)} of {plural(asked, 'method')} {'is' if len(board.lines) == 1 else 'are'} done."
    if not scored:
        return "No method gave scores."
    if board.truth is not None:
        return _against_truth(scored, "measured" if board.truth.name == "measured" else f"“{board.truth.name}”")
    if len(scored) == 1:
        return f"{scored[0].title} took {seconds(scored[0].seconds)}; choose a second method to compare."
    frame = comparison.agreement(scored)
    others = frame[frame["first"] != frame["second"]].dropna()
    if others.empty:
        return f"{plural(len(scored), 'method')} ranked the heads; no two of them can be correlated."
    alike = others.sort_values("correlation", ascending=False, kind="stable").iloc[0]
    return (
        f"{alike['first']} and {alike['second']} order the heads most alike: rank correlation "
        f"{correlation_text(float(alike['correlation']))}."
    )


def _against_truth(scored: list[Line], kind: str) -> str:
    """The best method in a sentence; two of them where one has the best area and another the best precision."""
    best = max(scored, key=lambda line: (line.auc or 0.0, line.average_precision or 0.0))
    precise = max(scored, key=lambda line: (line.average_precision or 0.0, line.auc or 0.0))
    auc, precision = share(best.auc or 0.0), share(precise.average_precision or 0.0)
    if best is not precise and best.average_precision != precise.average_precision:
        return f"{best.title} has the best ROC AUC ({auc}), {precise.title} the best average precision ({precision})."
    figures = f"ROC AUC {auc}, average precision {precision}, in {seconds(best.seconds)}."
    return f"{best.title} ranks the {kind} circuit{' best' if len(scored) > 1 else ''}: {figures}"


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


def method_width(methods: Sequence[str]) -> int:
    """Pixels of the longest name; the column by itself would be as wide as those of the methods that are done first."""
    return 22 + 6 * max(len(comparison.method_title(method)) for method in methods)


def _table(table: pd.DataFrame, size: int, width: int) -> None:
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
            "method": columns("Method", width=width, help="What it scores heads by is said below the table."),
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


def explain(methods: Sequence[str]) -> None:
    """What methods score heads by, folded away."""
    with st.expander("What these methods are"):
        st.markdown(comparison.explained(methods))


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
                width=sharing.HALF,
            )
    with right:
        chart(
            "Agreement",
            "rank correlation (Spearman) of the scores of two methods",
            charts.agreement_map(agreement),
            lambda: agreement,
            key="compare_agreement",
            width=sharing.HALF,
        )


def _heatmaps(board: Board, scored: list[Line]) -> None:
    title, control = st.columns([3, 1], vertical_alignment="bottom")
    with control:
        scale = st.segmented_control(
            "Shade by",
            list(SCALES),
            format_func=SCALES.__getitem__,
            key=seeded("compare_scale", st.session_state.get(_SCALE, "rank")),
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
            legend(f"each method's best {len(board.truth)} heads")
    for start in range(0, len(scored), IN_A_ROW):
        for column, line in zip(st.columns(IN_A_ROW, gap="medium"), scored[start : start + IN_A_ROW], strict=False):
            with column:
                _small(line, board, scale)


def _small(line: Line, board: Board, scale: charts.Scale) -> None:
    heads = comparison.heads(line, board.truth)
    auc = f"ROC AUC {share(line.auc)}" if line.auc is not None else seconds(line.seconds)
    chart(line.title, auc, charts.small_heatmap(heads, scale), lambda: heads, key=f"compare_heads_{line.method}")


def legend(said: str) -> None:
    """The marks of small heatmaps, and whose heads have them."""
    marks = (
        ("tp framed", f"framed: {TRUE_POSITIVE}"),
        ("fp", f"diamond: {FALSE_POSITIVE}"),
        ("missed framed", f"dashed frame: {MISSED}"),
    )
    entries = "".join(f'<span><i class="d-mark {name}"></i>{text}</span>' for name, text in marks)
    st.html(f'<div class="d-legend">{entries}<span>{said}</span></div>')


def correlation_text(value: float) -> str:
    """A correlation with two digits, "none" where there is none: ".93", "−.12"."""
    return "none" if value != value else (MINUS if value < 0 else "") + share(abs(value))
