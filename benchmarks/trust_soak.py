"""Many visitors at once: a public demo under mixed use by headless browsers, and what becomes of it.

    python benchmarks/trust_soak.py [--minutes 10] [--sessions 8] [--seed 0] [--json FILE] [--samples FILE]

Starts `dsae app --demo`, and in one Chromium as many sessions as are asked for. Each draws its next action from its own
seed: run a discovery, drag the threshold, select a head, look at its attention, go from page to page, open a shared
link (which is a new visit), upload prompts as CSV. Counted are the actions, and everything that should not be: error
boxes on pages, errors in the browsers' consoles, actions that do not end, errors and tracebacks in the server's log.

Memory is the server's resident set at rest: the least of each half minute, without what a run takes for a moment. It is
called flat where, by a least-squares line over the last 60 % of the time, it grows by less than 1 MiB a minute, or by
less than 5 % of its mean over all of that time.

--json writes the rows of docs/reliability.md that this proves; --samples the memory samples and the times of all drags.
The exit code is 1 where a promise does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from playwright.async_api import Browser, Page, async_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))

from support import ARGUMENTS, browser_path, started_server

from dsae_core.files import write_atomic

PROOF = "python benchmarks/trust_soak.py"
SAMPLE_SECONDS, REST_SECONDS = 1.0, 30.0
PAUSE = (2.0, 8.0)
"""Seconds that a visitor looks at what came of an action."""

ACTION_SECONDS = 240.0
"""An action that takes longer counts as an error; runs of eight sessions wait for one another."""

FLAT_MIB_A_MINUTE, FLAT_SHARE, LAST = 1.0, 0.05, 0.6
DRAG_SECONDS = 0.5
"""What 95 % of the drags have to stay below."""

NAMES = ("Mary", "John", "Anna", "Paul", "Tom", "James", "Mark", "Sarah")
PLACES = ("store", "park", "school", "office")
PAGES = ("Compare", "Runs", "Kernels", "About", "Discover")
HEADLINE = ".d-headline"

WATCH = """before => {
    window.headlineFollowed = new Promise((done, failed) => {
        const block = document.querySelector(".d-headline").closest("[data-testid=stVerticalBlock]");
        let released = null, changed = null, said = before;
        addEventListener("pointerup", event => { released = event.timeStamp; }, {once: true, capture: true});
        const watcher = new MutationObserver(() => {
            const text = block.querySelector(".d-headline")?.textContent;
            if (!text || text === said) return;
            said = text;
            requestAnimationFrame(() => { changed = performance.now(); });
        });
        watcher.observe(block, {subtree: true, childList: true, characterData: true});
        const end = performance.now() + 60000;
        const look = () => {
            const now = performance.now(), app = document.querySelector("[data-testid=stApp]").dataset.testScriptState;
            const over = released !== null && changed !== null && app === "notRunning"
                && now - Math.max(released, changed) > 1000;
            if (!over && now < end) { setTimeout(look, 100); return; }
            watcher.disconnect();
            if (over) done(Math.max(changed - released, 0) / 1000);
            else failed(new Error(`released ${released}, headline ${changed}, ${app}: ${said}`));
        };
        look();
    });
}"""
"""Watches from now on: seconds from the pointer's release to the frame with the last new headline, by the page's clock.

It has to be there before the pointer moves: a busy page handles input before it runs what else it was sent. And it has
to be idle until something changes: eight pages that look at every frame would be what they wait for.
"""

RUN_BUTTON, CANCEL = ".st-key-run button", "[class*='st-key-cancel'] button"
"""By their places; to look for a button by its name takes a browser a tenth of a second, and again while it waits."""


@dataclass
class Visit:
    """One session of a browser, and what it saw.

    Attributes:
        page: its page.
        url: the dashboard's address.
        rng: draws its actions.
        actions: how often each was done.
        errors: what went wrong, in words.
        drags: seconds from the release of the threshold to the redrawn headline.
        began: the actions that were begun.
    """

    page: Page
    url: str
    rng: random.Random
    actions: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    drags: list[float] = field(default_factory=list)
    began: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a soak came to.

    Attributes:
        minutes: how long it was.
        visits: the sessions.
        memory: (seconds since the start, MiB) of the server.
        log: what the server wrote to standard error.
    """

    minutes: float
    visits: tuple[Visit, ...]
    memory: tuple[tuple[float, float], ...]
    log: str

    @property
    def errors(self) -> list[str]:
        """Everything that should not have been."""
        seen = [f"session {i}: {error}" for i, visit in enumerate(self.visits, start=1) for error in visit.errors]
        return seen + [
            f"server: {line}" for line in self.log.splitlines() if re.search(r"Traceback|ERROR|CRITICAL", line)
        ]

    @property
    def actions(self) -> Counter[str]:
        """How often each action was done."""
        return sum((visit.actions for visit in self.visits), Counter())

    @property
    def drags(self) -> list[float]:
        """Seconds of every drag."""
        return [seconds for visit in self.visits for seconds in visit.drags]

    @property
    def jobs(self) -> list[tuple[int, str]]:
        """(number, how it ended) of the queue's jobs, in the order in which they ended."""
        found = re.findall(r"job (\d+) (done|failed|cancelled) after", self.log)
        return [(int(number), status) for number, status in found]


# --- what a session does -----------------------------------------------------------------------------------


async def discover(visit: Visit) -> None:
    """Run a discovery of a few pairs under a seed of its own, to its end."""
    page = visit.page
    await on_discover(visit)
    seed = page.locator("input[aria-label=Seed]")
    await seed.fill(str(visit.rng.randrange(2**31 - 1)))
    await page.keyboard.press("Enter")
    await page.get_by_text("Settings changed since this run").wait_for(timeout=60_000)
    await run(page)
    await page.locator(".d-eyebrow").first.get_by_text(f"seed {await seed.input_value()}").wait_for(timeout=60_000)


async def run(page: Page) -> None:
    """Press Run discovery and wait for the end."""
    button = page.locator(RUN_BUTTON, has_text="Run discovery").first
    await button.click(timeout=60_000)
    await page.locator(CANCEL).first.wait_for(timeout=60_000)
    await page.locator(CANCEL).first.wait_for(state="detached", timeout=1000 * ACTION_SECONDS)
    await button.wait_for(timeout=60_000)
    await settled(page)


async def drag(visit: Visit) -> None:
    """Drag the threshold to the other half of its way, and time the headline from the release on."""
    page = visit.page
    await on_discover(visit)
    thumb = page.locator("input[type=range][aria-label=Threshold]").locator("xpath=../..")  # what is seen of it
    await thumb.hover(timeout=60_000)  # waits until it lies still
    at = await thumb.bounding_box()
    track = await page.get_by_test_id("stSlider").filter(has_text="Threshold").bounding_box()
    if at is None or track is None:
        raise RuntimeError("there is no threshold to drag")
    x, y = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2
    share = (x - track["x"]) / track["width"]
    target = track["x"] + track["width"] * visit.rng.uniform(*((0.5, 0.9) if share < 0.35 else (0.05, 0.2)))
    before = await page.locator(HEADLINE).first.text_content()
    await page.evaluate(WATCH, before)
    await page.mouse.move(x, y)
    await page.mouse.down()
    await page.mouse.move(target, y, steps=8)
    await page.mouse.up()
    visit.drags.append(float(await page.evaluate("window.headlineFollowed")))


async def select(visit: Visit) -> None:
    """Click a head of the heatmap; it is selected everywhere."""
    page = visit.page
    await on_discover(visit)
    cells = page.locator(".st-key-heatmap_scroll .mark-rect path[aria-label*='Head (layer.head)']")
    await cells.first.wait_for(state="attached", timeout=60_000)
    cell = cells.nth(visit.rng.randrange(await cells.count()))
    found = re.search(r"\(layer\.head\): (\d+\.\d+);", await cell.get_attribute("aria-label") or "")
    if found is None:
        raise RuntimeError("a cell does not name its head")
    await cell.click(force=True)
    await page.locator("h2", has_text=re.compile(rf"^Head {re.escape(found[1])}$")).wait_for(timeout=60_000)


async def attend(visit: Visit) -> None:
    """Look at the selected head's attention, which asks the model."""
    page = visit.page
    await on_discover(visit)
    group = page.get_by_test_id("stButtonGroup").filter(has_text="Code table")
    await group.get_by_text("Attention", exact=True).click(timeout=60_000)
    await page.locator(".d-title", has_text="On the positive").wait_for(timeout=1000 * ACTION_SECONDS)
    await group.get_by_text("Prompts", exact=True).click(timeout=60_000)
    await page.get_by_text("Prompts and codes of head").wait_for(timeout=60_000)


async def travel(visit: Visit) -> None:
    """Open every other page once, in an order of its own, and come back."""
    pages = visit.rng.sample(PAGES[:-1], len(PAGES) - 1)
    for name in (*pages, PAGES[-1]):
        await open_page(visit.page, name)


async def follow(visit: Visit) -> None:
    """Open a shared link: another visit of the same person, with the settings in the address."""
    query = f"?task=greater_than&method=positional&examples={visit.rng.randint(2, 4)}&seed={visit.rng.randrange(1000)}"
    await visit.page.goto(visit.url + query)
    await ready(visit.page)
    slider = visit.page.locator("input[type=range][aria-label=Examples]")
    examples = await slider.evaluate("e => e.getAttribute('aria-valuenow') ?? e.value")
    if examples != re.findall(r"examples=(\d+)", query)[0]:
        raise RuntimeError(f"the link's settings did not come: {examples} examples")


async def upload(visit: Visit) -> None:
    """Upload prompts and run them."""
    page, rng = visit.page, visit.rng
    await page.goto(f"{visit.url}?task=custom")
    await page.get_by_role("button", name="Start from an example").wait_for(timeout=90_000)
    await settled(page)
    rows = []
    for _ in range(rng.randint(2, 4)):
        (a, b, c), place = rng.sample(NAMES, 3), rng.choice(PLACES)
        frame = f'"When {a} and {b} went to the {place}, {{}} gave a drink to"'
        rows.append(f"{frame.format(b)},{frame.format(c)}, {a}, {b}")
    table = "\n".join(["positive,negative,answer,distractor", *rows])
    await page.locator("input[type=file]").set_input_files(
        {"name": "prompts.csv", "mimeType": "text/csv", "buffer": table.encode()}
    )
    await page.get_by_text(f"{len(rows)} prompt pairs, in the table").wait_for(timeout=60_000)
    await run(page)
    await page.locator(".d-eyebrow").first.get_by_text("your own prompts").wait_for(timeout=60_000)
    await page.goto(visit.url)
    await ready(page)


ACTIONS: dict[str, tuple[Callable[[Visit], Awaitable[None]], int]] = {
    "discovery": (discover, 3),
    "threshold drag": (drag, 8),
    "head selected": (select, 6),
    "attention": (attend, 2),
    "page changes": (travel, 2),
    "shared link": (follow, 2),
    "upload": (upload, 1),
}
"""What a session does, and how often in relation to the others."""


async def on_discover(visit: Visit) -> None:
    """Be on Discover, with a result on the page."""
    if await visit.page.locator(RUN_BUTTON).count() == 0:
        await visit.page.goto(visit.url)
    await ready(visit.page)


async def ready(page: Page) -> None:
    """Wait for a result on Discover."""
    await page.locator(RUN_BUTTON, has_text="Run discovery").first.wait_for(timeout=90_000)
    await page.locator(".d-codes:visible").first.wait_for(timeout=90_000)
    await settled(page)


async def settled(page: Page) -> None:
    """Wait until the page is not being drawn."""
    await page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(timeout=90_000)


async def open_page(page: Page, name: str) -> None:
    """Open a page by the navigation and wait for what it says."""
    await page.get_by_test_id("stTopNavLink").filter(has_text=name).first.click(timeout=60_000)
    if name == "Discover":
        await ready(page)
        return
    await page.wait_for_url(f"**/{name.lower()}*", timeout=60_000)
    await page.locator(f"{HEADLINE}, .st-key-prose h1").first.wait_for(timeout=60_000)
    await settled(page)


# --- the soak ----------------------------------------------------------------------------------------------


async def arrived(visit: Visit) -> None:
    """Open the page for the first time, with an ear for what goes wrong."""
    page = visit.page
    page.on("pageerror", lambda error: visit.errors.append(f"console: {error}"))
    page.on("console", lambda said: visit.errors.append(f"console: {said.text}") if said.type == "error" else None)
    await page.goto(visit.url, timeout=90_000)
    await ready(page)


async def visited(visit: Visit, end: float, pause: tuple[float, float]) -> None:
    """One session, until the time is over."""
    page = visit.page
    names = list(ACTIONS)
    weights = [weight for _, weight in ACTIONS.values()]
    while time.monotonic() < end:
        name = names[visit.began] if visit.began < len(names) else visit.rng.choices(names, weights)[0]
        visit.began += 1
        try:
            await asyncio.wait_for(ACTIONS[name][0](visit), ACTION_SECONDS)
            visit.actions[name] += 1
        except Exception as error:
            visit.errors.append(f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            await page.goto(visit.url)
            await ready(page)
        boxes = page.locator("[data-testid=stException], [data-testid=stAlertContentError]")
        for text in await boxes.all_inner_texts():
            visit.errors.append(f"on the page after {name}: {text[:200]}")
        await asyncio.sleep(visit.rng.uniform(*pause))


async def sampled(pid: int, end: float) -> list[tuple[float, float]]:
    """The server's memory from now on: (seconds, MiB)."""
    process, start, found = psutil.Process(pid), time.monotonic(), []
    while time.monotonic() < end:
        found.append((time.monotonic() - start, process.memory_info().rss / 2**20))
        await asyncio.sleep(SAMPLE_SECONDS)
    return found


async def _visits(
    url: str, pid: int, minutes: float, sessions: int, seed: int, pause: tuple[float, float]
) -> tuple[Any, Any]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=browser_path(), args=ARGUMENTS)
        visits = [Visit(await _page(browser), url, random.Random(seed * 1000 + i)) for i in range(sessions)]
        await asyncio.gather(*map(arrived, visits))
        end = time.monotonic() + 60 * minutes
        memory, *_ = await asyncio.gather(sampled(pid, end), *(visited(visit, end, pause) for visit in visits))
        await browser.close()
    return visits, memory


async def _page(browser: Browser) -> Page:
    return await (await browser.new_context(viewport={"width": 1280, "height": 800})).new_page()


def soak(minutes: float, sessions: int, seed: int = 0, pause: tuple[float, float] = PAUSE) -> Outcome:
    """Let so many sessions use a public demo for so many minutes."""
    with tempfile.TemporaryFile() as log:
        with started_server(arguments=["--demo"], log=log) as server:
            visits, memory = asyncio.run(_visits(server.url, server.pid, minutes, sessions, seed, pause))
        log.seek(0)
        said = log.read().decode(errors="replace")
    return Outcome(minutes, tuple(visits), tuple(memory), said)


# --- what came of it ---------------------------------------------------------------------------------------


def at_rest(memory: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of each REST_SECONDS the sample with the least memory."""
    spans: dict[int, list[tuple[float, float]]] = {}
    for sample in memory:
        spans.setdefault(int(sample[0] // REST_SECONDS), []).append(sample)
    return [min(samples, key=lambda sample: sample[1]) for samples in spans.values()]


def growth(memory: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """MiB a minute by a least-squares line over the last of these samples, and its rise as a share of their mean."""
    last = np.array(memory[int(len(memory) * (1 - LAST)) :])
    slope = float(np.polyfit(last[:, 0], last[:, 1], 1)[0]) if len(last) > 1 else 0.0
    return 60 * slope, slope * float(last[-1, 0] - last[0, 0]) / float(last[:, 1].mean())


def order_kept(jobs: Sequence[tuple[int, str]]) -> bool:
    """Whether jobs ended in the order in which they were queued; one that was cancelled left the queue."""
    numbers = [number for number, status in jobs if status != "cancelled"]
    return numbers == sorted(numbers)


def rows(found: Outcome) -> list[dict[str, Any]]:
    """What was promised, and what came of it."""
    n, total, rest = len(found.visits), sum(found.actions.values()), at_rest(found.memory)
    slope = growth(rest)
    done = ", ".join(f"{count} x {name}" for name, count in sorted(found.actions.items()))
    p95 = float(np.percentile(found.drags, 95)) if found.drags else float("inf")
    ended = [status for _, status in found.jobs]
    figures = [
        (
            f"{n} visitors at once use a public demo without an error on a page, in a browser's console or in its log.",
            f"{len(found.errors)} errors in {total} actions over {found.minutes:g} minutes ({done}), {PAUSE[0]:g} to "
            f"{PAUSE[1]:g} s between a visitor's actions",
            not found.errors and total > 0,
        ),
        (
            "The server's memory stays flat under them.",
            f"{rest[0][1]:.0f} to {rest[-1][1]:.0f} MiB at rest; over the last {LAST:.0%} of the time "
            f"{slope[0]:+.2f} MiB a minute, {100 * slope[1]:+.1f} %",
            slope[0] < FLAT_MIB_A_MINUTE or slope[1] < FLAT_SHARE,
        ),
        (
            f"With {n} visitors at once the headline follows a dragged threshold within {DRAG_SECONDS:g} s.",
            f"p95 {p95:.2f} s, median {float(np.median(found.drags or [p95])):.2f} s of {len(found.drags)} drags",
            p95 < DRAG_SECONDS,
        ),
        (
            "Runs end in the order in which they were asked for.",
            f"{len(ended)} jobs, {ended.count('cancelled')} cancelled, {ended.count('failed')} failed",
            order_kept(found.jobs) and "done" in ended,
        ),
    ]
    return [{"promise": promise, "proof": PROOF, "figure": figure, "ok": ok} for promise, figure, ok in figures]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--samples", type=Path)
    asked = parser.parse_args()
    if browser_path() is None:
        sys.exit("There is no Chromium here; install it, or set CHROMIUM to its path.")
    found = soak(asked.minutes, asked.sessions, asked.seed)
    proven = rows(found)
    for row in proven:
        print(f"{'ok    ' if row['ok'] else 'FAILED'} {row['promise']} {row['figure']}")
    for error in found.errors[:40]:
        print(f"       {error}")
    if asked.json:
        write_atomic(asked.json, json.dumps(proven, indent=1) + "\n")
    if asked.samples:
        samples = {"memory": found.memory, "drags": found.drags, "jobs": found.jobs, "errors": found.errors}
        write_atomic(asked.samples, json.dumps(samples) + "\n")
    sys.exit(0 if all(row["ok"] for row in proven) else 1)


if __name__ == "__main__":
    main()
