"""A real server and a headless browser, for tests and for screenshots."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = 500
"""Pixels; a page less wide than that is a phone's, with a screen to touch."""

RUN_SECONDS = 400
"""A run may take that long: a cold model load on a busy machine."""


def browser_path() -> str | None:
    """The browser to drive, None where there is none."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


needs_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(
        browser_path() is None and not os.environ.get("CI"), reason="no Chromium here; set CHROMIUM to its path"
    ),
]
"""For a file's pytestmark: CI has to have a browser, elsewhere its tests are skipped without one."""


@dataclass(frozen=True)
class Server:
    """A dashboard that runs.

    Attributes:
        url: its address.
        pid: its process.
    """

    url: str
    pid: int


@contextmanager
def running_server(data: Path | None = None) -> Iterator[str]:
    """The address of a dashboard that was started for this and is stopped after it.

    Args:
        data: the folder that runs are kept in; one that goes away again where none is given.
    """
    with started_server(data) as server:
        yield server.url


@contextmanager
def started_server(
    data: Path | None = None, arguments: Sequence[str] = (), log: IO[bytes] | None = None, port: int | None = None
) -> Iterator[Server]:
    """A dashboard that was started for this and is stopped after it.

    Args:
        data: the folder that runs are kept in; one that goes away again where none is given.
        arguments: of `dsae app`, beside its port.
        log: takes what the server writes to standard error.
        port: its own; a free one where none is given.
    """
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own,
        _server({**os.environ, "DSAE_DATA": str(data or own)}, arguments, log, port or free_port()) as server,
    ):
        yield server


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _server(
    environment: Mapping[str, str], arguments: Sequence[str], log: IO[bytes] | None, port: int
) -> Iterator[Server]:
    start = "from dsae_core.cli import main; main()"
    command = [sys.executable, "-c", start, "app", "--port", str(port), "--headless", *arguments]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log, env=environment)
    try:
        _wait_until_up(server, port)
        yield Server(f"http://127.0.0.1:{port}", server.pid)
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_until_up(server: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the dashboard ended at once with exit code {server.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the dashboard was not up within 90 s")


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A headless browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=ARGUMENTS)
        yield browser
        browser.close()


def open_page(browser: Browser, url: str, *, width: int = 1440, height: int = 900, scheme: str = "light") -> Page:
    """A page of its own session, once a result stands on it."""
    view: Any = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, "has_touch": width < PHONE}
    context = browser.new_context(**view)
    page = context.new_page()
    page.goto(url)
    page.locator(".d-headline").first.wait_for(timeout=90_000)
    page.locator(".d-codes:visible").first.wait_for(timeout=90_000)
    page.wait_for_timeout(500)
    return page


def open_sidebar(page: Page) -> None:
    """Open the sidebar where it is folded, as it is on a phone."""
    button = page.get_by_test_id("stExpandSidebarButton")
    if button.is_visible():
        button.click()
        page.wait_for_timeout(600)


def demo_tag(page: Page) -> Locator:
    """The words above a result that say that it is the stored demo."""
    return page.locator(".d-tag", has_text="Stored demo")


def press_run(page: Page) -> None:
    """Press Run discovery."""
    page.get_by_role("button", name="Run discovery").click()


def wait_until_idle(page: Page) -> None:
    """Wait for a run that was started to end."""
    page.get_by_role("button", name="Cancel").wait_for(timeout=30_000)
    page.get_by_role("button", name="Cancel").wait_for(state="detached", timeout=1000 * RUN_SECONDS)
    page.wait_for_timeout(1000)


def click_head(page: Page, layer: int, head: int) -> None:
    """Click a head's cell in the heatmap."""
    name = f"{layer}.{head}"
    chart = page.locator(".st-key-heatmap_scroll")
    chart.locator(f".mark-rect path[aria-label*='Head (layer.head): {name};']").first.click(force=True)
    page.get_by_text(f"Prompts and codes of head {name}").wait_for()
