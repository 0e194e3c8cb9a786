"""The record of a discovery: its circuit, its evaluation, its files; and circuits' files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dsae_core.circuits import Circuit, read_circuit, stored_circuit, stored_circuits
from dsae_core.errors import UserError
from dsae_core.files import write_atomic
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery, read_discovery


def example() -> Discovery:
    """2 layers x 2 heads; 2 positives, 1 negative, 2 positions."""
    codes = torch.tensor(
        [
            [[1, 2, -1, 3], [1, 2, 5, 3]],
            [[1, 4, -1, 3], [1, 2, 6, 3]],
            [[1, 2, -1, 3], [1, 7, 6, 3]],
        ],
        dtype=torch.int32,
    )
    return Discovery(
        node_scores=torch.tensor([[0.1, 0.7], [0.7, 0.2]]),
        pair_scores=torch.eye(4),
        codes=codes,
        activations=torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0)),
        n_positive=2,
        tokens=(("a", "b"), ("a", "c"), ("a", "d")),
        settings={"method": "positional", "seed": 1},
        timings={"train": 0.5},
        provenance={"model": "toy"},
        prompts=PromptPairs(("a b", "a c"), ("a d", "a d"), task="ioi"),
    )


def test_unique_codes_worked_out_by_hand() -> None:
    # Head 1: position 0 codes 2, 4 against 2; position 1 codes 2, 2 against 7. Head 2: position 1 codes 5, 6 against 6.
    unique = example().unique()
    assert unique[:, :, 0].sum() == 0
    assert unique[:, :, 1].tolist() == [[False, True], [True, True]]
    assert unique[:, :, 2].tolist() == [[False, True], [False, False]]
    assert unique[:, :, 3].sum() == 0


def test_frame_ranks_heads_and_counts_distinct_unique_codes() -> None:
    frame = example().to_frame()
    assert frame[["layer", "head"]].to_numpy().tolist() == [[0, 1], [1, 0], [1, 1], [0, 0]]
    # Head 0.1 has the unique (position, code) pairs (1, 2) and (0, 4); 1.0 has (1, 5).
    assert frame["unique_codes"].tolist() == [2, 1, 0, 0]
    assert frame["rank"].tolist() == [1, 2, 3, 4]


def test_circuits_by_size_and_by_threshold() -> None:
    found = example()
    assert found.circuit(top_k=1).heads == ((0, 1),)
    assert found.circuit(top_k=2).heads == ((0, 1), (1, 0))
    assert found.circuit(threshold=0.2).heads == ((0, 1), (1, 0), (1, 1))
    assert found.circuit(top_k=0).heads == ()
    assert (found.circuit(top_k=1).model, found.circuit(top_k=1).task) == ("toy", "ioi")
    for wrong in ({}, {"top_k": 1, "threshold": 0.1}, {"top_k": -1}):
        with pytest.raises(UserError):
            found.circuit(**wrong)
    assert found.softmax().sum().item() == pytest.approx(1)


def test_evaluation_against_a_circuit() -> None:
    truth = Circuit("t", "toy", "ioi", ((0, 1), (1, 1)))
    # True heads score .7 and .2, the others .7 and .1: .5 + 1 + 0 + 1 of 4.
    assert example().evaluate(truth).auc == pytest.approx(2.5 / 4)
    with pytest.raises(UserError, match=r"head 2\.0"):
        example().evaluate(Circuit("t", "other", "ioi", ((2, 0),)))


def test_saved_discovery_reads_back(tmp_path: Path) -> None:
    found = example()
    back = read_discovery(found.save(tmp_path / "run.json"))
    assert back.to_dict() == found.to_dict()
    assert torch.equal(back.activations, found.activations)
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@settings(deadline=None, max_examples=100)
@given(arrays(np.float32, (2, 2), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_numbers_come_back_from_json_bit_for_bit(scores: np.ndarray) -> None:
    found = replace(example(), node_scores=torch.from_numpy(scores).t())  # a view, whose memory is in another order
    back = Discovery.from_dict(json.loads(found.to_json()))
    assert back.node_scores.contiguous().numpy().tobytes() == found.node_scores.contiguous().numpy().tobytes()
    assert back.to_dict() == found.to_dict()
    assert back.fingerprint() == found.fingerprint()


def test_a_fingerprint_is_of_all_but_the_time() -> None:
    found = example()
    later = replace(found, timings={"train": 9.0}, provenance={**found.provenance, "date": "2030-01-01"})
    assert later.fingerprint() == found.fingerprint()
    changed = [
        replace(found, node_scores=found.node_scores + 1),
        replace(found, codes=found.codes + 1),
        replace(found, settings={**found.settings, "seed": 77}),
        replace(found, provenance={**found.provenance, "model": "another"}),
    ]
    assert len({found.fingerprint(), *(other.fingerprint() for other in changed)}) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"node_scores": [[0.1, 0.7]]},
        {"node_scores": "high"},
        {"codes": [[[1, 2]]]},
        {"n_positive": 9},
        {"tokens": [["a"]]},
        {"timings": 3},
        {"prompts": {"positive": ["a"]}},
        {"pair_scores": [[float("nan")] * 4] * 4},
    ],
)
def test_malformed_discoveries_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**example().to_dict(), **change}))
    with pytest.raises(UserError):
        read_discovery(path)


@settings(deadline=None, max_examples=100)
@given(st.recursive(st.none() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_json_is_read_or_refused(data: object) -> None:
    with pytest.raises(UserError):
        Discovery.from_dict(data)
    with pytest.raises(UserError):
        Circuit.from_dict(data)  # type: ignore[arg-type]


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_discovery(tmp_path / "missing.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_discovery(tmp_path / "bytes.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(UserError, match="JSON"):
        read_discovery(tmp_path / "text.json")
    with pytest.raises(UserError, match="line 1"):
        read_circuit(tmp_path / "text.json")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_atomic(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    with pytest.raises(UserError, match="Cannot write"):
        write_atomic(tmp_path / "no" / "folder.json", "new")


def test_circuit_file_reads_back(tmp_path: Path) -> None:
    circuit = Circuit(
        "mine",
        "toy",
        "ioi",
        ((0, 1), (1, 0)),
        roles={"name mover": ((1, 0),)},
        effects=((0.0, 0.5), (-0.1, 0.0)),
        intervals=(((0.0, 0.1), (0.4, 0.6)), ((-0.2, -0.05), (0.0, 0.0))),
        provenance={"seed": 3},
    )
    assert read_circuit(circuit.save(tmp_path / "c.json")) == circuit
    assert circuit.membership(2, 2) == [[False, True], [True, False]]
    assert (1, 0) in circuit
    assert len(circuit) == 2


def test_stored_circuits_are_sound() -> None:
    stored = stored_circuits()
    assert stored
    for circuit in stored:
        if circuit.effects:
            shape = (len(circuit.effects), len(circuit.effects[0]))
            members = circuit.membership(*shape)
            for layer, row in enumerate(circuit.effects):
                for head, effect in enumerate(row):
                    low, high = circuit.intervals[layer][head]
                    sure = abs(effect) >= circuit.provenance["threshold"] and (low > 0 or high < 0)
                    assert members[layer][head] == sure, (circuit.name, layer, head)
    assert stored_circuit("smollm2-135m", "ioi") is not None
    assert stored_circuit("smollm2-135m", "no such task") is None
