"""Comparisons of methods and of runs: their numbers by hand, and the page with a tiny model in place of a real one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from streamlit.testing.v1 import AppTest
from test_ui_view import small_discovery, small_truth

from dsae_core.behaviour import Behaviour
from dsae_core.benchmark import ALL_METHODS, score_heads
from dsae_core.errors import UserError
from dsae_core.metrics import evaluate
from dsae_core.models import LanguageModel
from dsae_core.prompts import PromptPairs
from dsae_core.ui import comparison, sharing
from dsae_core.ui.charts import comparison as charts
from dsae_core.ui.comparison import Board, CompareRequest, Difference, Line, comparison_work
from dsae_core.ui.jobs import JobQueue
from dsae_core.ui.library import library
from dsae_core.ui.sections import compare_board, compare_methods, compare_runs
from dsae_core.ui.view import FALSE_POSITIVE, MISSED, OUTSIDE, TRUE_POSITIVE, View

TWO = ("paired", "norm")


def line(scores: list[list[float]], method: str = "paired", **figures: float) -> Line:
    return Line(method, torch.tensor(scores), 1.0, **figures)


# --- numbers -----------------------------------------------------------------------------------------------


def test_ranks_are_shares_of_the_other_heads_and_ties_count_half() -> None:
    assert comparison.rank_shares(torch.tensor([[0.0, 1.0], [4.0, 0.5]])).tolist() == pytest.approx(
        [0, 2 / 3, 1, 1 / 3]
    )
    assert comparison.rank_shares(torch.tensor([1.0, 1.0, 2.0])).tolist() == [0.25, 0.25, 1.0]


def test_a_method_s_heads_are_judged_at_the_circuit_s_size() -> None:
    heads = comparison.heads(line([[0.0, 1.0], [4.0, 0.5]]), small_truth())
    assert heads["name"].tolist() == ["0.0", "0.1", "1.0", "1.1"]
    assert heads["rank"].tolist() == [4, 2, 1, 3]
    assert heads["max_share"].tolist() == [0.0, 0.25, 1.0, 0.125]
    assert heads["status"].tolist() == [OUTSIDE, FALSE_POSITIVE, TRUE_POSITIVE, MISSED]
    assert set(comparison.heads(line([[0.0, 1.0], [4.0, 0.5]]), None)["status"]) == {OUTSIDE}


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_a_mark_on_a_dark_cell_has_a_rim_of_the_page_s_colour(mode: sharing.Mode) -> None:
    drawing = charts.small_heatmap(comparison.heads(line([[0.0, 1.0], [4.0, 0.5]]), small_truth()), "rank")
    assert drawing.spec["layer"][-1]["mark"]["stroke"] == "var(--ground)"
    svg = sharing.picture(lambda: drawing, "x", "y", kind="svg", mode=mode).decode()
    assert "var(" not in svg
    assert f'stroke="{sharing.theme_colours(mode)["backgroundColor"]}"' in svg


def test_negative_scores_and_zero_scores_are_drawn() -> None:
    assert comparison.heads(line([[-1.0, -2.0]]), None)["max_share"].tolist() == [0.0, 0.0]
    assert comparison.heads(line([[0.0, 0.0]]), None)["rank_share"].tolist() == [0.5, 0.5]


def test_agreement_is_a_rank_correlation() -> None:
    a, b = line([[1.0, 2.0, 30.0]], "paired"), line([[1.0, 20.0, 3.0]], "norm")
    frame = comparison.agreement([a, b, Line("random", None, 0.0, error="no")])
    assert frame["correlation"].tolist() == pytest.approx([1.0, 0.5, 0.5, 1.0])
    assert np.isnan(comparison.correlation(a.ranks, line([[1.0, 1.0, 1.0]]).ranks))


def test_the_table_has_the_best_first() -> None:
    lines = [line([[1.0]], "norm", auc=0.5), line([[1.0]], "paired", auc=0.9)]
    assert comparison.table(lines, has_truth=True)["method"].tolist() == ["Paired difference", "Output norm"]
    without = comparison.table(lines, has_truth=False)
    assert "auc" not in without
    assert set(without["needs"]) == {"a forward pass"}


def test_usual_times_are_of_methods_that_there_are() -> None:
    assert set(comparison.USUAL_SECONDS) <= set(ALL_METHODS)
    assert set(comparison.FAST) <= set(ALL_METHODS) - set(comparison.USUAL_SECONDS)
    assert compare_methods.method_label("eap") == "Edge attribution · 5 s"


def test_every_method_is_explained_under_its_one_name(app: AppTest) -> None:
    assert list(comparison.EXPLAINED) == list(ALL_METHODS)
    app.run()
    (before,) = app.expander
    assert before.markdown[0].value == comparison.explained(ALL_METHODS)
    titles = [comparison.method_title(method) for method in ALL_METHODS]
    assert [line.split("**")[1] for line in before.markdown[0].value.splitlines()] == titles
    assert [option.content.split(" · ")[0] for option in app.pills[0].proto.options] == titles
    finish(start(app, *TWO))
    (after,) = app.expander
    assert len(after.markdown[0].value.splitlines()) == 2


def draw_about() -> None:
    """The script of another page."""
    from dsae_core.ui.pages import about

    about.page()


def test_about_explains_every_method() -> None:
    page = AppTest.from_function(draw_about, default_timeout=60).run()
    assert not page.exception
    assert comparison.explained(ALL_METHODS) in page.markdown[0].value


def test_two_runs_head_by_head() -> None:
    first = View(small_discovery(), small_truth())
    second = View(
        dataclasses.replace(first.discovery, node_scores=torch.tensor([[4.0, 0.0], [1.0, 0.1]])), small_truth()
    )
    found = Difference(first, second)
    frame = found.heads
    assert frame["change"].tolist() == pytest.approx([1.0, -2 / 3, -1 / 3, 0.0])
    assert frame["side"].tolist() == ["second", "first", "first", ""]
    # Knees: 1.0 in the first run (heads 0.1 and 1.0), and in the second (heads 0.0 and 1.0).
    assert (first.start, second.start) == (pytest.approx(1.0), pytest.approx(1.0))
    assert frame["found"].tolist() == ["second", "first", "both", "neither"]
    assert found.overlap == {"both": 1, "first": 1, "second": 1}
    assert found.correlation == pytest.approx(1 - 6 * (9 + 4 + 1 + 0) / (4 * 15))
    assert found.most_changed(2)["name"].tolist() == ["0.0", "0.1"]
    assert Difference(first, first).most_changed(2).empty
    assert compare_runs.difference_sentence(found) == "A finds 2 heads, B finds 2; 1 of them is the same."
    drawn = charts.difference_map(frame).data["heads"]
    assert drawn["side"].tolist() == ["higher in B", "higher in A", "higher in A", "alike"]


def test_names_beside_points_are_as_near_as_they_can_be_and_never_overlap() -> None:
    assert charts.spread([0.9, 0.5, 0.1], 0.1, 0.0, 1.0) == pytest.approx([0.9, 0.5, 0.1])
    assert charts.spread([0.8, 0.8, 0.1], 0.1, 0.0, 1.0) == pytest.approx([0.85, 0.75, 0.1])
    assert charts.spread([1.0, 1.0, 1.0], 0.1, 0.0, 1.0) == pytest.approx([1.0, 0.9, 0.8])
    assert charts.spread([0.1, 0.05, 0.0], 0.1, 0.0, 1.0) == pytest.approx([0.2, 0.1, 0.0])
    crowded = charts.spread([0.9, 0.9, 0.9, 0.1], 0.4, 0.0, 1.0)  # more than there is room for
    assert [a - b for a, b in itertools.pairwise(crowded)] == pytest.approx([0.4] * 3)


@pytest.mark.parametrize(
    "aucs", [[0.97], [0.5, 0.5], [0.999, 0.99, 0.98, 0.97, 0.96, 0.9, 0.4], [0.95 - i / 99 for i in range(16)]]
)
def test_names_have_a_line_s_height_each_in_the_chart_of_cost(aucs: list[float]) -> None:
    table = comparison.table([line([[1.0]], "paired", auc=auc) for auc in aucs], has_truth=True)
    drawing = charts.cost_chart(table)
    height = drawing.spec["layer"][1]["encoding"]["y"]
    low, high = height["scale"]["domain"]
    assert max(height["axis"]["values"]) <= 1
    assert len(height["axis"]["values"]) >= 2
    plot = drawing.spec["height"] - charts.COST_AROUND - charts.LABEL_PIXELS
    at = drawing.data["methods"]["label_at"].tolist()
    pixels = [(a - b) / (high - low) * plot for a, b in itertools.pairwise(at)]
    assert all(gap >= charts.LABEL_PIXELS - 1e-6 for gap in pixels)
    assert low < min(aucs)
    assert max(aucs) < high
    assert low - 1e-9 <= min(at)
    assert max(at) <= high + 1e-9


def test_a_method_s_mark_does_not_depend_on_the_others() -> None:
    assert {comparison.method_needs(method) for method in ALL_METHODS} == set(charts.NEEDS)
    for methods in (("norm",), ("random", "attribution"), ALL_METHODS):
        table = comparison.table([line([[1.0]], method, auc=0.5) for method in methods], has_truth=True)
        encoding = charts.cost_chart(table).spec["layer"][1]["encoding"]
        for channel in ("color", "shape"):
            assert encoding[channel]["scale"]["domain"] == list(charts.NEEDS)
            assert set(encoding[channel]["legend"]["values"]) == set(table["needs"])


def test_the_order_of_heads_without_a_score_leaves_little_ink() -> None:
    heads = pd.DataFrame(
        {
            "layer": [0, 0],
            "head": [0, 1],
            "first_share": [0.3, 0.8],
            "second_share": [0.5, 1.0],
            "side": ["second", "second"],
            "found": ["neither", "both"],
        }
    )
    ink = charts.difference_map(heads).data["heads"]["ink"].tolist()
    assert ink == pytest.approx([0.5**4 - 0.3**4, 1 - 0.8**4])


def test_a_run_has_one_colour_and_a_comes_before_b() -> None:
    found = Difference(View(small_discovery(), small_truth()), View(small_discovery(), small_truth()))
    moved = charts.difference_map(found.heads).spec["layer"][1]["encoding"]["color"]["scale"]["domain"]
    marked = charts.rank_scatter(found.heads).spec["layer"][1]["encoding"]["color"]["scale"]["domain"]
    assert moved == ["higher in A", "higher in B"]
    assert marked == ["of A alone", "of B alone", "of both"]


def test_the_legend_speaks_of_runs_with_a_circuit() -> None:
    known, unknown = View(small_discovery(), small_truth()), View(small_discovery("custom"), None)
    size = len(small_truth())
    assert compare_runs.marked(known, known) == f"each run's best {size} heads"
    assert compare_runs.marked(unknown, known) == f"run B's best {size} heads; no circuit is known for run A"
    assert compare_runs.marked(known, unknown) == f"run A's best {size} heads; no circuit is known for run B"
    assert compare_runs.marked(unknown, unknown) == ""


def test_a_run_against_itself_has_no_difference() -> None:
    view = View(small_discovery(), None)
    found = Difference(view, view)
    assert not found.heads["change"].any()
    assert found.overlap["both"] > 0
    assert found.correlation == pytest.approx(1.0)


def test_runs_of_different_shapes_are_refused() -> None:
    small = View(small_discovery(), None)
    other = dataclasses.replace(small.discovery, node_scores=torch.zeros(1, 4))
    with pytest.raises(UserError, match="choose two runs of one model"):
        Difference(small, View(other, None))


def test_what_differs_beside_scores_is_said() -> None:
    found = small_discovery()
    view = View(found, None)
    assert comparison.same_question(view, view) == ""
    weights = View(dataclasses.replace(found, provenance={**found.provenance, "model_digest": "x"}), None)
    assert "different weights" in comparison.same_question(view, weights)
    said = comparison.same_question(view, View(small_discovery("custom"), None))
    assert "different tasks: Indirect object (IOI) and Own prompts." in said


# --- the work ----------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tiny_model: LanguageModel) -> LanguageModel:
    """The tiny model in place of whatever is asked for."""
    monkeypatch.setattr(comparison, "loaded_model", lambda name, report: tiny_model)
    return tiny_model


def board_of(pairs: PromptPairs, methods: tuple[str, ...]) -> Board:
    return Board(CompareRequest("tiny", "custom", len(pairs), 3, methods, pairs))


def test_a_comparison_gives_what_the_methods_give(tiny: LanguageModel, solved_pairs: PromptPairs) -> None:
    stages: list[tuple[str, float]] = []
    board = board_of(solved_pairs, ("positional", "paired", "attribution", "random"))
    assert comparison_work(board)(lambda stage, fraction: stages.append((stage, fraction))) == 4
    for found in board.lines:
        assert found.scores is not None
        assert torch.equal(found.scores, score_heads(tiny, solved_pairs, method=found.method, seed=3))
        assert found.auc is None
        assert found.seconds > 0
    fractions = [fraction for _, fraction in stages[1:]]
    assert fractions == sorted(fractions)
    assert stages[-1][0] == "Random, 4 of 4"
    assert not tiny.sites[-1].block._forward_pre_hooks


def test_figures_are_those_of_the_metrics(
    tiny: LanguageModel, solved_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = dataclasses.replace(small_truth(), heads=((0, 1), (1, 2)), effects=(), intervals=())
    monkeypatch.setattr(comparison, "stored_circuit", lambda model, task: truth)
    board = board_of(solved_pairs, ("paired",))
    comparison_work(board)(lambda *_: None)
    (found,) = board.lines
    assert found.scores is not None
    members = torch.tensor(truth.membership(2, 4))
    expected = evaluate(found.scores, members)
    assert (found.auc, found.average_precision) == (expected.auc, expected.average_precision)
    best = {divmod(int(i), 4) for i in torch.argsort(found.scores.flatten(), descending=True)[:2]}
    assert found.at_size == len(best & set(truth.heads)) / 2


def test_a_method_that_cannot_be_used_leaves_the_others(tiny: LanguageModel, solved_pairs: PromptPairs) -> None:
    unanswered = PromptPairs(solved_pairs.positive, solved_pairs.negative)
    board = board_of(unanswered, ("attribution", "norm"))
    assert comparison_work(board)(lambda *_: None) == 1
    failed, fine = board.lines
    assert failed.scores is None
    assert "answer" in failed.error
    assert fine.scores is not None


def test_an_internal_error_is_not_shown_in_full(
    tiny: LanguageModel, solved_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(comparison, "score_heads", burst)
    board = board_of(solved_pairs, ("norm",))
    assert comparison_work(board)(lambda *_: None) == 0
    assert "ZeroDivisionError" in board.lines[0].error
    assert "secret" not in board.lines[0].error


@pytest.mark.parametrize(("solved", "said"), [(0.9, ""), (0.4, "it solves 40 % of the positives and 10 % of the")])
def test_prompts_that_the_model_does_not_solve_are_said_to(
    tiny: LanguageModel, solved_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch, solved: float, said: str
) -> None:
    monkeypatch.setattr(comparison, "measure_behaviour", lambda model, pairs: Behaviour(1.0, -1.0, solved, 0.1))
    board = board_of(solved_pairs, ("norm",))
    comparison_work(board)(lambda *_: None)
    assert said in board.note
    assert bool(said) == bool(board.note)


@pytest.mark.parametrize("method", ["paired", "attribution", "patching", "positional"])
def test_cancel_ends_a_method_on_its_way(tiny: LanguageModel, solved_pairs: PromptPairs, method: str) -> None:
    queue = JobQueue()
    board = board_of(solved_pairs, (method, "norm"))
    seen: list[str] = []

    def work(report: Callable[[str, float], None]) -> int:
        def cancel_within(stage: str, fraction: float) -> None:
            seen.append(stage)
            if fraction > 0:  # in the midst of the first method
                queue.cancel(job)
            report(stage, fraction)

        return comparison_work(board)(cancel_within)

    job = queue.submit(work)
    assert job.wait(30)
    assert job.status == "cancelled"
    assert board.lines == ()
    assert not tiny.sites[-1].block._forward_pre_hooks
    assert seen[-1].endswith("1 of 2")


# --- the page ----------------------------------------------------------------------------------------------


def draw() -> None:
    """The page's script."""
    from dsae_core.ui.pages import compare

    compare.page()


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tiny: LanguageModel, solved_pairs: PromptPairs) -> AppTest:
    """The Compare page, not yet opened; the IOI task draws the tiny model's prompts."""
    queue = JobQueue()
    for module in (compare_methods, compare_methods.progress):
        monkeypatch.setattr(module, "shared_queue", lambda: queue)
    task = dataclasses.replace(comparison.TASKS["ioi"], make=lambda tokenizer, n, seed: solved_pairs)
    monkeypatch.setattr(comparison, "TASKS", {**comparison.TASKS, "ioi": task})
    return AppTest.from_function(draw, default_timeout=60)


def html(page: AppTest) -> str:
    """All of the page's own HTML."""
    return "\n".join(element.proto.body for element in page.main.get("html"))


def finish(page: AppTest) -> AppTest:
    """Let a comparison that was started end, looking at it as the browser would."""
    end = time.monotonic() + 30
    while page.button(key="compare_run").label == "Running":
        assert time.monotonic() < end, "the comparison did not end"
        time.sleep(0.05)
        page.run()
    assert not page.exception
    return page


def start(page: AppTest, *methods: str) -> AppTest:
    page.run()
    page.pills(key="compare_methods").set_value(list(methods)).run()
    return page.button(key="compare_run").click().run()


def test_a_first_visit_says_what_the_page_is_for(app: AppTest) -> None:
    app.run()
    assert not app.exception
    assert "Which method ranks the heads best?" in html(app)
    assert app.button(key="compare_first_run").label == "Compare 6 methods"
    assert [button.key for button in app.button if button.proto.type == "primary"] == ["compare_first_run"]
    assert sorted(app.pills(key="compare_methods").value) == sorted(comparison.FAST)


def test_every_control_has_a_help(app: AppTest) -> None:
    finish(start(app, *TWO))
    widgets = [*app.selectbox, *app.slider, *app.number_input, *app.button, *app.pills, *app.segmented_control]
    assert len(widgets) > 7
    assert [widget.label for widget in widgets if not widget.proto.help] == []


def test_without_a_circuit_methods_are_compared_with_one_another(app: AppTest) -> None:
    finish(start(app, *TWO, "attribution"))
    assert "order the heads most alike" in html(app)
    assert [button.key for button in app.button if button.proto.type == "primary"] == ["compare_run"]
    assert "nothing says which method is right" in html(app)
    table = app.dataframe[0].value
    assert set(table["method"]) == {"Paired difference", "Output norm", "Attribution patching"}
    assert "auc" not in table
    for title in ("Agreement", "Output norm", "Paired difference"):
        assert f'd-title">{title}' in html(app)
    assert "Accuracy and cost" not in html(app)


def test_with_a_circuit_the_best_is_named(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = dataclasses.replace(small_truth(), heads=((0, 1), (1, 2)), effects=(), intervals=())
    monkeypatch.setattr(comparison, "stored_circuit", lambda model, task: truth)
    finish(start(app, *TWO))
    table = app.dataframe[0].value
    best = table.iloc[0]
    assert json.loads(app.dataframe[0].proto.columns)["method"]["width"] == compare_board.method_width(TWO)
    assert table["auc"].is_monotonic_decreasing
    assert f'd-headline">{best["method"]} ' in html(app)
    assert "Accuracy and cost" in html(app)
    for said in ("framed: found, in the circuit", "diamond: found, not in it", "dashed frame: missed"):
        assert said in html(app)


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ([(0.97, 0.8), (0.95, 0.88)], "A has the best ROC AUC (.97), B the best average precision (.88)"),
        ([(0.97, 0.8), (0.95, 0.7)], "A ranks the measured circuit best: ROC AUC .97, average precision .80, in 1.0 s"),
        ([(0.97, 0.8), (0.97, 0.9)], "B ranks the measured circuit best: ROC AUC .97, average precision .90, in 1.0 s"),
        ([(0.97, 0.8), (0.95, 0.8)], "A ranks the measured circuit best: ROC AUC .97, average precision .80, in 1.0 s"),
        ([(0.97, 0.8)], "A ranks the measured circuit: ROC AUC .97, average precision .80, in 1.0 s"),
    ],
)
def test_best_is_said_of_a_method_that_leads_in_both_figures(figures: list[tuple[float, float]], said: str) -> None:
    board = Board(CompareRequest(methods=("a", "b")[: len(figures)]), truth=small_truth())
    for method, (auc, precision) in zip("ab", figures, strict=False):
        board.add(line([[1.0]], method, auc=auc, average_precision=precision))
    assert compare_board.sentence(board, under_way=False) == f"{said}."


def test_no_method_no_comparison(app: AppTest) -> None:
    app.run()
    app.pills(key="compare_methods").set_value([]).run()
    assert app.button(key="compare_run").disabled
    assert app.button(key="compare_first_run").disabled


def test_a_method_that_failed_is_named_with_its_reason(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UserError("It wants <b>answers</b>.")

    monkeypatch.setattr(comparison, "score_heads", refuse)
    finish(start(app, "norm"))
    assert "Output norm: It wants &lt;b&gt;answers&lt;/b&gt;." in html(app)
    assert "No method gave scores." in html(app)


def test_a_model_that_cannot_be_loaded_is_an_error(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise UserError("There is no model *x*.")

    monkeypatch.setattr(comparison, "loaded_model", missing)
    finish(start(app, "norm"))
    assert app.error[0].value == r"There is no model \*x\*\."


def test_lines_appear_as_they_finish_and_cancel_keeps_them(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = comparison.score_heads

    def slow(model: LanguageModel, *args: object, method: str, **kwargs: object) -> object:
        while method == "norm":
            model.sites[-1].block._forward_pre_hooks[next(iter(model.sites[-1].block._forward_pre_hooks))](None, None)
            time.sleep(0.01)
        return whole(model, *args, method=method, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(comparison, "score_heads", slow)
    start(app, "random", "norm")
    end = time.monotonic() + 20
    while not len(app.dataframe):
        assert time.monotonic() < end, "no line came"
        time.sleep(0.05)
        app.run()
    assert "1 of 2 methods is done." in html(app)
    assert app.button(key="compare_run").disabled
    app.button(key="cancel_compare").click().run()
    finish(app)
    assert "The comparison was cancelled" in html(app)
    assert app.dataframe[0].value["method"].tolist() == ["Random"]


def test_one_session_s_comparison_is_not_another_s(app: AppTest) -> None:
    finish(start(app, *TWO))
    other = AppTest.from_function(draw, default_timeout=60).run()
    assert "Which method ranks the heads best?" in html(other)
    assert "Agreement" not in html(other)


def test_settings_survive_a_visit_to_another_page(app: AppTest) -> None:
    app.run()
    app.number_input(key="compare_seed").set_value(9).run()
    kept = app.session_state["compare_asked"]
    fresh = AppTest.from_function(draw, default_timeout=60)
    fresh.session_state["compare_asked"] = kept  # what is left of a session whose widgets were away
    fresh.run()
    assert fresh.number_input(key="compare_seed").value == 9


# --- two runs ----------------------------------------------------------------------------------------------


def two_runs(page: AppTest) -> AppTest:
    page.run()
    return page.segmented_control(key="compare_mode").set_value("runs").run()


@pytest.fixture
def no_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_runs, "stored_demo", lambda: None)


@pytest.mark.usefixtures("no_demo")
def test_without_two_runs_the_page_says_what_is_missing(app: AppTest) -> None:
    assert "Two runs are needed." in html(two_runs(app))


@pytest.mark.usefixtures("no_demo")
def test_two_kept_runs_side_by_side(app: AppTest) -> None:
    found = small_discovery("custom")
    runs = library()
    runs.keep(dataclasses.replace(found, settings={**found.settings, "seed": 1}), name="<b>one</b>")
    changed = dataclasses.replace(found, node_scores=torch.tensor([[4.0, 0.0], [1.0, 0.1]]))
    runs.keep(changed, name="two")
    two_runs(app)
    assert not app.exception
    assert "A finds 2 heads, B finds 2; 1 of them is the same." in html(app)
    assert [box.options[0].split(" · ")[0] for box in app.selectbox] == ["two", "two"]
    assert app.dataframe[0].value["name"].tolist()[0] == "0.0"
    app.selectbox(key="compare_b").set_value(app.selectbox(key="compare_a").value).run()
    assert "This is one run twice" in html(app)


def test_the_latest_two_runs_that_can_be_compared_come_first() -> None:
    asked = {9: "ioi", 7: "own", 5: "docstring", 4: "own", 3: "ioi"}
    assert compare_runs.alike(asked) == (9, 3)
    assert compare_runs.alike({9: "docstring", **{n: what for n, what in asked.items() if n < 9}}) == (9, 5)
    assert compare_runs.alike({n: what for n, what in asked.items() if n != 9}) == (7, 4)
    assert compare_runs.alike(asked, 4) == (4, 7)
    assert compare_runs.alike({1: "a", 2: "b"}) == (1, 2)
    assert compare_runs.alike({1: "a", 2: "b"}, 2) == (2, 1)


@pytest.mark.usefixtures("no_demo")
def test_the_page_starts_with_two_runs_of_one_task(app: AppTest) -> None:
    found = small_discovery("custom")
    numbers = []
    for task in ("another", "custom", "another"):
        prompts = dataclasses.replace(found.prompts or PromptPairs(("a",), ("b",)), task=task)
        settings = {**found.settings, "seed": len(numbers)}
        numbers.append(library().keep(dataclasses.replace(found, prompts=prompts, settings=settings))[0])
    latest, _ = library().keep(small_discovery("custom"), name="mine")
    two_runs(app)
    assert [app.selectbox(key=f"compare_{name}").value for name in "ab"] == [latest, numbers[1]]
    assert "different tasks" not in html(app)
    assert app.selectbox[0].options[0].startswith("mine · ")
    assert app.selectbox[0].options[1].startswith("seed 2 · ")


@pytest.mark.usefixtures("no_demo")
def test_runs_of_different_models_are_refused_in_words(app: AppTest) -> None:
    found = small_discovery("custom")
    library().keep(found)
    codes = found.codes[:, :, :2]
    one = dataclasses.replace(
        found,
        node_scores=torch.ones(1, 2),
        pair_scores=torch.ones(2, 2),
        codes=codes,
        activations=found.activations[:, :, :2],
    )
    library().keep(one)
    two_runs(app)
    assert not app.exception
    assert "choose two runs of one model" in app.error[0].value


@pytest.mark.usefixtures("no_demo")
def test_the_runs_page_can_send_a_run(app: AppTest) -> None:
    found = small_discovery("custom")
    numbers = [
        library().keep(dataclasses.replace(found, settings={**found.settings, "seed": seed}))[0] for seed in range(3)
    ]
    app.session_state["compare_first"] = numbers[0]
    app.run()
    assert app.selectbox(key="compare_a").value == numbers[0]
    library().delete(numbers[0])
    app.run()
    assert not app.exception
    assert app.selectbox(key="compare_a").value in numbers[1:]
