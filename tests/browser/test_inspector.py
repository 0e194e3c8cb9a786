"""Looking into heads, validating the circuit and writing prompts: a real server, a real browser, the real model."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from support import RUN_SECONDS, click_head, demo_tag, needs_browser, open_page

pytestmark = [*needs_browser, pytest.mark.model]
LONG = 120_000
"""Milliseconds for what may have to load the model first."""

HOSTILE = """positive,negative
"When Mary and John met at the <img src=x onerror=document.title='hit'>, John gave *a* [drink](http://x) to",\
"When Mary and John met at the <img src=x onerror=document.title='hit'>, Anna gave *a* [drink](http://x) to"
"The cat ran","The black cat ran"
"""


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page as a first visit sees it."""
    opened = open_page(browser, url)
    yield opened
    expect(opened.get_by_test_id("stException")).to_have_count(0)
    opened.context.close()


def look_at(page: Page, what: str) -> None:
    page.get_by_role("radio", name=what).or_(page.get_by_role("button", name=what, exact=True)).first.click()


def own_prompts(page: Page) -> None:
    page.get_by_role("combobox", name="Task").click()
    page.get_by_role("option", name="Your own prompts").click()
    expect(page.get_by_text("Write prompt pairs into the table")).to_be_visible()


def test_a_head_can_be_looked_into(page: Page) -> None:
    click_head(page, 23, 3)
    look_at(page, "Code table")
    expect(page.locator(".d-title", has_text="Codes of head 23.3")).to_be_visible()
    look_at(page, "Attention")
    expect(page.locator(".d-title", has_text="Difference")).to_be_visible(timeout=LONG)
    cells = page.locator("[aria-label*='From: ·to; To: ·Robert']")
    expect(cells.first).to_be_attached()
    page.get_by_role("button", name="Patch this head").click()
    expect(page.locator(".d-finding")).to_contain_text("With 23.3 patched the logit difference falls", timeout=LONG)
    expect(page.locator(".d-finding")).to_contain_text("bootstrap interval")
    look_at(page, "Direct effect")
    expect(page.locator(".d-title", has_text="Tokens 23.3 promotes")).to_be_visible(timeout=LONG)
    expect(page.locator(".d-role").first).to_have_text("distractor")  # the head writes against the repeated name
    page.locator(".st-key-effects_scroll .mark-rect path[aria-label*='(layer.head): 29.1;']").first.click(force=True)
    expect(page.locator("h2", has_text="Head 29.1")).to_be_visible()
    expect(page.locator(".d-title", has_text="Tokens 29.1 promotes")).to_be_visible(timeout=LONG)


def test_what_is_looked_into_fits_a_narrow_page(browser: Browser, url: str) -> None:
    page = open_page(browser, url, width=390, height=844)
    look_at(page, "Attention")
    expect(page.locator(".d-title", has_text="Difference")).to_be_attached(timeout=LONG)
    page.wait_for_timeout(500)
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390
    page.context.close()


def test_validating_can_be_cancelled_and_asked_again(page: Page) -> None:
    page.get_by_role("button", name="Validate the circuit").click()
    page.get_by_role("button", name="Cancel").click(timeout=LONG)
    expect(page.get_by_text(re.compile(r"Validating \d+ heads: cancelled\."))).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("button", name="Validate the circuit")).to_be_enabled()


def test_validating_says_what_the_circuit_keeps(page: Page) -> None:
    found = page.locator(".d-finding")
    page.get_by_role("button", name="Validate the circuit").click()
    kept = re.compile(
        r"The \d+ best heads keep \d+\s% of the logit difference by themselves; \S+\s% is left without them"
    )
    expect(found).to_contain_text(kept, timeout=1000 * RUN_SECONDS)
    expect(found).to_contain_text(re.compile(r"\d+ random heads keep \S+\s% \(.* in 4 draws\)"))
    expect(found).to_contain_text("prompt pairs that the scores never saw")
    charts = page.get_by_test_id("stVegaLiteChart")
    expect(charts).to_have_count(7)
    for name, which in (("Keep only the circuit", 5), ("Remove the circuit", 6)):
        expect(page.locator(".d-title", has_text=name)).to_be_visible()
        expect(charts.nth(which).locator(".mark-symbol path").nth(5)).to_be_attached()
    expect(page.get_by_role("button", name="Validate the circuit")).to_be_disabled()
    page.get_by_role("slider", name="Threshold").focus()
    page.keyboard.press("PageUp")
    expect(found).to_contain_text(re.compile(r"\(The threshold now finds \d+\.\)"))
    expect(page.get_by_role("button", name=re.compile(r"Measure \d+ heads?"))).to_be_enabled()


def test_a_task_s_prompts_can_be_edited_and_checked(page: Page) -> None:
    page.get_by_role("button", name="Edit these prompts").click()
    expect(page.get_by_text("10 prompt pairs, in the table")).to_be_visible()
    table = page.get_by_test_id("stDataFrame")
    page.wait_for_timeout(500)  # until the table has found its place
    table.dblclick(position={"x": 200, "y": 52})  # the first row's positive
    page.locator("textarea.gdg-input").fill("While Karen and Robert were swimming")
    page.keyboard.press("Enter")
    page.wait_for_timeout(2000)  # the table sends its edits a moment later
    page.get_by_role("button", name="Check with the model").click()
    expect(page.get_by_role("columnheader", name="Writes next")).to_be_visible(timeout=LONG)
    tokens = page.locator(".d-codes").first
    expect(tokens).to_contain_text("·swimming")
    expect(tokens).to_contain_text("6 tokens against 15")
    expect(page.locator(".d-note", has_text="1 row of 10 does not align")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    saved = download.value.path().read_text()
    assert saved.splitlines()[0] == "positive,negative,answer,distractor"
    assert "swimming" in saved
    expect(demo_tag(page)).to_be_visible()  # the result stays


def test_prompts_are_shown_as_they_are_written(page: Page) -> None:
    own_prompts(page)
    page.locator("input[type=file]").set_input_files(
        {"name": "p.csv", "mimeType": "text/csv", "buffer": HOSTILE.encode()}
    )
    expect(page.get_by_text("2 prompt pairs, in the table")).to_be_visible()
    page.get_by_role("button", name="Check with the model").click()
    expect(page.get_by_role("columnheader", name="Writes next")).to_be_visible(timeout=LONG)
    expect(page.locator(".d-flag").first).to_contain_text("3 tokens against 4")
    assert page.locator(".d-codes img, .d-codes a").count() == 0
    assert page.title() != "hit"
