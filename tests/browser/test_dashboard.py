"""The dashboard end to end: a real server, a real browser, the real model."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Browser, Locator, Page, WebSocketRoute, expect
from support import (
    RUN_SECONDS,
    click_head,
    demo_tag,
    free_port,
    needs_browser,
    open_page,
    open_sidebar,
    press_run,
    started_server,
    wait_until_idle,
)

from dsae_core.ui import disconnection

pytestmark = needs_browser
QUICK = "?examples=2&epochs=3"
"""A run that takes seconds."""
UNHURRIED = "?examples=2&epochs=2000"
"""Its training takes seconds, in which what comes before the scores can be seen."""


def scores(page: Page) -> list[str]:
    """What the heatmap's cells say of themselves."""
    cells = page.locator(".st-key-heatmap_scroll .mark-rect path[aria-label*='Head (layer.head)']")
    return cells.evaluate_all("paths => paths.map(path => path.getAttribute('aria-label'))")


def test_a_first_visit_shows_the_stored_demo(page: Page) -> None:
    expect(demo_tag(page)).to_be_visible()
    expect(page.locator(".d-headline", has_text="10 prompt pairs point to")).to_be_visible()
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(5)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(page.get_by_text("Press Run discovery to compute it here")).to_be_visible()
    expect(page.locator(".d-swipe")).to_have_count(2)
    expect(page.locator(".d-swipe").first).to_be_hidden()  # nothing to swipe where all layers are in sight
    assert len(set(scores(page))) >= 270


def test_the_page_asks_no_other_server_for_anything(browser: Browser, url: str) -> None:
    context = browser.new_context()
    asked: list[str] = []
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.locator(".d-codes").wait_for(timeout=90_000)
    page.wait_for_timeout(1000)
    context.close()
    assert len(asked) > 5
    assert [a for a in asked if not a.startswith((url, url.replace("http", "ws"), "data:", "blob:"))] == []


def test_the_threshold_moves_the_circuit(page: Page) -> None:
    before = page.locator(".d-headline").first.inner_text()
    page.get_by_role("slider", name="Threshold").focus()
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    expect(page.locator(".d-headline", has_text=before)).to_have_count(0)


def test_a_click_on_a_head_selects_it_everywhere(page: Page) -> None:
    click_head(page, 20, 0)
    expect(page.get_by_role("combobox", name="Head")).to_have_value("20.0")
    nodes = page.locator(".st-key-circuit_scroll .mark-text text")
    assert "bold" in nodes.filter(has_text="20.0").last.evaluate("text => text.outerHTML")
    page.locator(".st-key-circuit_scroll .mark-symbol path[aria-label*='(layer.head): 23.3;']").first.click(force=True)
    expect(page.get_by_text("Prompts and codes of head 23.3")).to_be_visible()
    click_head(page, 20, 0)  # the heatmap's own last click; meanwhile another head was selected
    expect(page.get_by_role("combobox", name="Head")).to_have_value("20.0")
    click_head(page, 20, 0)  # where it is selected already, it stays so
    page.wait_for_timeout(500)
    expect(page.get_by_role("combobox", name="Head")).to_have_value("20.0")


def test_a_click_near_a_ranked_score_selects_the_head(page: Page) -> None:
    head, chart = page.get_by_role("combobox", name="Head"), page.locator(".st-key-ranked")
    chart.scroll_into_view_if_needed()
    second = chart.locator("path[aria-label*='Rank: 2;']").first
    second.wait_for(state="attached")
    box = second.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2 + 4, box["y"] + box["height"] / 2 - 5)  # beside a mark of few pixels
    expect(head).to_have_value("20.0")
    rings = chart.locator("path[aria-label*='Head (layer.head): 20.0;'][stroke-width='1.8']")
    expect(rings).to_have_count(1)


def test_a_chart_s_own_menu_leaves_the_button_that_saves_it_free(page: Page) -> None:
    for key in ("heatmap", "ranked"):
        page.locator(f".st-key-{key}").hover()
        own = page.locator(f".st-key-{key}").get_by_test_id("stElementToolbar")
        expect(own).to_be_visible()
        menu, save = own.bounding_box(), page.locator(f".st-key-{key}_save").bounding_box()
        assert menu is not None
        assert save is not None
        assert menu["x"] + menu["width"] <= save["x"]


def test_the_discovery_can_be_saved(page: Page) -> None:
    page.get_by_role("button", name="Export").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Discovery (JSON)").click()
    saved = json.loads(download.value.path().read_text())
    assert saved["schema"] == 1
    assert len(saved["node_scores"]) == 30


def test_a_page_narrower_than_its_charts_scrolls_them(browser: Browser, url: str) -> None:
    page = open_page(browser, url, width=390, height=844)
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390
    for name in ("heatmap", "circuit"):
        chart = page.locator(f".st-key-{name}_scroll").first
        assert chart.evaluate("box => box.scrollWidth > box.clientWidth")
        assert lies_within(chart, chart.locator("path[aria-label*='(layer.head): 23.3;']").first)
        chart.evaluate("box => box.scrollTo({left: 0})")
        assert lies_within(chart, chart.get_by_text("Layer", exact=True).first)
        expect(chart).to_have_css("--more-left", "0px")  # it fades at the side where there is more
        expect(chart).to_have_css("--more-right", re.compile(r"^[1-9]"))
    for i in range(2):
        expect(page.locator(".d-swipe").nth(i)).to_be_visible()
    page.get_by_role("slider", name="Edges").press("ArrowLeft")  # a chart drawn anew stays where it was moved
    page.wait_for_timeout(2000)
    for name in ("heatmap", "circuit"):
        assert page.locator(f".st-key-{name}_scroll").first.evaluate("box => box.scrollLeft") == 0
    page.get_by_role("combobox", name="Head").tap()
    option = page.get_by_role("option", name=re.compile(r"^2\d\.\d$")).nth(1)
    name = option.inner_text()
    option.tap()
    expect(page.locator("h2", has_text=f"Head {name}")).to_be_visible()
    for key in ("heatmap", "circuit"):
        chart = page.locator(f".st-key-{key}_scroll").first
        expect(chart).to_have_attribute("data-in-sight", name)
        assert lies_within(chart, chart.locator(f"path[aria-label*='(layer.head): {name};']").first)
    page.context.close()


@pytest.mark.parametrize("name", ["", "compare", "runs", "kernels", "about"])
def test_every_page_has_its_style_when_it_is_opened_by_its_address(browser: Browser, url: str, name: str) -> None:
    page = browser.new_context().new_page()
    page.goto(f"{url}/{name}")
    title = page.locator(".d-headline, .st-key-prose h1").first
    expect(title).to_have_css("font-family", re.compile("Source Serif"), timeout=60_000)
    page.context.close()


def test_a_page_whose_server_was_stopped_says_so_and_works_with_the_next(browser: Browser) -> None:
    port = free_port()
    with started_server(port=port) as server:
        page, written = open_page(browser, server.url), browser.new_context().new_page()
        written.goto(f"{server.url}/?task=custom")
        written.get_by_role("button", name="Start from an example").click(timeout=60_000)
        expect(written.get_by_role("button", name="Download CSV")).to_be_visible()
    page.evaluate("window.old = true")
    for left in (page, written):
        said = left.get_by_role("dialog", name=disconnection.TITLE)
        expect(said).to_contain_text(disconnection.WORDS, timeout=60_000)
    with started_server(port=port):
        page.wait_for_function("!window.old", timeout=60_000)  # it loads itself anew
        works(page)
        expect(page.get_by_role("dialog")).to_have_count(0)
        told = written.get_by_role("alert").filter(has_text=disconnection.ANEW)
        expect(told).to_be_visible(timeout=60_000)
        expect(written.get_by_role("dialog")).to_have_count(0, timeout=60_000)
        told.get_by_role("button", name=disconnection.BUTTON).click()
        works(written)
        expect(told).to_have_count(0)
    for left in (page, written):
        left.context.close()


def works(page: Page, key: str = "End") -> None:
    """The headline of a page follows the threshold, moved by a key."""
    page.locator(".d-codes:visible").first.wait_for(timeout=60_000)
    before = page.locator(".d-headline").inner_text()
    page.get_by_role("slider", name="Threshold").press(key)
    expect(page.locator(".d-headline")).not_to_have_text(before)


def test_a_page_that_lost_its_connection_to_the_same_server_stays_as_it_is(browser: Browser, url: str) -> None:
    page = browser.new_context().new_page()
    connections: list[WebSocketRoute] = []

    def pass_on(connection: WebSocketRoute) -> None:
        connections.append(connection)
        connection.connect_to_server()

    page.route_web_socket(re.compile("stream"), pass_on)
    page.goto(url)
    works(page)
    page.evaluate("window.still = true")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    connections[-1].close()
    page.wait_for_timeout(5000)
    assert len(connections) > 1
    assert any(address.rstrip("/") == url for address in asked)  # it did look whether the server is another one
    assert page.evaluate("window.still")
    works(page, "Home")
    page.context.close()


def test_a_chart_of_heads_leads_to_the_selected_one(page: Page) -> None:
    details = page.get_by_role("heading", name=re.compile(r"^Head \d+\.\d+$"))
    for key in ("heatmap", "circuit"):
        expect(details).not_to_be_in_viewport()
        name = details.inner_text()
        page.get_by_role("link", name=f"{name} ↓").nth(("heatmap", "circuit").index(key)).click()
        expect(details).to_be_in_viewport()
        page.get_by_test_id("stMain").evaluate("main => main.scrollTo({top: 0})")


def lies_within(box: Locator, inner: Locator) -> bool:
    """Whether something lies between a box's left and right side."""
    outside, inside = box.bounding_box(), inner.bounding_box()
    assert outside is not None
    assert inside is not None
    left, right = outside["x"], outside["x"] + outside["width"]
    return left <= inside["x"] < inside["x"] + inside["width"] <= right


def title(page: Page, words: str) -> Locator:
    """The title above a chart."""
    return page.locator(".d-title", has_text=re.compile(f"^{words}"))


@pytest.mark.model
def test_run_discovery_draws_a_new_heatmap(browser: Browser, url: str) -> None:
    page = open_page(browser, url + UNHURRIED)
    expect(page.get_by_text("Settings changed since this run")).to_be_visible()
    before = scores(page)
    press_run(page)
    expect(title(page, "Preview: paired difference")).to_be_visible(timeout=1000 * RUN_SECONDS)
    expect(title(page, "Scores")).to_have_count(0)
    expect(title(page, "Scores")).to_be_visible(timeout=1000 * RUN_SECONDS)
    expect(title(page, "Preview")).to_have_count(0)
    page.wait_for_timeout(1000)
    expect(demo_tag(page)).to_have_count(0)
    expect(page.get_by_text("Press Run discovery")).to_have_count(0)
    expect(page.locator(".d-eyebrow").first).to_contain_text("2 + 2 prompts")
    expect(page.locator(".d-headline", has_text="2 prompt pairs")).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)
    assert len(scores(page)) >= 270
    assert scores(page) != before
    page.context.close()


def uncovered(page: Page, what: Locator) -> bool:
    """Whether somebody who looks at the page sees this, with nothing over it."""
    expect(what).to_be_in_viewport()
    return bool(
        what.evaluate(
            """element => {
                const { left, top, width, height } = element.getBoundingClientRect();
                const at = share => document.elementFromPoint(left + share * width, top + height / 2);
                return [0.02, 0.5, 0.98].map(at).every(seen => element.contains(seen));
            }"""
        )
    )


def no_sidebar(page: Page) -> None:
    expect(page.get_by_test_id("stSidebar")).to_have_attribute("data-collapsed", "true")
    page.wait_for_timeout(600)  # it slides away


@pytest.mark.model
def test_on_a_phone_a_run_is_seen_once_it_was_started(browser: Browser, url: str) -> None:
    """There the sidebar lies over the page, and Streamlit leaves it open."""
    page = open_page(browser, url + "?method=paper&examples=3&seed=6&epochs=5000", width=390, height=844)
    page.locator(".d-codes").scroll_into_view_if_needed()
    open_sidebar(page)
    assert not uncovered(page, page.get_by_test_id("stMain"))
    page.get_by_role("button", name="Run discovery").tap()
    no_sidebar(page)
    assert uncovered(page, page.get_by_role("button", name="Cancel"))
    assert uncovered(page, page.locator(".d-steps"))
    open_sidebar(page)  # for another look at the settings, while it runs
    page.wait_for_timeout(1500)
    expect(page.get_by_test_id("stSidebar")).to_have_attribute("data-collapsed", "false")
    page.get_by_test_id("stSidebarCollapseButton").locator("button").click()
    no_sidebar(page)
    page.get_by_role("button", name="Cancel").tap()
    page.get_by_text("The run was cancelled").wait_for(timeout=300_000)
    page.goto(url + QUICK + "&seed=6")
    expect(page.get_by_text("Settings changed since this run")).to_be_visible()
    for _ in range(2):  # once computed, once remembered
        open_sidebar(page)
        page.get_by_role("button", name="Run discovery").tap()
        no_sidebar(page)
        found = page.locator(".d-headline", has_text="2 prompt pairs")
        found.wait_for(timeout=1000 * RUN_SECONDS)
        assert uncovered(page, found)
    open_sidebar(page)
    page.get_by_role("button", name="Edit these prompts").tap()
    no_sidebar(page)
    assert uncovered(page, page.get_by_text("One pair a row"))
    page.context.close()


def focused(page: Page) -> tuple[str, bool]:
    """The name of what has the focus, and whether one sees that it has."""
    found = page.evaluate(
        """() => {
            const here = document.activeElement, style = getComputedStyle(here);
            const name = here.getAttribute('aria-label') || here.innerText || here.value || '';
            return [name, style.outlineStyle !== 'none' || style.boxShadow !== 'none'];
        }"""
    )
    return str(found[0]), bool(found[1])


@pytest.mark.model
def test_the_keyboard_alone_starts_a_run(browser: Browser, url: str) -> None:
    page = open_page(browser, url + QUICK + "&seed=2")
    names: list[str] = []
    while not names or names[-1] != "Run discovery":
        assert len(names) < 30, names
        page.keyboard.press("Tab")
        name, seen = focused(page)
        names.append(name)
        if page.evaluate("['BUTTON', 'A', 'SUMMARY'].includes(document.activeElement.tagName)"):
            assert seen, name  # fields show it by their frame
    settings = [name for name in names if name in ("Model", "Task", "Examples", "Seed", "Run discovery")]
    assert settings == ["Model", "Task", "Examples", "Seed", "Run discovery"]
    page.keyboard.press("Enter")
    wait_until_idle(page)
    expect(page.locator(".d-headline", has_text="2 prompt pairs")).to_be_visible()
    page.get_by_role("link", name="Compare").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert focused(page) == ("Compare", True)
    page.context.close()


def tab_to(page: Page, what: Locator) -> None:
    """Press Tab until this has the focus."""
    passed: list[str] = []
    while not what.evaluate("element => element === document.activeElement"):
        assert len(passed) < 80, passed
        page.keyboard.press("Tab")
        passed.append(focused(page)[0])


def test_the_keyboard_alone_chooses_a_head_and_opens_the_export_menu(page: Page) -> None:
    tab_to(page, page.get_by_role("button", name="Export"))
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("stPopoverBody")).to_be_visible()
    tab_to(page, page.get_by_role("button", name="Discovery (JSON)"))
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert json.loads(download.value.path().read_text())["schema"] == 1
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("stPopoverBody")).to_have_count(0)
    tab_to(page, page.get_by_role("combobox", name="Head"))
    page.keyboard.type("20.0")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Prompts and codes of head 20.0")).to_be_visible()


@pytest.mark.model
def test_the_keyboard_alone_cancels_a_run(browser: Browser, url: str) -> None:
    page = open_page(browser, url + "?method=paper&examples=3&seed=11&epochs=5000")
    tab_to(page, page.get_by_role("button", name="Run discovery"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    tab_to(page, page.get_by_role("button", name="Cancel"))
    page.keyboard.press("Enter")
    page.get_by_text("The run was cancelled").wait_for(timeout=1000 * RUN_SECONDS)
    expect(demo_tag(page)).to_be_visible()
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_in_a_menu_can_be_read(browser: Browser, url: str, scheme: str) -> None:
    """Menus lie outside the page's own element, whose colours they do not inherit."""
    page = open_page(browser, url, scheme=scheme)
    page.get_by_role("button", name="Share").click()
    quiet = page.get_by_test_id("stPopoverBody").locator(".d-title span").first
    light, alpha = quiet.evaluate(
        """element => {
            const paint = document.createElement('canvas').getContext('2d');
            paint.fillStyle = getComputedStyle(element).color;
            paint.fillRect(0, 0, 1, 1);
            const [r, g, b, a] = paint.getImageData(0, 0, 1, 1).data;
            return [(r + g + b) / 3, a / 255];
        }"""
    )
    assert (light > 128) == (scheme == "dark")
    assert 0.6 < alpha < 1  # quieter than the title beside it
    page.context.close()


@pytest.mark.model
def test_a_run_can_be_cancelled(browser: Browser, url: str) -> None:
    page = open_page(browser, url + "?method=paper&examples=3&seed=1&epochs=5000")
    press_run(page)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("The run was cancelled").wait_for(timeout=300_000)
    expect(demo_tag(page)).to_be_visible()
    expect(page.get_by_role("button", name="Run discovery")).to_be_enabled()
    page.context.close()


@pytest.mark.model
def test_a_second_visitor_s_run_waits_for_the_first(browser: Browser, url: str) -> None:
    """One model and one queue for both; the second one sees its place in it."""
    first = open_page(browser, url + "?method=paper&examples=3&seed=12&epochs=5000")
    second = open_page(browser, url + QUICK + "&seed=13")
    press_run(first)
    expect(first.get_by_role("button", name="Cancel")).to_be_visible()
    press_run(second)
    waiting = second.get_by_text("Waiting: 1 run before this one.")
    expect(waiting).to_be_visible()
    expect(first.get_by_text("before this one")).to_have_count(0)
    first.get_by_role("button", name="Cancel").click()
    first.get_by_text("The run was cancelled").wait_for(timeout=1000 * RUN_SECONDS)
    expect(waiting).to_have_count(0)
    second.locator(".d-headline", has_text="2 prompt pairs").wait_for(timeout=1000 * RUN_SECONDS)
    expect(demo_tag(first)).to_be_visible()  # the other's result is not its own
    for page in (first, second):
        expect(page.get_by_test_id("stException")).to_have_count(0)
        page.context.close()


def test_own_prompts_that_cannot_be_used_are_named(page: Page) -> None:
    page.get_by_role("combobox", name="Task").click()
    page.get_by_role("option", name="Your own prompts").click()
    page.locator("input[type=file]").set_input_files(
        {"name": "p.csv", "mimeType": "text/csv", "buffer": b'positive,negative\n"one","two"\n"three",\n'}
    )
    expect(page.get_by_text("Row 2, column negative: the cell is empty.")).to_be_visible()
    expect(page.get_by_role("button", name="Run discovery")).to_be_disabled()
