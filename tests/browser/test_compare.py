"""The Compare page in a real browser: methods on the real model, and two kept runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from support import needs_browser, running_server
from test_library import run_of

from dsae_core.ui.comparison import FAST
from dsae_core.ui.library import Library
from dsae_core.ui.sections.compare_methods import method_label
from dsae_core.ui.text import plural

pytestmark = needs_browser
BEST = re.compile("ranks the measured circuit best|the best average precision")
"""What a finished comparison's headline has."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("served")
    library = Library(folder / "runs.sqlite3")
    for seed in (1, 2, 3):
        library.keep(run_of(seed), name=f"<b>run {seed}</b>")
    with running_server(folder) as address:
        yield address


def headline(page: Page, text: str | re.Pattern[str], *, timeout: int = 5_000) -> None:
    """Wait for a headline with this text; while a page is drawn anew, the old one may stand beside it for a moment."""
    expect(page.locator(".d-headline", has_text=text)).to_be_visible(timeout=timeout)


def compare_page(browser: Browser, url: str, *, width: int = 1440, height: int = 900) -> Page:
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.goto(f"{url}/compare")
    page.get_by_role("heading", name="Which method ranks the heads best?").wait_for(timeout=90_000)
    return page


def two_runs(page: Page) -> None:
    page.get_by_role("radio", name="Two runs").or_(page.get_by_role("button", name="Two runs")).first.click()
    headline(page, "of them are the same", timeout=20_000)


def choose(page: Page, *wanted: str) -> None:
    """Have these methods chosen and no other, starting from those that a first visit has chosen."""
    chosen = {method_label(method) for method in FAST}
    for label in sorted(chosen ^ set(wanted)):
        page.get_by_test_id("stButtonGroup").get_by_text(label, exact=True).click()
        chosen ^= {label}
        expect(page.get_by_role("button", name=f"Compare {plural(len(chosen), 'method')}")).to_be_visible()


@pytest.mark.model
def test_methods_are_compared_on_the_same_prompts(browser: Browser, url: str) -> None:
    page = compare_page(browser, url)
    choose(page, "Random", "Output norm")
    page.get_by_role("button", name="Compare 2 methods").click()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    other = compare_page(browser, url)  # another session knows nothing of it
    expect(other.get_by_role("button", name="Cancel")).to_have_count(0)
    other.context.close()
    headline(page, BEST, timeout=300_000)
    expect(page.get_by_role("button", name="Compare methods")).to_be_enabled()
    page.wait_for_timeout(1000)  # drawing anew replaces what a button saves
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").first.click()
    table = download.value.path().read_text().splitlines()
    assert table[0].startswith("method,needs,auc,average_precision,at_size,seconds")
    assert sorted(line.split(",")[0] for line in table[1:]) == ["Output norm", "Random"]
    for title in ("Accuracy and cost", "Agreement", "Random", "Output norm"):
        expect(page.locator(".d-title", has_text=title).first).to_be_visible()
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(4)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    page.get_by_role("link", name="About").click()
    page.get_by_role("heading", name="What this computes").wait_for()
    page.get_by_role("link", name="Compare").click()  # the result waits for its visitor
    headline(page, BEST)
    page.context.close()


@pytest.mark.model
def test_a_comparison_can_be_cancelled(browser: Browser, url: str) -> None:
    page = compare_page(browser, url)
    choose(page, "Random", method_label("acdc"))
    page.get_by_role("button", name="Compare 2 methods").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("The comparison was cancelled")).to_be_visible(timeout=300_000)
    expect(page.get_by_role("button", name="Compare methods")).to_be_enabled()
    page.context.close()


def test_two_kept_runs_side_by_side(browser: Browser, url: str) -> None:
    page = compare_page(browser, url)
    two_runs(page)
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(4)
    expect(page.get_by_text("rank correlation", exact=True)).to_be_visible()
    before = page.locator(".d-eyebrow").inner_text()
    page.get_by_role("combobox", name="Run B").click()
    page.get_by_role("option", name="<b>run 1</b>").click()
    expect(page.locator(".d-eyebrow")).not_to_have_text(before)
    expect(page.locator(".d-eyebrow")).to_contain_text("seed 1")
    expect(page.get_by_test_id("stException")).to_have_count(0)
    page.context.close()


def test_the_runs_page_sends_a_run_to_compare(browser: Browser, url: str) -> None:
    page = browser.new_context().new_page()
    page.goto(f"{url}/runs")
    first = page.locator("[class*='st-key-run_row_']").filter(has_text="run 1")
    first.get_by_role("button", name="More").click(timeout=90_000)
    page.get_by_role("button", name="Compare with another").click()
    described = "A: <b>run 1</b>, Indirect object (IOI), positional, seed 1"
    expect(page.locator(".d-eyebrow")).to_contain_text(described, timeout=20_000)
    page.context.close()


@pytest.mark.parametrize("show", ["first words", "two runs"])
def test_the_page_fits_a_phone(browser: Browser, url: str, show: str) -> None:
    page = compare_page(browser, url, width=390, height=844)
    if show == "two runs":
        two_runs(page)
        page.wait_for_timeout(800)
    else:
        expect(page.get_by_role("button", name="Compare 6 methods")).to_be_in_viewport()
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390
    page.context.close()
