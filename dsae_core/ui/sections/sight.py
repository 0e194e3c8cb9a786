"""Brings what a button in the sidebar started into sight: on a phone the sidebar lies over the page and stays there."""

from __future__ import annotations

import streamlit as st

_LATEST = "brought_into_sight"

_SCRIPT = """
export default function ({ data }) {
  const page = document.documentElement;
  if (page.dataset.broughtIntoSight === data) return;
  page.dataset.broughtIntoSight = data;
  const main = document.querySelector('[data-testid="stMain"]');
  const sidebar = document.querySelector('[data-testid="stSidebar"]');
  const fold = document.querySelector('[data-testid="stSidebarCollapseButton"] button');
  main?.scrollTo({ top: 0 });
  if (main && sidebar && sidebar.getBoundingClientRect().right > main.getBoundingClientRect().left + 1) fold?.click();
}
"""
"""Streamlit itself has no way to fold a sidebar that somebody opened."""

_script = st.components.v2.component("dsae_bring_into_sight", js=_SCRIPT)


def bring_into_sight(event: str) -> None:
    """Have the browser scroll to the page's top, and fold the sidebar where it lies over the page.

    Args:
        event: names what was started; asking again for the same event does nothing more.
    """
    st.session_state[_LATEST] = event


def draw() -> None:
    """Tell the browser of the latest event; at the end of every page, which stays as it is otherwise."""
    if _LATEST in st.session_state:
        with st.container(key="bring_into_sight"):
            _script(data=st.session_state[_LATEST], key="bring_into_sight_script")
