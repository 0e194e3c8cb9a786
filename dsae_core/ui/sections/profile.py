"""What a profile found: stages, the roofline, operators, plain torch, how time grows, CUDA kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from dsae_core.ui import sharing
from dsae_core.ui.charts import kernels as charts
from dsae_core.ui.sections.charts import chart, heading
from dsae_core.ui.sections.tables import rows_of, table
from dsae_core.ui.text import escape_html, number, plural

if TYPE_CHECKING:
    from dsae_core.profiling import Profile


CEILINGS = (
    "The lines are this machine's ceilings, measured with the profile: on the slope, how fast it copies memory; where "
    "flat, how fast it multiplies large matrices."
)
COMPILED = (
    "Compiled: this project's operators in C++ and CUDA, each fused: one pass over the data, without the arrays in "
    "between. Plain torch: the same arithmetic in torch's own operations, one after another (eager) or made into one "
    "program (torch.compile)."
)


def results(profiles: Sequence[Profile]) -> None:
    """Draw what was measured, a profile a device."""
    stages, kernels = charts.stage_frame(profiles), charts.kernel_frame(profiles)
    left, right = st.columns([2, 3], gap="large")
    with left:
        chart(
            "Stages",
            "seconds of one discovery",
            charts.stage_chart(stages),
            lambda: stages,
            key="kernels_stages",
            width=sharing.HALF,
        )
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
    chart(title, said, charts.roofline(drawn, roofs), lambda: kernels, key="kernels_roofline", width=sharing.HALF)
    notes = [CEILINGS]
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
    rows = [[make(row) for make in columns.values()] for row in rows_of(kernels)]
    table("Operators", list(columns), rows, right=set(columns) - {"Operator", "On"})


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
            f"Compiled against plain torch{where}",
            "written beside a bar: its time, and how many times the compiled operator's that is",
            charts.rivals_chart(frame),
            lambda: frame,
            key=key,
            width=sharing.HALF,
        )
        _notes([COMPILED, *rival_notes(frame)])
    with right:
        heading(f"Extra memory{where}", "MiB at the peak, beyond the arguments", lambda: frame, f"{key}_memory")
        found = frame.pivot(index="operator", columns="variant", values="mib")
        names = [name for name in charts.VARIANTS.values() if name in found]
        rows = [
            [operator, *("not known" if pd.isna(v := found.loc[operator, name]) else number(v) for name in names)]
            for operator in dict.fromkeys(frame["operator"])
        ]
        table(f"Extra memory{where}", ["Operator", *names], rows, right=set(names))


def rival_notes(frame: pd.DataFrame) -> list[str]:
    """How training was shortened, and which variants did not run and why."""
    from dsae_core.rivals import RIVAL_EPOCHS

    notes = []
    if frame["operator"].str.startswith("train").any():
        notes.append(f"Training runs {plural(RIVAL_EPOCHS, 'epoch')} here, not all: plain torch would take too long.")
    without: dict[tuple[str, str], list[str]] = {}
    for row in rows_of(frame[frame["ms"].isna()]):
        without.setdefault((row.variant, row.note), []).append(row.operator)
    for (variant, note), operators in without.items():
        notes.append(f"For {', '.join(operators)}, {variant} did not run: {note[:1].lower()}{note[1:]}")
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
    table("CUDA kernels", columns, frame.astype(str).values.tolist(), right=set(columns[1:]))


def _notes(notes: Sequence[str]) -> None:
    if notes:
        st.html("".join(f'<p class="d-note">{escape_html(note)}</p>' for note in notes))
