"""The server that `dsae app` starts: the dashboard, with what a first visit needs loaded before it comes."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import streamlit as st

from dsae_core.ui import routes


@asynccontextmanager
async def _lifespan(_: st.App) -> AsyncIterator[None]:
    threading.Thread(target=_preload, name="dsae-preload", daemon=True).start()
    yield


def _preload() -> None:
    """Import torch and the charts, read the demo and work out what its page shows; then the other pages' code."""
    from dsae_core.ui.pages.discover import warm

    warm()
    routes.load_all()


app = st.App("script/dashboard.py", lifespan=_lifespan)
