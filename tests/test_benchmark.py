"""The comparison of methods: its rows, its table, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dsae_core import benchmark
from dsae_core.behaviour import Behaviour, measure_behaviour
from dsae_core.benchmark import (
    Benchmark,
    BenchmarkRow,
    merge_benchmarks,
    read_benchmark,
    run_benchmark,
    score_heads,
)
from dsae_core.circuits import Circuit
from dsae_core.errors import UserError
from dsae_core.models import LanguageModel
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import TASKS, Task

TRUTH = Circuit("measured", "tiny", "toy", ((0, 1), (1, 2)))


@pytest.fixture
def toy_task(monkeypatch: pytest.MonkeyPatch, solved_pairs: PromptPairs) -> None:
    """A task of the tiny model's, with a made-up truth."""
    task = Task("toy", "Toy", "", lambda _tokenizer, _n, _seed: solved_pairs)
    monkeypatch.setattr(benchmark, "TASKS", {**TASKS, "toy": task})
    monkeypatch.setattr(benchmark, "stored_circuit", lambda *_: TRUTH)
    monkeypatch.setattr(benchmark, "measure_behaviour", lambda *_: Behaviour(1.0, 0.0, 1.0, 0.0))


@pytest.mark.usefixtures("toy_task")
def test_rows_hold_what_the_scores_give(tiny_model: LanguageModel, solved_pairs: PromptPairs) -> None:
    seen: list[BenchmarkRow] = []
    done = run_benchmark(
        tiny_model, tasks=["toy"], methods=["random", "paired", "positional"], draws=[3, 4], on_row=seen.append
    )
    assert [(r.method, r.draw) for r in done.rows] == [
        (m, d) for d in (3, 4) for m in ("random", "paired", "positional")
    ]
    assert list(done.rows) == seen
    row = done.rows[0]
    scores = score_heads(tiny_model, solved_pairs, method="random", seed=3)
    true, false = scores.flatten()[[1, 6]], scores.flatten()[[0, 2, 3, 4, 5, 7]]
    assert row.auc == pytest.approx(float((true[:, None] > false[None]).double().mean()))
    best = set(torch.topk(scores.flatten(), 2).indices.tolist())
    assert row.precision == row.recall == len(best & {1, 6}) / 2
    assert row.seconds > 0
    assert row.cpu_seconds is not None
    assert row.cpu_seconds >= 0
    assert (row.engine, row.threads) == ("local", torch.get_num_threads())
    assert done.to_dict()["scores"]["tiny/toy/random/3"] == scores.flatten().tolist()
    stable = {s["method"]: s["rank_correlation"] for s in done.stability()}
    assert stable["paired"] == pytest.approx(1)  # the same prompts in both draws
    assert stable["random"] < 0.99


def test_table_means_and_spread_worked_out_by_hand() -> None:
    def row(task: str, draw: int, auc: float) -> BenchmarkRow:
        return BenchmarkRow("m", task, "norm", draw, auc, auc / 2, 0.5, 0.5, 2.0 + draw, 10.0 * draw, 4.0 + draw)

    rows = (row("a", 0, 0.8), row("a", 1, 0.6), row("b", 0, 0.9), row("b", 1, 0.9))
    line = Benchmark(rows, (), {}, {}).markdown().splitlines()[2]
    # Spread: deviations of .1 on task a and 0 on task b: mean .05. Seconds: median of 2, 3, 2, 3; CPU: of 4, 5, 4, 5.
    assert line == "| norm | 0.700 / 0.35 | 0.900 / 0.45 | 0.800 | 0.400 | 0.050 | 2.50 | 4.50 | 10 |"
    # A method that lacks a task has no mean over tasks, and one measured by an earlier version no CPU seconds.
    part = replace(row("a", 0, 0.8), method="hisp", cpu_seconds=None)
    line = Benchmark((*rows, part), (), {}, {}).markdown().splitlines()[3]
    assert line == "| hisp | 0.800 / 0.40 | - | - | - | 0.000 | 2.00 | - | 0 |"
    # Every model has a table of its own, under its name.
    text = Benchmark((*rows, replace(part, model="n")), (), {}, {}).markdown()
    assert [line for line in text.splitlines() if line in ("m", "n")] == ["m", "n"]


def test_a_task_the_model_fails_is_reported_and_not_scored(
    tiny_model: LanguageModel, solved_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = PromptPairs(solved_pairs.positive, solved_pairs.negative, solved_pairs.distractor, solved_pairs.answer)
    behaviour = measure_behaviour(tiny_model, wrong)
    assert not behaviour.shown
    assert behaviour.positive < behaviour.negative
    monkeypatch.setattr(benchmark, "TASKS", {"toy": Task("toy", "Toy", "", lambda *_: wrong)})
    monkeypatch.setattr(benchmark, "stored_circuit", lambda *_: TRUTH)
    done = run_benchmark(tiny_model, tasks=["toy"], methods=["random"], draws=[0])
    assert done.rows == ()
    assert done.unsolved[0]["task"] == "toy"


@pytest.mark.usefixtures("toy_task")
def test_unknown_names_are_refused(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no task 'x'"):
        run_benchmark(tiny_model, tasks=["x"], methods=["random"], draws=[0])
    with pytest.raises(UserError, match="no method 'x'"):
        run_benchmark(tiny_model, tasks=["toy"], methods=["x"], draws=[0])
    monkeypatch.setattr(benchmark, "stored_circuit", lambda *_: None)
    with pytest.raises(UserError, match="No circuit is stored"):
        run_benchmark(tiny_model, tasks=["toy"], methods=["random"], draws=[0])


def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every (method, draw) that is really run from here on."""
    ran: list[tuple[str, int]] = []
    real = benchmark.score_heads

    def counted(model: LanguageModel, pairs: PromptPairs, *, method: str, seed: int = 0) -> torch.Tensor:
        ran.append((method, seed))
        return real(model, pairs, method=method, seed=seed)

    monkeypatch.setattr(benchmark, "score_heads", counted)
    return ran


@pytest.mark.usefixtures("toy_task")
def test_an_interrupted_run_goes_on_where_it_stopped(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "table.json"
    ran = count_runs(monkeypatch)

    def stop_after_two(rows: Benchmark) -> None:
        rows.save(path)
        if len(rows.rows) == 2:
            raise KeyboardInterrupt

    wanted: dict[str, Any] = {"tasks": ["toy"], "methods": ["random", "paired", "norm"], "draws": [0, 1]}
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(tiny_model, **wanted, save=stop_after_two)
    assert ran == [("random", 0), ("paired", 0)]
    left = read_benchmark(path)
    assert [row.key for row in left.rows] == ["tiny/toy/random/0", "tiny/toy/paired/0"]

    done = run_benchmark(tiny_model, **wanted, known=left)
    assert ran[2:] == [("norm", 0), ("random", 1), ("paired", 1), ("norm", 1)]
    assert done.rows[:2] == left.rows
    assert [(r.method, r.draw) for r in done.rows] == [(m, d) for d in (0, 1) for m in wanted["methods"]]
    assert set(done.scores) == {row.key for row in done.rows}
    assert run_benchmark(tiny_model, **wanted, known=done) == done
    assert len(ran) == 6


@pytest.mark.usefixtures("toy_task")
def test_a_file_grows_by_methods_and_draws_and_a_part_can_be_shown(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_benchmark(tiny_model, tasks=["toy"], methods=["random"], draws=[1])
    ran = count_runs(monkeypatch)
    both = run_benchmark(tiny_model, tasks=["toy"], methods=["norm", "random"], draws=[0], known=first)
    assert ran == [("norm", 0), ("random", 0)]
    assert (both.settings["methods"], both.settings["draws"]) == (["random", "norm"], [0, 1])
    assert [row.key for row in both.rows] == ["tiny/toy/random/0", "tiny/toy/norm/0", "tiny/toy/random/1"]
    part = both.only(methods=["random"], draws=[0])
    assert [row.key for row in part.rows] == list(part.scores) == ["tiny/toy/random/0"]


@pytest.mark.usefixtures("toy_task")
def test_what_was_run_with_other_settings_is_not_mixed(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: dict[str, Any] = {"tasks": ["toy"], "methods": ["random", "positional"], "draws": [0]}
    done = run_benchmark(tiny_model, **wanted)
    ran = count_runs(monkeypatch)

    def changed(**settings: Any) -> Benchmark:
        return replace(done, settings={**done.settings, **settings})

    one = done.settings["models"][0]
    options = {"positional": {**done.settings["method_settings"]["positional"], "epochs": 1}}
    for known, message in (
        (changed(examples=99), "differ in examples: 99 and 10.*--fresh"),
        (changed(threads=99), "differ in threads"),
        (changed(models=[{**one, "digest": "other"}]), "the weights of tiny"),
        (changed(models=[{**one, "truths": {"toy": {"name": "else", "heads": 2}}}]), "truth of toy .name."),
        (changed(method_settings=options), "the settings of positional"),
    ):
        with pytest.raises(UserError, match=message):
            run_benchmark(tiny_model, **wanted, known=known)
    assert ran == []
    # Another model's digest says nothing about this one's.
    other = changed(models=[{**one, "name": "other", "digest": "other"}])
    other = replace(other, rows=(), scores={})
    again = run_benchmark(tiny_model, **wanted, known=other)
    assert [model["name"] for model in again.settings["models"]] == ["other", "tiny"]
    assert "model" not in again.settings


@pytest.mark.usefixtures("toy_task")
def test_parts_are_merged_into_what_one_run_gives(tiny_model: LanguageModel) -> None:
    whole, one, other = (
        run_benchmark(tiny_model, tasks=["toy"], methods=methods, draws=draws)
        for methods, draws in ((["random", "norm"], [0, 1]), (["random", "norm"], [1]), (["norm", "random"], [0]))
    )
    merged = merge_benchmarks([one, other])
    assert [row.key for row in merged.rows] == [row.key for row in whole.rows]
    assert merged.scores == whole.scores
    assert merged.settings == whole.settings
    assert merge_benchmarks([one, merged]).rows == merged.rows
    key = "tiny/toy/norm/1"
    strange = replace(one, scores={**one.scores, key: [0.0] * 8})
    with pytest.raises(UserError, match=f"other scores for {key}"):
        merge_benchmarks([one, strange])
    with pytest.raises(UserError, match="at least one"):
        merge_benchmarks([])


@pytest.mark.usefixtures("toy_task")
def test_files_read_back_and_those_of_an_earlier_version_too(tiny_model: LanguageModel, tmp_path: Path) -> None:
    done = run_benchmark(tiny_model, tasks=["toy"], methods=["random", "norm"], draws=[0, 1])
    path = done.save(tmp_path / "table.json")
    assert read_benchmark(path) == done
    document = json.loads(path.read_text())
    assert list(document) == ["schema", "settings", "rows", "unsolved", "stability", "scores"]

    for row in document["rows"]:
        for name in ("cpu_seconds", "engine", "threads"):
            del row[name]
    for name in ("models", "device", "method_settings"):
        del document["settings"][name]
    del document["settings"]["truths"]["toy"]["members"]
    path.write_text(json.dumps(document))
    old = read_benchmark(path)
    assert [row.cpu_seconds for row in old.rows] == [None] * 4
    more = run_benchmark(tiny_model, tasks=["toy"], methods=["random", "paired"], draws=[0], known=old)
    assert [row.method for row in more.rows if row.cpu_seconds is not None] == ["paired"]


def test_stored_results_are_readable() -> None:
    paths = sorted((Path(__file__).parents[1] / "benchmarks" / "results").glob("accuracy.*.json"))
    assert paths
    for path in paths:
        assert read_benchmark(path).rows


def test_malformed_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    settings = {"models": [], "tasks": [], "methods": [], "draws": [], "examples": 1, "threads": 1}
    row = {"model": "m", "task": "t", "method": "norm", "draw": 0, "auc": 1, "average_precision": 1, "precision": 1}
    row |= {"recall": 1, "seconds": 1, "peak_mib": 1}
    whole = {"schema": 1, "settings": settings, "rows": [], "unsolved": [], "scores": {}}
    named = {**settings, "models": [{"name": "m", "digest": "", "truths": {}}], "tasks": ["t"], "methods": ["norm"]}
    named["draws"] = [0]
    for document, message in (
        ("{", "not valid JSON"),
        (json.dumps({"schema": 2}), "schema 1"),
        (json.dumps({**whole, "settings": {**settings, "examples": 1, "models": [{}]}}), "malformed"),
        (json.dumps({**whole, "rows": [{**row, "auc": "high"}]}), "malformed: auc is no finite number"),
        (json.dumps({**whole, "rows": [row]}), "do not name the row m/t/norm/0"),
        (json.dumps({**whole, "settings": named, "rows": [row]}), "no scores for m/t/norm/0"),
    ):
        path.write_text(document)
        with pytest.raises(UserError, match=message):
            read_benchmark(path)
    path.write_text(json.dumps({**whole, "settings": named, "rows": [row], "scores": {"m/t/norm/0": [1.0]}}))
    assert read_benchmark(path).rows[0].auc == 1.0
    row["threads"] = 2
    path.write_text(json.dumps({**whole, "settings": named, "rows": [row], "scores": {"m/t/norm/0": [1.0]}}))
    with pytest.raises(UserError, match="m/t/norm/0 ran with 2 threads and its settings say 1"):
        read_benchmark(path)


def test_a_table_says_which_engine_ran_its_rows() -> None:
    rows = [BenchmarkRow("m", "t", "norm", d, 1, 1, 1, 1, 1, 1, engine=e) for d, e in enumerate((None, "local", "ray"))]
    said = Benchmark(tuple(rows), (), {"threads": 1}, {}).measured_by()
    assert said == "2 by the engine local, 1 by the engine ray, each with 1 thread"
    assert (
        Benchmark(tuple(rows[2:]), (), {"threads": 4}, {}).measured_by() == "1 by the engine ray, each with 4 threads"
    )


def test_stability_worked_out_by_hand() -> None:
    def rows(method: str) -> tuple[BenchmarkRow, ...]:
        return tuple(BenchmarkRow("m", "t", method, d, 1, 1, 1, 1, 1, 1) for d in range(3))

    # Of the three pairs of draws one agrees and two are reversed: (1 - 1 - 1) / 3.
    scores = {"m/t/norm/0": [1.0, 2.0, 9.0], "m/t/norm/1": [1.0, 5.0, 6.0], "m/t/norm/2": [3.0, 2.0, 1.0]}
    flat = {f"m/t/paired/{d}": [1.0, 1.0, 1.0] for d in range(3)}  # ranks of equal scores correlate with nothing
    found = Benchmark((*rows("norm"), *rows("paired")), (), {}, scores | flat).stability()
    assert [entry["method"] for entry in found] == ["norm"]
    assert found[0]["rank_correlation"] == pytest.approx(-1 / 3)


def test_a_circuit_from_a_file_goes_before_a_stored_one(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, solved_pairs: PromptPairs
) -> None:
    monkeypatch.setattr(benchmark, "TASKS", {"toy": Task("toy", "Toy", "", lambda *_: solved_pairs)})
    monkeypatch.setattr(benchmark, "measure_behaviour", lambda *_: Behaviour(1.0, 0.0, 1.0, 0.0))
    with pytest.raises(UserError, match="No circuit is stored"):
        run_benchmark(tiny_model, tasks=["toy"], methods=["random"], draws=[0], truths=[replace(TRUTH, model="other")])
    done = run_benchmark(tiny_model, tasks=["toy"], methods=["random"], draws=[0], truths=[TRUTH])
    assert done.settings["truths"]["toy"] == {"name": "measured", "heads": 2, "members": [[0, 1], [1, 2]]}
