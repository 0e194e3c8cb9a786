"""A public demo: what its visitors may ask for, what they see of one another, and what the command line lets in."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
import torch
from streamlit.testing.v1 import AppTest
from test_ui_library import run_of
from test_ui_view import small_discovery

from dsae_core import cli
from dsae_core.errors import UserError
from dsae_core.limits import VARIABLE, Limits, demo_limits
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import TASKS
from dsae_core.ui import comparison, drafts, faults, probes, profiles, runs, state
from dsae_core.ui.comparison import Board, CompareRequest
from dsae_core.ui.jobs import JobQueue, Report
from dsae_core.ui.library import Library, VisitLibrary, data_dir, library
from dsae_core.ui.request import RunRequest, pack_pairs

APP = Path(__file__).resolve().parents[1] / "app.py"
PAIRS = PromptPairs(("one two",), ("one three",))
MANY = PromptPairs(("one two",) * 17, ("one three",) * 17)
LONG = PromptPairs(("x" * 401,), ("one",))


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Limits:
    """This is a public demo, with its usual limits."""
    monkeypatch.setenv(VARIABLE, Limits().to_text())
    st.cache_resource.clear()
    return Limits()


def no_report(stage: str, fraction: float) -> None:
    """Work that reports to nobody."""


# --- the limits themselves ---------------------------------------------------------------------------------


def test_without_the_variable_there_are_no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert demo_limits() is None
    runs.check_asked(RunRequest("./folder", examples=10**6, options=(("epochs", 10**8),)))
    comparison.check_asked(CompareRequest(examples=10**6, methods=("patching",)))
    assert comparison.offered(("patching", "acdc")) == ("patching", "acdc")


def test_limits_survive_the_environment() -> None:
    limits = Limits(("smollm2-135m", "org/name"), pairs=3, waiting=2)
    assert Limits.from_text(limits.to_text()) == limits
    assert Limits.from_text('{"pairs": 3}') == Limits(pairs=3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "[]",
        "{",
        "[" * 100_000,
        '{"pairs": 0}',
        '{"pairs": true}',
        '{"pairs": "9"}',
        '{"pairs": 1.5}',
        '{"anything": 1}',
        '{"models": []}',
        '{"models": "smollm2-135m"}',
        '{"models": [1]}',
        '{"models": ["/etc"]}',
    ],
)
def test_limits_that_cannot_be_read_allow_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    for ask in (demo_limits, library, lambda: runs.loaded_model("smollm2-135m", no_report)):
        with pytest.raises(UserError):
            ask()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "./m", "../m", "/m", "~/m", "a/b/c", "a/../b", "a\x00b", "a b", "C:\\m", "a/.."]
)
def test_a_demo_s_list_has_no_folders(name: str) -> None:
    with pytest.raises(UserError):
        Limits((name,))


# --- what the server does not do, whatever a page asks -----------------------------------------------------


def asked_of_the_server(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that would be loaded from now on."""
    loaded: list[str] = []

    def load_model(name: str, **_: Any) -> None:
        loaded.append(name)
        raise UserError("loaded")

    st.cache_resource.clear()
    for module in (runs, profiles):
        monkeypatch.setattr(module, "load_model", load_model)
    return loaded


@pytest.mark.promise("A public demo loads no model but those on its list: no folder, no other name of the hub.")
@pytest.mark.parametrize(
    "name", ["gpt2", "./smollm2-135m", "../../etc", "/etc", "~", "smollm2-135m/", "smollm2-135m\x00", ""]
)
def test_no_other_model_is_loaded(name: str, demo: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = asked_of_the_server(monkeypatch)
    foreign = dataclasses.replace(small_discovery(), provenance={"model": name})
    assert foreign.prompts is not None
    work: list[Callable[[Report], object]] = [
        runs.discovery_work(RunRequest(name)),
        probes.check_work(name, PAIRS),
        probes.attention_work(foreign, foreign.prompts, 0, (0, 0)),
        probes.patch_work(foreign, foreign.prompts, (0, 0)),
        probes.output_work(foreign, foreign.prompts, (0, 0)),
        probes.validation_work(foreign, foreign.prompts, 0, 1),
        comparison.comparison_work(Board(CompareRequest(name))),
    ]
    for ask in work:
        with pytest.raises(UserError, match="runs smollm2-135m only"):
            ask(no_report)
    monkeypatch.setattr(runs, "stored_tokenizer", loaded.append)
    assert runs.tokenizer_at_hand(name).over
    assert loaded == []
    with pytest.raises(UserError, match="loaded"):  # what is on the list gets there
        runs.discovery_work(RunRequest())(no_report)
    assert loaded == ["smollm2-135m"]


@pytest.mark.promise("A public demo refuses runs beyond its limits before any model is asked.")
@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (RunRequest(examples=17), "16 prompt pairs at most"),
        (RunRequest(task="custom", pairs=MANY, examples=17), "16 prompt pairs at most"),
        (RunRequest(task="custom", pairs=LONG, examples=1), "Row 1, column positive: the text has 401 bytes"),
        (RunRequest(task="custom", pairs=PromptPairs(("a",), ("é" * 201,))), "column negative: the text has 402 bytes"),
        (RunRequest(task="custom", pairs=PromptPairs(("a",), ("b",), (("c" * 101,),), (("d",),))), "column answer"),
        (
            RunRequest(task="custom", pairs=PromptPairs(("a",), ("b",), (("c",),), (("d" * 51,) * 2,))),
            "column distractor",
        ),
        (RunRequest(options=(("n_features", 257),)), "n_features up to 256"),
        (RunRequest(options=(("epochs", 1001),)), "epochs up to 1,000"),
        (RunRequest(method="paper", options=(("train_examples", 33),)), "train_examples up to 32"),
    ],
)
def test_a_run_beyond_the_limits_is_refused(
    request_: RunRequest, told: str, demo: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = asked_of_the_server(monkeypatch)
    with pytest.raises(UserError, match=told):
        runs.discovery_work(request_)(no_report)
    if request_.pairs is not None:
        found = dataclasses.replace(small_discovery(), prompts=request_.pairs)  # as an imported file may have it
        comparing = Board(CompareRequest(task="custom", pairs=request_.pairs, examples=len(request_.pairs)))
        for ask in (
            probes.check_work("smollm2-135m", request_.pairs),
            probes.patch_work(found, request_.pairs, (0, 0)),
            comparison.comparison_work(comparing),
        ):
            with pytest.raises(UserError, match=told):
                ask(no_report)
    assert loaded == []


def test_what_is_within_the_limits_is_not_refused(demo: Limits) -> None:
    fitting = PromptPairs(("é" * 200,) * 16, ("b",) * 16, (("c" * 100,),) * 16, (("d",),) * 16)
    runs.check_asked(RunRequest(task="custom", pairs=fitting))
    runs.check_asked(RunRequest(examples=16, options=(("epochs", 1000), ("k", 2), ("n_features", 256))))
    runs.check_asked(RunRequest(method="paper", options=(("l1", 0.5), ("per_union", True), ("pool", "last"))))
    demo.check_upload(5_000_000)
    with pytest.raises(UserError, match="up to 5 MB"):
        demo.check_upload(5_000_001)


@pytest.mark.model
def test_the_tasks_own_prompts_are_within_the_limits(smollm2: Any, demo: Limits) -> None:
    for task in TASKS.values():
        demo.check_pairs(task.make(smollm2.tokenizer, demo.pairs, 0))


def test_slow_methods_are_not_offered_and_not_run(demo: Limits) -> None:
    assert comparison.offered(("positional", "ig10", "subnetwork", "acdc", "patching")) == ("positional", "ig10")
    with pytest.raises(UserError, match="which takes long"):
        comparison.comparison_work(Board(CompareRequest(methods=("positional", "patching"))))(no_report)


@pytest.mark.promise("A public demo measures no operators: its visitors cannot take the server for minutes.")
def test_nothing_is_measured(demo: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = asked_of_the_server(monkeypatch)
    with pytest.raises(UserError, match="public demo does not do it"):
        profiles.work(profiles.Wanted())(no_report)
    assert loaded == []
    page = AppTest.from_function(draw_kernels, default_timeout=60).run()
    assert not page.exception
    assert not page.button
    assert "so this public demo does not do it" in html(page)
    monkeypatch.delenv(VARIABLE)
    page = AppTest.from_function(draw_kernels, default_timeout=60).run()
    assert page.button(key="kernels_run").label == "Measure now"


# --- the queue ---------------------------------------------------------------------------------------------


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    opened = threading.Event()
    yield opened
    opened.set()


def held(gate: threading.Event) -> Callable[[Report], str]:
    def work(report: Report) -> str:
        assert gate.wait(20)
        return "done"

    return work


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_demo_leaves_a_core_to_its_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    for limits, expected in ((None, []), (Limits(), [3])):
        monkeypatch.setattr(runs, "demo_limits", lambda limits=limits: limits)
        runs.shared_queue.clear()
        for _ in range(2):
            job = runs.shared_queue().submit(lambda report: None)
            assert job.wait(20)
        assert asked == expected
    runs.shared_queue.clear()


def test_a_full_queue_says_so_and_takes_jobs_again(gate: threading.Event) -> None:
    queue = JobQueue(most=2)
    first = queue.submit(held(gate))
    until(lambda: first.status == "running")
    waiting = [queue.submit(held(gate)) for _ in range(2)]
    refused = queue.submit(held(gate))
    assert (refused.status, refused.over) == ("failed", True)
    assert refused.error == "2 runs of other visitors wait already; try again in a minute."
    assert refused.wait(0)
    queue.cancel(waiting[0])
    assert queue.submit(held(gate)).status == "queued"


def test_jobs_of_closed_pages_make_room(gate: threading.Event) -> None:
    queue = JobQueue(most=1, patience=0.05)
    first = queue.submit(held(gate))
    until(lambda: first.status == "running")
    left = queue.submit(held(gate))
    time.sleep(0.1)
    assert queue.submit(held(gate)).status == "queued"
    assert left.status == "cancelled"


def test_a_job_that_takes_too_long_is_ended() -> None:
    def endless(report: Report) -> None:
        while True:
            report("train", 0.5)
            time.sleep(0.01)

    queue = JobQueue(longest=0.1)
    job = queue.submit(endless)
    assert job.wait(20)
    assert job.status == "failed"
    assert "which this server ends; ask for less" in job.error


def test_jobs_end_in_the_order_in_which_they_came() -> None:
    order: list[int] = []
    queue = JobQueue(most=64)
    jobs = [queue.submit(lambda _, i=i: order.append(i)) for i in range(50)]
    until(lambda: all(job.over for job in jobs))
    assert order == list(range(50))


def test_the_server_s_queue_has_the_limits(demo: Limits) -> None:
    queue = runs.shared_queue()
    assert (queue._most, queue._longest) == (demo.waiting, demo.job_seconds)
    st.cache_resource.clear()


def ask_for_a_run() -> None:
    """A script that starts a run of own prompts, and one of a task."""
    import types

    from dsae_core.prompts import PromptPairs
    from dsae_core.ui import state
    from dsae_core.ui.request import RunRequest

    keys = state.st.session_state.setdefault("keys", [])
    queue = types.SimpleNamespace(submit=lambda work, *, key, title: keys.append(key))
    state.start(queue, RunRequest(task="custom", pairs=PromptPairs(("a",), ("b",))))
    state.start(queue, RunRequest())


def test_a_demo_remembers_no_results_of_own_prompts(demo: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    assert AppTest.from_function(ask_for_a_run).run().session_state["keys"] == [None, RunRequest()]
    monkeypatch.delenv(VARIABLE)
    assert None not in AppTest.from_function(ask_for_a_run).run().session_state["keys"]


# --- the pages ---------------------------------------------------------------------------------------------


def draw_kernels() -> None:
    """The Kernels page."""
    from dsae_core.ui.pages import kernels

    kernels.page()


def draw_saved() -> None:
    """The Runs page."""
    from dsae_core.ui.pages import saved

    saved.page()


def draw_compare() -> None:
    """The Compare page."""
    from dsae_core.ui.pages import compare

    compare.page()


def html(page: AppTest) -> str:
    """All of the page's own HTML."""
    return "\n".join(element.proto.body for element in page.main.get("html"))


@pytest.fixture
def discover(demo: Limits, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """The Discover page of a demo, not yet opened."""
    queue = JobQueue()
    for module in (runs, state):
        monkeypatch.setattr(module, "shared_queue", lambda: queue, raising=False)
    return AppTest.from_file(str(APP), default_timeout=60)


@pytest.mark.promise("On a public demo a link can name no folder and no model that is not on its list.")
@pytest.mark.parametrize("name", ["/etc", "../secrets", "~/model", "gpt2", "\x00"])
def test_a_link_cannot_name_another_model(name: str, discover: AppTest) -> None:
    discover.query_params["model"] = name
    discover.run()
    assert not discover.exception
    box = discover.selectbox(key="set_model")
    assert (box.value, box.options) == ("smollm2-135m", ["smollm2-135m"])
    assert box.proto.accept_new_options is False
    if name.strip():
        assert "This public demo does not run" in html(discover)
    assert discover.query_params["model"] in ("smollm2-135m", ["smollm2-135m"])


def test_outside_a_demo_other_models_can_be_named(monkeypatch: pytest.MonkeyPatch, discover: AppTest) -> None:
    monkeypatch.delenv(VARIABLE)
    discover.query_params["model"] = "./folder"
    discover.run()
    box = discover.selectbox(key="set_model")
    assert box.value == "./folder"
    assert box.proto.accept_new_options is True
    assert discover.slider(key="set_examples").max == 100


def test_the_controls_go_as_far_as_the_limits(discover: AppTest, demo: Limits) -> None:
    discover.query_params.update({"examples": "90", "epochs": "100000", "n_features": "5000"})
    discover.run()
    assert not discover.exception
    examples = discover.slider(key="set_examples")
    assert (examples.value, examples.max) == (demo.pairs, demo.pairs)
    for name, most in (("epochs", demo.epochs), ("n_features", demo.features)):
        box = discover.number_input(key=f"set_positional_{name}")
        assert (box.value, box.max) == (most, most)
    assert discover.button(key="run").disabled is False


@pytest.mark.parametrize("pairs", [MANY, LONG], ids=["many", "long"])
def test_a_link_with_too_much_is_refused_in_words(pairs: PromptPairs, discover: AppTest) -> None:
    discover.query_params.update({"task": "custom", "prompts": pack_pairs(pairs)})
    discover.run()
    assert not discover.exception
    assert "this public demo takes" in html(discover).lower()
    assert discover.button(key="run").disabled is True


def upload(page: AppTest, content: bytes) -> AppTest:
    page.query_params["task"] = "custom"
    page.run()
    page.file_uploader(key="upload").set_value(("p.csv", content, "text/csv")).run()
    assert not page.exception
    return page


def test_an_uploaded_table_has_limits_of_its_own(discover: AppTest) -> None:
    upload(discover, b"positive,negative\n" + b"one two,one three\n" * 17)
    assert "16 prompt pairs at most, not 17" in html(discover)
    assert discover.button(key="run").disabled is True
    upload(discover, b"positive,negative\n" + b"one two,one three\n" * 350_000)
    assert "more than 5 MB" in discover.sidebar.error[0].value
    assert drafts.Draft((), None, "").too_large is False


def test_compare_offers_what_the_limits_allow(demo: Limits) -> None:
    page = AppTest.from_function(draw_compare, default_timeout=60).run()
    assert not page.exception
    assert page.selectbox(key="compare_model").options == ["smollm2-135m"]
    assert page.slider(key="compare_examples").max == demo.pairs
    methods = page.get("button_group")[-1].proto.options
    assert not any("45 s" in option.content or "59 s" in option.content for option in methods)
    assert len(methods) > 6


# --- the runs of a visit -----------------------------------------------------------------------------------


@pytest.mark.promise("On a public demo a visitor sees no other visitor's runs, and nothing of them is written to disk.")
def test_visitors_have_runs_of_their_own(demo: Limits, tmp_path: Path) -> None:
    Library(data_dir() / "runs.sqlite3").keep(run_of(77), name="of-the-host")
    before = sorted(data_dir().iterdir())
    first = AppTest.from_function(finished_run, default_timeout=60).run()
    assert not first.exception
    second = AppTest.from_function(draw_saved, default_timeout=60).run()
    assert "No run is kept yet." in html(second)
    pages = AppTest.from_function(draw_saved, default_timeout=60)
    pages.session_state["visit_library"] = first.session_state["visit_library"]
    pages.run()
    assert "1 run is kept for this visit." in html(pages)
    assert "Kept in memory, for this visit only" in html(pages)
    for page in (pages, second):
        assert "of-the-host" not in html(page)
        assert str(data_dir()) not in html(page)
    assert sorted(data_dir().iterdir()) == before
    assert [entry.name for entry in Library(data_dir() / "runs.sqlite3").entries()] == ["of-the-host"]


def finished_run() -> None:
    """A script that takes over a finished run."""
    import types

    from test_ui_library import run_of

    from dsae_core.ui import state

    state.st.session_state["job"] = types.SimpleNamespace(over=True, status="done", result=run_of(5))
    state.take_finished()


def test_a_visit_keeps_a_few_runs(demo: Limits) -> None:
    own = VisitLibrary(3)
    for seed in range(5):
        number, new = own.keep(run_of(seed), name=f"<b>{seed}")
        assert new
    assert [entry.seed for entry in own.entries()] == [4, 3, 2]
    assert own.count("seed 3") == 1
    assert own.load(number).to_dict() == run_of(4).to_dict()
    own.rename(number, "x")
    assert own.entry(number).name == "x"  # type: ignore[union-attr]
    assert own.keep(run_of(4)) == (number, False)
    own.delete(number)
    with pytest.raises(UserError, match="no longer in the library"):
        own.load(number)
    assert not list(Path.cwd().glob("runs.sqlite3*"))


def test_a_visit_s_library_is_read_by_downloads_in_other_threads(demo: Limits) -> None:
    own, found = VisitLibrary(3), []
    number, _ = own.keep(run_of(1))
    thread = threading.Thread(target=lambda: found.append(own.load(number)))
    thread.start()
    thread.join(20)
    assert found[0].to_dict() == run_of(1).to_dict()


def test_a_run_file_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch, demo: Limits) -> None:
    monkeypatch.setenv(VARIABLE, dataclasses.replace(demo, upload_mb=1).to_text())
    page = AppTest.from_function(draw_saved, default_timeout=60).run()
    uploader = page.get("file_uploader")[0]
    assert uploader.proto.max_upload_size_mb == 1
    page.file_uploader(key=uploader.key).set_value(("a.json", b"x" * 1_000_001, "application/json")).run()
    assert "files of up to 1 MB" in page.error[0].value
    assert not page.exception


# --- the command line --------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run `dsae app` up to the point where it becomes the server: exit code, its arguments, standard error."""
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)  # and have it taken away again after the test
    monkeypatch.setattr(socket, "create_server", lambda *_, **__: socket.socket())  # any port and address can be had

    def call(*arguments: str) -> tuple[int, list[str], str]:
        calls: list[list[str]] = []
        monkeypatch.setattr(os, "execv", lambda _, command: calls.append(command))
        monkeypatch.setattr(sys, "argv", ["dsae", "app", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, calls[0] if calls else [], capsys.readouterr().err

    return call


def test_the_page_binds_to_this_machine_alone_unless_told(started) -> None:  # type: ignore[no-untyped-def]
    code, arguments, told = started()
    assert (code, told) == (0, "")
    assert "--server.address=127.0.0.1" in arguments
    assert VARIABLE not in os.environ
    assert hosts(arguments) == ["localhost", "127.0.0.1", "::1"]
    assert not any("maxUploadSize" in argument for argument in arguments)


def hosts(arguments: list[str]) -> list[str]:
    return [a.partition("=")[2] for a in arguments if a.startswith("--server.allowedHosts=")]


def test_a_proxy_s_name_can_be_let_in(started) -> None:  # type: ignore[no-untyped-def]
    assert hosts(started("--host", "a.example.org", "--host", "b")[1]) == [
        "localhost",
        "127.0.0.1",
        "::1",
        "a.example.org",
        "b",
    ]
    assert hosts(started("--demo")[1]) == []
    assert hosts(started("--address", "0.0.0.0")[1]) == []
    assert hosts(started("--demo", "--host", "a.example.org")[1]) == ["a.example.org"]


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_another_address_without_demo_is_warned_of_in_one_line(address: str, started) -> None:  # type: ignore[no-untyped-def]
    code, arguments, told = started("--address", address)
    assert code == 0
    assert f"--server.address={address}" in arguments
    assert told.count("\n") == 1
    assert "use --demo for visitors" in told
    assert started("--address", address, "--demo")[2] == ""


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_a_loopback_address_needs_no_warning(address: str, started) -> None:  # type: ignore[no-untyped-def]
    assert started("--address", address)[2] == ""


def test_the_demo_s_limits_reach_the_server(started) -> None:  # type: ignore[no-untyped-def]
    code, arguments, _ = started("--demo", "--models", "smollm2-135m, org/other")
    assert code == 0
    assert demo_limits() == Limits(("smollm2-135m", "org/other"))
    assert "--server.maxUploadSize=5" in arguments
    assert "--client.showErrorDetails=none" in arguments


def test_limits_in_the_environment_are_kept(started, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv(VARIABLE, '{"pairs": 4, "upload_mb": 1}')
    _, arguments, _ = started()
    assert demo_limits() == Limits(pairs=4, upload_mb=1)
    assert "--server.maxUploadSize=1" in arguments


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--models", "gpt2"), "add --demo"),
        (("--demo", "--models", "/etc"), "is no name of a model"),
        (("--demo", "--models", " , "), "at least one model"),
    ],
)
def test_a_demo_that_cannot_be_is_refused(arguments: tuple[str, ...], told: str, started) -> None:  # type: ignore[no-untyped-def]
    code, called, said = started(*arguments)
    assert (code, called) == (2, [])
    assert told in said


def test_limits_that_cannot_be_read_stop_the_start(started, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv(VARIABLE, "yes")
    code, called, said = started()
    assert (code, called) == (2, [])
    assert "DSAE_DEMO is no JSON object" in said


def test_faults_of_a_demo_name_no_folders(demo: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    error = UserError(
        "Cannot read /home/host/.cache/dsae/models/x/config.json: denied; see ~/notes or C:\\keys\\a.txt."
    )
    assert faults.told(error) == "Cannot read config.json: denied; see notes or a.txt."
    for sentence in ("12 tokens against 14/3.", "a/b of org/name and 1 / 2, see https://example.org/x/y."):
        assert faults.told(UserError(sentence)) == sentence
    monkeypatch.delenv(VARIABLE)
    assert faults.told(error) == str(error)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_runs_of_a_public_demo_step_back_behind_its_pages() -> None:
    code = """
import os, sys, threading, torch
from dsae_core.ui.runs import shared_queue
torch.set_num_threads(3)
seen = shared_queue().submit(lambda report: (os.getpriority(os.PRIO_PROCESS, 0), torch.get_num_threads()))
assert seen.wait(60), seen
page = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
print(seen.result[0] - page, seen.result[1])
"""
    environment = {**os.environ, VARIABLE: Limits().to_text()}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    room = 19 - os.getpriority(os.PRIO_PROCESS, 0)
    assert done.stdout.split() == [str(min(5, room)), "2"]
