"""The Kernels page in a real browser, with a kept profile, and with a small model measured for one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from saved_model import save_model
from support import needs_browser, running_server
from test_ui_kernels import profile

from dsae_core.ui import profiles

pytestmark = needs_browser


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("served")
    (folder / "profile.json").write_text(json.dumps(profiles.document([profile(), profile("cuda")])))
    with running_server(folder) as address:
        yield address


def kernels_page(browser: Browser, url: str, *, width: int = 1440, height: int = 900) -> Page:
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.goto(f"{url}/kernels")
    page.get_by_role("heading", name="A discovery takes 2.0 s").wait_for(timeout=90_000)
    return page


def test_the_last_profile_is_drawn_and_exported(browser: Browser, url: str) -> None:
    page = kernels_page(browser, url)
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(5)
    # What each chart's marks say of themselves: a bar, an operator under the roof, a rival, a point.
    for said in ("Stage: train", "Operator: encode_codes; On: CUDA", "Computed by: plain torch (eager)", "Heads: 100"):
        expect(page.locator(f"[aria-label*='{said}']").first).to_be_attached(timeout=20_000)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    page.get_by_role("region", name="Facts").focus()  # the page's cleaning of HTML leaves what keys need
    expect(page.get_by_role("region", name="Facts")).to_be_focused()
    with page.expect_download() as download:
        page.get_by_role("button", name="Profile (JSON)").click()
    assert profiles.parse(download.value.path().read_text()) == (profile(), profile("cuda"))
    page.context.close()


def test_the_page_fits_a_phone(browser: Browser, url: str) -> None:
    page = kernels_page(browser, url, width=390, height=844)
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390
    expect(page.get_by_role("button", name="Measure now")).to_be_in_viewport()
    page.context.close()


def test_measure_now_measures(browser: Browser, tmp_path: Path) -> None:
    folder = str(save_model(tmp_path / "model"))
    before = profile(settings={**profile().settings, "model": folder})
    (tmp_path / "profile.json").write_text(json.dumps(profiles.document([before])))
    with running_server(tmp_path) as address:
        page = kernels_page(browser, address)
        page.get_by_role("button", name="Settings").click()
        for toggle in ("torch.compile", "How time grows"):
            page.get_by_test_id("stPopoverBody").get_by_text(toggle).click()
        expect(page.get_by_text("About 1 minute; longer for large models")).to_be_attached()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Measure now").click()
        expect(page.get_by_role("button", name="Measuring")).to_be_disabled()
        expect(page.get_by_role("button", name="Measure now")).to_be_enabled(timeout=120_000)
        expect(page.get_by_role("heading", name="A discovery takes 2.0 s")).to_have_count(0)
        expect(page.get_by_role("heading", name="A discovery takes")).to_be_visible()
        expect(page.get_by_text("changed since")).to_have_count(0)
        expect(page.locator("[aria-label*='Stage: train']").first).to_be_attached()
        expect(page.locator("[aria-label*='Operator: encode_codes; On: CPU']").first).to_be_attached()
        expect(page.get_by_text("Not measured: turn")).to_be_visible()
        expect(page.get_by_test_id("stException")).to_have_count(0)
        page.context.close()
    (kept,) = profiles.parse((tmp_path / "profile.json").read_text())
    assert kept.settings["model"] == folder
    assert kept.settings["date"] > before.settings["date"]
    assert kept.scaling == ()
    assert {rival.note for rival in kept.rivals if rival.variant == "compiled"} == {"It was not asked for."}
