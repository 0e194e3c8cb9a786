"""How fast the dashboard answers: its first paint, the threshold under a visitor's hand, and a run.

    python benchmarks/page_speed.py [--visits 5] [--drags 30] [--runs 7] [--json FILE]

Starts `dsae app` and a headless Chromium. A first paint is a visit of a fresh browser context, with empty caches: the
seconds from navigation to the frame in which the headline and the heatmap's cells of the stored demo stand. A drag is
two steps of the threshold by its key: the seconds from the second press to the frame with the redrawn headline, and to
the last change of any chart. A run is the default one: the seconds from the button's release to the frame in which the
heatmap has the paired difference, and to that in which it has the scores. All are by the page's own clock. The first
visit, drag and run, which warm the server up, are not counted.

Beside the figures stands the machine's load average over a minute, before and after: other work makes them worse.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))

from support import running_browser, running_server

from dsae_core.files import write_atomic

PAINT_BAR, DRAG_BAR, PREVIEW_BAR = 2.0, 0.2, 1.0
"""Seconds that a first paint, a drag and a run's first heatmap should stay below."""

STEPS, TURN, FIRST = 2, 6, 8
"""A drag moves the threshold by so many of its steps; after so many drags it turns round. The first one, which is not
counted, goes down to where heads lie densely, so that every later one changes the headline."""

HEATMAP = ".st-key-heatmap_scroll .mark-rect path"
PAINTED = f"""() => {{
    const cells = document.querySelectorAll("{HEATMAP}").length;
    if (!document.querySelector(".d-headline") || cells < 100) return false;
    return performance.now() / 1000;
}}"""
"""Seconds since navigation began once the headline and the heatmap stand; false before."""

REDRAWN = """before => new Promise((done, failed) => {
    let pressed = null, over = false, changed = null, said = before, drawn = null;
    const charts = new MutationObserver(() => { drawn = performance.now(); });
    for (const chart of document.querySelectorAll("[data-testid=stVegaLiteChart]"))
        charts.observe(chart, {subtree: true, childList: true, attributes: true, characterData: true});
    const press = () => { pressed = performance.now(); };
    addEventListener("keydown", press, {capture: true});
    addEventListener("keyup", () => { over = true; }, {once: true, capture: true});
    const end = performance.now() + 30000;
    const look = () => {
        const now = performance.now(), text = document.querySelector(".d-headline")?.innerText;
        if (text && text !== said) { said = text; changed = now; }
        const ended = over && changed > pressed && drawn !== null && now - Math.max(changed, drawn) > 700;
        if (!ended && now <= end) return requestAnimationFrame(look);
        removeEventListener("keydown", press, {capture: true});
        charts.disconnect();
        if (ended) return done([(changed - pressed) / 1000, (drawn - pressed) / 1000]);
        const focus = document.activeElement.getAttribute("role"), moved = changed !== null && "before the last press";
        failed(new Error(`focus on ${focus}, headline changed: ${moved}, charts: ${drawn > pressed}; ${text}`));
    };
    look();
})"""
"""Seconds from the last press of a key to the frame with a new headline, and to the last change of a chart: those after
which none comes for 0.7 s."""


RAN = f"""() => new Promise((done, failed) => {{
    const cells = () => [...document.querySelectorAll("{HEATMAP}")].map(cell => cell.getAttribute("fill")).join();
    const early = () => [...document.querySelectorAll(".d-title")].some(title => title.innerText.startsWith("Preview"));
    let released = null, first = null, seen = cells(), began = false;
    addEventListener("pointerup", () => {{ released = performance.now(); }}, {{once: true, capture: true}});
    const end = performance.now() + 60000;
    const look = () => {{
        const now = performance.now();
        if (released !== null && first === null && early() && cells() !== seen) {{ first = now; seen = cells(); }}
        const runs = document.querySelector(".st-key-cancel") !== null;
        if (began && !runs && first === null)
            return done([(now - released) / 1000, (now - released) / 1000]);
        began = began || runs;
        if (first !== null && !early() && cells() !== seen)
            return done([(first - released) / 1000, (now - released) / 1000]);
        if (now > end) failed(new Error("the run showed " + (first === null ? "no preview" : "no scores")));
        else requestAnimationFrame(look);
    }};
    look();
}})"""
"""Seconds from a button's release to the frame with the preview's cells, and to that with the scores'; the same where
the run was over before the page had looked."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--visits", type=int, default=5)
    parser.add_argument("--drags", type=int, default=30)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load = [os.getloadavg()[0]]
    with running_server() as url, running_browser() as browser:
        paints = [paint(browser, url) for _ in range(options.visits + 1)][1:]
        drags = dragged(browser, url, options.drags)
        runs = run(browser, url, options.runs)
    load.append(os.getloadavg()[0])
    found = summary(paints, drags, runs, load)
    print(f"first paint  median {found['paint_median']:.2f} s of {len(paints)} (bar {PAINT_BAR:g} s)")
    print(
        f"drag         median {1000 * found['drag_median']:.0f} ms, p95 {1000 * found['drag_p95']:.0f} ms "
        f"of {len(drags)} (bar {1000 * DRAG_BAR:g} ms)"
    )
    print(f"its charts   median {1000 * found['charts_median']:.0f} ms, p95 {1000 * found['charts_p95']:.0f} ms")
    print(f"a run        its preview {found['preview_median']:.2f} s (bar {PREVIEW_BAR:g} s), its scores", end=" ")
    print(f"{found['run_median']:.2f} s, medians of {len(runs)}")
    print(f"load average {load[0]:.1f} before, {load[1]:.1f} after, on {os.cpu_count()} cores")
    if options.json is not None:
        write_atomic(options.json, json.dumps(found, indent=1) + "\n")


def paint(browser: Browser, url: str) -> float:
    """Seconds from navigation to headline and heatmap, in a context of its own."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(url, wait_until="commit")
    seconds = float(page.wait_for_function(PAINTED, timeout=120_000).json_value())
    context.close()
    return seconds


def dragged(browser: Browser, url: str, n: int) -> list[tuple[float, float]]:
    """Seconds until headline and charts followed n drags, each of which changes both."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.goto(url)
    page.wait_for_function(PAINTED, timeout=120_000)
    page.wait_for_timeout(3000)
    slider = page.get_by_role("slider", name="Threshold")
    slider.focus()
    step(page, "ArrowLeft", FIRST)
    times = [step(page, "ArrowRight" if i // TURN % 2 else "ArrowLeft", STEPS) for i in range(n)]
    page.context.close()
    return times


def run(browser: Browser, url: str, n: int) -> list[tuple[float, float]]:
    """Seconds until preview and scores of n runs stood in the heatmap, after one that also loads the model."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.goto(url)
    page.wait_for_function(PAINTED, timeout=120_000)
    page.wait_for_timeout(3000)
    times = []
    for _ in range(n + 1):
        page.evaluate(f"() => {{ window.ran = ({RAN})(); }}")
        page.get_by_role("button", name="Run discovery").click()
        preview, scores = page.evaluate("() => window.ran")
        times.append((float(preview), float(scores)))
        page.wait_for_timeout(2000)
    page.context.close()
    return times[1:]


def step(page: Page, key: str, steps: int) -> tuple[float, float]:
    """Move the threshold by so many steps: seconds until headline and charts have changed."""
    before = page.locator(".d-headline").first.inner_text()
    page.evaluate(f"before => {{ window.redrawn = ({REDRAWN})(before); }}", before)
    for _ in range(steps):
        page.keyboard.down(key)
    page.keyboard.up(key)
    headline, charts = page.evaluate("() => window.redrawn")
    return float(headline), float(charts)


def summary(
    paints: list[float], drags: list[tuple[float, float]], runs: list[tuple[float, float]], load: list[float]
) -> dict[str, Any]:
    """The figures with what they rest on, in seconds."""
    headlines, charts = ([drag[i] for drag in drags] for i in range(2))
    previews, scores = ([run[i] for run in runs] for i in range(2))
    return {
        "schema": 1,
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in load],
        "paint_seconds": [round(value, 4) for value in paints],
        "paint_median": round(median(paints), 4),
        "paint_bar": PAINT_BAR,
        "drag_seconds": [round(value, 4) for value in headlines],
        "drag_median": round(median(headlines), 4),
        "drag_p95": round(float(np.quantile(headlines, 0.95)), 4),
        "charts_seconds": [round(value, 4) for value in charts],
        "charts_median": round(median(charts), 4),
        "charts_p95": round(float(np.quantile(charts, 0.95)), 4),
        "drag_bar": DRAG_BAR,
        "preview_seconds": [round(value, 4) for value in previews],
        "preview_median": round(median(previews), 4),
        "preview_bar": PREVIEW_BAR,
        "run_seconds": [round(value, 4) for value in scores],
        "run_median": round(median(scores), 4),
    }


if __name__ == "__main__":
    main()
