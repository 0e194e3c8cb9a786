"""What is known without measuring: the machine, and figures that come with the project."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dsae_core.errors import UserError
from dsae_core.files import read_text
from dsae_core.ui.charts import kernels as charts
from dsae_core.ui.profiles import machine_rows
from dsae_core.ui.sections.charts import heading
from dsae_core.ui.sections.tables import rows_of, table
from dsae_core.ui.text import escape_html, number, plural

STORED = Path(__file__).resolve().parents[3] / "benchmarks" / "results" / "operators.cpu.json"
"""Figures that come with the project's sources; an installed package does not have them."""

FACTS_WIDTH = 690
"""Pixels of the table of facts, 46 letters wide: a value stands near its name."""


def machine_facts(machine: Mapping[str, Any]) -> None:
    """Draw the facts of profiles.facts(), of now or of when something was measured."""
    st.html('<h2 class="d-section">This machine</h2>')
    rows = machine_rows(machine)
    frame = pd.DataFrame(rows, columns=["fact", "value"])
    with st.container(width=FACTS_WIDTH):
        heading("Facts", "what the figures depend on", lambda: frame, "kernels_machine")
        table("Facts", ["Fact", "Value"], rows, right=set())


def stored_figures() -> None:
    """Draw the figures that come with the project, said to be from elsewhere."""
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
        "Compiled operators against plain torch",
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
        for row in rows_of(frame)
    ]
    numbers = ["Compiled", "Plain torch (eager)", "Plain / compiled", "MiB, compiled", "MiB, plain torch"]
    table("Compiled operators against plain torch", ["Operator", "Sizes", *numbers], rows, right=set(numbers))


def stored_origin(report: Mapping[str, Any]) -> str:
    """Where and when the stored figures were measured, as far as their file says."""
    build = report.get("build") or {}
    parts = [
        f"Stored with the project: {report.get('machine')}, {plural(int(report['threads']), 'thread')}",
        f"torch {report.get('torch')}",
        f"{build.get('compiler')} {build.get('compiler_version')}",
        *([f"measured {report['date']}"] if report.get("date") else []),
    ]
    return " · ".join(parts)
