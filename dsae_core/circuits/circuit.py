"""A circuit: the heads said to implement a behaviour, and where that claim comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from dsae_core import documents
from dsae_core.errors import UserError
from dsae_core.files import read_text, write_atomic

Head = tuple[int, int]
"""(layer, head), both counted from 0."""

SCHEMA = 1

PREFERENCE = ("measured", "wang2022", "hanna2023", "acdc", "oneill2024")
"""Which list speaks for a model and task where none is named: the one measured on that very model here; else that of
the paper that found the circuit; else ACDC's encoding of it (Conmy et al. 2023), which later work compares with; else
O'Neill & Bui's. Lists of other names come last, by name."""


@dataclass(frozen=True)
class Edge:
    """A direct path from one head to a later one, and what patching it alone does to the metric.

    Attributes:
        sender: the head whose change is sent.
        receiver: the head that reads it.
        effect: share of the metric's drop, as for heads.
        low: lower end of the effect's 95 % bootstrap interval.
        high: upper end.
    """

    sender: Head
    receiver: Head
    effect: float
    low: float
    high: float


@dataclass(frozen=True)
class Circuit:
    """Heads of one model said to implement one task.

    Attributes:
        name: which list this is ("measured", "wang2022", "predicted"...). Lists are never merged.
        model: name of the model the heads belong to.
        task: name of the task.
        heads: the member heads, sorted.
        roles: role name -> heads, where the source gives roles; empty otherwise.
        effects: signed effect of patching each head, [L][heads], as a share of the metric's drop from positives
            to negatives; empty where the source gives none.
        intervals: (low, high) of the bootstrap interval of each effect, [L][heads]; empty likewise.
        edges: measured direct paths between heads of the circuit; empty where none were measured.
        provenance: how the list was made: citation, or settings, seed, model digest and date.
    """

    name: str
    model: str
    task: str
    heads: tuple[Head, ...]
    roles: Mapping[str, tuple[Head, ...]] = field(default_factory=dict)
    effects: tuple[tuple[float, ...], ...] = ()
    intervals: tuple[tuple[tuple[float, float], ...], ...] = ()
    edges: tuple[Edge, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __contains__(self, head: object) -> bool:
        return head in self.heads

    def __len__(self) -> int:
        return len(self.heads)

    def membership(self, n_layers: int, n_heads: int) -> list[list[bool]]:
        """Whether each head belongs, [L][heads].

        Raises:
            UserError: a head of the circuit does not exist in a model of this shape.
        """
        for layer, head in self.heads:
            if not (0 <= layer < n_layers and 0 <= head < n_heads):
                raise UserError(
                    f"Circuit {self.name!r} has head {layer}.{head}, but the model has {n_layers} layers "
                    f"of {n_heads} heads: it belongs to another model."
                )
        members = set(self.heads)
        return [[(layer, head) in members for head in range(n_heads)] for layer in range(n_layers)]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form that from_dict reads."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "model": self.model,
            "task": self.task,
            "heads": [list(head) for head in self.heads],
            "roles": {role: [list(head) for head in heads] for role, heads in self.roles.items()},
            "effects": [list(row) for row in self.effects],
            "intervals": [[list(pair) for pair in row] for row in self.intervals],
            "edges": [[*e.sender, *e.receiver, e.effect, e.low, e.high] for e in self.edges],
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Circuit:
        """Build a circuit from its JSON form.

        Raises:
            UserError: a field is missing or of the wrong kind, or the schema is newer than this version reads.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            raise UserError(f"This is not a circuit file of schema {SCHEMA}.")
        try:
            name, model, task = (documents.text(documents.field(data, key), key) for key in ("name", "model", "task"))
            return cls(
                name=name,
                model=model,
                task=task,
                heads=_heads(documents.field(data, "heads"), "heads"),
                roles={
                    role: _heads(heads, f"the heads of {role}")
                    for role, heads in documents.members(data.get("roles", {}), "roles").items()
                },
                effects=_grid(data.get("effects", []), "effects"),
                intervals=tuple(
                    tuple(_interval(pair) for pair in documents.items(row, "a row of intervals"))
                    for row in documents.items(data.get("intervals", []), "intervals")
                ),
                edges=tuple(_edge(row) for row in documents.items(data.get("edges", []), "edges")),
                provenance=documents.plain(data.get("provenance", {}), "provenance"),
            )._checked()
        except ValueError as error:
            raise UserError(f"The circuit file is malformed: {error}.") from error

    def _checked(self) -> Circuit:
        """Itself; ValueError where effects and intervals are not of the same heads, or members not among them."""
        widths = [len(row) for row in self.effects]
        if len(set(widths)) > 1:
            raise ValueError("the rows of effects differ in length")
        if self.intervals and [len(row) for row in self.intervals] != widths:
            raise ValueError("intervals and effects are not of the same heads")
        if any(layer >= len(widths) or head >= widths[layer] for layer, head in self.heads if widths):
            raise ValueError("it has heads beyond its effects")
        return self

    def save(self, path: str | Path) -> Path:
        """Write the circuit as JSON, atomically."""
        return write_atomic(path, json.dumps(self.to_dict(), indent=1) + "\n")


def _heads(rows: Any, name: str) -> tuple[Head, ...]:
    return tuple(sorted({_head(row, name) for row in documents.items(rows, name)}))


def _head(row: Any, name: str) -> Head:
    layer, head = _so_many(row, 2, f"one of {name}")
    return documents.whole(layer, "a layer"), documents.whole(head, "a head")


def _grid(rows: Any, name: str) -> tuple[tuple[float, ...], ...]:
    return tuple(
        tuple(documents.number(value, f"one of {name}") for value in documents.items(row, f"a row of {name}"))
        for row in documents.items(rows, name)
    )


def _interval(pair: Any) -> tuple[float, float]:
    low, high = (documents.number(end, "the end of an interval") for end in _so_many(pair, 2, "an interval"))
    return low, high


def _edge(row: Any) -> Edge:
    numbers = _so_many(row, 7, "an edge")
    effect, low, high = (documents.number(value, "a number of an edge") for value in numbers[4:])
    return Edge(_head(numbers[:2], "edges"), _head(numbers[2:4], "edges"), effect, low, high)


def _so_many(row: Any, count: int, name: str) -> list[Any]:
    numbers = documents.items(row, name)
    if len(numbers) != count:
        raise ValueError(f"{name} has {len(numbers)} numbers in place of {count}")
    return numbers


def read_circuit(path: str | Path) -> Circuit:
    """Read a circuit from a JSON file.

    Raises:
        UserError: the file cannot be read or is not a circuit.
    """
    try:
        data = documents.parse_json(read_text(path, "the circuit file"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON (line {error.lineno}, column {error.colno}).") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}).") from error
    return Circuit.from_dict(data)


def stored_circuits(model: str | None = None, task: str | None = None) -> list[Circuit]:
    """Every circuit that ships with the package, for one model or task where given, sorted by name."""
    folder = resources.files("dsae_core.circuits") / "data"
    found = [
        Circuit.from_dict(json.loads(entry.read_text(encoding="utf-8")))
        for entry in folder.iterdir()
        if entry.name.endswith(".json")
    ]
    chosen = [c for c in found if model in (None, c.model) and task in (None, c.task)]
    return sorted(chosen, key=lambda c: (c.model, c.task, c.name))


def stored_circuit(model: str, task: str, name: str | None = None) -> Circuit | None:
    """The shipped circuit of a model and task; without a name the first in PREFERENCE. None where there is none.

    Published lists disagree, so whoever shows a number measured against the circuit shows the circuit's name too.
    """
    found = [c for c in stored_circuits(model, task) if name in (None, c.name)]
    found.sort(key=lambda c: PREFERENCE.index(c.name) if c.name in PREFERENCE else len(PREFERENCE))
    return found[0] if found else None
