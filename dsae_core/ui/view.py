"""What the page shows of a discovery, as data frames: heads, the circuit at a threshold, its edges, tokens."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from dsae_core.circuits import Circuit, Head, stored_circuit
from dsae_core.metrics import Confusion, Evaluation, confusion_at
from dsae_core.result import Discovery
from dsae_core.significance import RATE
from dsae_core.ui.text import head_name, rate, signed

TRUE_POSITIVE = "found, in the circuit"
FALSE_POSITIVE = "found, not in it"
MISSED = "missed"
FOUND = "found"
OUTSIDE = ""
"""Status of a head that is neither found nor in the circuit."""


@dataclass(frozen=True)
class TokenCell:
    """One token of a prompt, as one head sees it.

    Attributes:
        text: the token.
        activation: strength of the head's unique code at this token, 0 where it has none.
        code: that code, None where there is none or no negative lacks it.
        changed: whether the other prompt of the pair has another token here.
    """

    text: str
    activation: float = 0.0
    code: int | None = None
    changed: bool = False


@dataclass(frozen=True)
class PromptRow:
    """One prompt, as one head sees it.

    Attributes:
        number: of its pair, from 1.
        positive: whether it shows the behaviour.
        cells: its tokens; empty where only activations were given.
        codes: distinct codes of the head here that no negative has (at the same position).
        activation: of the strongest of them, 0 where there is none.
        pooled_code: the one code of a prompt whose positions were pooled; None where they were not, or inactive.
    """

    number: int
    positive: bool
    cells: tuple[TokenCell, ...]
    codes: tuple[int, ...]
    activation: float
    pooled_code: int | None = None


@dataclass(frozen=True)
class CodeRow:
    """One code of one head.

    Attributes:
        code: its number.
        unique_in: numbers (from 1) of the positives that have it where no negative does.
        positives: numbers of the positives that have it at all.
        negatives: numbers of the negatives' pairs that have it.
        activation: the strongest it gets, on either side.
        tokens: the tokens it comes at and how often, the most frequent first; empty where positions were pooled.
    """

    code: int
    unique_in: tuple[int, ...]
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    activation: float
    tokens: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class View:
    """A discovery with the circuit it is compared with, None where none is known."""

    discovery: Discovery
    truth: Circuit | None

    @classmethod
    def of(cls, discovery: Discovery) -> View:
        """A discovery with the circuit that is stored for its model and task, if one is."""
        return cls(discovery, stored_circuit(discovery.model_name, discovery.task))

    @cached_property
    def heads(self) -> pd.DataFrame:
        """One row a head, layer by layer: layer, head, name, score, rank, unique_codes, false_discovery_rate,
        in_circuit, effect, low, high (of patching, in percent; NaN where not measured), role; in_words,
        effect_in_words and rate_in_words for tooltips.
        """
        frame = self.discovery.to_frame().sort_values(["layer", "head"], ignore_index=True)
        pairs = list(zip(frame["layer"].tolist(), frame["head"].tolist(), strict=True))
        frame["name"] = [head_name(*pair) for pair in pairs]
        frame["in_circuit"] = [self.truth is not None and pair in self.truth.heads for pair in pairs]
        for column, value in _effects(self.truth, pairs).items():
            frame[column] = value
        roles = {pair: role for role, members in (self.truth.roles if self.truth else {}).items() for pair in members}
        frame["role"] = [roles.get(pair, "") for pair in pairs]
        frame["in_words"] = np.where(frame["in_circuit"], "yes", "no")
        frame["in_words"] = frame["in_words"].where(frame["role"] == "", "yes, " + frame["role"])
        columns = zip(frame["effect"], frame["low"], frame["high"], strict=True)
        frame["effect_in_words"] = [effect_in_words(*row) for row in columns]
        frame["rate_in_words"] = ["" if math.isnan(value) else rate(value) for value in frame["false_discovery_rate"]]
        return frame

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """How well the scores rank the circuit's heads; None where no circuit is known."""
        return None if self.truth is None else self.discovery.evaluate(self.truth)

    @property
    def has_roles(self) -> bool:
        """Whether the known circuit says what its heads are for."""
        return self.truth is not None and any(self.truth.roles.values())

    @property
    def best(self) -> Head:
        """The head with the highest score."""
        return self.discovery.ranking()[0]

    @cached_property
    def top_score(self) -> float:
        """The highest score."""
        return float(self.heads["score"].max())

    @cached_property
    def step(self) -> float:
        """Step of the threshold: 1, 2 or 5 times a power of ten, some 200 of them up to the top score."""
        rough = max(self.top_score, 1e-6) / 200
        power = 10.0 ** math.floor(math.log10(rough))
        return power * min((m for m in (1, 2, 5, 10) if m * power >= rough * 0.999), default=10)

    @cached_property
    def start(self) -> float:
        """Where the threshold starts, on its grid: the circuit at a false discovery rate of RATE.

        Where no head gets there, or the scores have no such rates, the knee of the ranked scores. Neither asks for a
        truth.
        """
        chosen = self.heads["false_discovery_rate"] <= RATE
        return self._on_grid(float(self.heads.loc[chosen, "score"].min())) if chosen.any() else self._knee()

    def rate(self, threshold: float) -> float | None:
        """The rate of false discoveries of the heads found at a threshold; None where it is not known."""
        rates = self.heads.loc[self.heads["score"] >= threshold, "false_discovery_rate"]
        return None if rates.empty or bool(rates.isna().any()) else float(rates.max())

    @cached_property
    def has_rates(self) -> bool:
        """Whether the scores have rates of false discoveries."""
        return bool(self.heads["false_discovery_rate"].notna().any())

    @cached_property
    def lowest_rate(self) -> float:
        """The rate of false discoveries of the best heads; NaN where there are no rates."""
        return float(self.heads["false_discovery_rate"].min())

    def on_grid(self, threshold: float) -> float:
        """The threshold's step at or below a score, within the slider's range."""
        return min(self._on_grid(threshold), max(self.top_score, self.step))

    def _on_grid(self, score: float) -> float:
        return round(math.floor(score / self.step + 1e-6) * self.step, 9)

    def _knee(self) -> float:
        """The point of the curve score against rank that lies furthest below the line from the best head to the
        first head with the lowest score.
        """
        scores = np.sort(self.heads["score"].to_numpy())[::-1]
        span = int(np.argmin(scores))
        if span == 0:
            return 0.0
        line = scores[0] + (scores[span] - scores[0]) * np.arange(span + 1) / span
        at = int(np.argmax(line - scores[: span + 1]))
        return self._on_grid(float(scores[at]))

    def at(self, threshold: float) -> pd.DataFrame:
        """heads with a column status: found or not at the threshold, in the circuit or not."""
        frame = self.heads.copy()
        found = frame["score"] >= threshold
        if self.truth is None:
            frame["status"] = np.where(found, FOUND, OUTSIDE)
        else:
            inside = frame["in_circuit"]
            frame["status"] = np.select(
                [found & inside, found & ~inside, ~found & inside], [TRUE_POSITIVE, FALSE_POSITIVE, MISSED], OUTSIDE
            )
        return frame

    def confusion(self, threshold: float) -> Confusion | None:
        """The circuit at a threshold against the known one; None where none is known."""
        if self.truth is None:
            return None
        truth = torch.tensor(self.truth.membership(self.discovery.n_layers, self.discovery.n_heads))
        return confusion_at(self.discovery.node_scores, truth, threshold)

    @property
    def edge_meaning(self) -> str:
        """What an edge's score says, in words."""
        if self.discovery.edge_scores is None:
            return "how much two heads' unique codes come together"
        return "how much of the change passes straight from the earlier head to the later one"

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """All pairs of heads with a positive score, strongest first: a, b (indices into heads), score.

        Scores are edge scores, from a to b, where the discovery has them, and pair scores otherwise.
        """
        edges = self.discovery.edge_scores
        scores = (self.discovery.pair_scores if edges is None else edges).numpy()
        a, b = np.triu_indices(len(scores), k=1)
        frame = pd.DataFrame({"a": a, "b": b, "score": scores[a, b]})
        frame = frame[frame["score"] > 0]
        return frame.sort_values("score", ascending=False, kind="stable", ignore_index=True)

    def edges(self, threshold: float, limit: int) -> pd.DataFrame:
        """The strongest pairs among the heads found at a threshold: layer_a, head_a, layer_b, head_b, score."""
        found = (self.heads["score"] >= threshold).to_numpy()
        chosen = self.pairs[found[self.pairs["a"]] & found[self.pairs["b"]]].head(limit)
        n = self.discovery.n_heads
        return pd.DataFrame(
            {
                "layer_a": chosen["a"] // n,
                "head_a": chosen["a"] % n,
                "layer_b": chosen["b"] // n,
                "head_b": chosen["b"] % n,
                "score": chosen["score"],
            }
        ).reset_index(drop=True)

    @cached_property
    def unique(self) -> npt.NDArray[np.bool_]:
        """[P, T, H] bool, Discovery.unique."""
        found: npt.NDArray[np.bool_] = self.discovery.unique().numpy()
        return found

    @property
    def pooled(self) -> bool:
        """Whether a prompt has one code a head, and not one a position."""
        return self.discovery.codes.shape[1] == 1

    @property
    def uneven_row(self) -> int | None:
        """The first pair, from 1, whose two prompts differ in tokens' number; None where none does or none is known."""
        n, tokens = self.discovery.n_positive, self.discovery.tokens
        if len(tokens) != 2 * n:
            return None
        lengths = [sum(map(bool, row)) for row in tokens]
        return next((i + 1 for i in range(n) if lengths[i] != lengths[n + i]), None)

    def prompt_rows(self, head: Head) -> list[PromptRow]:
        """The prompts as a head sees them: each positive followed by its negative."""
        n_positive, n_all = self.discovery.n_positive, self.discovery.codes.shape[0]
        positives = [self._row(e, head) for e in range(n_positive)]
        negatives = [self._row(e, head) for e in range(n_positive, n_all)]
        if len(positives) != len(negatives):
            return positives + negatives
        return [row for pair in zip(positives, negatives, strict=True) for row in pair]

    def code_rows(self, head: Head) -> list[CodeRow]:
        """Every code of a head: unique ones first, those in most prompts before others, then the strongest."""
        found, n_positive = self.discovery, self.discovery.n_positive
        index = head[0] * found.n_heads + head[1]
        codes, strength = found.codes[:, :, index].numpy(), found.activations[:, :, index].numpy()
        rows = []
        for code in np.unique(codes[codes >= 0]).tolist():
            here = codes == code
            at_unique = here[:n_positive] & self.unique[:, :, index]
            rows.append(
                CodeRow(
                    code=code,
                    unique_in=_numbers(at_unique),
                    positives=_numbers(here[:n_positive]),
                    negatives=_numbers(here[n_positive:]),
                    activation=float(strength[here].max()),
                    tokens=self._tokens_at(here),
                )
            )
        return sorted(rows, key=lambda row: (-len(row.unique_in), -row.activation, row.code))

    def _tokens_at(self, places: npt.NDArray[np.bool_]) -> tuple[tuple[str, int], ...]:
        if self.pooled or not self.discovery.tokens:
            return ()
        texts = (self.discovery.tokens[e][t] for e, t in zip(*np.nonzero(places), strict=True))
        return tuple(Counter(texts).most_common())

    def _row(self, example: int, head: Head) -> PromptRow:
        found, n_positive = self.discovery, self.discovery.n_positive
        index = head[0] * found.n_heads + head[1]
        codes = found.codes[example, :, index].tolist()
        activations = found.activations[example, :, index].tolist()
        positive = example < n_positive
        unique = self.unique[example, :, index] if positive else np.zeros(len(codes), dtype=bool)
        at = [t for t in range(len(codes)) if unique[t]]
        return PromptRow(
            number=example % n_positive + 1,
            positive=positive,
            cells=self._cells(example, codes, activations, unique),
            codes=tuple(dict.fromkeys(codes[t] for t in at)),
            activation=max((activations[t] for t in at), default=0.0),
            pooled_code=codes[0] if self.pooled and codes[0] >= 0 else None,
        )

    def _cells(
        self, example: int, codes: list[int], activations: list[float], unique: npt.NDArray[np.bool_]
    ) -> tuple[TokenCell, ...]:
        if not self.discovery.tokens:
            return ()
        tokens = self.discovery.tokens[example]
        n_positive, n_all = self.discovery.n_positive, len(self.discovery.tokens)
        paired = n_all == 2 * n_positive
        other = self.discovery.tokens[(example + n_positive) % n_all] if paired else tokens
        aligned = len(other) == len(tokens)
        cells = []
        for t, text in enumerate(tokens):
            if not text:
                continue
            changed = aligned and other[t] != text
            if not self.pooled and unique[t]:
                cells.append(TokenCell(text, activations[t], codes[t], changed))
            else:
                cells.append(TokenCell(text, changed=changed))
        return tuple(cells)


def _numbers(places: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """[E, T] bool -> the examples, from 1, with any True."""
    return tuple((np.nonzero(places.any(axis=1))[0] + 1).tolist())


def is_head(frame: pd.DataFrame, head: Head) -> pd.Series[bool]:
    """Which rows of a frame with the columns layer and head are of that head."""
    return (frame["layer"] == head[0]) & (frame["head"] == head[1])


def effect_in_words(effect: float, low: float, high: float) -> str:
    """A patching effect with its interval, in percent; "" where it was not measured."""
    if math.isnan(effect):
        return ""
    interval = "" if math.isnan(low) else f" (95 % interval {signed(low, 1)} to {signed(high, 1)})"
    return f"{signed(effect, 1)} %{interval}"


def _effects(truth: Circuit | None, pairs: list[Head]) -> dict[str, list[float]]:
    """Patching effects and their intervals in percent; NaN where not measured."""
    columns: dict[str, list[float]] = {"effect": [], "low": [], "high": []}
    for layer, head in pairs:
        effect = truth.effects[layer][head] if truth and truth.effects else math.nan
        low, high = truth.intervals[layer][head] if truth and truth.intervals else (math.nan, math.nan)
        for name, value in (("effect", effect), ("low", low), ("high", high)):
            columns[name].append(100 * value)
    return columns
