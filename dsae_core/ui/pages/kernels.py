"""Kernels: what a discovery costs on this machine, by stage and by operator, and what the operators save."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_origin, get_type_hints

import pandas as pd
import streamlit as st
import torch

from dsae_core import _native
from dsae_core.errors import UserError
from dsae_core.files import read_text, write_atomic
from dsae_core.limits import demo_limits
from dsae_core.models import available_models, load_model
from dsae_core.settings import METHODS
from dsae_core.tasks import TASKS
from dsae_core.ui import faults, state, theme
from dsae_core.ui.charts import kernels as charts
from dsae_core.ui.jobs import Report, Work
from dsae_core.ui.library import data_dir
from dsae_core.ui.pages.saved import local_time
from dsae_core.ui.runs import loaded_model, shared_queue
from dsae_core.ui.sections import progress
from dsae_core.ui.sections.charts import chart, heading
from dsae_core.ui.text import escape_html, escape_markdown, number, plural, seconds

if TYPE_CHECKING:
    from dsae_core.profiling import Profile

TASK, EXAMPLES, SEED = "ioi", 10, 0
"""What is discovered to be measured."""

WORDS = {
    "stages": "timing discoveries",
    "kernels": "timing the operators",
    "rivals": "timing plain torch",
    "scaling": "measuring how time grows",
}
STORED = Path(__file__).resolve().parents[3] / "benchmarks" / "results" / "operators.cpu.json"
"""Figures that come with the project's sources; an installed package does not have them."""

NOT_HERE = "Measuring takes minutes, in which nobody else could run anything, so this public demo does not do it."

_NAME, _ASKED, _WANTED = "kernels", "kernels_asked", "kernels_wanted"
T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What to measure.

    Attributes:
        model: as load_model takes it.
        method: of the discovery.
        compile_twins: also run plain torch through torch.compile.
        growth: also measure how time grows with heads and examples.
    """

    model: str = "smollm2-135m"
    method: str = "positional"
    compile_twins: bool = True
    growth: bool = True


@dataclass(frozen=True)
class Measured:
    """What was measured, a profile a device, and why it could not be kept, "" where it was."""

    profiles: tuple[Profile, ...]
    problem: str = ""


def page() -> None:
    """Draw the page: what was measured last on this server, or what is known without measuring."""
    theme.apply()
    under_way = _job_runs()  # asked before what it found: one that ends in between is seen by _progress
    measured, problem = latest()
    profiles = measured.profiles if measured is not None else ()
    machine = facts()
    _top(profiles, machine)
    if demo_limits() is None:
        _controls(profiles, under_way)
    else:
        st.html(f'<p class="d-note">{escape_html(NOT_HERE)}</p>')
    _progress(under_way)
    if problem:
        st.html(f'<p class="d-note stale">{escape_html(problem)}</p>')
    if profiles:
        _results(profiles)
    st.html('<h2 class="d-section">This machine</h2>')
    _machine(profiles[0].machine if profiles else machine)
    _stored()


# --- measuring ---------------------------------------------------------------------------------------------


def devices() -> tuple[str, ...]:
    """What can be measured here: the CPU, and CUDA where there is a device and the operators are built for it."""
    cuda = torch.cuda.is_available() and _native.build_info()["cuda_version"] is not None
    return ("cpu", "cuda") if cuda else ("cpu",)


def facts() -> dict[str, Any]:
    """The machine and how the operators were built; nothing is measured."""
    from dsae_core.profiling import machine_facts

    return {**machine_facts(), "vector_instructions": torch.backends.cpu.get_cpu_capability()}


def work(wanted: Wanted) -> Work[Measured]:
    """Profile a discovery on each device, and keep the result for later visits.

    The work raises a UserError where the model cannot be loaded or used.
    """

    def measure(report: Report) -> Measured:
        if demo_limits() is not None:
            raise UserError(NOT_HERE)
        from dsae_core.profiling import measure_scaling, profile_discovery

        def follow(stage: str, fraction: float) -> None:
            report(WORDS.get(stage, stage), fraction)

        profiles = []
        for device in devices():
            model = _model_on(device, wanted.model, report)
            pairs = TASKS[TASK].make(model.tokenizer, EXAMPLES, SEED)
            profile = profile_discovery(
                model,
                pairs,
                method=wanted.method,
                seed=SEED,
                compile_twins=wanted.compile_twins,
                progress=follow,
            )
            profiles.append(replace(profile, settings={**profile.settings, "device": device}, machine=facts()))
        if wanted.growth:
            profiles[0] = replace(profiles[0], scaling=measure_scaling(progress=follow))
        return Measured(tuple(profiles), _keep(profiles))

    return measure


def _model_on(device: str, name: str, report: Report) -> Any:
    return loaded_model(name, report) if device == "cpu" else load_model(name, device=device, progress=report)


def document(profiles: Sequence[Profile]) -> dict[str, Any]:
    """The JSON form of what was measured."""
    return {"schema": 1, "profiles": [profile.to_dict() for profile in profiles]}


def kept_file() -> Path:
    """Where the last profile of this server is."""
    return data_dir() / "profile.json"


def _keep(profiles: Sequence[Profile]) -> str:
    """Keep the profiles in place of the last ones; "" or a sentence on why that was not possible."""
    try:
        kept_file().parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept_file(), json.dumps(document(profiles)) + "\n")
    except (OSError, UserError) as error:
        return f"This profile was not kept for later visits. {error}"
    return ""


def latest() -> tuple[Measured | None, str]:
    """What to show, and a sentence on what is wrong, "" where nothing is.

    That is the last profile of this server, or this session's where that could not be kept; None before the first.
    """
    own: Measured | None = state.latest_side(_NAME)
    if own is not None and own.problem:
        return own, own.problem
    if not kept_file().exists():
        return None, ""
    try:
        return Measured(parse(read_text(kept_file(), "the last profile"))), ""
    except UserError as error:
        return own, f"{faults.told(error)} Measure now writes it anew."


def parse(text: str) -> tuple[Profile, ...]:
    """The profiles of document(), back from JSON.

    Raises:
        UserError: it is not such a document, or one of another version.
    """
    try:
        found = tuple(_profile(fields) for fields in json.loads(text, parse_constant=_refuse)["profiles"])
        if not found:
            raise ValueError("it is empty")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError("The last profile is damaged, or was made by another version of dsae-core.") from error
    return found


def _profile(fields: Mapping[str, Any]) -> Profile:
    from dsae_core import profiling, roofline

    if fields["schema"] != profiling.SCHEMA:
        raise ValueError("another version")
    scaling = ({**item, "points": tuple((int(n), float(t)) for n, t in item["points"])} for item in fields["scaling"])
    found = profiling.Profile(
        settings=dict(fields["settings"]),
        machine=dict(fields["machine"]),
        ceilings=tuple(_made(roofline.Ceilings, item) for item in fields["ceilings"]),
        stages=tuple(_made(profiling.StageTime, item) for item in fields["stages"]),
        kernels=tuple(_made(roofline.KernelTime, item) for item in fields["kernels"]),
        rivals=tuple(_made(profiling.RivalTime, item) for item in fields["rivals"]),
        scaling=tuple(_made(profiling.Scaling, item) for item in scaling),
        launches=tuple(dict(item) for item in fields["launches"]),
    )
    _check(found)
    return found


def _check(found: Profile) -> None:
    """That the page can draw it: ValueError, TypeError or KeyError where it cannot."""
    rates = [rate for ceiling in found.ceilings for rate in (ceiling.copy_gb_s, ceiling.matmul_gflop_s)]
    rates += [rate for kernel in found.kernels if kernel.flops for rate in (kernel.gflop_s, kernel.intensity)]
    if not found.stages or min(rates, default=1.0) <= 0:
        raise ValueError("nothing can take no time")
    datetime.fromisoformat(found.settings["date"])
    charts.kernel_frame([found])
    charts.rivals_frame(found.rivals)
    for item in found.scaling:
        charts.scaling_frame(item)
    machine_rows(found.machine)


def _made(kind: type[T], fields: Mapping[str, Any]) -> T:
    """A dataclass whose fields have the types that it says."""
    made = kind(**fields)
    for name, hint in get_type_hints(kind).items():
        if get_origin(hint) is not tuple and not isinstance(getattr(made, name), hint):
            raise TypeError(f"{name} has the wrong type")
    return made


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no measurement")


# --- what the page asks and says ---------------------------------------------------------------------------


def _top(profiles: Sequence[Profile], machine: Mapping[str, Any]) -> None:
    if not profiles:
        st.html(
            '<h1 class="d-headline">What does a discovery cost on this machine?</h1>'
            f'<p class="d-note">Nothing was measured on this server yet. {escape_html(_what_it_does())}</p>'
            f'<p class="d-note">{escape_html(cuda_sentence((), machine))}</p>'
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
    stale = '<span class="d-tag stale">Machine or versions changed since</span>' if changed else ""
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
        "most, and the same work in plain torch."
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


def _controls(profiles: Sequence[Profile], under_way: bool) -> None:
    wanted: Wanted = st.session_state.get(_WANTED, Wanted())
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
        state.start_side(shared_queue(), _NAME, work(wanted), about=wanted, title="Profile", lasting=True)
        st.rerun()


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
    extra = [
        *(["up to a minute for torch.compile"] if wanted.compile_twins else []),
        *(["two or three minutes for how time grows"] if wanted.growth else []),
    ]
    more = f", plus {' and '.join(extra)}" if extra else ""
    return (
        f"Measuring takes about a minute{more}; longer for large models and on busy machines. "
        "Other runs of this dashboard wait meanwhile."
    )


def _job_runs() -> bool:
    asked = st.session_state.get(_ASKED)
    job = state.side_job(_NAME, asked) if asked is not None else None
    return job is not None and not job.over


def _progress(under_way: bool) -> None:
    """How far the measurement is, or why it ended early; draws the page anew where it ended since `under_way`."""
    asked = st.session_state.get(_ASKED)
    job = state.side_job(_NAME, asked) if asked is not None else None
    if job is not None and not job.over:
        progress.side(_NAME, asked)
    elif under_way:
        st.rerun()
    elif job is not None and job.status == "failed":
        st.error(escape_markdown(job.error))
    elif job is not None:
        st.html('<p class="d-note stale">The measurement was cancelled; nothing of it was kept.</p>')


# --- what was measured -------------------------------------------------------------------------------------


def _results(profiles: Sequence[Profile]) -> None:
    stages, kernels = charts.stage_frame(profiles), charts.kernel_frame(profiles)
    left, right = st.columns([2, 3], gap="large")
    with left:
        chart("Stages", "seconds of one discovery", charts.stage_chart(stages), lambda: stages, key="kernels_stages")
    with right:
        _roofline(profiles, kernels)
    _operators(kernels)
    for profile in profiles:
        _rivals(profile, several=len(profiles) > 1)
    _scaling(profiles)
    _launches(profiles)


def _roofline(profiles: Sequence[Profile], kernels: pd.DataFrame) -> None:
    title, said = "Roofline", "an operator is at most as fast as the line above it; dashed: what is left"
    drawn = kernels[kernels["flops"] > 0] if len(kernels) else kernels
    if not len(drawn):
        st.html('<p class="d-panel">No operator that does floating-point arithmetic was called.</p>')
        return
    roofs = charts.roof_frame(charts.ceilings_of(profiles), drawn["intensity"])
    chart(title, said, charts.roofline(drawn, roofs), lambda: kernels, key="kernels_roofline")
    notes = []
    if len(drawn) < len(kernels):
        whole = ", ".join(kernels.loc[kernels["flops"] == 0, "name"].unique())
        notes.append(f"Without floating-point arithmetic, so only in the table: {whole}.")
    if (drawn["share"] > 1).any():
        notes.append("An operator that leaves out products which are zero can be above the line.")
    _notes(notes)


def _operators(kernels: pd.DataFrame) -> None:
    if not len(kernels):
        return
    heading(
        "Operators",
        "all calls of one discovery together, training whole; bytes: arguments and results once",
        lambda: kernels,
        "kernels_operators",
    )
    columns: dict[str, Callable[[Any], str]] = {
        "Operator": lambda k: k.name,
        "On": lambda k: k.device,
        "Calls": lambda k: f"{k.calls:,}",
        "Time": lambda k: charts.milliseconds(k.ms),
        "MiB": lambda k: number(k.mib),
        "GFLOP": lambda k: number(k.flops / 1e9) if k.flops else "none",
        "GFLOP/s": lambda k: number(k.gflop_s) if k.flops else "none",
        "GB/s": lambda k: number(k.gb_s),
        "Bound by": lambda k: k.bound,
        "Of the roofline": lambda k: f"{100 * k.share:.0f} %",
    }
    rows = [[make(row) for make in columns.values()] for row in _rows(kernels)]
    _table(list(columns), rows, right=set(columns) - {"Operator", "On"})


def _rivals(profile: Profile, *, several: bool) -> None:
    if not profile.rivals:
        return
    device = charts.device_of(profile)
    where = f" on {device}" if several else ""
    key = f"kernels_rivals_{device.lower()}"
    frame = charts.rivals_frame(profile.rivals)
    left, right = st.columns([3, 2], gap="large")
    with left:
        chart(
            f"Fused against plain torch{where}",
            "written beside a bar: its time, and how many times the fused operator's that is",
            charts.rivals_chart(frame),
            lambda: frame,
            key=key,
        )
        _notes(rival_notes(frame))
    with right:
        heading(f"Extra memory{where}", "MiB at the peak, beyond the arguments", lambda: frame, f"{key}_memory")
        found = frame.pivot(index="operator", columns="variant", values="mib")
        names = [name for name in charts.VARIANTS.values() if name in found]
        rows = [
            [operator, *("not known" if pd.isna(v := found.loc[operator, name]) else number(v) for name in names)]
            for operator in dict.fromkeys(frame["operator"])
        ]
        _table(["Operator", *names], rows, right=set(names))


def rival_notes(frame: pd.DataFrame) -> list[str]:
    """How training was shortened, and which variants did not run and why."""
    from dsae_core.profiling import RIVAL_EPOCHS

    notes = []
    if frame["operator"].str.startswith("train").any():
        notes.append(f"Training runs {plural(RIVAL_EPOCHS, 'epoch')} here, not all: plain torch would take too long.")
    without: dict[tuple[str, str], list[str]] = {}
    for row in _rows(frame[frame["ms"].isna()]):
        without.setdefault((row.variant, row.note), []).append(row.operator)
    for (variant, note), operators in without.items():
        notes.append(f"{variant} did not run for {', '.join(operators)}: {note[:1].lower()}{note[1:]}")
    return notes


def _scaling(profiles: Sequence[Profile]) -> None:
    found = next((profile.scaling for profile in profiles if profile.scaling), ())
    st.html('<h2 class="d-section">How time grows</h2>')
    if not found:
        st.html('<p class="d-note">Not measured: turn “How time grows” on in Settings and measure again.</p>')
        return
    st.html(
        '<p class="d-note">Both axes are logarithmic, so a power of the size is a straight line and its exponent the '
        "slope: 1 is twice the time for twice the size, 2 four times. Head outputs are random here; no model runs.</p>"
    )
    for i, (column, item) in enumerate(zip(st.columns(len(found), gap="large"), found, strict=True)):
        with column:
            chart(
                f"{item.name if '_' in item.name else item.name.capitalize()} by {item.quantity}",
                f"exponent {item.exponent:.2f}; {item.expected} by its arithmetic",
                charts.scaling_chart(item),
                lambda item=item: charts.scaling_frame(item),  # type: ignore[misc]
                key=f"kernels_growth_{i}",
            )


def _launches(profiles: Sequence[Profile]) -> None:
    launches = [launch for profile in profiles for launch in profile.launches]
    if not launches:
        return
    frame = pd.DataFrame(launches)
    heading("CUDA kernels", "what each takes of the device", lambda: frame, "kernels_launches")
    columns = [str(column).replace("_", " ") for column in frame]
    _table(columns, frame.astype(str).values.tolist(), right=set(columns[1:]))


def _notes(notes: Sequence[str]) -> None:
    if notes:
        st.html("".join(f'<p class="d-note">{escape_html(note)}</p>' for note in notes))


def _rows(frame: pd.DataFrame) -> list[Any]:
    return list(frame.itertuples(index=False))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: set[str]) -> None:
    """A table of words and numbers; those columns in `right` are numbers."""
    kinds = ["n" if column in right else "nowrap" for column in columns]
    head = "".join(f'<th class="{kind}">{escape_html(name)}</th>' for kind, name in zip(kinds, columns, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{kind}">{escape_html(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    st.html(
        f'<div class="d-scroll"><table class="d-codes d-lines"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


# --- what is known without measuring -----------------------------------------------------------------------


def _machine(machine: Mapping[str, Any]) -> None:
    rows = machine_rows(machine)
    frame = pd.DataFrame(rows, columns=["fact", "value"])
    heading("Facts", "what the figures depend on", lambda: frame, "kernels_machine")
    _table(["Fact", "Value"], rows, right=set())


def machine_rows(machine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(fact, value) of machine_facts(), in words."""
    build = machine.get("build") or {}
    cuda = build.get("cuda_version")
    archs = ", ".join(map(str, build.get("cuda_archs") or ()))
    rows = [
        ("Processor", machine.get("processor")),
        ("Cores", machine.get("cores")),
        ("Threads of torch", machine.get("threads")),
        ("Vector instructions of torch", machine.get("vector_instructions")),
        ("Memory", f"{machine['memory_gib']} GiB" if "memory_gib" in machine else None),
        ("CUDA device", machine.get("gpu") or "none"),
        ("CUDA operators", f"built with CUDA {cuda} for {archs}" if cuda else "not built"),
        (
            "Operators compiled by",
            f"{build.get('compiler')} {build.get('compiler_version')}, {build.get('build_type')}",
        ),
        ("Instruction set of the operators", build.get("isa") or machine.get("isa")),
        ("torch", machine.get("torch")),
        ("Python", machine.get("python")),
        ("System", machine.get("system")),
    ]
    return [(fact, str(value)) for fact, value in rows if value is not None]


def _stored() -> None:
    """The figures that come with the project, said to be from elsewhere."""
    try:
        report = json.loads(read_text(STORED, "the stored figures")) if STORED.is_file() else None
        frame = charts.stored_frame(report["results"]) if report is not None else None
        origin = stored_origin(report) if report is not None else ""
    except (UserError, KeyError, TypeError, ValueError):
        frame = None
    if frame is None or not len(frame):
        return
    st.html('<h2 class="d-section">The operators, measured elsewhere</h2>')
    st.html(
        f'<div class="d-eyebrow"><span class="d-tag">Not measured here</span><span>{escape_html(origin)}</span></div>'
    )
    heading(
        "Fused operators against eager torch",
        "medians; MiB: extra memory at the peak",
        lambda: frame,
        "kernels_stored",
    )

    def shown(value: float, form: Callable[[float], str]) -> str:
        return "not run" if pd.isna(value) else form(value)

    rows = [
        [
            row.operator,
            row.sizes,
            shown(row.fused_ms, charts.milliseconds),
            shown(row.eager_ms, charts.milliseconds),
            shown(row.ratio, charts.times),
            shown(row.fused_mib, number),
            shown(row.eager_mib, number),
        ]
        for row in _rows(frame)
    ]
    numbers = ["Fused", "Eager torch", "Eager / fused", "MiB, fused", "MiB, eager"]
    _table(["Operator", "Sizes", *numbers], rows, right=set(numbers))


def stored_origin(report: Mapping[str, Any]) -> str:
    """Where and when the stored figures were measured, as far as their file says."""
    build = report.get("build") or {}
    parts = [
        f"Stored with the project: {report.get('machine')}, {plural(int(report['threads']), 'thread')}",
        f"torch {report.get('torch')}",
        f"{build.get('compiler')} {build.get('compiler_version')}",
        f"measured {report['date']}" if report.get("date") else "date not recorded",
    ]
    return " · ".join(parts)
