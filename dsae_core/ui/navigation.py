"""The frame that all pages share: the tab's title and icon, and the way from page to page."""

import streamlit as st

from dsae_core.ui import routes
from dsae_core.ui.sections import sight
from dsae_core.ui.theme import ICON, STYLE


def main(*, styled: bool = False) -> None:
    """Open the page that the address names.

    Args:
        styled: whether what the browser was sent has the dashboard's style already, as it has from `dsae app`.
    """
    st.set_page_config(page_title="Which heads do it?", page_icon=ICON, layout="wide")
    if not styled:
        st.html(STYLE)
    st.navigation(list(routes.pages().values()), position="top").run()
    sight.draw()
