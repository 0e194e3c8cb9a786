"""A browser, and a dashboard to point it at, for each file of browser tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from support import browser_path, open_page, running_browser, running_server

expect.set_options(timeout=20_000)  # five seconds are little where other tests keep the processor busy


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a dashboard that keeps nothing; a file that wants runs kept has a fixture of its own."""
    with running_server() as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert browser_path() is not None, "CI needs a Chromium: install it, or set CHROMIUM to its path"
    with running_browser() as running:
        yield running


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page as a first visit sees it."""
    opened = open_page(browser, url)
    yield opened
    opened.context.close()
