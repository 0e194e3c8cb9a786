"""Kernels: what a discovery costs on this machine, by stage and by operator, and what the operators save."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import streamlit as st

from dsae_core.limits import demo_limits
from dsae_core.models import available_models
from dsae_core.settings import METHODS
from dsae_core.ui import state, theme
from dsae_core.ui.charts import kernels as charts
from dsae_core.ui.profiles import NAME, NOT_HERE, Wanted, document, facts, latest, work
from dsae_core.ui.runs import shared_queue
from dsae_core.ui.sections import progress
from dsae_core.ui.sections.machine import machine_facts, stored_figures
from dsae_core.ui.sections.profile import results
from dsae_core.ui.text import escape_html, escape_markdown, local_time, seconds

if TYPE_CHECKING:
    from dsae_core.profiling import Profile

_ASKED, _WANTED = "kernels_asked", "kernels_wanted"


def page() -> None:
    """Draw the page: what was measured last on this server, or what is known without measuring."""
    theme.hide_sidebar()
    under_way = _job_runs()  # asked before what it found: one that ends in between is seen by _progress
    measured, problem = latest()
    profiles = measured.profiles if measured is not None else ()
    machine = facts()
    top, wanted = st.container(), None  # drawn once it is known what the settings below are
    if demo_limits() is None:
        wanted = _controls(profiles, under_way)
    else:
        st.html(f'<p class="d-note">{escape_html(NOT_HERE)}</p>')
    with top:
        _top(profiles, machine, wanted)
    _progress(under_way)
    if problem:
        st.html(f'<p class="d-note stale">{escape_html(problem)}</p>')
    if profiles:
        results(profiles)
    machine_facts(profiles[0].machine if profiles else machine)
    stored_figures()


def _top(profiles: Sequence[Profile], machine: Mapping[str, Any], wanted: Wanted | None) -> None:
    if not profiles:
        cuda = cuda_sentence((), machine) if demo_limits() is None else ""  # of what a public demo does not measure
        st.html(
            '<h1 class="d-headline">What does a discovery cost on this machine?</h1>'
            f'<p class="d-note">Nothing was measured on this server yet. {escape_html(_what_it_does())}</p>'
            + (f'<p class="d-note">{escape_html(cuda)}</p>' if cuda else "")
        )
        return
    settings = profiles[0].settings
    when = local_time(datetime.fromisoformat(settings["date"]), st.context.timezone)
    parts = [
        f"Measured here {when}",
        str(settings.get("model", "")),
        str(settings.get("task", "")),
        f"{settings.get('examples')} + {settings.get('examples')} prompts",
        str(settings.get("method", "")),
        f"median of {settings.get('repeats')}",
    ]
    changed = any(profiles[0].machine.get(key) != machine[key] for key in ("processor", "threads", "torch", "build"))
    tags = ["Machine or versions changed since"] if changed else []
    if wanted is not None and not wanted.measured_in(profiles[0]):
        tags.append("Settings changed since")
    stale = "".join(f'<span class="d-tag stale">{tag}</span>' for tag in tags)
    st.html(f'<div class="d-eyebrow">{stale}<span>{escape_html(" · ".join(parts))}</span></div>')
    said = cuda_sentence(profiles, machine)
    st.html(
        f'<h1 class="d-headline">{escape_html(sentence(profiles))}</h1>'
        + (f'<p class="d-note">{escape_html(said)}</p>' if said else "")
    )


def _what_it_does() -> str:
    if demo_limits() is not None:
        return ""
    return (
        "“Measure now” times a discovery stage by stage, its compiled operators against what this machine can do at "
        "most (its ceilings: how fast it copies memory and multiplies matrices), and the same work in plain torch."
    )


def sentence(profiles: Sequence[Profile]) -> str:
    """What came out, in plain words."""
    first = profiles[0]
    longest = max(first.stages, key=lambda stage: stage.seconds)
    share = longest.seconds / (first.seconds or 1.0)
    total = " and ".join(
        f"{seconds(profile.seconds)} with the model on {'the CPU' if name == 'CPU' else name}"
        for profile, name in ((profile, charts.device_of(profile)) for profile in profiles)
    )
    where = "" if len(profiles) == 1 else " on the CPU"
    return f"A discovery takes {total}; the longest stage{where} is {longest.name}, {100 * share:.0f} % of it."


def cuda_sentence(profiles: Sequence[Profile], machine: Mapping[str, Any]) -> str:
    """Why CUDA is not beside the CPU, or that it will be; "" where it is."""
    if any(charts.device_of(profile) == "CUDA" for profile in profiles):
        return ""
    gpu, built = machine["gpu"], machine["build"]["cuda_version"]
    if gpu is None:
        operators = f"built for CUDA {built} as well" if built else "built without it"
        return f"This machine has no CUDA device, so only the CPU is measured; the operators are {operators}."
    if built is None:
        return f"This machine has a CUDA device ({gpu}), but the operators are built without CUDA, so it is not used."
    return f"This machine has a CUDA device ({gpu}): Measure now measures it beside the CPU."


def _controls(profiles: Sequence[Profile], under_way: bool) -> Wanted:
    """Draw the buttons and the settings; what these stand for, at first what was measured last."""
    wanted: Wanted = st.session_state.get(_WANTED) or (Wanted.of(profiles[0]) if profiles else Wanted())
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        pressed = st.button(
            "Measuring" if under_way else "Measure now",
            type="primary",
            disabled=under_way or not wanted.model,
            key="kernels_run",
            help="Run a discovery four times and its operators a few times more, on this server.",
        )
        with st.popover("Settings", help="What is measured: the model, the method, and the two longer parts."):
            wanted = _settings(wanted)
        if profiles:
            st.download_button(
                "Profile (JSON)",
                lambda: json.dumps(document(profiles), indent=1),
                "dsae_profile.json",
                "application/json",
                key="kernels_export",
                icon=":material/download:",
                type="tertiary",
                on_click="ignore",
                help="Everything that was measured, with the settings and the machine.",
            )
    st.html(f'<p class="d-note">{escape_html(duration(wanted))}</p>')
    if pressed:
        st.session_state[_ASKED] = wanted
        state.start_side(shared_queue(), NAME, work(wanted), about=wanted, title="Profile", lasting=True)
        st.rerun()
    return wanted


def _settings(kept: Wanted) -> Wanted:
    known = [info.name for info in available_models()]
    names = known if kept.model in known else [*known, kept.model]
    model = st.selectbox(
        "Model",
        names,
        index=names.index(kept.model),
        accept_new_options=True,
        key="kernels_model",
        help="A model of the list, or type a name of the Hugging Face hub or a local folder.",
    )
    method = st.selectbox(
        "Method",
        list(METHODS),
        index=list(METHODS).index(kept.method),
        format_func=str.capitalize,
        key="kernels_method",
        help="The discovery whose stages and operators are measured; see About.",
    )
    compile_twins = st.toggle(
        "torch.compile",
        kept.compile_twins,
        key="kernels_compile",
        help="Also run plain torch through torch.compile, which takes up to a minute to compile.",
    )
    growth = st.toggle(
        "How time grows",
        kept.growth,
        key="kernels_growth",
        help="Also time discoveries with more and more heads and examples, two or three minutes.",
    )
    wanted = Wanted((model or "").strip(), str(method), compile_twins, growth)
    st.session_state[_WANTED] = wanted
    return wanted


def duration(wanted: Wanted) -> str:
    """What measuring takes, roughly."""
    extras = [1] * wanted.compile_twins + [3] * wanted.growth  # minutes that the two take
    total = 1 + sum(extras)
    time = f"About {total} minute{'' if total == 1 else 's'}"
    if extras:
        time += f"; 1 without the {'two extras' if len(extras) == 2 else 'extra'} under Settings"
    return f"{time}; longer for large models and on busy machines. Other runs of this dashboard wait meanwhile."


def _job_runs() -> bool:
    asked = st.session_state.get(_ASKED)
    job = state.side_job(NAME, asked) if asked is not None else None
    return job is not None and not job.over


def _progress(under_way: bool) -> None:
    """How far the measurement is, or why it ended early; draws the page anew where it ended since `under_way`."""
    asked = st.session_state.get(_ASKED)
    job = state.side_job(NAME, asked) if asked is not None else None
    if job is not None and not job.over:
        progress.side(NAME, asked)
    elif under_way:
        st.rerun()
    elif job is not None and job.status == "failed":
        st.error(escape_markdown(job.error))
    elif job is not None:
        st.html('<p class="d-note stale">The measurement was cancelled; nothing of it was kept.</p>')
