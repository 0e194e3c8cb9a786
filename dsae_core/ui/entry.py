"""The server that `dsae app` starts: the dashboard, with what a first visit needs loaded before it comes."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from dsae_core.errors import ResultWarning
from dsae_core.limits import demo_limits
from dsae_core.ui import connections, faults, pauses, routes
from dsae_core.ui.preloading import Preloading

SETTLED = 4.0
"""Seconds that the model's loading leaves to a page that is opened as soon as the server is there."""

SCRIPT = Path(__file__).resolve().parent / "script" / "dashboard.py"
"""What Streamlit runs at every interaction."""


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
    """What a first visit needs: torch and the charts imported, the demo read and its page worked out.

    Then what comes after it: the other pages' code and, once a browser that opens now has drawn its page, the model.
    """
    from dsae_core.ui.pages.discover import warm
    from dsae_core.ui.runs import load_ahead

    warm()
    routes.load_all()
    pauses.keep_for_good()
    time.sleep(SETTLED)
    load_ahead()


def _keep_importable(folder: str) -> None:
    """Have a script's folder among those of imports for good.

    Where it is not, Streamlit puts it in front of them whenever it draws a page, and takes it out after that. An import
    in another thread, which is going through them, then passes over one, and at times finds a library missing.
    """
    if folder not in sys.path:
        sys.path.append(folder)


_keep_importable(str(SCRIPT.parent))
warnings.simplefilter("ignore", ResultWarning)
app = st.App(SCRIPT, lifespan=_lifespan, middleware=[Middleware(Preloading)], on_script_error=faults.show)
