"""The Discover page as a visitor meets it, with a hand-made discovery in place of the model."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import streamlit as st
import torch
from saved_model import save_model
from streamlit.dataframe_util import convert_arrow_bytes_to_pandas_df
from streamlit.testing.v1 import AppTest
from test_ui_view import small_discovery, small_truth

from dsae_core.behaviour import Behaviour
from dsae_core.circuits import Head
from dsae_core.errors import UserError
from dsae_core.inspection import NextToken, PatchEffect, PromotedTokens, TokenEffect
from dsae_core.limits import Limits
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery
from dsae_core.ui import probes, runs, state, theme
from dsae_core.ui.jobs import Job, JobQueue, Report, Work
from dsae_core.ui.pages import discover
from dsae_core.ui.request import RunRequest
from dsae_core.ui.sections import charts, files, header, side
from dsae_core.ui.view import View
from dsae_core.validation import Shares, Validation

APP = Path(__file__).resolve().parents[1] / "app.py"
PAIRS = PromptPairs(("<b>one</b> two",), ("<b>one</b> three",))


def answer(request: RunRequest) -> Discovery:
    """A discovery that answers a request."""
    found = small_discovery(request.task)
    settings = {**found.settings, **dict(request.options), "method": request.method, "seed": request.seed}
    return dataclasses.replace(
        found,
        settings=settings,
        provenance={"model": request.model},
        prompts=request.pairs or found.prompts,
        n_positive=found.n_positive,
    )


@pytest.fixture
def work() -> Iterator[Callable[[RunRequest, Report], Discovery]]:
    return lambda request, report: answer(request)


@pytest.fixture
def demo() -> View | None:
    return View(dataclasses.replace(small_discovery(), provenance={"model": "smollm2-135m"}), small_truth())


knew: list[Behaviour | None] = []
"""What runs were told of the behaviour, the latest last."""


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, demo: View | None, work: Callable[[RunRequest, Report], Discovery]) -> AppTest:
    """The page, not yet opened."""
    st.cache_resource.clear()
    queue = JobQueue()

    def discovery_work(
        request: RunRequest, preview: Callable[[torch.Tensor], None], known: Behaviour | None
    ) -> Work[Discovery]:
        knew.append(known)
        preview(torch.tensor([[0.0, 1.0], [2.0, 0.5]]))
        return lambda report: work(request, report)

    monkeypatch.setattr(state, "discovery_work", discovery_work)
    for module in (state, discover):
        monkeypatch.setattr(module, "stored_demo", lambda: demo)
    for module in (runs, discover, discover.progress, side):
        monkeypatch.setattr(module, "shared_queue", lambda: queue)
    monkeypatch.setattr(View, "of", classmethod(lambda cls, found: cls(found, _truth(found))))
    page = AppTest.from_file(str(APP), default_timeout=60)
    page.query_params["examples"] = "2"
    return page


def _truth(found: Discovery):  # type: ignore[no-untyped-def]
    return small_truth() if (found.model_name, found.task) == ("smollm2-135m", "ioi") else None


def html(page: AppTest) -> str:
    """All of the page's own HTML."""
    return "\n".join(element.proto.body for element in page.main.get("html"))


def titles(page: AppTest) -> list[str]:
    """The titles above charts and tables."""
    names = ("Scores", "Circuit", "Ranked scores", "Precision and recall", "ROC curve", "Prompts and codes")
    return [name for name in names if f'd-title">{name}' in html(page)]


def finish(page: AppTest) -> AppTest:
    """Let a run that was started end, looking at it as the browser would."""
    end = time.monotonic() + 20
    while "job" in page.session_state and page.session_state["job"] is not None:
        assert time.monotonic() < end, "the run did not end"
        time.sleep(0.05)
        page.run()
    assert not page.exception
    return page


def run_button(page: AppTest):  # type: ignore[no-untyped-def]
    return page.button(key="run")


def test_a_first_visit_shows_the_stored_demo(app: AppTest) -> None:
    app.run()
    assert not app.exception
    assert not app.error
    assert "Stored demo" in html(app)
    assert "smollm2-135m · ioi · 2 + 2 prompts · positional · seed 0" in html(app)
    assert "2 prompt pairs point to 2 of 4 heads; 1 of them is in the measured circuit of 2." in html(app)
    assert len(titles(app)) == 6
    assert "Settings changed" not in html(app)


def test_the_stored_demo_says_what_to_do_next_and_a_run_of_one_s_own_does_not(app: AppTest) -> None:
    app.run()
    assert "Press Run discovery to compute it here" in html(app)
    app.slider(key="result1_threshold").set_value(0.0).run()
    assert "Press Run discovery to compute it here" in html(app)
    run_button(app).click().run()
    finish(app)
    assert "Press Run discovery" not in html(app)


def test_a_page_that_streamlit_alone_serves_brings_its_style(app: AppTest) -> None:
    app.run()
    bodies = [element.proto.body for block in app._tree.children.values() for element in block.get("html")]
    assert theme.STYLE.strip() in map(str.strip, bodies)


def test_charts_that_a_narrow_page_scrolls_say_so(app: AppTest) -> None:
    app.run()
    headings = [line for line in html(app).splitlines() if 'class="d-title"' in line]
    hints = [line.split("<span>")[0].split(">")[-1] for line in headings if "swipe for other layers" in line]
    assert hints == ["Scores", "Circuit"]
    assert ".d-swipe { display: none; }" in theme.STYLE.split("@media")[0]
    assert ".d-swipe { display: inline" in theme.STYLE.split("@media (max-width: 640px)")[1]


def test_every_control_has_a_help(app: AppTest) -> None:
    app.run()
    widgets = [*app.selectbox, *app.slider, *app.radio, *app.number_input, *app.button]
    assert len(widgets) > 8
    assert [widget.label for widget in widgets if not widget.help] == []


def test_the_threshold_changes_the_circuit_at_once(app: AppTest) -> None:
    app.run()
    app.slider(key="result1_threshold").set_value(0.0).run()
    assert "point to 4 of 4 heads; 2 of them are in" in html(app)
    assert "<b>.50</b><span>precision</span>" in html(app)
    assert "<b>1.00</b><span>recall</span>" in html(app)
    app.slider(key="result1_threshold").set_value(1.02).run()
    assert "<b>1.00</b><span>precision</span>" in html(app)
    assert "<b>1</b> found, in the circuit" in html(app)
    assert "<b>0</b> found, not in it" in html(app)
    assert "<b>1</b> missed" in html(app)


def datasets(page: AppTest, title: str) -> dict[str, pd.DataFrame]:
    """What a chart is sent, by name."""
    charts = [element.proto for element in page.main.get("vega_lite_chart")]
    (proto,) = (proto for proto in charts if json.loads(proto.spec)["description"].startswith(f"{title}."))
    return {found.name: convert_arrow_bytes_to_pandas_df(found.data.data) for found in proto.datasets}


def test_the_edge_slider_changes_how_many_edges_are_drawn(app: AppTest) -> None:
    app.run()
    app.slider(key="result1_threshold").set_value(0.0).run()
    for limit, drawn in ((40, 3), (2, 2), (1, 1), (0, 0), (3, 3)):
        app.slider(key="result1_edges").set_value(limit).run()
        assert not app.exception
        assert datasets(app, "Circuit")["edges"]["edge"].nunique() == drawn
    assert len(datasets(app, "Circuit")["nodes"]) == 4


def test_a_chart_is_saved_from_its_menu_which_is_empty_until_it_is_opened(
    app: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: dict[str, Callable[[], str | bytes]] = {}

    def download_button(label: str, content: Callable[[], str | bytes], name: str, *_: object, **__: object) -> None:
        offered[name] = content

    monkeypatch.setattr(files.st, "download_button", download_button)
    app.run()
    assert not app.exception
    assert list(offered) == ["result1_codes.csv"]  # of the table, which has no picture
    app.session_state["circuit_save"] = True
    app.run()
    assert not app.exception
    assert [name for name in offered if name != "result1_codes.csv"] == ["circuit.csv", "circuit.svg", "circuit.png"]
    assert str(offered["circuit.csv"]()).startswith("layer_a,head_a,layer_b,head_b,score")
    svg = bytes(offered["circuit.svg"]()).decode()  # type: ignore[arg-type]
    assert ">Circuit<" in svg
    assert "an edge is as wide as its score" in svg
    assert bytes(offered["circuit.png"]()).startswith(b"\x89PNG")  # type: ignore[arg-type]


def test_selecting_a_head_selects_it_everywhere(app: AppTest) -> None:
    app.run()
    assert "Prompts and codes of head 1.0" in html(app)
    app.selectbox(key="result1_head").select("0.1").run()
    assert "Prompts and codes of head 0.1" in html(app)
    assert app.session_state["selected_head"] == (0, 1)
    app.session_state["selected_head"] = (1, 1)
    app.run()
    assert app.selectbox(key="result1_head").value == "1.1"


def test_changed_settings_mark_the_result_stale_and_keep_it(app: AppTest) -> None:
    app.run()
    app.number_input(key="set_seed").set_value(3).run()
    assert "Settings changed since this run" in html(app)
    assert "seed 0" in html(app)
    assert len(titles(app)) == 6
    app.number_input(key="set_seed").set_value(0).run()
    assert "Settings changed" not in html(app)


def test_a_run_replaces_the_demo(app: AppTest) -> None:
    app.run()
    app.number_input(key="set_seed").set_value(3).run()
    run_button(app).click().run()
    finish(app)
    assert "Stored demo" not in html(app)
    assert "Settings changed" not in html(app)
    assert "seed 3" in html(app)
    assert run_button(app).label == "Run discovery"
    assert not run_button(app).disabled


def test_the_link_holds_the_settings(app: AppTest) -> None:
    app.query_params["seed"] = "4"
    app.query_params["method"] = "paper"
    app.query_params["l1"] = "0.05"
    app.run()
    assert app.number_input(key="set_seed").value == 4
    assert app.radio(key="set_method").value == "paper"
    assert app.number_input(key="set_paper_l1").value == 0.05
    assert "Settings changed since this run" in html(app)  # the demo has others
    assert "to compute it here" not in html(app)
    app.number_input(key="set_seed").set_value(5).run()
    assert app.query_params["seed"] == "5"
    assert app.query_params["l1"] == "0.05"


def test_a_link_to_a_finished_run_opens_its_result(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "introduction", lambda _: "What the tool does.")
    app.query_params["seed"] = "6"
    app.run()
    assert "Stored demo" in html(app)
    run_button(app).click().run()
    finish(app)
    again = AppTest.from_file(str(APP), default_timeout=60)
    again.query_params["examples"], again.query_params["seed"] = "2", "6"
    again.run()
    assert "Stored demo" not in html(again)
    assert "seed 6" in html(again)
    assert "What the tool does." not in html(app)
    assert "What the tool does." in html(again)  # its visitor may not know what a result is
    again.button(key="show_demo").click().run()
    assert "Stored demo" in html(again)


def test_a_visit_to_ones_own_prompts_shows_the_demo_below_and_says_nothing_of_a_run(app: AppTest) -> None:
    app.query_params["task"] = "custom"
    app.run()
    assert "Stored demo" in html(app)
    app.button(key="example").click().run()  # now there is something to run
    assert "Stored demo" in html(app)
    assert "Run discovery computes it" not in html(app)
    assert not run_button(app).disabled


def test_a_bad_link_is_said_to_be_bad(app: AppTest) -> None:
    app.query_params["seed"] = "<script>"
    app.query_params["<b>"] = "1"
    app.run()
    assert "could not be understood" in html(app)
    assert "&lt;b&gt;" in html(app)
    assert "<b>," not in html(app)
    assert app.number_input(key="set_seed").value == 0


def test_settings_survive_a_change_of_the_method(app: AppTest) -> None:
    app.run()
    app.radio(key="set_method").set_value("paper").run()
    assert not app.exception
    assert app.number_input(key="set_paper_epochs").value == 500
    app.number_input(key="set_paper_epochs").set_value(7).run()
    run_button(app).click().run()
    finish(app)
    assert "epochs 7" in html(app)


def test_settings_that_contradict_each_other_are_said_to(app: AppTest) -> None:
    app.run()
    app.number_input(key="set_positional_k").set_value(65).run()
    assert "cannot exceed" in app.error[0].value
    assert run_button(app).disabled


class TestFailure:
    @pytest.fixture
    def work(self) -> Callable[[RunRequest, Report], Discovery]:
        def fail(request: RunRequest, report: Report) -> Discovery:
            raise UserError("There is no model *x*.")

        return fail

    def test_a_failed_run_says_why_and_keeps_the_result(self, app: AppTest) -> None:
        app.run()
        run_button(app).click().run()
        finish(app)
        assert app.error[0].value == r"There is no model \*x\*\."
        assert len(titles(app)) == 6
        assert not run_button(app).disabled


class TestSlowness:
    @pytest.fixture
    def work(self) -> Callable[[RunRequest, Report], Discovery]:
        def never(request: RunRequest, report: Report) -> Discovery:
            while True:
                report("train", 0.25)
                time.sleep(0.01)

        return never

    def test_a_run_under_way_can_be_cancelled(self, app: AppTest) -> None:
        app.run()
        run_button(app).click().run()
        time.sleep(0.2)
        app.run()
        assert run_button(app).disabled
        assert 'class="now">5 train' in html(app)
        assert 'd-title">Preview: paired difference' in html(app)
        assert "Scores" not in titles(app)  # the preview has their place
        assert len(titles(app)) == 5  # all else of the earlier result stays
        app.button(key="cancel").click().run()
        finish(app)
        assert "The run was cancelled" in html(app)
        assert "Preview: paired difference" not in html(app)
        assert len(titles(app)) == 6
        assert "Stored demo" in html(app)
        assert not run_button(app).disabled

    def test_what_is_asked_for_during_a_run_is_brought_into_sight(self, app: AppTest) -> None:
        app.run()
        run_button(app).click().run()
        assert app.session_state["brought_into_sight"].startswith("run ")
        app.button(key="edit_prompts").click().run()
        assert app.session_state["brought_into_sight"].startswith("table ")
        app.button(key="cancel").click().run()
        finish(app)


class TestWithoutDemo:
    @pytest.fixture
    def demo(self) -> None:
        return None

    def test_the_page_says_what_to_do(self, app: AppTest) -> None:
        app.run()
        assert not app.exception
        assert "No result yet." in html(app)
        assert titles(app) == []

    def test_a_first_run_shows_its_preview(self, app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
        app.run()
        waiting = Job()
        monkeypatch.setattr(state, "job", lambda: waiting)
        app.session_state["preview"] = [torch.tensor([[0.0, 1.0], [2.0, 0.5]])]
        app.run()
        assert not app.exception
        assert 'd-title">Preview: paired difference' in html(app)
        assert "of the last result" not in html(app)
        assert "No result yet." not in html(app)


def test_own_prompts_have_no_circuit_and_the_page_says_so(app: AppTest) -> None:
    app.run()
    app.selectbox(key="set_task").select("custom").run()
    assert run_button(app).disabled
    app.session_state["upload_pairs"] = PAIRS
    app.run()
    assert not run_button(app).disabled
    run_button(app).click().run()
    finish(app)
    assert "your own prompts" in html(app)
    assert "No circuit is known for your own prompts." in html(app)
    assert titles(app) == ["Scores", "Circuit", "Ranked scores", "Prompts and codes"]
    assert "precision</span>" not in html(app)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"positive,negative\none two,one three\n", ""),
        (b"\xef\xbb\xbfpositive,negative\none two,one three\n", ""),  # as Excel saves it
        (b"positive,negative\none,\n", r"Row 1\, column negative\: the cell is empty\."),
        (b"positive,negative\n\xff\xfe,x\n", r"The file is not UTF\-8 text\; save it as a UTF\-8 CSV file\."),
    ],
)
def test_an_uploaded_file_is_read_or_refused(app: AppTest, content: bytes, told: str) -> None:
    app.run()
    app.selectbox(key="set_task").select("custom").run()
    app.file_uploader(key="upload").set_value(("prompts.csv", content, "text/csv")).run()
    assert not app.exception
    said = f"The file was not read, and the table is as it was. {told}"
    assert [error.value for error in app.error] == [said] * bool(told)
    assert run_button(app).disabled == bool(told)


def test_missing_spaces_are_put_in_by_a_button(app: AppTest) -> None:
    app.run()
    app.selectbox(key="set_task").select("custom").run()
    lines = "positive,negative,answer,distractor\none two,one three,four| five,six\n"
    app.file_uploader(key="upload").set_value(("prompts.csv", lines.encode(), "text/csv")).run()
    app.button(key="add_spaces").click().run()
    assert not app.exception
    asked = app.session_state["request"].pairs
    assert (asked.answer, asked.distractor) == (((" four", " five"),), ((" six",),))
    assert "add_spaces" not in [button.key for button in app.button]


def test_a_model_without_a_stored_circuit_names_the_command(app: AppTest) -> None:
    app.query_params["model"] = "other"
    app.run()
    run_button(app).click().run()
    finish(app)
    assert "dsae ground-truth --model other --task ioi" in html(app)


def test_settings_survive_a_visit_to_another_page(app: AppTest) -> None:
    app.run()
    app.number_input(key="set_seed").set_value(9).run()
    kept = app.session_state["request"]
    fresh = AppTest.from_file(str(APP), default_timeout=60)
    fresh.session_state["request"] = kept  # what is left of a session whose widgets were away
    fresh.run()
    assert fresh.number_input(key="set_seed").value == 9


# --- looking into heads ------------------------------------------------------------------------------------


class Model:
    """Side jobs without a model: what they find, what was asked, and a gate that holds them up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.held = False
        self.error = ""
        weights = np.eye(2, dtype=np.float32)
        effects = np.array([[0.1, -1.0], [2.0, 0.0]], dtype=np.float32)
        tokens = PromotedTokens((TokenEffect("<i>", 1.0),), (TokenEffect(" John", -1.0),))
        shares = Shares((0, 2, 4), (0.0, 0.8, 1.0), (1.0, 0.1, 0.0))
        random = Shares((0, 2, 4), (0.0, 0.1, 1.0), (1.0, 0.9, 0.0))
        found = Validation("metric", shares, (random, random), 4.0, 0.0, 10)
        answers: dict[str, Callable[..., object]] = {
            "attention_work": lambda *a: probes.Attention(weights, weights, ("a", "<b>"), ("a", "<i>")),
            "output_work": lambda *a: probes.HeadOutput((tokens, tokens), effects, (1.0, 3.0), 4.0),
            "patch_work": lambda *a: PatchEffect(0.5, 0.4, 0.6, 4.0, 0.0, 2.0, 2),
            "validation_work": lambda *a: probes.Validated(found, a[3], True),
            "check_work": lambda *a: probes.PromptCheck(None, (NextToken("<b>", 0.5),), (NextToken("x", 0.5),)),
        }
        for name, make in answers.items():
            monkeypatch.setattr(probes, name, lambda *a, name=name, make=make: self._work(name, make, a))

    def _work(
        self, name: str, make: Callable[..., object], arguments: tuple[object, ...]
    ) -> Callable[[Report], object]:
        def work(report: Report) -> object:
            self.asked.append((name, *arguments[1:]))
            report("patch", 0.5)
            while self.held:
                report("patch", 0.5)
                time.sleep(0.01)
            if self.error:
                raise UserError(self.error)
            return make(*arguments)

        return work


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    return Model(monkeypatch)


@pytest.fixture
def demo_with_answers(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """The page with a result whose prompts have answers."""
    found = small_discovery()
    assert found.prompts is not None
    prompts = dataclasses.replace(found.prompts, answer=((" x",), (" y",)), distractor=((" z",), (" w",)))
    shown = View(dataclasses.replace(found, prompts=prompts), small_truth())
    monkeypatch.setattr(state, "stored_demo", lambda: shown)
    return app


def look_at(page: AppTest, what: str) -> AppTest:
    """Choose what the inspector shows."""
    page.button_group(key="result1_view").set_value(what).run()
    assert not page.exception
    return page


def until_ended(page: AppTest) -> AppTest:
    """Let side jobs end, looking at them as the browser would."""
    end = time.monotonic() + 20
    while any(not side.job.over for side in page.session_state["side_jobs"].values()):
        assert time.monotonic() < end, "the side job did not end"
        time.sleep(0.02)
        page.run()
    return page.run()


def test_patching_a_head_says_what_it_did(demo_with_answers: AppTest, model: Model) -> None:
    app = demo_with_answers.run()
    app.button(key="patch").click().run()
    assert "With 1.0 patched the logit difference falls from 4.00 to 2.00" in html(app)
    assert "carries 50&nbsp;% of the difference (95&nbsp;% bootstrap interval +40 to +60&nbsp;%" in html(app)
    assert "the +25.0 % above is on the circuit" in html(app)
    assert app.button(key="patch").disabled
    app.selectbox(key="result1_head").select("0.1").run()
    assert "patched the logit" not in html(app)
    assert "+25.0 % above" not in html(app)
    assert not app.button(key="patch").disabled
    app.selectbox(key="result1_head").select("1.0").run()
    assert "With 1.0 patched" in html(app)  # remembered, not asked again
    assert [asked[0] for asked in model.asked] == ["patch_work"]


def test_a_side_job_shows_its_progress_and_can_be_cancelled(demo_with_answers: AppTest, model: Model) -> None:
    model.held = True
    app = demo_with_answers.run()
    app.button(key="patch").click().run()
    assert app.button(key="patch").disabled
    assert len(titles(app)) == 6
    app.button(key="cancel_patch").click().run()
    until_ended(app)
    assert "Patching 1.0: cancelled." in html(app)
    model.held = False
    app.button(key="again_patch").click().run()
    app.button(key="patch").click().run()
    assert "With 1.0 patched" in html(app)


def test_a_side_job_that_fails_says_why(demo_with_answers: AppTest, model: Model) -> None:
    model.error = "The model *broke*."
    app = look_at(demo_with_answers.run(), "Attention")
    assert [error.value for error in app.error] == [r"The model \*broke\*\."]
    model.error = ""
    app.button(key="again_attention").click().run()
    assert not app.error
    assert "On the positive" in html(app)


def test_a_side_job_waits_for_the_run_before_it(demo_with_answers: AppTest, model: Model) -> None:
    app = demo_with_answers.run()
    queue = side.shared_queue()
    let_go = threading.Event()
    other = queue.submit(lambda report: let_go.wait(20))
    app.button(key="patch").click().run()
    bars = [element.proto.text for element in app.main.get("progress")]
    assert len(bars) == 1
    assert "1 run before this one" in bars[0]
    let_go.set()
    assert other.wait(10)
    until_ended(app)
    assert "With 1.0 patched" in html(app)


def test_attention_and_direct_effect_ask_the_model_for_the_chosen_pair(
    demo_with_answers: AppTest, model: Model
) -> None:
    app = look_at(demo_with_answers.run(), "Attention")
    assert all(f'd-title">{name}' in html(app) for name in ("On the positive", "On the negative", "Difference"))
    app.selectbox(key="result1_pair").select(1).run()
    assert [asked[2:] for asked in model.asked] == [(0, (1, 0)), (1, (1, 0))]
    look_at(app, "Direct effect")
    assert app.selectbox(key="result1_pair").value == 1  # kept while other things were looked at
    assert "What 1.0 writes raises" not in html(app)
    assert "what 1.0 writes raises the answer over the distractor by 2.00 nats" in html(app)
    assert "&lt;i&gt;" in html(app)
    look_at(app, "Code table")
    assert 'd-title">Codes of head 1.0' in html(app)
    assert len(model.asked) == 3


def test_what_was_asked_of_a_result_is_dropped_with_it(demo_with_answers: AppTest, model: Model) -> None:
    app = demo_with_answers.run()
    app.button(key="patch").click().run()
    assert "With 1.0 patched" in html(app)
    app.number_input(key="set_seed").set_value(3).run()
    assert "With 1.0 patched" in html(app)
    run_button(app).click().run()
    finish(app)
    assert "patched the logit" not in html(app)


def test_without_answers_the_page_says_what_is_missing(app: AppTest, model: Model) -> None:
    app.run()
    assert app.button(key="patch").disabled
    assert "no answers" in app.button(key="patch").help
    look_at(app, "Direct effect")
    assert "what 1.0 writes raises" in html(app) or "no answers" in html(app)
    assert not app.button(key="validate").disabled  # by KL divergence
    assert "by KL divergence" in html(app)


def test_the_circuit_is_validated_at_its_size(demo_with_answers: AppTest, model: Model) -> None:
    app = demo_with_answers.run()
    assert app.button(key="validate").label == "Validate the circuit"
    app.button(key="validate").click().run()
    assert "The 2 best heads keep 80&nbsp;% of the logit difference" in html(app)
    assert "2 random heads keep 10&nbsp;%" in html(app)
    assert 'd-title">Keep only the circuit' in html(app)
    assert app.button(key="validate").disabled
    app.slider(key="result1_threshold").set_value(0.0).run()
    assert "keep 100&nbsp;% of the logit difference" in html(app)  # that size was measured too
    assert app.button(key="validate").label == "Measure 4 heads"
    app.slider(key="result1_threshold").set_value(app.slider(key="result1_threshold").max).run()
    assert [asked[-1] for asked in model.asked] == [2]


# --- own prompts -------------------------------------------------------------------------------------------


def test_the_prompts_on_show_can_be_edited(app: AppTest, model: Model) -> None:
    app.run()
    app.button(key="edit_prompts").click().run()
    assert not app.exception
    assert app.selectbox(key="set_task").value == "custom"
    assert app.session_state["draft_now"]["positive"].tolist() == ["a<b>", "a*c*"]
    assert "Stored demo" in html(app)  # the result stays
    assert not run_button(app).disabled
    app.button(key="check").click().run()
    assert "Without answers nobody can say" in html(app)
    assert app.button(key="check").disabled
    app.button(key="clear_draft").click().run()
    assert run_button(app).disabled
    app.button(key="example").click().run()
    assert len(app.session_state["draft_now"]) == 6
    assert not run_button(app).disabled


@pytest.mark.parametrize("before", [None, 7])
def test_own_prompts_leave_a_task_its_number_of_examples(app: AppTest, before: int | None) -> None:
    app.run()
    if before is not None:
        app.slider(key="set_examples").set_value(before).run()
    stood = app.slider(key="set_examples").value
    app.selectbox(key="set_task").select("custom").run()
    app.button(key="example").click().run()
    app.selectbox(key="set_task").select("ioi").run()
    assert app.slider(key="set_examples").value == stood != 6


def test_a_table_that_is_not_complete_says_what_it_lacks(app: AppTest) -> None:
    app.run()
    app.selectbox(key="set_task").select("custom").run()
    app.button(key="example").click().run()
    frame = app.session_state["draft_now"].copy()
    frame.loc[1, "negative"] = ""
    app.session_state["draft_now"] = frame
    app.run()
    assert "Row 2, column negative: the cell is empty." in html(app)
    assert run_button(app).disabled
    assert app.button(key="check").disabled


def test_own_prompts_stay_while_another_task_is_chosen(app: AppTest) -> None:
    app.run()
    app.selectbox(key="set_task").select("custom").run()
    app.button(key="example").click().run()
    app.selectbox(key="set_task").select("ioi").run()
    app.selectbox(key="set_task").select("custom").run()
    assert len(app.session_state["draft_now"]) == 6
    assert not run_button(app).disabled


def test_a_run_is_told_what_the_check_found_of_the_same_prompts(
    app: AppTest, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Behaviour(1.0, 0.0, 1.0, 0.0)
    words = (NextToken("x", 0.5),) * 6
    monkeypatch.setattr(probes, "check_work", lambda *_: lambda report: probes.PromptCheck(found, words, words))
    app.run()
    app.selectbox(key="set_task").select("custom").run()
    app.button(key="example").click().run()
    run_button(app).click().run()
    finish(app)
    app.button(key="check").click().run()
    assert "there is a behaviour to look for" in html(app)
    run_button(app).click().run()
    finish(app)
    frame = app.session_state["draft_now"].copy()
    frame.loc[1, "negative"] = "Another one"
    app.session_state["draft_now"] = frame
    app.run()
    run_button(app).click().run()
    finish(app)
    assert knew[-3:] == [None, found, None]


def own_prompts(page: AppTest, model: str) -> AppTest:
    """The page with the example's pairs in the editor, for a model that is not loaded."""
    page.query_params["task"], page.query_params["model"] = "custom", model
    page.run()
    page.button(key="example").click().run()
    assert runs.model_at_hand(model) is None
    return page


def test_own_prompts_are_cut_into_tokens_before_the_model_is_loaded(app: AppTest, tmp_path: Path) -> None:
    folder = str(save_model(tmp_path / "model"))
    own_prompts(app, folder)
    end = time.monotonic() + 60
    while "Reading how the model cuts" in html(app):  # the first one reads a library, too
        assert time.monotonic() < end, "the tokenizer did not come"
        time.sleep(0.1)
        app.run()
    assert "All 6 rows align token by token" in html(app)
    assert html(app).count("d-chip differs") == 12
    assert "shows here once it is loaded" not in html(app)
    assert runs.model_at_hand(folder) is None


def test_a_model_that_is_not_here_shows_its_tokens_once_it_is_loaded(
    app: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "stored_tokenizer", lambda name: None)
    own_prompts(app, "nobody/none")
    assert "shows here once it is loaded" in html(app)


def test_a_tokenizer_that_takes_long_does_not_hold_up_the_page(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(runs, "stored_tokenizer", lambda name: let_go.wait(60) and None)
    start = time.monotonic()
    own_prompts(app, "slow/one")
    assert time.monotonic() - start < 20
    assert "Reading how the model cuts prompts into tokens." in html(app)
    let_go.set()
    time.sleep(0.2)
    app.run()
    assert "shows here once it is loaded" in html(app)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_page_and_charts_agree_on_colours(mode: str) -> None:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    path = Path(theme.__file__).parent / ".streamlit" / "config.toml"
    colours = tomllib.loads(path.read_text())["theme"][mode]
    true_positive, false_positive, missed, found = colours["chartCategoricalColors"][:4]
    assert true_positive == found
    assert len({true_positive, false_positive, missed}) == 3
    assert len(colours["chartSequentialColors"]) == 10
    side = ("light", "dark").index(mode)
    for name, colour in (("tp", true_positive), ("fp", false_positive), ("missed", missed)):
        pair = theme.STYLE.split(f"--{name}: light-dark(")[1].split(")")[0].split(", ")
        assert pair[side] == colour


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_words_on_the_main_button_can_be_read(mode: str) -> None:
    """WCAG asks for a contrast of 4.5."""
    config = (Path(theme.__file__).parent / ".streamlit" / "config.toml").read_text(encoding="utf-8")
    ground = tomllib.loads(config)["theme"][mode]["primaryColor"]
    rule = theme.STYLE.split('stBaseButton-primary"]')[1]
    colours = rule.split("light-dark(")[1].split(")")[0].split(", ")
    lighter, darker = sorted((_luminance(ground), _luminance(colours[("light", "dark").index(mode)])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def _luminance(colour: str) -> float:
    """Of "#rrggbb", as WCAG defines it."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("kind", ["run", "side"])
def test_a_page_whose_job_waits_asks_less_often(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, let_go, paces, drawn_anew = JobQueue(), threading.Event(), [], []
    first, second = (queue.submit(lambda report: let_go.wait(20)) for _ in range(2))
    while first.status != "running":
        time.sleep(0.01)

    def fragment(function: object, run_every: float) -> Callable[..., None]:
        paces.append(run_every)
        return lambda *_: None

    progress = discover.progress
    monkeypatch.setattr(progress, "shared_queue", lambda: queue)
    monkeypatch.setattr(progress.st, "fragment", fragment)
    monkeypatch.setattr(progress.st, "rerun", lambda: drawn_anew.append(True))
    monkeypatch.setattr(progress, "_bar", lambda *_: None)
    monkeypatch.setattr(state, "take_finished", lambda: False)
    monkeypatch.setattr(state, "preview", lambda: None)
    draw = progress.running if kind == "run" else lambda: progress.side("x", 0)
    look = (
        (lambda waited: progress._running(waited, False))
        if kind == "run"
        else lambda waited: progress._side("x", 0, waited)
    )
    for job in (second, first):
        monkeypatch.setattr(state, "job", lambda job=job: job)
        monkeypatch.setattr(state, "side_job", lambda name, about, job=job: job)
        draw()
    assert paces == [progress.WAITING_SECONDS, progress.POLL_SECONDS]
    look(False)
    assert not drawn_anew
    look(True)  # it waited when it was drawn, and runs now
    assert drawn_anew
    let_go.set()


@pytest.mark.parametrize("visitors", [True, False])
def test_a_demo_s_charts_wait_for_the_words_of_a_moved_threshold_alone(
    monkeypatch: pytest.MonkeyPatch, visitors: bool
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(discover.st, "session_state", {})
    monkeypatch.setattr(discover.time, "sleep", waits.append)
    monkeypatch.setattr(discover, "demo_limits", lambda: Limits() if visitors else None)
    for key, threshold in (("a", 0.5), ("a", 0.5), ("b", 0.7)):
        discover._let_words_be_painted(key, threshold)
    assert waits == []
    discover._let_words_be_painted("a", 0.6)
    assert waits == ([discover.WORDS_FIRST] if visitors else [])


def test_the_other_charts_follow_the_first_on_a_first_visit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(discover.st, "session_state", {})
    monkeypatch.setattr(discover.time, "sleep", waits.append)
    for _ in range(3):
        discover._let_the_first_chart_be_drawn()
    assert waits == [discover.FIRST_CHART_FIRST]


@pytest.mark.parametrize(
    ("before", "now", "selected"),
    [
        ([], [(1, 0)], (1, 0)),
        ([(1, 0)], [(1, 0), (0, 2)], (0, 2)),
        ([(1, 0), (0, 2)], [(0, 2)], (1, 0)),  # clicked before, left by a click in another chart, clicked again
        ([(1, 0)], [(1, 0)], None),
        ([(1, 0), (0, 2)], [(3, 3)], (3, 3)),  # a chart that was built anew begins with an empty selection
        ([(1, 0), (0, 2)], [], None),
    ],
)
def test_the_head_that_comes_or_goes_is_the_one_that_was_clicked(
    monkeypatch: pytest.MonkeyPatch, before: list[Head], now: list[Head], selected: Head | None
) -> None:
    points = [{"layer": layer, "head": head} for layer, head in now]
    memory = {"heatmap": {"selection": {"head": points}}, "heatmap_clicked": before}
    chosen: list[Head] = []
    monkeypatch.setattr(charts.st, "session_state", memory)
    monkeypatch.setattr(charts, "select_head", chosen.append)
    charts._select("heatmap")
    assert chosen == ([] if selected is None else [selected])
