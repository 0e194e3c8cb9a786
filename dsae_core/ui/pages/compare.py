"""Compare: methods and baselines on the same prompts, and one kept run against another."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from dsae_core.ui.sections.compare_methods import methods
from dsae_core.ui.sections.compare_runs import compare_with, runs
from dsae_core.ui.sections.seeds import seeded

Mode = Literal["methods", "runs"]

MODES: dict[Mode, str] = {"methods": "Methods", "runs": "Two runs"}
_MODE = "compare_kept_mode"


def page() -> None:
    """Draw the page."""
    if "compare_first" in st.session_state:  # the Runs page sent a run
        compare_with(st.session_state.pop("compare_first"))
        st.session_state[_MODE] = "runs"
        st.session_state.pop("compare_mode", None)
    mode = st.segmented_control(
        "Compare",
        list(MODES),
        format_func=MODES.__getitem__,
        key=seeded("compare_mode", st.session_state.get(_MODE, "methods")),
        required=True,
        label_visibility="collapsed",
        help="Methods on the same prompts, or two finished runs head by head.",
    )
    st.session_state[_MODE] = mode
    if mode == "runs":
        runs()
    else:
        methods()
