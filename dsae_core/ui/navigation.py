"""The frame that all pages share: the tab's title and icon, and the way from page to page."""

import streamlit as st

from dsae_core.ui import routes
from dsae_core.ui.sections import sight
from dsae_core.ui.theme import ICON


def main() -> None:
    """Open the page that the address names."""
    st.set_page_config(page_title="Which heads do it?", page_icon=ICON, layout="wide")
    st.navigation(list(routes.pages().values()), position="top").run()
    sight.draw()
