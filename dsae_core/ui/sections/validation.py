"""Validate: does the circuit do the work? Its heads kept alone, its heads removed, against random heads."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from dsae_core.prompts import PromptPairs
from dsae_core.ui import probes, sharing, state
from dsae_core.ui.charts.validation import validation_curve, validation_frame
from dsae_core.ui.sections import side
from dsae_core.ui.sections.charts import chart, finding
from dsae_core.ui.sections.inspector import METRIC_WORDS, lacking
from dsae_core.ui.state import Shown
from dsae_core.ui.text import decimal, escape_html, plural
from dsae_core.ui.view import View
from dsae_core.validation import Shares, Validation

NAME = "validate"

CLEAR = 0.05
"""By so much a circuit has to keep more than the best of the random ones to be said to do more than chance."""


def validation(shown: Shown, threshold: float) -> None:
    """Draw the section for the circuit at a threshold."""
    view, key = shown.view, shown.key
    size = int((view.heads["score"] >= threshold).sum())
    latest = state.latest_side(NAME)
    st.html('<h2 class="d-section">Does the circuit do the work?</h2>')
    text, control = st.columns([5, 3], vertical_alignment="top", gap="large")
    with text:
        st.html(f'<p class="d-facts">{escape_html(_method(view))}</p>')
    with control:
        _button(shown, size, measured=None if latest is None else latest.size)
    side.outcome(NAME, size)
    if latest is None or view.discovery.prompts is None:
        return
    finding(sentence(latest, size, view.discovery.prompts))
    st.html(
        '<div class="d-legend"><span><i class="d-mark tp"></i>heads by score</span>'
        f'<span><i class="d-mark band"></i>random heads: mean and range of {len(latest.found.random)} draws</span>'
        "<span>vertical dashed line: heads found at the threshold</span></div>"
    )
    left, right = st.columns(2, gap="large")
    sides: tuple[Literal["kept", "removed"], ...] = ("kept", "removed")
    titles = {
        "kept": ("Keep only the circuit", "higher is better"),
        "removed": ("Remove the circuit", "lower is better"),
    }
    for column, which in zip((left, right), sides, strict=True):
        with column:
            chart(
                titles[which][0],
                titles[which][1],
                validation_curve(latest.found, which, size),
                lambda: validation_frame(latest.found),
                key=f"{key}_{which}",
                width=sharing.HALF,
            )


def _method(view: View) -> str:
    if problem := lacking(view, answers=False, aligned=True):
        return problem
    pairs = view.discovery.prompts
    assert pairs is not None
    left = (
        f"the {METRIC_WORDS[pairs.metric]}"
        if pairs.has_answers
        else "the prediction (by KL divergence, as no answers are known)"
    )
    return (
        "First all heads outside the circuit write what they write on the negative, then all heads inside it, and "
        f"what is left of {left} is measured: 100 % is the whole model, 0 % all heads replaced. Random circuits of the "
        "same size show what chance would do. It takes up to a few minutes, and can be cancelled."
    )


def _button(shown: Shown, size: int, measured: int | None) -> None:
    view = shown.view
    problem = lacking(view, answers=False, aligned=True)
    if not problem and size == 0:
        problem = "No head reaches the threshold; lower it first."
    label = f"Measure {plural(size, 'head')}" if measured is not None and measured != size else "Validate the circuit"
    st.button(
        label,
        key="validate",
        disabled=bool(problem) or measured == size or state.side_job(NAME, size) is not None,
        on_click=_start,
        args=(shown, size),
        help=problem
        or f"Takes seconds to a minute for a small model: some 45 forward passes of {probes.VALIDATION_PAIRS} prompts.",
    )


def _start(shown: Shown, size: int) -> None:
    discovery, pairs, seed = shown.view.discovery, shown.view.discovery.prompts, shown.request.seed
    if pairs is not None:
        side.start(
            NAME,
            size,
            lambda: probes.validation_work(discovery, pairs, seed, size),
            f"Validating {plural(size, 'head')}",
        )


def sentence(latest: probes.Validated, size: int, pairs: PromptPairs) -> str:
    """What was measured at the circuit's size, or at the nearest one that was."""
    found = latest.found
    at = size if size in found.found.sizes else latest.size
    what = f"the {METRIC_WORDS[pairs.metric]}" if found.measure == "metric" else "the prediction"
    kept, removed = (value_at(found.found, at, name) for name in ("kept", "removed"))
    prompts = f"{plural(found.pairs, 'prompt pair')} that the scores never saw" if latest.fresh else "the same prompts"
    first = f"The {at} best heads keep" if at > 1 else "The best head keeps"
    words = (
        f"{first} {percent(kept)} of {what} by themselves; {percent(removed)} is left without them. "
        f"{_null(found, at)} On {prompts}."
    )
    if at != size:
        words += f" (The threshold now finds {size}.)"
    return words


def _null(found: Validation, at: int) -> str:
    if at not in found.random[0].sizes:
        return "Random heads were measured at other sizes, see the charts."
    kept, removed = ([value_at(shares, at, name) for shares in found.random] for name in ("kept", "removed"))
    chance = value_at(found.found, at, "kept") <= max(kept) + CLEAR
    verdict = " So this circuit does hardly more than chance." if chance else ""
    heads = f"{at} random heads keep" if at > 1 else "A random head keeps"
    return (
        f"{heads} {percent(sum(kept) / len(kept))} ({percent(min(kept))} to {percent(max(kept))} in {len(kept)} draws) "
        f"and leave {percent(sum(removed) / len(removed))}.{verdict}"
    )


def value_at(shares: Shares, size: int, name: str) -> float:
    """The share kept or removed at a size that was measured."""
    values: tuple[float, ...] = getattr(shares, name)
    return values[shares.sizes.index(size)]


def percent(value: float) -> str:
    """A share as "83 %"."""
    return f"{decimal(100 * value, 0)} %"
