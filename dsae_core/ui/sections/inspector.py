"""The head inspector: one head's codes, where it attends, what it writes, and what patching it does."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from dsae_core.circuits import Head
from dsae_core.inspection import PatchEffect, PromotedTokens, TokenEffect
from dsae_core.prompts import PromptPairs
from dsae_core.ui import probes, sharing, state
from dsae_core.ui.charts import attention as attention_charts
from dsae_core.ui.charts.attention import attention_frame, attention_map
from dsae_core.ui.charts.effects import effects_frame, effects_map
from dsae_core.ui.charts.style import Drawing, Grid
from dsae_core.ui.sections import side
from dsae_core.ui.sections.charts import chart, finding, heading
from dsae_core.ui.sections.prompts import codes_table, facts, measured_on, prompts_and_codes
from dsae_core.ui.state import Shown
from dsae_core.ui.text import MINUS, decimal, escape_html, head_name, number, plural, signed, visible
from dsae_core.ui.view import CodeRow, View, is_head

PROMPTS, CODES, ATTENTION, OUTPUT = "Prompts", "Code table", "Attention", "Direct effect"
VIEWS = (PROMPTS, CODES, ATTENTION, OUTPUT)
TIMES, DASH = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
METRIC_WORDS = {"logit_difference": "logit difference", "probability_difference": "probability difference"}


def inspector(shown: Shown, grid: Grid) -> None:
    """Draw the inspector for the selected head."""
    view, key, head = shown.view, shown.key, state.selected_head()
    st.html(f'<h2 class="d-section" id="selected-head">Head {head_name(*head)}</h2>')
    text, controls = st.columns([5, 3], vertical_alignment="top", gap="large")
    with text:
        missing = lacking(view, answers=True, aligned=True)
        note = f"<br>Patching is not possible: {escape_html(missing)}" if missing else ""
        st.html(f'<p class="d-facts">{escape_html(facts(view, head))}{note}</p>')
    with controls, st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        _choose(view, head, key)
        _patch_button(view, head)
    with st.container():  # what comes and goes has one place, here and below, so that the rest keeps its own
        _patched(view, head)
    chosen = st.segmented_control(
        "What to look at",
        VIEWS,
        default=PROMPTS,
        required=True,
        key=f"{key}_view",
        label_visibility="collapsed",
        help="Prompts and codes come with the result; attention and direct effect ask the model.",
    )
    with st.container():
        _look(chosen, view, head, grid, key)


def _look(chosen: str, view: View, head: Head, grid: Grid, key: str) -> None:
    """Draw what is to be looked at of a head."""
    if chosen == CODES:
        _codes(view, head, key)
    elif chosen == ATTENTION:
        _attention(view, head, key)
    elif chosen == OUTPUT:
        _output(view, head, grid, key)
    else:
        prompts_and_codes(view, head, key)


def _choose(view: View, head: Head, key: str) -> None:
    """The keyboard's way to select a head."""
    ranked = view.heads.sort_values("rank")
    names = {name: (layer, n) for layer, n, name in zip(ranked["layer"], ranked["head"], ranked["name"], strict=True)}
    widget = f"{key}_head"
    st.session_state[widget] = head_name(*head)
    st.selectbox(
        "Head",
        list(names),
        key=widget,
        on_change=lambda: state.select_head(names[st.session_state[widget]]),
        help="Best first. Clicking a head in a chart does the same.",
    )


# --- patching ----------------------------------------------------------------------------------------------


def lacking(view: View, *, answers: bool, aligned: bool = False) -> str:
    """Why the model cannot be asked about this result, "" where it can."""
    pairs = view.discovery.prompts
    if pairs is None or not view.discovery.model_name:
        return "Only activations were given, so there is no model to ask."
    if answers and not pairs.has_answers:
        return "These prompts have no answers; add the columns answer and distractor, then run again."
    if aligned and (row := view.uneven_row) is not None:
        return f"Row {row}: positive and negative differ in length, and patching needs pairs of one length in tokens."
    return ""


def _patch_button(view: View, head: Head) -> None:
    problem = lacking(view, answers=True, aligned=True)
    asked = state.side_job("patch", head) is not None or state.side_result("patch", head) is not None
    st.button(
        "Patch this head",
        key="patch",
        disabled=bool(problem) or asked,
        on_click=_start_patch,
        args=(view, head),
        help=problem
        or "Have this head write on every positive what it writes on the negative, and see what becomes of the answer.",
    )


def _start_patch(view: View, head: Head) -> None:
    discovery, pairs = view.discovery, view.discovery.prompts
    if pairs is not None:
        side.start("patch", head, lambda: probes.patch_work(discovery, pairs, head), f"Patching {head_name(*head)}")


def _patched(view: View, head: Head) -> None:
    found: PatchEffect | None = side.outcome("patch", head)
    if found is not None and view.discovery.prompts is not None:
        finding(patch_sentence(found, head, METRIC_WORDS[view.discovery.prompts.metric]))
        if note := patch_note(view, found, head):
            st.html(f'<p class="d-note">{escape_html(note)}</p>')


def patch_note(view: View, found: PatchEffect, head: Head) -> str:
    """Why the effect just found is not the stored one, "" where none is stored."""
    stored = view.heads.loc[is_head(view.heads, head), "effect"].iloc[0]
    if pd.isna(stored):
        return ""
    here = plural(found.pairs, "pair")
    return f"This is on the {here} of this result; the {signed(stored, 1)} % above is on {measured_on(view)}."


def change_is_none(found: PatchEffect) -> bool:
    """Whether a head's patching changes the metric by less than is shown of it."""
    return decimal(found.metric_positive, 2) == decimal(found.metric_patched, 2) and abs(found.effect) < 0.005


def patch_sentence(found: PatchEffect, head: Head, metric: str) -> str:
    """What patching did, in plain words, with its interval."""
    name, share = head_name(*head), 100 * found.effect
    ends = (found.low, found.high) if found.effect >= 0 else (-found.high, -found.low)
    low, high = (signed(100 * end, 0) for end in ends)
    interval = f"95 % bootstrap interval {low} to {high} %, {found.pairs} pairs"
    change = f"from {decimal(found.metric_positive, 2)} to {decimal(found.metric_patched, 2)}"
    if found.pairs == 1:
        interval = "one pair, so no interval"
    elif found.low <= 0 <= found.high:
        interval += ": it includes 0, so this may be chance"
    if change_is_none(found):
        return f"Patching {name} changes nothing: the {metric} stays at {decimal(found.metric_positive, 2)}."
    if found.effect < 0:
        return (
            f"With {name} patched the {metric} rises {change}: the head works against the answer, by {-share:.0f} % "
            f"of what separates positives from negatives ({interval})."
        )
    return (
        f"With {name} patched the {metric} falls {change}; it is {decimal(found.metric_negative, 2)} on the negatives. "
        f"So the head carries {share:.0f} % of the difference ({interval})."
    )


# --- codes -------------------------------------------------------------------------------------------------


def _codes(view: View, head: Head, key: str) -> None:
    rows = view.code_rows(head)
    heading(
        f"Codes of head {head_name(*head)}",
        f"{plural(len(rows), 'code')}, those unique in the most pairs first; numbers under positives and negatives are "
        "pairs",
        lambda: code_frame(rows),
        f"{key}_code_table",
    )
    if not rows:
        st.html('<p class="d-note">This head has no code on any prompt: nothing it writes is strong enough.</p>')
        return
    st.html(f'<div class="d-scroll d-tall">{code_table(rows, view)}</div>')


def code_table(rows: Sequence[CodeRow], view: View) -> str:
    """Which code, whether unique, in which prompts, at which tokens, how strong; as HTML."""
    n, n_negative = view.discovery.n_positive, view.discovery.codes.shape[0] - view.discovery.n_positive
    strongest = max((row.activation for row in rows), default=0.0) or 1.0
    where = "" if view.pooled else "<th>At tokens</th>"
    why = "Pairs whose positive has it and no negative has" + ("" if view.pooled else " at the same position")
    head = (
        f'<th class="n">Code</th><th title="{why}">Unique</th><th>In positives</th><th>In negatives</th>{where}'
        '<th class="n">Strongest</th><th></th>'
    )
    body = "".join(_code_row(row, n, n_negative, strongest, pooled=view.pooled) for row in rows)
    return f'<table class="d-codes d-lines"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _code_row(row: CodeRow, n_positive: int, n_negative: int, strongest: float, *, pooled: bool) -> str:
    other = "shared" if row.positives else "negatives only"
    unique = f"● in {len(row.unique_in)}" if row.unique_in else f'<span class="d-faint">{other}</span>'
    tokens = "".join(
        f'<span class="d-chip">{escape_html(visible(text))}{f"<i>{TIMES}{count}</i>" if count > 1 else ""}</span>'
        for text, count in row.tokens[:8]
    )
    more = f"<span class='d-more'>and {len(row.tokens) - 8} more</span>" if len(row.tokens) > 8 else ""
    where = "" if pooled else f'<td class="chips">{tokens}{more}</td>'
    return (
        f'<tr><td class="n"><span class="d-code{"" if row.unique_in else " other"}">{row.code}</span></td>'
        f'<td class="nowrap{" yes" if row.unique_in else ""}">{unique}</td>'
        f"<td>{_prompts(row.positives, n_positive)}</td><td>{_prompts(row.negatives, n_negative)}</td>{where}"
        f'<td class="n">{number(row.activation)}</td>'
        f'<td class="bar"><i style="width: {100 * row.activation / strongest:.0f}%"></i></td></tr>'
    )


def _prompts(numbers: Sequence[int], n: int) -> str:
    """ "all 10", "none" or the prompts' numbers, runs of them shortened."""
    if not numbers:
        return '<span class="d-faint">none</span>'
    return f"all {n}" if len(numbers) == n and n > 1 else ranges(numbers)


def ranges(numbers: Sequence[int]) -> str:
    """ "1, 3–5, 9"."""
    parts: list[list[int]] = []
    for value in numbers:
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    words = (str(p[0]) if len(p) == 1 else f"{p[0]}, {p[1]}" if len(p) == 2 else f"{p[0]}{DASH}{p[-1]}" for p in parts)
    return ", ".join(words)


def code_frame(rows: Sequence[CodeRow]) -> pd.DataFrame:
    """The table as data: code, unique_in, positives, negatives, strongest, tokens."""
    return pd.DataFrame(
        [
            (
                row.code,
                " ".join(map(str, row.unique_in)),
                " ".join(map(str, row.positives)),
                " ".join(map(str, row.negatives)),
                row.activation,
                "|".join(f"{text}{TIMES}{count}" for text, count in row.tokens),
            )
            for row in rows
        ],
        columns=["code", "unique_in", "positives", "negatives", "strongest", "tokens"],
    )


# --- attention ---------------------------------------------------------------------------------------------


def _pair(pairs: PromptPairs, key: str) -> int:
    """The pair that is looked at, from 0; kept while other things are looked at."""
    kept = f"{key}_pair_kept"
    widget = f"{key}_pair"
    st.session_state.setdefault(widget, min(int(st.session_state.get(kept, 0)), len(pairs) - 1))
    row = st.selectbox(
        "Pair",
        range(len(pairs)),
        format_func=lambda i: f"{i + 1}  {pairs.positive[i]}",
        key=widget,
        help="The prompt pair to look at.",
    )
    st.session_state[kept] = int(row)
    return int(row)


def _shaded(view: View, head: Head, row: int) -> None:
    """The pair's two prompts with this head's unique codes, as in the table of all prompts."""
    rows = [r for r in view.prompt_rows(head) if r.number == row + 1]
    if any(r.cells for r in rows):
        st.html(f'<div class="d-scroll">{codes_table(rows, pooled=view.pooled)}</div>')


def _attention(view: View, head: Head, key: str) -> None:
    discovery, pairs = view.discovery, view.discovery.prompts
    problem = lacking(view, answers=False)
    if pairs is None or problem:
        st.html(f'<p class="d-note">{escape_html(problem)}</p>')
        return
    row = _pair(pairs, key)
    _shaded(view, head, row)
    found = side.ask(
        "attention",
        (head, row),
        lambda: probes.attention_work(discovery, pairs, row, head),
        f"Attention of {head_name(*head)}",
    )
    if found is None:
        return
    panels = attention_panels(found)
    if len(found.positive_tokens) <= attention_charts.SIDE_BY_SIDE:
        for column, name in zip(st.columns(len(panels), gap="medium"), panels, strict=True):
            with column:
                _panel(name, panels[name], key, sharing.NARROW)
        return
    name = st.segmented_control(
        "Prompt",
        list(panels),
        default=next(iter(panels)),
        required=True,
        key=f"{key}_side",
        help="Which of the two prompts to show, or their difference.",
    )
    _panel(name, panels[name], key, sharing.WIDE)


Panel = tuple[str, Drawing, pd.DataFrame]
"""A subtitle, the chart and its data."""


def attention_panels(found: probes.Attention) -> dict[str, Panel]:
    """The charts by title: positive, negative and, where the two have as many tokens, their difference."""
    positive, negative = found.positive_tokens, found.negative_tokens
    aligned = [bool(token) for token in positive] == [bool(token) for token in negative]
    changed = [t for t, (a, b) in enumerate(zip(positive, negative, strict=True)) if aligned and a != b]
    frames = {
        "On the positive": ("attention", attention_frame(found.positive, positive), positive),
        "On the negative": ("attention", attention_frame(found.negative, negative), negative),
    }
    if aligned:
        difference = attention_frame(found.positive, positive, found.negative)
        frames["Difference"] = (f"+ blue, {MINUS} orange,", difference, positive)
    return {
        name: (
            f"{how} up to {float(frame['size'].max()):.2f}",
            attention_map(frame, tokens, changed, difference=name == "Difference"),
            frame,
        )
        for name, (how, frame, tokens) in frames.items()
    }


def _panel(name: str, panel: Panel, key: str, width: int) -> None:
    how, drawing, frame = panel
    slug = name.lower().replace(" ", "_")
    columns = ["query", "key", "from_token", "to_token", "value"]
    chart(name, how, drawing, lambda: frame[columns], key=f"{key}_attention_{slug}", width=width)


# --- direct effect -----------------------------------------------------------------------------------------


def _output(view: View, head: Head, grid: Grid, key: str) -> None:
    discovery, pairs = view.discovery, view.discovery.prompts
    problem = lacking(view, answers=False)
    if pairs is None or problem:
        st.html(f'<p class="d-note">{escape_html(problem)}</p>')
        return
    found = side.ask(
        "output", head, lambda: probes.output_work(discovery, pairs, head), f"Direct effect of {head_name(*head)}"
    )
    if found is None:
        return
    if found.effects is None:
        st.html(f'<p class="d-note">{escape_html(lacking(view, answers=True))}</p>')
    else:
        frame = effects_frame(found.effects, head)
        finding(output_sentence(found, frame, head))
        chart(
            "Direct effect of every head",
            f"on answer less distractor at the last position; + blue raises it, {MINUS} orange lowers it; full colour "
            f"{number(float(frame['size'].max()))} nats",
            effects_map(grid, frame),
            lambda: frame[["layer", "head", "name", "effect", "rank"]],
            key="effects",
            layers=grid.n_layers,
        )
    row = _pair(pairs, key)
    tokens = found.tokens[row]
    heading(
        f"Tokens {head_name(*head)} promotes and suppresses",
        "change of the logit straight from what it writes after the last token, in nats above the average token",
        lambda: tokens_frame(tokens),
        f"{key}_tokens",
    )
    answers = (pairs.answer[row], pairs.distractor[row]) if pairs.has_answers else ((), ())
    st.html(tokens_table(tokens, *answers))


def output_sentence(found: probes.HeadOutput, frame: pd.DataFrame, head: Head) -> str:
    """The head's direct effect in plain words."""
    own = frame[frame["selected"]].iloc[0]
    low, high = (signed(end(found.by_pair), 2) for end in (min, max))
    verb, by = "raises" if own["effect"] >= 0 else "lowers", f"{abs(own['effect']):.2f}"
    if by == "0.00":
        by = "less than 0.01"
    spread = f", {low} to {high} over {plural(len(found.by_pair), 'prompt')}" if len(found.by_pair) > 1 else ""
    together, whole = signed(frame["effect"].sum(), 2), signed(found.total, 2)
    return (
        f"By itself, what {head_name(*head)} writes {verb} the answer over the distractor by "
        f"{by} nats{spread}: number {own['rank']} of {len(frame)} heads by size. All heads "
        f"together add {together}; the whole model's logit difference is {whole}."
    )


def tokens_table(tokens: PromotedTokens, answer: Sequence[str], distractor: Sequence[str]) -> str:
    """Two lists with bars, as HTML; an answer and a distractor are named."""
    strongest = max((abs(t.effect) for t in (*tokens.promoted, *tokens.suppressed)), default=0.0) or 1.0
    roles = {**{text.strip(): "distractor" for text in distractor}, **{text.strip(): "answer" for text in answer}}
    lists = "".join(
        f'<div><div class="d-list-title">{title}</div>'
        + "".join(_token_line(token, roles, strongest, kind) for token in side_tokens)
        + "</div>"
        for title, kind, side_tokens in (
            ("+ promoted", "up", tokens.promoted),
            (f"{MINUS} suppressed", "down", tokens.suppressed),
        )
    )
    return f'<div class="d-lists">{lists}</div>'


def _token_line(token: TokenEffect, roles: dict[str, str], strongest: float, kind: str) -> str:
    role = roles.get(token.text.strip(), "")
    tag = f'<span class="d-role">{role}</span>' if role else ""
    text = escape_html(visible(token.text))
    return (
        f'<div class="d-line {kind}"><span><span class="d-chip">{text}</span>{tag}</span>'
        f'<span class="track"><i style="width: {100 * abs(token.effect) / strongest:.0f}%"></i></span>'
        f"<b>{signed(token.effect, 2)}</b></div>"
    )


def tokens_frame(tokens: PromotedTokens) -> pd.DataFrame:
    """token, effect; the promoted ones first."""
    rows = [(t.text, t.effect) for t in (*tokens.promoted, *reversed(tokens.suppressed))]
    return pd.DataFrame(rows, columns=["token", "effect"])
