"""The top of a result: where it comes from, the sentence that says what was found, the figures."""

from __future__ import annotations

import json
from collections.abc import Callable

import streamlit as st

from dsae_core.circuits import Head
from dsae_core.errors import UserError
from dsae_core.limits import demo_limits
from dsae_core.significance import RATE
from dsae_core.ui import sharing, state
from dsae_core.ui.charts import curves
from dsae_core.ui.charts.circuit_graph import circuit_graph
from dsae_core.ui.charts.heatmap import heatmap
from dsae_core.ui.charts.style import Drawing, Grid
from dsae_core.ui.request import CUSTOM, RunRequest
from dsae_core.ui.runs import model_at_hand, notes_of
from dsae_core.ui.sections.files import colours, file_button, picture_buttons
from dsae_core.ui.state import Shown
from dsae_core.ui.text import escape_html, plural, rate, share
from dsae_core.ui.view import FALSE_POSITIVE, FOUND, MISSED, TRUE_POSITIVE, View

_MARKS = {TRUE_POSITIVE: "tp", FALSE_POSITIVE: "fp", MISSED: "missed", FOUND: "tp"}
"""Status to the class of its mark."""

FIRST_EDGES = 40
INTRODUCTION = (
    "Which attention heads make the model complete “{positive}” with “{answer}”? Each such prompt, a positive, has a "
    "near-copy on which that cannot happen, its negative{swap}, and a head scores by how differently it writes on the "
    "two. About explains the words."
)
NEXT = (
    "This demo was computed beforehand. Press Run discovery to compute it here, or first choose another task, or your "
    "own prompts, in the settings."
)


def provenance(shown: Shown, asked: RunRequest | None) -> None:
    """One line: the settings of this result, whether it is stored, whether the sidebar has moved on."""
    tag = '<span class="d-tag">Stored demo</span>' if shown.stored else ""
    if asked is not None and asked != shown.request:
        tag += '<span class="d-tag stale">Settings changed since this run</span>'
    with st.container(key="result_head", horizontal=True, vertical_alignment="center", wrap=False):
        st.html(f'<div class="d-eyebrow">{tag}<span>{escape_html(described(shown))}</span></div>')
        _menus(shown)


def described(shown: Shown) -> str:
    """What a result is a result of, in one line."""
    request, n_all = shown.request, shown.view.discovery.codes.shape[0]
    return " · ".join(
        [
            request.model or "unknown model",
            "your own prompts" if request.task == CUSTOM else request.task,
            f"{request.examples} + {n_all - request.examples} prompts",
            request.method,
            f"seed {request.seed}",
            *(f"{name} {value}" for name, value in request.options),
        ]
    )


@st.fragment
def _menus(shown: Shown) -> None:
    """Share and Export; what is in them is made when they are opened, at the threshold of that moment."""
    threshold = float(st.session_state.get(f"{shown.key}_threshold", shown.view.start))
    with st.container(key="result_menus", horizontal=True, width="content", wrap=False, gap="small"):
        share_menu = st.popover(
            "Share", key="share_menu", on_change="rerun", help="A link to this run, and Python that repeats it."
        )
        export_menu = st.popover(
            "Export", key="export_menu", on_change="rerun", help="Save this result and its charts as files."
        )
    if share_menu.open:
        with share_menu:
            _share(shown, threshold)
    if export_menu.open:
        with export_menu, st.container(gap="xxsmall"):
            _export(shown, threshold)


def _share(shown: Shown, threshold: float) -> None:
    if sharing.carries_prompts(shown.request):
        _menu_title("Link", _opens(shown.request))
        link = sharing.link(st.context.url, shown.request, threshold)
        st.code(link, language=None, wrap_lines=True, height=_code_height(3))
    else:
        _menu_title("Link", "these prompts are too long for one; send the Discovery file, which Runs can import")
    _menu_title("Python", "repeats this run")
    try:
        snippet = sharing.python(shown.view.discovery, threshold)
    except UserError as error:
        st.html(f'<p class="d-note">{escape_html(error)}</p>')
        return
    st.code(snippet, height=_code_height(snippet.count("\n")))


def _opens(request: RunRequest) -> str:
    """What a link to a run does, and what it gives away."""
    words = "opens these settings" if demo_limits() else "opens these settings, and the result where this server has it"
    if request.task == CUSTOM:
        words += "; it contains the prompts"
    if sharing.is_local(st.context.url):
        words += ". It works on this computer only: to others send the Discovery file"
    return words


def _code_height(lines: int) -> int:
    """Pixels for so many lines of code, fourteen at most; the rest scrolls."""
    return 34 + 22 * min(lines, 14)


def _export(shown: Shown, threshold: float) -> None:
    view, stem = shown.view, sharing.file_stem(shown.request)
    discovery = view.discovery
    _menu_title("Data")
    _file(
        "Discovery (JSON)",
        discovery.to_json,
        f"{stem}.json",
        "Everything: scores, codes, settings, prompts. Runs and read_discovery() read it back.",
    )
    _file(
        "Scores (CSV)",
        lambda: discovery.to_frame().to_csv(index=False),
        f"{stem}-scores.csv",
        "One row a head, best first.",
    )
    _file(
        "Circuit (JSON)",
        lambda: sharing.circuit_json(discovery.circuit(threshold=threshold)),
        f"{stem}-circuit.json",
        "The heads found at the present threshold, as read_circuit() reads them.",
    )
    model = model_at_hand(discovery.model_name)
    shape = sharing.ModelShape.stored(discovery.model_name) if model is None else sharing.ModelShape.of(model)
    _file(
        "Graph (JSON)",
        lambda: json.dumps(sharing.circuit_graph(discovery, threshold, shape)) if shape else "",
        f"{stem}-graph.json",
        "Nodes and edges at the present threshold, as EAP-IG and the MIB circuit track read them."
        if shape
        else "For circuit evaluators. It needs the model's width, which is known once the model has run here.",
        disabled=shape is None,
    )
    _menu_title("Charts", "at the present threshold")
    _pictures(shown, threshold, stem)


def _pictures(shown: Shown, threshold: float, stem: str) -> None:
    edges = int(st.session_state.get(f"{shown.key}_edges", FIRST_EDGES))
    charts = pictures(shown.view, threshold, edges, state.selected_head())
    title = st.selectbox("Chart", list(charts), key="export_chart", help="Which chart to save as a picture.")
    mode = colours("export_mode")
    draw, width = charts[title]
    name = f"{stem}-{title.lower().replace(' ', '-')}"
    with st.container(horizontal=True, gap="small"):
        picture_buttons(draw, title, caption(shown, threshold, title), name, mode=mode, width=width, key="file")


def caption(shown: Shown, threshold: float, title: str) -> str:
    """What stands below the title of a saved chart: the run, the threshold, and what its marks mean."""
    words = [described(shown), f"threshold {threshold:g}"]
    if title in ("Scores", "Circuit") and shown.view.truth is not None:
        missed = "dashed" if title == "Scores" else "square"
        words.append(f"dot: {TRUE_POSITIVE}; diamond: {FALSE_POSITIVE}; {missed}: {MISSED}")
    return " · ".join(words)


def pictures(view: View, threshold: float, edges: int, head: Head) -> dict[str, tuple[Callable[[], Drawing], int]]:
    """The charts that can be saved: what draws each, and its width in pixels, by title."""
    grid = Grid.of(view.heads, has_truth=view.truth is not None)
    evaluation, confusion = view.evaluation, view.confusion(threshold)
    found: dict[str, tuple[Callable[[], Drawing], int]] = {
        "Scores": (lambda: heatmap(grid, view.at(threshold), head), sharing.WIDE),
        "Circuit": (
            lambda: circuit_graph(grid, view.at(threshold), view.edges(threshold, edges), head),
            sharing.WIDE,
        ),
        "Ranked scores": (lambda: curves.ranked_scores(grid, view.at(threshold), threshold, head), sharing.NARROW),
    }
    if evaluation is not None and confusion is not None:
        found["Precision and recall"] = (lambda: curves.precision_recall(evaluation, confusion), sharing.NARROW)
        found["ROC curve"] = (lambda: curves.roc(evaluation, confusion), sharing.NARROW)
    return found


def _menu_title(title: str, subtitle: str = "") -> None:
    st.html(f'<div class="d-title">{escape_html(title)}<span>{escape_html(subtitle)}</span></div>')


def _file(label: str, content: Callable[[], str | bytes], name: str, why: str, *, disabled: bool = False) -> None:
    file_button(label, content, name, why, key=f"file_{label}", disabled=disabled)


OFF = 0.2
"""By so much the share of found heads outside a known circuit may exceed the estimated one before the page says so."""

NOISE = 0.5
"""Where more than this share of the found heads is estimated to be ordinary, none of them stands out."""


def introduction(view: View) -> str:
    """What the tool does, on the first of the prompts on show."""
    pairs = view.discovery.prompts
    if pairs is None or not pairs.has_answers:
        return ""
    answer, positive, negative = pairs.answer[0], pairs.positive[0], pairs.negative[0]
    word = (answer if isinstance(answer, str) else answer[0]).strip()
    swaps = [(a, b) for a, b in zip(positive.split(), negative.split(), strict=False) if a != b]
    swap = f" (here with “{swaps[0][1]}” for “{swaps[0][0]}”)" if len(swaps) == 1 else ""
    return INTRODUCTION.format(positive=positive, answer=word, swap=swap)


def sentence(view: View, threshold: float) -> str:
    """What was found at a threshold, in plain words."""
    found = int((view.heads["score"] >= threshold).sum())
    pairs = plural(view.discovery.n_positive, "prompt pair")
    verb = "points" if view.discovery.n_positive == 1 else "point"
    if view.top_score <= 0:
        return f"In {pairs}, no head has a code that only the positives produce."
    if found == 0:
        return f"No head of {len(view.heads)} reaches this threshold; the best has less."
    start = f"{pairs} {verb} to {found} of {plural(len(view.heads), 'head')}"
    confusion = view.confusion(threshold)
    if confusion is None or view.truth is None:
        ordinary = view.rate(threshold)
        if ordinary is None or ordinary <= NOISE:
            return f"{start}."
        return f"No head stands out: of the {found} best, an estimated {round(ordinary * found)} are ordinary heads."
    kind = "measured" if view.truth.name == "measured" else f"“{view.truth.name}”"
    circuit = f"in the {kind} circuit of {len(view.truth)}"
    hits = confusion.true_positives
    if found == 1:
        return f"{start}; it is {'' if hits else 'not '}{circuit}."
    return f"{start}; {hits or 'none'} of them {'is' if hits < 2 else 'are'} {circuit}."


def doubt(view: View, threshold: float) -> str:
    """Why the heads found at a threshold are not to be taken at their word, "" where nothing speaks against it."""
    if not view.has_rates:
        return ""
    confusion, ordinary = view.confusion(threshold), view.rate(threshold)
    if confusion is not None and ordinary is not None and 1 - confusion.precision > ordinary + OFF:
        found = confusion.true_positives + confusion.false_positives
        return (
            f"The estimate is off here: {confusion.false_positives} of {plural(found, 'found head')} "
            f"{'is' if confusion.false_positives == 1 else 'are'} outside the known circuit. Heads may carry a "
            "difference between the two sides that the answer does not use. Validate the circuit below, or compare "
            "with attribution patching."
        )
    if confusion is None and view.lowest_rate > RATE:
        return (
            f"No threshold gets down to an estimated {RATE:.0%} of ordinary heads; it starts where the ranked scores "
            "bend. More pairs, or negatives closer to their positives, help."
        )
    return ""


def headline(view: View, threshold: float, *, introduced: bool = False, following: bool = False) -> None:
    """The sentence, what warns of it, what it rests on.

    Args:
        view: the result.
        threshold: that of the page.
        introduced: whether to say what the tool does, for somebody who has not run it yet.
        following: whether to say what to do after the stored demo.
    """
    found = view.discovery
    warnings = [*found.warnings, *notes_of(found.model_name), *filter(None, [doubt(view, threshold)])]
    notes = [(f"△ {warning}", "d-note stale") for warning in dict.fromkeys(warnings)]
    notes += [(note, "d-note") for note in (_basis(view), NEXT if following else "", _visit())]
    first = introduction(view) if introduced else ""
    before = f'<p class="d-note first">{escape_html(first)}</p>' if first else ""
    text = "".join(f'<p class="{kind}">{escape_html(note)}</p>' for note, kind in notes if note)
    st.html(f'{before}<h1 class="d-headline">{escape_html(sentence(view, threshold))}</h1>{text}')


def _visit() -> str:
    """What a visitor of a public demo should know."""
    limits = demo_limits()
    if limits is None:
        return ""
    return (
        f"Public demo: up to {limits.pairs} pairs a run, and runs go when you reload or close this page. Export what "
        "you want to keep."
    )


def _basis(view: View) -> str:
    if view.evaluation is not None and view.truth is not None:
        n = plural(len(view.truth), "head")
        how = (
            f"Checked against the {n} whose output, swapped for that on the negative, changes the answer by 2 % or more"
            if view.truth.name == "measured"
            else f"Checked against {n} of a published circuit"
        )
        return (
            f"{how}; the scores do not know them. "
            f"A head of the circuit outscores one outside it {100 * view.evaluation.auc:.0f} % of the time."
        )
    without = "Precision, recall and their curves need a known circuit; scores, graph and codes do not."
    if view.discovery.task == CUSTOM:
        return f"No circuit is known for your own prompts. {without}"
    command = f"dsae ground-truth --model {view.discovery.model_name} --task {view.discovery.task}"
    return f"No circuit is stored for this model and task; “{command}” measures one. {without}"


def figures(view: View, threshold: float) -> None:
    """The numbers at this threshold, then those of the whole ranking."""
    found = int((view.heads["score"] >= threshold).sum())
    values = [("heads found", str(found), "Heads with a score at or above the threshold")]
    estimated = view.rate(threshold)
    if estimated is not None:
        why = (
            "Estimated share of the found heads that score as ordinary heads do, judged by all scores and no circuit: "
            "their false discovery rate (FDR)"
        )
        values.append(("FDR (est.)", rate(estimated), why))
    confusion, evaluation = view.confusion(threshold), view.evaluation
    if confusion is not None and evaluation is not None:
        values += [
            ("precision", share(confusion.precision), "Share of the found heads that are in the circuit"),
            ("recall", share(confusion.recall), "Share of the circuit's heads that are found"),
            ("ROC AUC", share(evaluation.auc), "Chance that a head of the circuit outscores one outside it"),
            (
                "average precision",
                share(evaluation.average_precision),
                f"Area under the precision-recall curve; chance gives {share(evaluation.n_true / evaluation.n_heads)}",
            ),
        ]
    blocks = "".join(
        f'<div class="d-figure" tabindex="0" data-help="{escape_html(why)}."><b>{value}</b><span>{name}</span></div>'
        for name, value, why in values
    )
    st.html(f'<div class="d-figures">{blocks}</div>')


def legend(view: View, threshold: float) -> None:
    """The three marks that all charts share, with their counts."""
    counts = view.at(threshold)["status"].value_counts()
    names = [FOUND] if view.truth is None else [TRUE_POSITIVE, FALSE_POSITIVE, MISSED]
    entries = []
    for name in names:
        mark = f'<i class="d-mark {_MARKS[name]}"></i>'
        entries.append(f"<span>{mark}<b>{int(counts.get(name, 0))}</b> {escape_html(name)}</span>")
    st.html(f'<div class="d-legend">{"".join(entries)}</div>')
