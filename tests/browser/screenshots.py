"""Pictures of the dashboard.

python tests/browser/screenshots.py FOLDER [STATE...]   every state, or those named, at two sizes, light and dark
python tests/browser/screenshots.py FILE.png [STATE]    one for the README: a first visit, or that state
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page, TimeoutError
from support import (
    click_head,
    demo_tag,
    open_page,
    open_sidebar,
    press_run,
    running_browser,
    running_server,
    wait_until_idle,
)

SIZES = {"wide": (1440, 900), "narrow": (390, 844)}
GOOD = """positive,negative
"When Mary and John went to the store, John gave a drink to",\
"When Mary and John went to the store, Anna gave a drink to"
"When Tom and James went to the park, James gave a ring to",\
"When Tom and James went to the park, Mark gave a ring to"
"When Anna and Paul met at the <b>office</b>, Paul handed *a letter* to",\
"When Anna and Paul met at the <b>office</b>, John handed *a letter* to"
"""
UNEVEN = """positive,negative,answer,distractor
"When Mary and John went to the store, John gave a drink to",\
"When Mary and John went to the store, Anna gave a cold drink to", Mary, John
"When Tom and James went to the park, James gave a ring to",\
"When Tom and James went to the park, Mark gave a ring to",Tom, James Bond
"""
BAD = 'positive,negative\n"Mary and John","Mary and Anna"\n"Only one side",\n'


def demo(_: Page) -> None:
    """What a first visit shows."""


def selected(page: Page) -> None:
    """Another head selected."""
    click_head(page, 20, 0)
    page.wait_for_timeout(800)


def stale(page: Page) -> None:
    """Settings changed since the run."""
    open_sidebar(page)
    page.get_by_role("spinbutton", name="Seed").fill("7")
    page.keyboard.press("Enter")
    page.get_by_text("Settings changed since this run").wait_for()
    _close_sidebar(page)


def running(page: Page) -> None:
    """A run under way."""
    open_sidebar(page)
    press_run(page)
    _close_sidebar(page)
    page.get_by_text("Training the dictionary").wait_for(timeout=300_000)
    page.wait_for_timeout(300)


def finished(page: Page) -> None:
    """A run that ended."""
    if demo_tag(page).is_visible():  # the server remembers a run of an earlier picture
        open_sidebar(page)
        press_run(page)
        wait_until_idle(page)
        _close_sidebar(page)


def upload_error(page: Page) -> None:
    """A CSV that cannot be used."""
    open_sidebar(page)
    _upload(page, BAD)


def run_error(page: Page) -> None:
    """A run that could not be done."""
    open_sidebar(page)
    box = page.get_by_role("combobox", name="Model")
    box.fill("./no-such-model")
    box.press("Enter")
    page.wait_for_timeout(1500)
    press_run(page)
    page.get_by_test_id("stMain").get_by_test_id("stAlert").wait_for(timeout=60_000)
    _close_sidebar(page)


def custom(page: Page) -> None:
    """A run on somebody's own prompts."""
    open_sidebar(page)
    _upload(page, GOOD)
    page.get_by_text("3 prompt pairs, in the table").wait_for()
    press_run(page)
    wait_until_idle(page)
    _close_sidebar(page)


def codes(page: Page) -> None:
    """The selected head's code table."""
    look_at(page, "Code table")
    page.get_by_text("Codes of head").wait_for()


def attention(page: Page) -> None:
    """Where the selected head attends, and what patching it did."""
    look_at(page, "Attention")
    page.locator(".d-title", has_text="Difference").wait_for(timeout=300_000)
    page.get_by_role("button", name="Patch this head").click()
    page.get_by_text("With 23.3 patched").wait_for(timeout=300_000)


def share_menu(page: Page) -> None:
    """The Share menu, opened."""
    page.get_by_role("button", name="Share").click()
    page.get_by_test_id("stPopoverBody").get_by_text("dsae_core").wait_for()


def export_menu(page: Page) -> None:
    """The Export menu, opened."""
    page.get_by_role("button", name="Export").click()
    page.get_by_test_id("stPopoverBody").get_by_role("button", name="PNG").wait_for()


def share_menu_own(page: Page) -> None:
    """The Share menu of a run on somebody's own prompts, which the link and the script carry."""
    custom(page)
    share_menu(page)


def asking(page: Page) -> None:
    """A side job under way."""
    page.get_by_role("button", name="Validate the circuit").click()
    page.get_by_text("Replacing heads").wait_for(timeout=300_000)


def output(page: Page) -> None:
    """What the selected head writes straight to the prediction."""
    look_at(page, "Direct effect")
    page.get_by_text("Direct effect of every head").wait_for(timeout=300_000)


def validated(page: Page) -> None:
    """The circuit kept and removed."""
    page.get_by_role("button", name="Validate the circuit").click()
    page.get_by_text("Keep only the circuit").wait_for(timeout=600_000)


def editor_empty(page: Page) -> None:
    """The editor, with nothing in it."""
    open_sidebar(page)
    _own_prompts(page)
    _close_sidebar(page)


def editor(page: Page) -> None:
    """A task's prompts in the editor, checked with the model."""
    open_sidebar(page)
    page.get_by_role("button", name="Edit these prompts").click()
    page.get_by_text("10 prompt pairs, in the table").wait_for()
    _close_sidebar(page)
    page.get_by_role("button", name="Check with the model").click()
    page.get_by_role("columnheader", name="Writes next").wait_for(timeout=300_000)


def editor_uneven(page: Page) -> None:
    """Prompts that do not align, with answers that are no single token."""
    open_sidebar(page)
    _upload(page, UNEVEN)
    _close_sidebar(page)
    page.get_by_role("button", name="Check with the model").click()
    page.get_by_role("columnheader", name="Writes next").wait_for(timeout=300_000)


def compare_empty(page: Page) -> None:
    """Compare before the first comparison."""
    _visit(page, "compare")
    page.get_by_role("heading", name="Which method ranks the heads best?").wait_for(timeout=60_000)


def compare(page: Page) -> None:
    """Methods compared: the table, cost, agreement, heatmaps."""
    compare_empty(page)
    page.get_by_role("button", name="Compare 6 methods").click()
    page.locator(".d-headline", has_text=re.compile("circuit best|best ROC AUC")).wait_for(timeout=600_000)
    page.wait_for_timeout(1500)


def compare_runs(page: Page) -> None:
    """Two runs, head by head: the latest kept, and one before it or the demo."""
    _visit(page, "compare")
    page.get_by_role("radio", name="Two runs").or_(page.get_by_role("button", name="Two runs")).first.click()
    page.locator(".d-headline", has_text="of them").wait_for(timeout=60_000)
    page.wait_for_timeout(1500)


def runs_empty(page: Page) -> None:
    """Runs, as the server has them when this state is the first."""
    _visit(page, "runs")
    page.locator(".d-headline").wait_for(timeout=60_000)


def runs(page: Page) -> None:
    """Runs with one kept."""
    finished(page)
    _visit(page, "runs")
    page.locator(".d-run").first.wait_for(timeout=60_000)


def kernels_empty(page: Page) -> None:
    """Kernels before anything was measured here."""
    _visit(page, "kernels")
    page.get_by_role("button", name="Measure now").wait_for(timeout=60_000)


def kernels(page: Page) -> None:
    """Kernels, measured: minutes the first time, then what was kept."""
    kernels_empty(page)
    if page.get_by_text("Nothing was measured on this server yet").is_visible():
        page.get_by_role("button", name="Measure now").click()
    page.locator(".d-headline", has_text="A discovery takes").wait_for(timeout=900_000)
    page.wait_for_timeout(1500)


def about(page: Page) -> None:
    """The page about the method."""
    _visit(page, "about")
    page.get_by_text("What this computes").wait_for()


LINKS = {
    "running": "?method=paper&epochs=5000",
    "finished": "?examples=4&epochs=10",
    "runs": "?examples=4&epochs=10",
}
"""States that start from a link: a run need not take long to be looked at."""

STATES: list[Callable[[Page], None]] = [
    runs_empty,
    demo,
    selected,
    stale,
    running,
    finished,
    upload_error,
    run_error,
    custom,
    codes,
    attention,
    output,
    share_menu,
    export_menu,
    share_menu_own,
    asking,
    validated,
    editor_empty,
    editor,
    editor_uneven,
    compare_empty,
    compare,
    runs,
    compare_runs,
    kernels_empty,
    kernels,
    about,
]
"""In this order: an empty page comes before what fills it."""


def _visit(page: Page, name: str) -> None:
    """Open another page of the dashboard by its address."""
    parts = urlsplit(page.url)
    page.goto(f"{parts.scheme}://{parts.netloc}/{name}")


def _close_sidebar(page: Page) -> None:
    width = page.viewport_size["width"] if page.viewport_size else 0
    if width < 700 and page.get_by_test_id("stSidebar").get_attribute("data-collapsed") == "false":
        with suppress(TimeoutError):  # a run that was started folds it, too
            page.get_by_test_id("stSidebar").hover(timeout=3000)
            page.get_by_test_id("stSidebarCollapseButton").locator("button").click(timeout=3000)
        page.wait_for_timeout(600)


def look_at(page: Page, what: str) -> None:
    """Choose what the head inspector shows."""
    page.get_by_role("radio", name=what).or_(page.get_by_role("button", name=what, exact=True)).first.click()


def _own_prompts(page: Page) -> None:
    page.get_by_role("combobox", name="Task").click()
    page.get_by_role("option", name="Your own prompts").click()
    page.get_by_text("Write prompt pairs into the table").wait_for()


def _upload(page: Page, text: str) -> None:
    _own_prompts(page)
    page.locator("input[type=file]").set_input_files(
        {"name": "prompts.csv", "mimeType": "text/csv", "buffer": text.encode()}
    )
    page.wait_for_timeout(1500)


def _save(page: Page, path: Path, width: int) -> None:
    """The first screenful, and the whole page."""
    page.screenshot(path=path.with_suffix(".png"))
    height = page.get_by_test_id("stMain").evaluate("element => element.scrollHeight")
    page.set_viewport_size({"width": width, "height": min(height + 10, 6000)})
    page.wait_for_timeout(1200)
    page.screenshot(path=path.with_name(path.name + "-full.png"))


def main(folder: Path, names: list[str]) -> None:
    """Take the named states, all where none is named."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [state for state in STATES if not names or state.__name__ in names]
    with running_server() as url, running_browser() as browser:
        for state in chosen:
            for scheme in ("light", "dark"):
                for size, (width, height) in SIZES.items():
                    page = open_page(
                        browser, url + LINKS.get(state.__name__, ""), width=width, height=height, scheme=scheme
                    )
                    state(page)
                    _save(page, folder / f"{state.__name__}-{scheme}-{size}", width)
                    if page.get_by_role("button", name="Cancel").is_visible():
                        page.get_by_role("button", name="Cancel").click()
                    page.context.close()
                    print(state.__name__, scheme, size, flush=True)


def readme(path: Path, state: Callable[[Page], None]) -> None:
    """Take a picture for the README, of one state."""
    with running_server() as url, running_browser() as browser:
        page = open_page(browser, url + LINKS.get(state.__name__, ""), height=1320)
        state(page)
        page.wait_for_timeout(1500)
        page.screenshot(path=path)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    if target.suffix == ".png":
        named = sys.argv[2:] or ["demo"]
        readme(target, next(state for state in STATES if state.__name__ == named[0]))
    else:
        main(target, sys.argv[2:])
