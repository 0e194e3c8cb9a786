"""The editor of somebody's own prompts: a table, how the model's tokenizer cuts it, and whether the model does it."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dsae_core.behaviour import Behaviour
from dsae_core.inspection import NextToken
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import write_pairs_csv
from dsae_core.ui import drafts, probes, state
from dsae_core.ui.alignment import AlignedRow, Token, align
from dsae_core.ui.drafts import Draft
from dsae_core.ui.request import RunRequest
from dsae_core.ui.runs import tokenizer_at_hand
from dsae_core.ui.sections import side
from dsae_core.ui.sections.charts import finding
from dsae_core.ui.sections.progress import POLL_SECONDS
from dsae_core.ui.text import escape_html, plural, signed, visible

CHECK = "check"
MOST_ROWS = 40
"""Rows whose tokens are shown."""

_HELPS = {
    "positive": "A prompt that shows the behaviour.",
    "negative": "A near-copy of the positive for which the behaviour cannot happen, of as many tokens.",
    "answer": "Optional: what the model should write next, with the space before it. Several are parted by “|”.",
    "distractor": "Optional: what it competes with, written the same way.",
}


def editor(model_name: str) -> None:
    """Draw the table and what is known of it; folded up where the result on show is of these very prompts."""
    draft, on_show = drafts.current(), state.shown()
    done = draft.pairs is not None and on_show is not None and on_show.request.pairs == draft.pairs
    label = f"Your prompts: the {plural(len(draft.rows), 'pair')} of the result below" if done else "Your prompts"
    with st.expander(label, expanded=not done):
        _table(draft, model_name)


def _table(draft: Draft, model_name: str) -> None:
    st.html(
        '<p class="d-facts">One pair a row: a positive shows the behaviour, its negative is a near-copy on which it '
        "cannot happen. Answer and distractor are optional, and with them a run first checks that the model shows the "
        "behaviour; write them as they continue the prompt, with the space before: “&nbsp;Mary”. A block of a "
        "spreadsheet can be pasted into the first cell.</p>"
    )
    st.data_editor(
        drafts.base(),
        key=drafts.editor_key(),
        num_rows="dynamic",
        hide_index=True,
        width="stretch",
        on_change=drafts.take_edits,
        column_config={
            name: st.column_config.TextColumn(
                name.capitalize(), help=text, width="large" if name in drafts.COLUMNS[:2] else "small", default=""
            )
            for name, text in _HELPS.items()
        },
    )
    _buttons(draft, model_name)
    if draft.problem:
        st.html(f'<p class="d-note stale">{escape_html(draft.problem)}</p>')
    if draft.pairs is not None:
        _checked(draft.pairs, model_name)
    if draft.rows and not draft.too_large:
        _tokens(draft, model_name)


def _buttons(draft: Draft, model_name: str) -> None:
    pairs = draft.pairs
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        if not draft.rows:
            st.button(
                "Start from an example",
                key="example",
                on_click=drafts.open_pairs,
                args=(drafts.EXAMPLE,),
                help="Fill the table with two pairs of the indirect-object task.",
            )
            return
        asked = None if pairs is None else (model_name, pairs)
        st.button(
            "Check with the model",
            key="check",
            disabled=asked is None
            or not model_name
            or state.side_job(CHECK, asked) is not None
            or state.side_result(CHECK, asked) is not None,
            on_click=_start_check,
            args=(model_name,),
            help="Load the model and see what it writes after every prompt, before anything is scored.",
        )
        if drafts.lacks_spaces(draft):
            st.button(
                "Add the missing spaces",
                key="add_spaces",
                on_click=drafts.add_spaces,
                help="Put a space before every answer and distractor that has none, as most models write them.",
            )
        st.download_button(
            "Download CSV",
            "" if pairs is None else write_pairs_csv(pairs),
            "prompts.csv",
            "text/csv",
            key="draft_csv",
            disabled=pairs is None,
            type="tertiary",
            icon=":material/download:",
            on_click="ignore",
            help="Save the table; the upload in the sidebar reads it back.",
        )
        st.button(
            "Clear",
            key="clear_draft",
            type="tertiary",
            icon=":material/delete:",
            on_click=drafts.open_pairs,
            args=(None,),
            help="Empty the table.",
        )


def _start_check(model_name: str) -> None:
    pairs = drafts.current().pairs  # with an edit that came between the last drawing and the click
    if pairs is not None:
        asked = (model_name, pairs)
        side.start(CHECK, asked, lambda: probes.check_work(*asked), "Checking the prompts", lasting=True)


def _checked(pairs: PromptPairs, model_name: str) -> None:
    found: probes.PromptCheck | None = side.outcome(CHECK, (model_name, pairs))
    if found is None:
        return
    good = found.behaviour is not None and found.behaviour.shown
    finding(f"{'✓' if good else '△'} {check_sentence(found, pairs)}", good=good)


def known_behaviour(asked: RunRequest) -> Behaviour | None:
    """What the check has found of a run's prompts and model, None where it was not asked of these."""
    found: probes.PromptCheck | None = (
        None if asked.pairs is None else state.side_result(CHECK, (asked.model, asked.pairs))
    )
    return None if found is None else found.behaviour


def check_sentence(found: probes.PromptCheck, pairs: PromptPairs) -> str:
    """Whether the model shows the behaviour, in plain words."""
    if found.problem:
        return found.problem
    if found.behaviour is None:
        return (
            "Without answers nobody can say whether the model shows the behaviour; what it writes next stands beside "
            "each prompt. Discovery needs no answers, patching and direct effects do."
        )
    b = found.behaviour
    counts = b.counts(len(pairs))
    return f"{counts[:1].upper()}{counts[1:]} ({_means(b, pairs)}): {_verdict(b)}"


def _means(b: Behaviour, pairs: PromptPairs) -> str:
    what = "logit difference" if pairs.metric == "logit_difference" else "probability difference"
    return f"mean {what} {signed(b.positive, 2)} and {signed(b.negative, 2)}"


def _verdict(b: Behaviour) -> str:
    if b.shown:
        return "there is a behaviour to look for."
    if not b.mostly_solved:
        return (
            "the model does not show this behaviour, so scores would say little. Try other prompts or a larger model."
        )
    return "the negatives show it as much, so there is little to tell the two apart. Change the negatives."


# --- tokens ------------------------------------------------------------------------------------------------


def _tokens(draft: Draft, model_name: str) -> None:
    reading = tokenizer_at_hand(model_name)
    if not reading.over:
        st.html('<p class="d-note">Reading how the model cuts prompts into tokens.</p>')
        st.fragment(_await_tokenizer, run_every=POLL_SECONDS)(model_name)
        return
    if (cuts := reading.found) is None:
        st.html(
            '<p class="d-note">How the model cuts the prompts into tokens shows here once it is loaded: check with '
            "the model, or run.</p>"
        )
        return
    rows = [align(cuts, row) for row in draft.rows[:MOST_ROWS]]
    found = None if draft.pairs is None else state.side_result(CHECK, (model_name, draft.pairs))
    st.html(f'<p class="d-note">{escape_html(alignment_sentence(rows, len(draft.rows)))}</p>')
    st.html(f'<div class="d-scroll d-tall">{tokens_table(rows, found)}</div>')


def _await_tokenizer(model_name: str) -> None:
    """Draw the page anew once the tokenizer has come."""
    if tokenizer_at_hand(model_name).over:
        st.rerun()


def alignment_sentence(rows: Sequence[AlignedRow], n: int) -> str:
    """How many rows align, and what follows where some do not."""
    bad = [row for row in rows if row.problem]
    more = f" The first {len(rows)} of {n} rows are shown." if n > len(rows) else ""
    if not bad:
        start = "The row aligns" if len(rows) == 1 else f"All {len(rows)} rows align"
        return f"{start} token by token; tokens that differ are framed.{more}"
    if any("tokens against" in row.problem for row in bad):
        return (
            f"{plural(len(bad), 'row')} of {len(rows)} {'does' if len(bad) == 1 else 'do'} not align. Where lengths "
            f"differ all prompts are pooled, which costs accuracy, and patching is not possible.{more}"
        )
    return f"Not compared: {plural(len(bad), 'row')} of {len(rows)}, marked below.{more}"


def tokens_table(rows: Sequence[AlignedRow], found: probes.PromptCheck | None) -> str:
    """Each row's two prompts as tokens, what is wrong with it, and what the model writes next; as HTML."""
    nexts = "<th>Writes next</th>" if found is not None else ""
    body = "".join(_pair_rows(i, row, found) for i, row in enumerate(rows))
    return (
        '<table class="d-codes d-mid"><thead><tr><th class="n">Row</th><th></th><th>Tokens</th>'
        f'<th class="n">Length</th>{nexts}</tr></thead><tbody>{body}</tbody></table>'
    )


def _pair_rows(index: int, row: AlignedRow, found: probes.PromptCheck | None) -> str:
    flags = [f"▲ {row.problem}"] * bool(row.problem) + [f"△ {note}" for note in row.notes]
    lines = []
    for kind, tokens in (("positive", row.positive), ("negative", row.negative)):
        first = kind == "positive"
        nexts = (
            ""
            if found is None
            else f'<td class="nowrap">{_next((found.positive if first else found.negative)[index])}</td>'
        )
        lines.append(
            f'<tr class="{kind}{" pair" if first else ""}"><td class="n">{row.number if first else ""}</td>'
            f'<td>{kind}</td><td class="chips">{"".join(map(_chip, tokens))}</td>'
            f'<td class="n">{len(tokens) or ""}</td>{nexts}</tr>'
        )
    if flags:
        said = "".join(f'<div class="d-flag">{escape_html(flag)}</div>' for flag in flags)
        lines.append(f"<tr><td></td><td></td><td>{said}</td><td></td>{'' if found is None else '<td></td>'}</tr>")
    return "".join(lines)


def _chip(token: Token) -> str:
    return f'<span class="d-chip{" differs" if token.differs else ""}">{escape_html(visible(token.text))}</span>'


def _next(token: NextToken) -> str:
    text = f'<span class="d-chip">{escape_html(visible(token.text))}</span>'
    return f'{text}<span class="d-faint">{100 * token.probability:.0f} %</span>'
