"""The server that `dsae app` starts: the dashboard, with what a first visit needs loaded before it comes."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import streamlit as st
from starlette.middleware import Middleware

from dsae_core.limits import demo_limits
from dsae_core.ui import connections, faults, pauses, routes
from dsae_core.ui.preloading import Preloading


@asynccontextmanager
async def _lifespan(_: st.App) -> AsyncIterator[None]:
    if demo_limits() is not None:
        _log_jobs()
    connections.send_at_once()
    threading.Thread(target=_preload, name="dsae-preload", daemon=True).start()
    yield


def _log_jobs() -> None:
    """Have the log of a public demo say what runs, for whoever looks after it."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log = logging.getLogger("dsae_core")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _preload() -> None:
    """Import torch and the charts, read the demo and work out what its page shows; then the other pages' code."""
    from dsae_core.ui.pages.discover import warm

    warm()
    routes.load_all()
    pauses.keep_for_good()


app = st.App(
    "script/dashboard.py", lifespan=_lifespan, middleware=[Middleware(Preloading)], on_script_error=faults.show
)
