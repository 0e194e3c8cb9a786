"""What a discovery found: a frozen record that can be evaluated, cut into a circuit, saved and read back."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt
import orjson
import pandas as pd
import torch
from torch import Tensor

from dsae_core import documents
from dsae_core.circuits import Circuit, Head
from dsae_core.codes import INACTIVE, unique_codes
from dsae_core.errors import UserError
from dsae_core.files import read_text, write_atomic
from dsae_core.metrics import Evaluation, evaluate
from dsae_core.prompts import PromptPairs
from dsae_core.significance import false_discovery_rates

SCHEMA = 1


@dataclass(frozen=True)
class Discovery:
    """Scores of every head, and the codes they come from.

    E = examples (positives first), T = positions (prompts left-padded; 1 where positions were pooled),
    L = layers, H = all heads, numbered layer by layer.

    Attributes:
        node_scores: [L, heads] float32, the higher the more the head belongs.
        pair_scores: [H, H] float32, symmetric: how much the two heads' unique codes come together.
        codes: [E, T, H] int32, INACTIVE (-1) where a head has no code.
        activations: [E, T, H] float32, strength of each code, in the method's own units.
        n_positive: how many of the E examples are positives.
        tokens: the E prompts' tokens as text, "" where padded; empty where only activations were given.
        settings: method, seed and every setting.
        timings: seconds by stage.
        provenance: model name and digest, versions, date.
        prompts: the prompt pairs; None where only activations were given.
        warnings: what the reader should know about this run, one sentence each.
        edge_scores: [H, H] float32, sender by receiver: how much of the change passes from one head directly to
            another, later one; None where the streams were not seen.
    """

    node_scores: Tensor
    pair_scores: Tensor
    codes: Tensor
    activations: Tensor
    n_positive: int
    tokens: tuple[tuple[str, ...], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    prompts: PromptPairs | None = None
    warnings: tuple[str, ...] = ()
    edge_scores: Tensor | None = None

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.node_scores.shape[0]

    @property
    def n_heads(self) -> int:
        """Heads a layer."""
        return self.node_scores.shape[1]

    @property
    def model_name(self) -> str:
        """Name of the model the scores belong to, "" where unknown."""
        return str(self.provenance.get("model", ""))

    @property
    def task(self) -> str:
        """Name of the task, "custom" where the prompts are a user's own."""
        return self.prompts.task if self.prompts is not None else "custom"

    def unique(self) -> Tensor:
        """[P, T, H] bool: codes of positives that no negative has at the same position in the same head."""
        return unique_codes(self.codes, self.n_positive)

    def ranking(self) -> list[Head]:
        """All heads, best first; ties in layer order."""
        order = torch.argsort(self.node_scores.flatten(), descending=True, stable=True)
        return [(int(i) // self.n_heads, int(i) % self.n_heads) for i in order]

    def false_discovery_rates(self) -> Tensor | None:
        """[L, heads]: the smallest rate of false discoveries at which a head is in the circuit, 0 to 1.

        See dsae_core.significance. None for the paper's counts, and where there are too few heads to tell.
        """
        return None if self.settings.get("method") == "paper" else false_discovery_rates(self.node_scores)

    def circuit(
        self, *, top_k: int | None = None, threshold: float | None = None, rate: float | None = None
    ) -> Circuit:
        """The predicted circuit: the top_k best heads, all heads with score >= threshold, or as many as rate allows.

        Args:
            top_k: how many heads, 0 or more.
            threshold: the smallest score.
            rate: the share of the circuit, 0 to 1, that may be heads which are there by chance.

        Raises:
            UserError: not exactly one of them is given, it is out of range, or a rate is asked of scores that have
                no false_discovery_rates.
        """
        if sum(choice is not None for choice in (top_k, threshold, rate)) != 1:
            raise UserError("Give one of top_k, threshold and rate.")
        if top_k is not None:
            if top_k < 0:
                raise UserError(f"top_k is {top_k}; it must not be negative.")
            heads = self.ranking()[:top_k]
        else:
            chosen = torch.nonzero(self._within(rate) if threshold is None else self.node_scores >= threshold)
            heads = [(int(layer), int(head)) for layer, head in chosen]
        return Circuit(
            name="predicted",
            model=self.model_name,
            task=self.task,
            heads=tuple(sorted(heads)),
            provenance={"settings": dict(self.settings), "top_k": top_k, "threshold": threshold, "rate": rate},
        )

    def _within(self, rate: float | None) -> Tensor:
        """[L, heads] bool: heads in the circuit at a rate of false discoveries."""
        rates = self.false_discovery_rates()
        if rate is None or not 0 <= rate <= 1:
            raise UserError(f"The rate of false discoveries is {rate}; it must be from 0 to 1.")
        if rates is None:
            raise UserError("These scores have no rate of false discoveries; give top_k or a threshold.")
        return rates <= rate

    def softmax(self) -> Tensor:
        """[L, heads]: the scores' softmax over all heads, which the paper puts its threshold on."""
        return torch.softmax(self.node_scores.flatten(), dim=0).reshape(self.node_scores.shape)

    def evaluate(self, circuit: Circuit) -> Evaluation:
        """Rank all heads by score and compare with a circuit of the same model."""
        truth = torch.tensor(circuit.membership(self.n_layers, self.n_heads))
        return evaluate(self.node_scores, truth)

    def evaluate_edges(self, circuit: Circuit, scores: Tensor) -> Evaluation:
        """Rank the direct paths between a circuit's heads, sender in an earlier layer, by scores [H, H].

        Compared with the circuit's measured edges; heads outside the circuit, whose paths nobody measured, are left
        out.

        Raises:
            UserError: the circuit has no measured edges.
        """
        if not circuit.edges:
            raise UserError(f"Circuit {circuit.name!r} has no measured edges; see dsae ground-truth --edges.")
        circuit.membership(self.n_layers, self.n_heads)  # refuses heads that this model does not have
        known = {(edge.sender, edge.receiver) for edge in circuit.edges}
        paths = [(a, b) for a in circuit.heads for b in circuit.heads if a[0] < b[0]]
        values = [scores[a[0] * self.n_heads + a[1], b[0] * self.n_heads + b[1]] for a, b in paths]
        return evaluate(torch.stack(values), torch.tensor([path in known for path in paths]))

    def to_frame(self) -> pd.DataFrame:
        """One row a head, best first: layer, head, score, rank, number of distinct unique codes, and the rate of
        false discoveries at which it is in the circuit (NaN where there is none).
        """
        example, position, head = torch.nonzero(self.unique(), as_tuple=True)
        found = torch.stack([head, position, self.codes[example, position, head]], dim=1)
        distinct = torch.bincount(torch.unique(found, dim=0)[:, 0], minlength=self.node_scores.numel()).tolist()
        scores = self.node_scores.flatten().tolist()
        known = self.false_discovery_rates()
        rates = [math.nan] * len(scores) if known is None else known.flatten().tolist()
        rows = []
        for rank, (layer, number) in enumerate(self.ranking(), start=1):
            index = layer * self.n_heads + number
            rows.append((layer, number, scores[index], rank, distinct[index], rates[index]))
        return pd.DataFrame(rows, columns=["layer", "head", "score", "rank", "unique_codes", "false_discovery_rate"])

    def to_dict(self) -> dict[str, Any]:
        """The JSON form that from_dict reads."""
        return self._fields(_listed)

    def to_json(self) -> bytes:
        """The JSON text of that form, in UTF-8.

        It comes many times sooner than from json.dumps(to_dict()), during all of which a server's other threads,
        and so the pages of other visitors, would stand still.
        """
        return orjson.dumps(self._fields(_array), option=orjson.OPT_SERIALIZE_NUMPY)

    def fingerprint(self) -> str:
        """A digest, in hexadecimal, of everything but when it was made and how long that took."""
        same = {name: value for name, value in self._fields(_array).items() if name != "timings"}
        same["provenance"] = {name: value for name, value in self.provenance.items() if name != "date"}
        text = orjson.dumps(same, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_SORT_KEYS)
        return hashlib.sha256(text).hexdigest()

    def _fields(self, listed: Callable[[Tensor], Any]) -> dict[str, Any]:
        """What is saved, with tensors as `listed` gives them."""
        return {
            "schema": SCHEMA,
            "node_scores": listed(self.node_scores),
            "pair_scores": listed(self.pair_scores),
            "codes": listed(self.codes),
            "activations": listed(self.activations),
            "n_positive": self.n_positive,
            "tokens": [list(row) for row in self.tokens],
            "settings": dict(self.settings),
            "timings": dict(self.timings),
            "provenance": dict(self.provenance),
            "prompts": self.prompts.to_dict() if self.prompts is not None else None,
            "warnings": list(self.warnings),
            "edge_scores": None if self.edge_scores is None else listed(self.edge_scores),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Discovery:
        """Build a discovery from its JSON form.

        Raises:
            UserError: a field is missing, of the wrong kind or shape, or the schema is not the one read here.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            raise UserError(f"This is not a saved discovery of schema {SCHEMA}.")
        try:
            prompts, edges = documents.field(data, "prompts"), data.get("edge_scores")
            found = cls(
                node_scores=_numbers(data, "node_scores", 2),
                pair_scores=_numbers(data, "pair_scores", 2),
                codes=documents.tensor(documents.field(data, "codes"), "codes", 3, whole=True),
                activations=_numbers(data, "activations", 3),
                n_positive=documents.whole(documents.field(data, "n_positive"), "n_positive"),
                tokens=tuple(documents.texts(row, "a row of tokens") for row in _list(data, "tokens")),
                settings=documents.plain(documents.field(data, "settings"), "settings"),
                timings={
                    name: documents.number(seconds, f"the time of {name}")
                    for name, seconds in documents.members(documents.field(data, "timings"), "timings").items()
                },
                provenance=documents.plain(documents.field(data, "provenance"), "provenance"),
                prompts=PromptPairs.from_dict(prompts) if prompts is not None else None,
                warnings=documents.texts(documents.field(data, "warnings"), "warnings"),
                edge_scores=None if edges is None else documents.tensor(edges, "edge_scores", 2),
            )
        except ValueError as error:
            raise UserError(f"The saved discovery is malformed: {error}.") from error
        found._check()
        return found

    def _check(self) -> None:
        n_all = self.node_scores.numel()
        fits = (
            self.node_scores.ndim == 2
            and self.pair_scores.shape == (n_all, n_all)
            and self.codes.ndim == 3
            and self.codes.shape == self.activations.shape
            and self.codes.shape[2] == n_all
            and 0 <= self.n_positive <= self.codes.shape[0]
            and len(self.tokens) in (0, self.codes.shape[0])
            and (self.edge_scores is None or self.edge_scores.shape == (n_all, n_all))
        )
        if not fits:
            raise UserError("The saved discovery is malformed: its shapes do not fit together.")
        if not bool((self.codes >= INACTIVE).all()):
            raise UserError(f"The saved discovery is malformed: it has codes below {INACTIVE}.")

    def save(self, path: str | Path) -> Path:
        """Write the discovery as JSON, atomically; read it back with read_discovery."""
        return write_atomic(path, self.to_json().decode() + "\n")


def _array(values: Tensor) -> npt.NDArray[Any]:
    """What orjson writes in place of nested lists, each float32 with the fewest digits that bring it back exactly."""
    found: npt.NDArray[Any] = values.contiguous().numpy()
    return found


def _numbers(data: Mapping[str, Any], name: str, n_dims: int) -> Tensor:
    return documents.tensor(documents.field(data, name), name, n_dims)


def _list(data: Mapping[str, Any], name: str) -> list[Any]:
    return documents.items(documents.field(data, name), name)


def _listed(values: Tensor) -> list[Any]:
    """Nested lists; of floats the 9 digits that bring a float32 back exactly."""
    if not values.is_floating_point():
        return values.tolist()
    shape = values.shape
    flat = [float(f"{v:.9g}") for v in values.flatten().tolist()]
    return torch.tensor(flat, dtype=torch.float64).reshape(shape).tolist()


def read_discovery(path: str | Path) -> Discovery:
    """Read a discovery that Discovery.save or `dsae discover --json` wrote.

    Raises:
        UserError: the file cannot be read or is not a discovery.
    """
    try:
        data = documents.parse_json(read_text(path, "the saved discovery"))
    except ValueError as error:
        raise UserError(f"{path} is not a saved discovery: it is not valid JSON.") from error
    return Discovery.from_dict(data)
