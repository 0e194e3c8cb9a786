"""Markup in prompts, names, links and files, in a real browser: it is read as text, and nothing of it acts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, expect
from support import needs_browser, running_server
from test_safety import EVERYTHING, HOSTILE, hostile_discovery
from test_ui_view import small_discovery

from dsae_core.ui.library import Library

pytestmark = needs_browser
ACTED = """() => [
    ...document.querySelectorAll("img[src='x'], img[src*='example.org'], a[href^='javascript'], .katex, mark, del"),
    ...document.querySelectorAll(".stMain script, [onmouseover], [onerror]"),
    ...document.querySelectorAll("span[class*='stMarkdownColored'], span[style*='color: red']"),
].map(e => e.outerHTML.slice(0, 200))"""
"""Elements that only come about where some text of HOSTILE is taken for more than text."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("served")
    kept = Library(folder / "runs.sqlite3")
    for i, text in enumerate(HOSTILE):
        found = dataclasses.replace(hostile_discovery(), node_scores=small_discovery().node_scores * (1 + i))
        kept.keep(found, name=text)
    with running_server(folder) as address:
        yield address


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page on which every dialog, and every question to another server, is an error."""
    opened = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    seen: list[str] = []
    opened.on("dialog", lambda dialog: (seen.append(dialog.message), dialog.dismiss()))
    opened.on("request", lambda request: seen.append(request.url) if "example.org/" in request.url[:20] else None)
    yield opened
    assert seen == []
    opened.context.close()


def read(page: Page) -> str:
    """What the page says; fails where something acted."""
    page.wait_for_timeout(700)
    assert page.evaluate(ACTED) == []
    expect(page.get_by_test_id("stException")).to_have_count(0)
    return str(page.evaluate("document.body.innerText")).replace("\N{WORD JOINER}", "")


@pytest.mark.promise("In a browser, markup in names, prompts, links and files is read as text: none of it acts.")
def test_hostile_runs_are_read_as_text(page: Page, browser: Browser, url: str) -> None:
    page.goto(f"{url}/runs")
    page.get_by_role("heading", name="kept on this computer").wait_for(timeout=90_000)
    said = read(page)
    assert all(text in said for text in HOSTILE)
    row = page.locator("[class*='st-key-run_row_']").first
    row.get_by_role("button", name="More").click()
    page.get_by_role("button", name="Delete").click()
    assert HOSTILE[-1] in read(page)
    page.get_by_role("button", name="Keep it").click()
    page.keyboard.press("Escape")
    row.get_by_role("button", name="Open").click()
    page.locator(".d-codes").wait_for(timeout=60_000)
    said = read(page)
    assert all(text in said for text in HOSTILE)
    page.get_by_role("button", name="Share").click()
    page.get_by_text("repeats this run").wait_for()
    assert "PromptPairs(" in read(page)
    page.locator(".st-key-heatmap_scroll .mark-rect path").first.hover(force=True)
    read(page)


def test_hostile_runs_are_compared_as_text(page: Page, url: str) -> None:
    page.goto(f"{url}/compare")
    page.get_by_text("Two runs").first.click()
    page.locator(".d-headline", has_text="of them").wait_for(timeout=60_000)
    assert HOSTILE[-1] in read(page)
    page.get_by_role("combobox", name="Run A").click()
    assert HOSTILE[0] in read(page)


@pytest.mark.parametrize("text", [*HOSTILE, EVERYTHING[:200]])
def test_a_hostile_link_is_read_as_text(text: str, page: Page, url: str) -> None:
    page.goto(f"{url}/?{urlencode({'model': text, 'task': text, text: text})}")
    page.locator(".d-codes").wait_for(timeout=60_000)
    assert " ".join(text.split()) in " ".join(read(page).split())


def test_hostile_files_are_read_as_text(page: Page, url: str) -> None:
    page.goto(f"{url}/?task=custom")
    page.get_by_role("button", name="Start from an example").wait_for(timeout=60_000)
    upload = page.locator("input[type=file]")
    for text in HOSTILE:
        cell = '"' + text.replace('"', '""') + '"'
        bad = {"name": f"{text.replace('/', '_')}.csv", "mimeType": "text/csv", "buffer": f"{cell}\n1\n".encode()}
        upload.set_input_files(bad)  # type: ignore[arg-type]
        page.get_by_text("needs a header row").wait_for()
        read(page)
        table = f"positive,negative\n{cell},{cell}\n"
        upload.set_input_files({"name": "p.csv", "mimeType": "text/csv", "buffer": table.encode()})
        page.get_by_text("1 prompt pair, in the table").wait_for()
        read(page)
