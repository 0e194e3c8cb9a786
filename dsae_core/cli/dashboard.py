"""dsae app: the page in a browser."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Annotated

import typer

from dsae_core.errors import UserError


def dashboard(
    port: Annotated[int, typer.Option(help="Port of the page.")] = 8501,
    address: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    headless: Annotated[bool, typer.Option(help="Do not open a browser.")] = False,
) -> None:
    """Open the dashboard in a browser."""
    spec = importlib.util.find_spec("dsae_core.ui.entry")
    if spec is None or spec.origin is None:
        raise UserError("This installation has no dashboard; install dsae-core again.")
    arguments = [sys.executable, "-m", "streamlit", "run", spec.origin]
    arguments += [f"--server.port={port}", f"--server.address={address}"]
    arguments += [f"--server.headless={str(headless).lower()}", "--browser.gatherUsageStats=false"]
    arguments += ["--server.showEmailPrompt=false"]  # a first run must not wait for somebody to type
    sys.stdout.flush()
    os.execv(sys.executable, arguments)
