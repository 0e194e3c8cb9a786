"""Files to save, each made when its button is pressed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from dsae_core.ui import sharing
from dsae_core.ui.charts.style import Drawing

_MIME = {"json": "application/json", "csv": "text/csv", "svg": "image/svg+xml", "png": "image/png"}


def file_button(
    label: str, content: Callable[[], str | bytes], name: str, why: str, *, key: str, disabled: bool = False
) -> None:
    """A button that saves a file, made when it is pressed."""
    st.download_button(
        label,
        content,
        name,
        _MIME[name.rpartition(".")[2]],
        key=key,
        on_click="ignore",
        type="tertiary",
        icon=":material/download:",
        help=why,
        disabled=disabled,
    )


def colours(key: str) -> sharing.Mode:
    """The choice of a picture's colours."""
    mode: sharing.Mode = st.segmented_control(
        "Colours",
        sharing.MODES,
        default="light",
        required=True,
        format_func=str.capitalize,
        key=key,
        help="Light for paper and slides, or as the dark page has it.",
    )
    return mode


def picture_buttons(
    draw: Callable[[], Drawing], title: str, subtitle: str, stem: str, *, mode: sharing.Mode, width: int, key: str
) -> None:
    """Buttons that save a chart as a picture, as sharing.picture() draws it.

    Args:
        draw: makes the chart.
        title: what it shows.
        subtitle: how to read it.
        stem: the start of the files' names.
        mode: "light" or "dark".
        width: of the picture in pixels.
        key: the start of the buttons' keys.
    """
    kinds: dict[sharing.Kind, str] = {
        "svg": "Drawn as lines and text, sharp at every size.",
        "png": f"{2 * width} pixels wide.",
    }
    for kind, why in kinds.items():
        make = partial(sharing.picture, draw, title, subtitle, kind=kind, mode=mode, width=width)
        file_button(kind.upper(), make, f"{stem}.{kind}", why, key=f"{key}_{kind.upper()}")
