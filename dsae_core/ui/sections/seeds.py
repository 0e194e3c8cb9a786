"""Widgets that start with a value that the session keeps, so that links and other pages can set it."""

from __future__ import annotations

from typing import Any

import streamlit as st


def seeded(key: str, value: Any) -> str:
    """The key of a widget that starts with a value."""
    if key not in st.session_state:
        st.session_state[key] = value
    return key
