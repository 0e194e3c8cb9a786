"""A chart with its title, and what it can be saved as."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dsae_core.circuits import Head
from dsae_core.ui import sharing
from dsae_core.ui.charts.style import SELECTION, WORDS, Drawing
from dsae_core.ui.sections.files import colours, file_button, picture_buttons
from dsae_core.ui.sections.sight import keep_head_in_sight
from dsae_core.ui.state import select_head, selected_head
from dsae_core.ui.text import escape_html, head_name


def chart(
    title: str,
    subtitle: str,
    drawing: Drawing,
    data: Callable[[], pd.DataFrame],
    *,
    key: str,
    layers: int | None = None,
    selects: bool = False,
    leads: bool = False,
    width: int = sharing.NARROW,
) -> None:
    """Draw a chart under its title.

    Args:
        title: what it shows.
        subtitle: how to read it.
        drawing: the chart.
        data: makes the frame that is saved as its data.
        key: tells it from the page's other charts; also the files' name.
        layers: of a chart with layers along its width, how many. Such a chart is wide, and where the page is narrow it
            scrolls to the selected head; a click on a head selects it.
        selects: whether a click on a head selects it, everywhere, where no layers are given.
        leads: whether a link leads to that head's details, which are further down.
        width: of a picture of it, in pixels.
    """
    wide = layers is not None
    to = head_name(*selected_head()) if leads else ""
    _chart_heading(title, subtitle, data, drawing, key, sharing.WIDE if wide else width, swipes=wide, to=to)
    spec = {**drawing.spec, "datasets": dict(drawing.data), "description": f"{title}. {subtitle}"}
    spec["config"] = {**spec.get("config", {}), "axis": WORDS, "legend": WORDS}
    if layers is None and not selects:
        st.vega_lite_chart(spec=spec, key=key)
        return
    with st.container(key=f"{key}_scroll"):
        st.vega_lite_chart(spec=spec, key=key, on_select=lambda: _select(key), selection_mode=SELECTION)
    st.session_state[_clicked(key)] = _in_selection(key)
    if layers is not None:
        head = selected_head()
        keep_head_in_sight(key, head_name(*head), (head[0] + 0.5) / layers)


def heading(title: str, subtitle: str, data: Callable[[], pd.DataFrame], key: str) -> None:
    """A title with a button that saves the data below it."""
    with _title_row(title, subtitle):
        _data_button(title, data, key)


@st.fragment
def _chart_heading(
    title: str,
    subtitle: str,
    data: Callable[[], pd.DataFrame],
    drawing: Drawing,
    key: str,
    width: int,
    *,
    swipes: bool,
    to: str,
) -> None:
    """A title with a menu that saves the chart below it, as data or as a picture.

    What is in the menu is drawn when it is opened, and only that: the page is sent a closed menu alone.
    """
    with _title_row(title, subtitle, swipes=swipes, to=to):
        menu = st.popover(
            "Save",
            key=f"{key}_save",
            on_change="rerun",
            type="tertiary",
            icon=":material/download:",
            help=f"Save as data or as a picture: {title.lower()}.",
        )
    if menu.open:
        with menu, st.container(gap="small"):
            mode = colours(f"{key}_mode")
            with st.container(horizontal=True, gap="small"):
                _data_button(title, data, key)
                picture_buttons(lambda: drawing, title, subtitle, key, mode=mode, width=width, key=key)


def _title_row(title: str, subtitle: str, *, swipes: bool = False, to: str = "") -> DeltaGenerator:
    """A title, and room beside it; on a phone it says where what is below has to be moved sideways.

    `to` is the head whose details a link leads to, "" for no link.
    """
    more = '<em class="d-swipe">; swipe for other layers</em>' if swipes else ""
    more += f' <a class="d-jump" href="#selected-head">Head {escape_html(to)} ↓</a>' if to else ""
    row = st.container(horizontal=True, vertical_alignment="center", wrap=False, gap="small")
    row.html(f'<div class="d-title">{escape_html(title)}<span>{escape_html(subtitle)}{more}</span></div>')
    return row


def _data_button(title: str, data: Callable[[], pd.DataFrame], key: str) -> None:
    file_button(
        "CSV",
        lambda: data().to_csv(index=False),
        f"{key}.csv",
        f"Download data: {title.lower()}.",
        key=f"{key}_data",
    )


def finding(sentence: str, *, good: bool = True) -> None:
    """A sentence that says what was found out; one that warns has a dashed line beside it."""
    text = escape_html(sentence).replace(" %", "&nbsp;%")
    st.html(f'<p class="d-finding{"" if good else " warn"}">{text}</p>')


def _select(key: str) -> None:
    """Select the head that was clicked in a chart; a click beside all heads changes nothing.

    A click takes a head into the chart's selection or out of it, so that every click is told to the server, one on the
    head that was clicked last as well: another may have been selected elsewhere meanwhile. The head that comes or goes
    is the one that was clicked.
    """
    before, now = set(st.session_state.get(_clicked(key), [])), _in_selection(key)
    changed = before.symmetric_difference(now)
    if len(changed) > 1:  # the browser has built the chart anew, and its selection began empty
        changed = set(now[-1:])
    for head in changed:
        select_head(head)


def _in_selection(key: str) -> list[Head]:
    """The heads in a chart's selection, in the order in which they were clicked."""
    chosen = st.session_state.get(key, {}).get("selection", {}).get(SELECTION) or []
    return [(int(point["layer"]), int(point["head"])) for point in chosen]


def _clicked(key: str) -> str:
    """Where the selection of a chart is kept as it was when the page was drawn."""
    return f"{key}_clicked"
