"""Kept runs and what can be shared, in a real browser: no model is loaded."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from support import demo_tag, needs_browser, open_page, running_server

from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery
from dsae_core.ui.demo import stored_demo
from dsae_core.ui.library import Library

pytestmark = needs_browser
HOSTILE = "<img src=x onerror=document.title='owned'> *b* :red[c]"


def run_of(seed: int) -> Discovery:
    """The stored demo under another seed."""
    demo = stored_demo()
    assert demo is not None
    settings = {**demo.discovery.settings, "seed": seed}
    return dataclasses.replace(demo.discovery, settings=settings, node_scores=demo.discovery.node_scores * (1 + seed))


def own_run() -> Discovery:
    """A run of somebody's own prompts."""
    found = run_of(50)
    assert found.prompts is not None
    prompts = PromptPairs(found.prompts.positive, found.prompts.negative, task="custom")
    return dataclasses.replace(found, prompts=prompts)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's data folder, with three runs."""
    folder = tmp_path_factory.mktemp("served")
    library = Library(folder / "runs.sqlite3")
    library.keep(run_of(31), name=HOSTILE)
    library.keep(own_run(), name="own prompts")
    library.keep(run_of(32))
    return folder


@pytest.fixture(scope="module")
def url(data: Path) -> Iterator[str]:
    with running_server(data) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The Runs page in a session of its own; a first visit to the server comes straight here."""
    opened = runs_page(browser, url)
    yield opened
    opened.context.close()


def runs_page(browser: Browser, url: str, *, width: int = 1440, height: int = 900) -> Page:
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.goto(f"{url}/runs")
    page.get_by_role("heading", name="kept on this computer").wait_for(timeout=90_000)
    return page


def row(page: Page, name: str) -> Locator:
    return page.locator("[class*='st-key-run_row_']").filter(has_text=name)


def upload(page: Page, content: bytes, name: str = "run.json") -> None:
    page.get_by_role("button", name="Import").click()
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "application/json", "buffer": content})


def test_a_run_opens_on_discover_with_its_settings(page: Page) -> None:
    row(page, "seed 32").get_by_role("button", name="Open").click()
    expect(page.locator(".d-eyebrow").first).to_contain_text("seed 32", timeout=20_000)
    expect(page.get_by_role("spinbutton", name="Seed")).to_have_value("32")
    expect(demo_tag(page)).to_have_count(0)
    expect(page.get_by_text("Settings changed since this run")).to_have_count(0)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_own_prompts_come_back_with_their_run(page: Page) -> None:
    row(page, "own prompts").get_by_role("button", name="Open").click()
    expect(page.locator(".d-eyebrow").first).to_contain_text("your own prompts", timeout=20_000)
    expect(page.get_by_text("10 prompt pairs, in the table").first).to_be_visible()
    expect(page.get_by_text("Settings changed since this run")).to_have_count(0)


def test_names_and_prompts_stay_text(page: Page) -> None:
    expect(page.get_by_text("onerror=document.title").first).to_be_visible()
    expect(page.locator("img[src='x']")).to_have_count(0)
    assert page.title() != "owned"
    page.get_by_placeholder("name, model").fill("<b>no")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No run has all the words of “<b>no”.")).to_be_visible()


def test_export_delete_and_import_bring_a_run_back(page: Page, data: Path) -> None:
    Library(data / "runs.sqlite3").keep(run_of(40), name="to and fro")
    page.reload()
    found = row(page, "to and fro")
    found.get_by_role("button", name="More").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export (JSON)").click()
    assert download.value.suggested_filename == "to-and-fro.json"
    content = download.value.path().read_bytes()
    assert json.loads(content)["settings"]["seed"] == 40
    page.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog").filter(has_text="it cannot be undone")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name="Delete")).to_have_css("background-color", "rgb(179, 38, 30)")
    expect(page.get_by_role("textbox", name="Name")).to_have_count(0)  # the menu makes way for the question
    dialog.get_by_role("button", name="Keep it").click()
    expect(dialog).to_have_count(0)
    expect(found).to_have_count(1)
    found.get_by_role("button", name="More").click()
    page.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("“to and fro” was deleted.")).to_be_visible()
    expect(found).to_have_count(0)
    upload(page, content)
    expect(page.get_by_text("was imported.")).to_be_visible()
    expect(row(page, "to and fro")).to_have_count(1)
    expect(row(page, "Imported")).to_have_count(1)


def test_a_bad_file_is_refused_in_a_sentence(page: Page) -> None:
    upload(page, b'{"schema": 1, "node_scores": []}', "<b>bad</b>.json")
    alert = page.get_by_test_id("stAlert")
    expect(alert).to_contain_text("<b>bad</b>.json was not imported. The saved discovery is malformed")
    upload_again = json.dumps({**run_of(1).to_dict(), "n_positive": 0}).encode()
    expect(page.get_by_text("A saved run (JSON)")).to_have_count(0)  # nothing lies over the sentence
    upload(page, upload_again)
    expect(alert).to_contain_text("it needs positive and negative prompts")


def test_a_run_can_be_renamed(page: Page) -> None:
    row(page, "seed 32").get_by_role("button", name="More").click()
    page.get_by_role("textbox", name="Name").fill("a better name")
    page.keyboard.press("Enter")
    expect(row(page, "a better name")).to_have_count(1)
    page.reload()
    expect(row(page, "a better name")).to_have_count(1)
    row(page, "a better name").get_by_role("button", name="More").click()
    page.get_by_role("textbox", name="Name").fill("")
    page.keyboard.press("Enter")
    expect(row(page, "a better name")).to_have_count(0)


def shared(page: Page, which: int) -> str:
    """The text of one of the code boxes under Share."""
    page.get_by_role("button", name="Share").click()
    box = page.get_by_test_id("stCode").nth(which)
    box.wait_for()
    return box.inner_text().strip()


@pytest.mark.parametrize(("name", "said"), [("onerror", "seed 31"), ("own prompts", "your own prompts")])
def test_a_shared_link_opens_the_run_in_another_session(
    page: Page, browser: Browser, url: str, name: str, said: str
) -> None:
    row(page, name).get_by_role("button", name="Open").click()
    expect(page.locator(".d-eyebrow").first).to_contain_text(said, timeout=20_000)
    address = re.sub(r"\s", "", shared(page, 0))
    assert address.startswith(url)
    other = open_page(browser, address)
    expect(other.locator(".d-eyebrow").first).to_contain_text(said)
    expect(demo_tag(other)).to_have_count(0)
    expect(other.get_by_text("Settings changed since this run")).to_have_count(0)
    other.context.close()
    fresh = open_page(browser, url)  # and what one session opened is not another's
    expect(demo_tag(fresh)).to_be_visible()
    fresh.context.close()


def test_python_and_files_follow_the_threshold(browser: Browser, url: str) -> None:
    page = open_page(browser, url)
    snippet = shared(page, 1)
    assert 'model = load_model("smollm2-135m")' in snippet
    page.keyboard.press("Escape")
    before = re.findall(r"threshold=([\d.]+)", snippet)
    page.get_by_role("slider", name="Threshold").focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(1500)
    assert re.findall(r"threshold=([\d.]+)", shared(page, 1)) != before
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Export").click()
    sizes = {}
    for label in ("Circuit (JSON)", "SVG", "PNG"):
        with page.expect_download() as download:
            page.get_by_role("button", name=label, exact=True).click()
        sizes[label] = download.value.path().read_bytes()
    circuit = json.loads(sizes["Circuit (JSON)"])
    assert 0 < len(circuit["heads"]) < 30
    assert sizes["SVG"].startswith(b"<svg")
    assert sizes["PNG"].startswith(b"\x89PNG")
    page.context.close()


def test_the_page_fits_a_phone(browser: Browser, url: str) -> None:
    page = runs_page(browser, url, width=390, height=844)
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390
    expect(page.get_by_role("button", name="Open").first).to_be_in_viewport()
    page.context.close()
