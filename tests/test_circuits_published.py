"""The published circuits: each list as its source has it, kept apart from every other list."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from dsae_core.circuits import Circuit, Head, read_circuit, stored_circuit, stored_circuits
from dsae_core.tasks import TASKS

SHAPES = {"gpt2": (12, 12), "attn-only-4l": (4, 8)}
"""Layers and heads per layer."""

# As the sources print them: (task, model, name) -> heads by role, "" where the source gives no roles.
LISTS: dict[tuple[str, str, str], dict[str, str]] = {
    ("ioi", "gpt2", "wang2022"): {
        "previous token": "2.2 4.11",
        "duplicate token": "0.1 0.10 3.0",
        "induction": "5.5 5.8 5.9 6.9",
        "S-inhibition": "7.3 7.9 8.6 8.10",
        "name mover": "9.6 9.9 10.0",
        "backup name mover": "9.0 9.7 10.1 10.2 10.6 10.10 11.2 11.9",
        "negative name mover": "10.7 11.10",
    },
    ("ioi", "gpt2", "oneill2024"): {
        "previous token": "2.2 4.11",
        "duplicate token": "0.1 3.0 0.10",
        "induction": "5.5 6.9 5.8 5.9",
        "S-inhibition": "7.3 7.9 8.6 8.10",
        "negative name mover": "10.7 11.10",
        "name mover": "9.9 9.6 10.0",
        "backup name mover": "10.10 10.6 10.2 10.1 11.2 11.9 11.3 9.7",
    },
    ("greater_than", "gpt2", "acdc"): {"": "0.1 0.3 0.5 5.5 6.1 6.9 7.10 8.11 9.1"},
    ("greater_than", "gpt2", "hanna2023"): {
        "at the start year": "0.1 0.3 0.5",
        "at the last position": "9.1 8.11 7.10 6.9 5.5 8.8 5.1",
    },
    ("docstring", "attn-only-4l", "acdc"): {"": "0.5 1.2 1.4 2.0 3.0 3.6"},
    ("docstring", "attn-only-4l", "oneill2024"): {"": "0.5 1.0 1.4 2.0 3.0 3.6"},
}
SIZES = dict(zip(LISTS, (26, 26, 9, 10, 6, 6), strict=True))


def heads(text: str) -> list[Head]:
    pairs = (head.split(".") for head in text.split())
    return sorted((int(layer), int(head)) for layer, head in pairs)


def published(task: str, model: str, name: str) -> Circuit:
    circuit = stored_circuit(model, task, name)
    assert circuit is not None
    return circuit


@pytest.fixture(params=LISTS, ids=".".join)
def key(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_heads_are_those_of_the_source(key: tuple[str, str, str]) -> None:
    circuit = published(*key)
    assert list(circuit.heads) == heads(" ".join(LISTS[key].values()))
    assert len(circuit) == SIZES[key]


def test_roles_are_those_of_the_source_and_every_head_has_one(key: tuple[str, str, str]) -> None:
    circuit = published(*key)
    roles = {role: heads(text) for role, text in LISTS[key].items() if role}
    assert {role: list(members) for role, members in circuit.roles.items()} == roles
    if roles:
        assert sorted(chain(*circuit.roles.values())) == list(circuit.heads)  # a head in two roles would be twice here


def test_roles_survive_saving_and_reading(key: tuple[str, str, str], tmp_path: Path) -> None:
    stored = published(*key)
    assert read_circuit(stored.save(tmp_path / "circuit.json")) == stored


def test_heads_exist_in_the_model(key: tuple[str, str, str]) -> None:
    circuit = published(*key)
    member = circuit.membership(*SHAPES[circuit.model])
    assert sum(map(sum, member)) == len(circuit)


def test_nothing_is_claimed_that_the_source_does_not_measure(key: tuple[str, str, str]) -> None:
    circuit = published(*key)
    assert (circuit.effects, circuit.intervals) == ((), ())
    assert circuit.task in TASKS


def test_provenance_names_paper_and_list(key: tuple[str, str, str]) -> None:
    provenance = published(*key).provenance
    assert provenance["how"] == "published list"
    assert any(year in provenance["citation"] for year in ("(2022)", "(2023)", "(2024)"))
    assert provenance["arxiv"][:4].isdigit()
    assert " at " in provenance["source"]  # a repository at a commit
    assert provenance["omits"]
    others = {name for task, model, name in LISTS if (task, model) == key[:2]} - {key[2]}
    assert all(name in provenance["differs"] for name in others)


def test_mlps_left_out_of_greater_than_are_named() -> None:
    for name in ("acdc", "hanna2023"):
        assert published("greater_than", "gpt2", name).provenance["omits"].startswith("MLPs 0-3 and 8-11")


@pytest.mark.parametrize(
    ("one", "other", "only_in_one", "only_in_other"),
    [
        (("ioi", "gpt2", "wang2022"), ("ioi", "gpt2", "oneill2024"), "9.0", "11.3"),
        (("docstring", "attn-only-4l", "acdc"), ("docstring", "attn-only-4l", "oneill2024"), "1.2", "1.0"),
        (("greater_than", "gpt2", "acdc"), ("greater_than", "gpt2", "hanna2023"), "6.1", "5.1 8.8"),
    ],
)
def test_lists_that_disagree_are_not_merged(
    one: tuple[str, str, str], other: tuple[str, str, str], only_in_one: str, only_in_other: str
) -> None:
    first, second = set(published(*one).heads), set(published(*other).heads)
    assert sorted(first - second) == heads(only_in_one)
    assert sorted(second - first) == heads(only_in_other)


@pytest.mark.parametrize(
    ("model", "task", "name"),
    [
        ("gpt2", "ioi", "wang2022"),
        ("gpt2", "greater_than", "hanna2023"),  # not acdc, which comes first by name
        ("attn-only-4l", "docstring", "acdc"),  # the post that found the circuit has no list of its own here
        ("smollm2-135m", "ioi", "measured"),
    ],
)
def test_the_list_taken_without_a_name_is_chosen_on_purpose(model: str, task: str, name: str) -> None:
    chosen = stored_circuit(model, task)
    assert chosen is not None
    assert chosen.name == name


def test_a_measured_circuit_goes_before_published_ones_and_unknown_names_last(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = [published("ioi", "gpt2", "wang2022")]
    lists = [replace(lists[0], name="aardvark2020"), *lists, replace(lists[0], name="measured")]
    for most, expected in ((3, "measured"), (2, "wang2022"), (1, "aardvark2020")):
        monkeypatch.setattr("dsae_core.circuits.circuit.stored_circuits", lambda *_, most=most: lists[:most])
        chosen = stored_circuit("gpt2", "ioi")
        assert chosen is not None
        assert chosen.name == expected


def test_files_are_named_by_what_they_hold() -> None:
    folder = resources.files("dsae_core.circuits") / "data"
    for entry in folder.iterdir():
        if entry.name.endswith(".json"):
            circuit = Circuit.from_dict(json.loads(entry.read_text(encoding="utf-8")))
            assert entry.name == f"{circuit.task}.{circuit.model}.{circuit.name}.json"


def test_no_published_list_goes_untested() -> None:
    stored = {(c.task, c.model, c.name) for c in stored_circuits() if c.provenance["how"] == "published list"}
    assert stored == set(LISTS)
