"""Brings into sight what a phone has no room for: a run behind the sidebar that started it, a head further along."""

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

_SCROLL = """
export default function ({ data }) {
  const chart = document.querySelector(`.st-key-${data.chart}_scroll`);
  if (!chart || chart.dataset.inSight === data.head) return;
  chart.dataset.inSight = data.head;
  const at = data.share * chart.scrollWidth - chart.scrollLeft, margin = 24;
  if (chart.scrollWidth <= chart.clientWidth + 1 || (at > margin && at < chart.clientWidth - margin)) return;
  chart.scrollTo({ left: data.share * chart.scrollWidth - chart.clientWidth / 2 });
}
"""
"""Where all of a chart is in sight, or the head already, it stays as it is; so it does until another is selected."""

_scroll = st.components.v2.component("dsae_keep_in_sight", js=_SCROLL)


def bring_into_sight(event: str) -> None:
    """Have the browser scroll to the page's top, and fold the sidebar where it lies over the page.

    Args:
        event: names what was started; asking again for the same event does nothing more.
    """
    st.session_state[_LATEST] = event


def keep_head_in_sight(chart: str, head: str, share: float) -> None:
    """Scroll a chart sideways to the selected head where that is out of sight.

    Args:
        chart: its key.
        head: the head's name; it is scrolled to once.
        share: of the chart's width, at which the head lies.
    """
    with st.container(key=f"{chart}_sight"):
        _scroll(data={"chart": chart, "head": head, "share": share}, key=f"{chart}_sight_script")


def draw() -> None:
    """Tell the browser of the latest event; at the end of every page, which stays as it is otherwise."""
    if _LATEST in st.session_state:
        with st.container(key="bring_into_sight"):
            _script(data=st.session_state[_LATEST], key="bring_into_sight_script")
