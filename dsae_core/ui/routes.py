"""The dashboard's pages by name, and the way from one to another. A page's code is loaded when it is first opened."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache

import streamlit as st

TITLES = {"discover": "Discover", "compare": "Compare", "saved": "Runs", "kernels": "Kernels", "about": "About"}
"""Title by module of dsae_core.ui.pages, in the order of the navigation."""

_PATHS = {"saved": "runs"}
"""Where a page's address differs from its module's name."""


def pages() -> dict[str, st.Page]:
    """Every page that this installation has, by its module's name; new objects, for they are a session's own."""
    return {
        name: st.Page(_drawn(name), title=TITLES[name], url_path=_PATHS.get(name, name), default=name == "discover")
        for name in _present()
    }


@cache
def _present() -> tuple[str, ...]:
    return tuple(name for name in TITLES if importlib.util.find_spec(f"dsae_core.ui.pages.{name}") is not None)


def go(name: str) -> None:
    """Open another page; what follows is not run."""
    st.switch_page(pages()[name])


def load_all() -> None:
    """Import every page's code, so that no visitor waits for it."""
    for name in _present():
        importlib.import_module(f"dsae_core.ui.pages.{name}")


def _drawn(name: str) -> Callable[[], None]:
    """Draws a page; its module is imported then, not before."""

    def draw() -> None:
        importlib.import_module(f"dsae_core.ui.pages.{name}").page()

    return draw
