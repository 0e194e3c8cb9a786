"""The published experiment on a tiny stand-in: what runs, what cannot, and the pair-level scores by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dsae_core import cli, published
from dsae_core.circuits import Circuit, stored_circuit
from dsae_core.discovery import discover
from dsae_core.errors import UserError
from dsae_core.models import LanguageModel
from dsae_core.prompts import PromptPairs
from dsae_core.published import EXPERIMENTS, Experiment, pair_node_scores, run_published
from dsae_core.result import Discovery
from dsae_core.tasks import TASKS, Task

LISTS = {
    "theirs": Circuit("theirs", "tiny", "toy", ((0, 1), (1, 2))),
    "other": Circuit("other", "tiny", "toy", ((0, 0),)),
}
STAND_IN = Experiment("tiny", "toy", ("theirs", "other"), 0.02, (0.8, 0.01), (0.7, 0.02))
ABSENT = Experiment("gpt-nowhere", "toy", ("theirs",), 0.02, (0.8, 0.01), (0.7, 0.02))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, solved_pairs: PromptPairs) -> None:
    """A task of the tiny model's with two made-up lists; n pairs are the same three over and over."""

    def make(_tokenizer: object, n: int, _seed: int) -> PromptPairs:
        return PromptPairs(
            *(tuple(side[i % 3] for i in range(n)) for side in (solved_pairs.positive, solved_pairs.negative))
        )

    monkeypatch.setattr(published, "TASKS", {**TASKS, "toy": Task("toy", "Toy", "", make)})
    monkeypatch.setattr(published, "stored_circuit", lambda _model, _task, name: LISTS.get(name))


def test_every_list_of_the_experiments_is_stored() -> None:
    for experiment in EXPERIMENTS:
        assert experiment.task in TASKS
        for name in experiment.circuits:
            assert stored_circuit(experiment.model, experiment.task, name) is not None


def test_pair_scores_as_the_authors_turn_them_into_head_scores() -> None:
    # Two layers of two heads: the first 2^2 / 2 = 2 heads of the list count, which is the best pair.
    pairs = torch.tensor([[9.0, 1, 2, 0], [1, 9, 0, 5], [2, 0, 9, 1], [0, 5, 1, 9]])
    assert pair_node_scores(pairs, 2, 2).tolist() == [[0, 1], [0, 1]]
    # One layer of four: 8 heads of the list are 4 ordered pairs, the two best twice.
    assert pair_node_scores(pairs, 1, 4).tolist() == [[2, 2, 2, 2]]
    # Of equal pairs the later goes first: (3, 2) before (2, 3) and all others.
    assert pair_node_scores(torch.ones(4, 4), 2, 2).tolist() == [[0, 0], [1, 1]]
    assert pairs[0, 0] == 9  # the argument is left as it was


@pytest.mark.usefixtures("toy")
def test_a_model_that_is_there_is_run_in_the_authors_setting(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def recorded(model: LanguageModel, pairs: PromptPairs, **options: Any) -> Discovery:
        asked.append(options)
        return discover(model, pairs, **options)

    monkeypatch.setattr(published, "discover", recorded)
    run = run_published(lambda _: tiny_model, draws=[0, 1], experiments=[STAND_IN], pairs=6)
    authors = {"method": "paper", "pool": "mean", "l1": 0.02, "train_examples": 10, "inactive": "zero"}
    assert asked == [{**authors, "seed": 0}, {**authors, "seed": 1}]
    assert run.missing == {}
    assert [(row.circuit, row.draw, row.heads) for row in run.rows] == [
        ("theirs", 0, 2),
        ("other", 0, 1),
        ("theirs", 1, 2),
        ("other", 1, 1),
    ]
    pairs = published.TASKS["toy"].make(tiny_model.tokenizer, 6, 0)
    found = discover(tiny_model, pairs, method="paper", seed=0, l1=0.02, inactive="zero")
    assert run.rows[0].node_auc == found.evaluate(LISTS["theirs"]).auc
    lines = run.markdown().splitlines()
    assert len(lines) == 4
    assert "| theirs | 2 |" in lines[2]
    assert "| 0.800 ± 0.010 |" in lines[2]
    assert "| 0.700 ± 0.020 |" in lines[2]
    assert "0.800" not in lines[3]  # the authors did not use the other list
    mean = sum(row.node_auc for row in run.rows if row.circuit == "theirs") / 2
    assert f"| {mean:.3f} ± " in lines[2]


def nowhere(model: LanguageModel):  # type: ignore[no-untyped-def]
    def load(name: str) -> LanguageModel:
        if name == "gpt-nowhere":
            raise UserError("gpt-nowhere is not on this machine and the hub cannot be reached.")
        return model

    return load


@pytest.mark.usefixtures("toy")
def test_a_model_that_is_not_there_is_said_not_to_have_run(tiny_model: LanguageModel) -> None:
    run = run_published(nowhere(tiny_model), draws=[0], experiments=[ABSENT, ABSENT, STAND_IN], pairs=6)
    assert {row.model for row in run.rows} == {"tiny"}
    assert list(run.missing) == ["gpt-nowhere"]
    assert "hub cannot be reached" in run.missing["gpt-nowhere"]
    assert "--weights gpt-nowhere=FOLDER" in run.missing["gpt-nowhere"]
    assert "gpt-nowhere" not in run.markdown()


@pytest.mark.usefixtures("toy")
def test_the_command(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked: list[str] = []

    def load(name: str, **_: object) -> LanguageModel:
        asked.append(name)
        return nowhere(tiny_model)(name)

    monkeypatch.setattr("dsae_core.models.load_model", load)
    target = tmp_path / "published.json"

    def run(experiments: tuple[Experiment, ...], *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(published, "EXPERIMENTS", experiments)
        monkeypatch.setattr(sys, "argv", ["dsae", "published", "--draws", "1", "--json", str(target), *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    code, out, err = run((STAND_IN, ABSENT), "--weights", "tiny=some/folder")
    assert (code, err) == (0, "")
    assert asked == ["some/folder", "gpt-nowhere"]
    assert "| tiny | toy | theirs | 2 |" in out
    assert "Not run: gpt-nowhere" in out
    document = json.loads(target.read_text())
    assert [row["circuit"] for row in document["rows"]] == ["theirs", "other"]
    assert list(document["missing"]) == ["gpt-nowhere"]

    target.unlink()
    code, out, err = run((ABSENT,))
    assert code == 2
    assert "Not run: gpt-nowhere" in out
    assert "|" not in out  # no table, so no number that was not measured
    assert "nothing was run" in err
    assert not target.exists()
    code, out, err = run((ABSENT,), "--weights", "nonsense")
    assert (code, out) == (2, "")
    assert "MODEL=FOLDER" in err
