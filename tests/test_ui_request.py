"""Settings as one value, words and escapes, and the queue."""

from __future__ import annotations

import ast
import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_ui_view import small_discovery

import dsae_core
from dsae_core.errors import UserError
from dsae_core.result import Discovery
from dsae_core.settings import METHODS
from dsae_core.ui.controls import METHOD_HELP, attribute_helps
from dsae_core.ui.jobs import Job, JobQueue, Report
from dsae_core.ui.request import CUSTOM, RunRequest
from dsae_core.ui.text import MINUS, decimal, escape_html, escape_markdown, number, plural, seconds, share, signed

TASKS = {"ioi": None}


@pytest.mark.parametrize(
    "request_",
    [
        RunRequest(),
        RunRequest("./my model", "ioi", 25, "paper", 3, (("l1", 0.05), ("per_union", True), ("pool", "last"))),
        RunRequest(task=CUSTOM, method="positional", options=(("k", 3), ("n_features", 8))),
    ],
)
def test_a_link_restores_the_settings(request_: RunRequest) -> None:
    assert RunRequest.from_query(request_.to_query(), TASKS) == (request_, [])


@pytest.mark.parametrize(
    ("query", "bad"),
    [
        ({"task": "nonsense"}, ["task"]),
        ({"method": "nonsense"}, ["method"]),
        ({"examples": "0"}, ["examples"]),
        ({"examples": "ten"}, ["examples"]),
        ({"examples": "1000000"}, ["examples"]),
        ({"seed": "-1"}, ["seed"]),
        ({"k": "65"}, ["k"]),
        ({"k": "1.5"}, ["k"]),
        ({"threshold": "nan"}, ["threshold"]),
        ({"l1": "0.1"}, ["l1"]),  # a setting of the other method
        ({"model": " "}, []),
    ],
)
def test_a_link_that_makes_no_sense_gives_defaults(query: dict[str, str], bad: list[str]) -> None:
    assert RunRequest.from_query(query, TASKS) == (RunRequest(), bad)


def test_a_link_may_name_a_default() -> None:
    defaults = {field.name: str(field.default) for field in dataclasses.fields(METHODS["positional"])}
    assert RunRequest.from_query(defaults, TASKS) == (RunRequest(), [])


def test_the_request_of_a_discovery() -> None:
    found = small_discovery()
    assert RunRequest.of(found) == RunRequest(examples=2)
    changed = dataclasses.replace(found, settings={**found.settings, "k": 3})
    assert RunRequest.of(changed).options == (("k", 3),)
    own = RunRequest.of(small_discovery(CUSTOM))
    assert own.task == CUSTOM
    assert own.pairs == found.prompts or own.pairs == small_discovery(CUSTOM).prompts


def test_every_setting_has_a_help_text() -> None:
    assert set(METHOD_HELP) == set(METHODS)
    for cls in METHODS.values():
        assert set(attribute_helps(cls)) == {field.name for field in dataclasses.fields(cls)}
    assert attribute_helps(METHODS["positional"])["k"].startswith("Features active in a row while training.")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain words", "plain words"),
        ("a *b* [c](d) `e` <f>", r"a \*b\* \[c\]\(d\) \`e\` \<f\>"),
        ("$x$ # y\n- z", r"\$x\$ \# y \- z"),
        ("Row 2: x", r"Row 2\: x"),
        (":red[x]", "\\:\N{WORD JOINER}red\\[x\\]"),
    ],
)
def test_markdown_is_shown_as_it_is(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped


def test_html_is_shown_as_it_is() -> None:
    assert escape_html("<a href=\"x\" id='y'>&") == "&lt;a href=&quot;x&quot; id=&#x27;y&#x27;&gt;&amp;"


def test_negative_numbers_have_a_minus_sign() -> None:
    assert [signed(v, 1) for v in (1.25, -1.25, 0.0, -0.01)] == ["+1.2", f"{MINUS}1.2", "+0.0", "+0.0"]
    assert [decimal(v, 2) for v in (0.5, -0.5, -0.001)] == ["0.50", f"{MINUS}0.50", "0.00"]
    assert number(-12.34) == f"{MINUS}12.3"


def test_numbers_read_well() -> None:
    assert [share(v) for v in (0.0, 0.934, 0.999, 1.0)] == [".00", ".93", "1.00", "1.00"]
    assert [number(v) for v in (0, 9.24e-6, 0.01234, 1.0, 12.34, 123.4, 12345.0)] == [
        "0",
        f"9.2e{MINUS}6",
        "0.0123",
        "1.00",
        "12.3",
        "123",
        "12,345",
    ]
    assert [seconds(v) for v in (0.0004, 0.04, 0.0999, 0.5, 3.21, 9.96, 59.4, 125.2)] == [
        "0 ms",
        "40 ms",
        "0.1 s",
        "0.5 s",
        "3.2 s",
        "10 s",
        "59 s",
        "2 min 05 s",
    ]
    assert [plural(n, "head") for n in (0, 1, 1200)] == ["0 heads", "1 head", "1,200 heads"]


# --- the queue ---------------------------------------------------------------------------------------------


def until(true: Callable[[], bool]) -> None:
    """Wait for something that another thread brings about."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "waited 10 s in vain"
        time.sleep(0.005)


class Gate:
    """Work that reports until it is let through."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.order: list[int] = []

    def work(self, seed: int) -> Callable[[Report], Discovery]:
        def run(report: Report) -> Discovery:
            self.order.append(seed)
            while not self.open.wait(0.005):
                report("train", 0.5)
            return small_discovery()

        return run

    def submit(self, queue: JobQueue, seed: int = 0) -> Job:
        return queue.submit(self.work(seed), key=RunRequest(seed=seed))


def test_runs_wait_for_one_another() -> None:
    gate = Gate()
    queue = JobQueue()
    first, second, third = (gate.submit(queue, seed) for seed in range(3))
    until(lambda: first.stage == "train")
    assert (first.status, first.fraction) == ("running", 0.5)
    assert [queue.look(job) for job in (first, second, third)] == [0, 1, 2]
    assert second.status == third.status == "queued"
    queue.cancel(second)
    assert second.status == "cancelled"
    assert queue.look(third) == 1
    gate.open.set()
    until(lambda: third.over)
    assert gate.order == [0, 2]
    assert first.result is not None
    assert queue.recall(RunRequest(seed=0)) is first.result
    assert queue.recall(RunRequest(seed=1)) is None


def test_a_run_that_is_about_to_begin_waits_for_none() -> None:
    gate, awake = Gate(), threading.Event()
    queue = JobQueue(prepare=lambda: _until_set(awake))
    first, second = (gate.submit(queue, seed) for seed in range(2))
    assert (first.status, queue.look(first), queue.look(second)) == ("queued", 0, 1)  # its worker still wakes up
    awake.set()
    until(lambda: first.stage == "train")
    assert (queue.look(first), queue.look(second)) == (0, 1)
    gate.open.set()
    until(lambda: second.over)


def _until_set(event: threading.Event) -> None:
    assert event.wait(10)


def test_cancel_ends_a_run_at_its_next_report() -> None:
    gate = Gate()
    queue = JobQueue()
    job = gate.submit(queue)
    until(lambda: job.stage == "train")
    queue.cancel(job)
    until(lambda: job.over)
    assert (job.status, job.result, job.stopping) == ("cancelled", None, False)
    assert queue.recall(RunRequest()) is None
    gate.open.set()
    after = gate.submit(queue, 5)
    until(lambda: after.over)
    assert after.status == "done"


def test_a_run_whose_page_was_closed_is_dropped() -> None:
    gate = Gate()
    queue = JobQueue(patience=0.2)
    watched, left, waiting = (gate.submit(queue, seed) for seed in range(3))
    until(lambda: watched.stage == "train")
    end = time.monotonic() + 0.4
    while time.monotonic() < end:
        queue.look(watched)
        queue.look(waiting)
        time.sleep(0.01)
    assert watched.status == "running"
    queue.cancel(watched)
    until(lambda: left.over)
    assert left.status == "cancelled"
    assert 1 not in gate.order
    gate.open.set()
    until(lambda: waiting.over)
    assert waiting.status == "done"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("There is no such model."), "There is no such model."),
        (ZeroDivisionError("secret"), "internal error (ZeroDivisionError)"),
    ],
)
def test_a_run_that_fails_says_why_and_the_next_one_runs(error: Exception, told: str) -> None:
    def fail(_: Report) -> Discovery:
        raise error

    queue = JobQueue()
    failed, fine = queue.submit(fail), queue.submit(lambda _: small_discovery())
    until(lambda: fine.over)
    assert (failed.status, fine.status) == ("failed", "done")
    assert told in failed.error
    assert "secret" not in failed.error


def test_only_the_latest_results_are_kept() -> None:
    queue = JobQueue(keep=2)
    jobs = [queue.submit(lambda _, seed=seed: seed + 10, key=seed) for seed in range(3)]
    until(lambda: all(job.over for job in jobs))
    assert [queue.recall(seed) for seed in range(3)] == [None, 11, 12]


def test_a_job_without_a_key_is_not_remembered() -> None:
    queue = JobQueue(keep=1)
    kept, other = queue.submit(lambda _: "kept", key="a"), queue.submit(lambda _: "other", title="Look inside")
    assert other.wait(10)
    assert (kept.result, other.result, other.title) == ("kept", "other", "Look inside")
    assert queue.recall("a") == "kept"
    assert queue.recall(None) is None


def test_waiting_for_a_job_ends_with_it_or_with_patience() -> None:
    gate = Gate()
    queue = JobQueue()
    running, waiting = gate.submit(queue, 0), gate.submit(queue, 1)
    assert not running.wait(0.02)
    queue.cancel(waiting)
    assert waiting.wait(0)
    gate.open.set()
    assert running.wait(10)


def test_a_job_says_how_long_it_has_run() -> None:
    assert Job().elapsed == 0.0


# --- layout ------------------------------------------------------------------------------------------------


def test_nothing_else_of_the_package_imports_the_dashboard() -> None:
    root = Path(dsae_core.__file__).parent
    for path in root.rglob("*.py"):
        if "ui" in path.relative_to(root).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.startswith("dsae_core.ui") for name in names), path
