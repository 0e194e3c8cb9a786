"""Methods on the same prompts, and one run against another: the numbers behind the Compare page."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from dsae_core.baselines import BASELINES
from dsae_core.behaviour import measure_behaviour
from dsae_core.benchmark import score_heads
from dsae_core.circuits import Circuit, stored_circuit
from dsae_core.discovery import discover
from dsae_core.errors import UserError
from dsae_core.limits import demo_limits
from dsae_core.metrics import confusion_at_size, evaluate
from dsae_core.models import LanguageModel
from dsae_core.prompts import PromptPairs
from dsae_core.settings import METHODS
from dsae_core.tasks import TASKS
from dsae_core.ui import faults
from dsae_core.ui.jobs import CancelledError, Report, Work
from dsae_core.ui.library import task_title
from dsae_core.ui.request import CUSTOM
from dsae_core.ui.runs import loaded_model
from dsae_core.ui.text import head_name
from dsae_core.ui.view import FALSE_POSITIVE, MISSED, OUTSIDE, TRUE_POSITIVE, View

FAST = ("positional", "paired", "paired_scaled", "attribution", "norm", "random")
"""The methods that a comparison starts with: each takes a second or two."""

USUAL_SECONDS = {"ig5": 4, "ig10": 7, "eap": 5, "subnetwork": 27, "acdc": 59, "patching": 45}
"""What slow methods take on ten pairs with the default model and two CPU cores: medians of the rows in
benchmarks/results/accuracy.*.json."""

EXPLAINED = {
    "positional": "How differently a head's codes read on a positive and on its negative, position by position, and "
    "how much of that reaches the prediction; this project's method.",
    "paper": "The number of a head's codes that only positives have, positions pooled; O'Neill & Bui 2024, "
    "arXiv 2405.12522.",
    "random": "A number drawn by the seed: what no method may be worse than.",
    "norm": "How much a head writes on positives, whatever the negatives are.",
    "paired_pooled": "How much what a head writes, averaged over positions, differs between the two prompts of a pair.",
    "paired": "How much what a head writes differs between the two prompts of a pair, where it differs most.",
    "paired_scaled": "The paired difference relative to the size of the stream that it is added to.",
    "paired_flow": "The positional method's formula on the head outputs themselves, without codes: it shows what codes "
    "cost or bring.",
    "hisp": "How much the answer's score would change if the head were turned down, from gradients; Michel et al. "
    "2019, arXiv 1905.10650.",
    "attribution": "What exact patching would give, estimated from gradients; Nanda 2023, and Syed et al. 2023, "
    "arXiv 2310.10348.",
    "ig5": "Attribution patching with gradients averaged over five steps from the negative to the positive; "
    "Sundararajan et al. 2017, arXiv 1703.01365.",
    "ig10": "The same as with five steps, over ten.",
    "eap": "What patching each edge that leaves a head would give, estimated from gradients and added up; Syed et al. "
    "2023, arXiv 2310.10348.",
    "subnetwork": "How strongly a learned mask keeps a head; Cao et al. 2021, arXiv 2104.03514.",
    "acdc": "How far the prediction moves when a head is pruned in its turn, from the last layer to the first; Conmy "
    "et al. 2023, arXiv 2304.14997.",
    "patching": "How far the answer's score moves when a head's output is replaced by the one on the negative. The "
    "measured circuit was found so, on other prompts.",
}
"""What each method scores a head by, and where it comes from, in a line."""

Ranks = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CompareRequest:
    """What a comparison is asked to do. Two equal requests give the same scores.

    Attributes:
        model: a known name, a hub name or a folder.
        task: name of a task, or CUSTOM.
        examples: number of prompt pairs.
        seed: of the prompts and of every method.
        methods: names of methods and baselines, in the order they run.
        pairs: the prompts of a CUSTOM task, None otherwise.
    """

    model: str = "smollm2-135m"
    task: str = "ioi"
    examples: int = 10
    seed: int = 0
    methods: tuple[str, ...] = FAST
    pairs: PromptPairs | None = None


@dataclass(frozen=True)
class Line:
    """One method's outcome.

    Attributes:
        method: its name.
        scores: [L, heads]; None where it failed.
        seconds: wall time, without loading the model.
        auc: against the known circuit; None where none is known or the method failed.
        average_precision: likewise.
        at_size: share of its best heads, as many as the circuit has, that are in the circuit: precision and recall
            in one, for the two sets are of one size.
        error: why it failed, "" where it did not.
    """

    method: str
    scores: Tensor | None
    seconds: float
    auc: float | None = None
    average_precision: float | None = None
    at_size: float | None = None
    error: str = ""

    @property
    def title(self) -> str:
        """The method's name for people."""
        return method_title(self.method)

    @cached_property
    def ranks(self) -> Ranks:
        """[L * heads] share of the other heads that each head outscores; ties count half."""
        assert self.scores is not None
        return rank_shares(self.scores)


@dataclass(eq=False)
class Board:
    """Where a comparison under way puts its lines: the worker writes, a page reads.

    Attributes:
        request: what was asked for.
        truth: the circuit that is known for the model and task, None where none is.
        note: what the reader should know about the prompts, "" where that is nothing.
    """

    request: CompareRequest
    truth: Circuit | None = None
    note: str = ""
    _lines: list[Line] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, line: Line) -> None:
        """Put a line on the board."""
        with self._lock:
            self._lines.append(line)

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines so far, in the order in which they were finished."""
        with self._lock:
            return tuple(self._lines)


def method_title(method: str) -> str:
    """A method's name for people."""
    return BASELINES[method].title if method in BASELINES else method.capitalize()


def method_needs(method: str) -> str:
    """What a method takes beside prompt pairs."""
    return BASELINES[method].needs if method in BASELINES else "a forward pass"


def explained(methods: Sequence[str]) -> str:
    """What methods score heads by: a list in Markdown."""
    return "\n".join(f"- **{method_title(method)}**: {EXPLAINED[method]}" for method in methods)


def comparison_work(board: Board) -> Work[int]:
    """What a comparison does: load the model, draw the prompts, run one method after another.

    The work returns the number of methods that gave scores. It raises a UserError where the model or the prompts cannot
    be used; a method that cannot be used leaves a line that says why.
    """
    request = board.request

    def work(report: Report) -> int:
        check_asked(request)
        model = loaded_model(request.model, report)
        report("tokenize", 0.0)
        pairs = request.pairs or TASKS[request.task].make(model.tokenizer, request.examples, request.seed)
        board.truth, members = _truth(model, request.task)
        board.note = _note(model, pairs)
        for place, method in enumerate(request.methods):
            stage = f"{method_title(method)}, {place + 1} of {len(request.methods)}"
            board.add(_line(model, pairs, method, request.seed, members, _within(report, stage, place, request)))
        return sum(line.scores is not None for line in board.lines)

    return work


def offered(methods: Sequence[str]) -> tuple[str, ...]:
    """Those methods that this server runs: a public demo leaves slow ones out."""
    limits = demo_limits()
    return tuple(m for m in methods if limits is None or USUAL_SECONDS.get(m, 0) <= limits.method_seconds)


def check_asked(request: CompareRequest) -> None:
    """Raise a UserError where a public demo does not do what is asked."""
    if (limits := demo_limits()) is None:
        return
    limits.check_number(request.examples)
    if request.pairs is not None:
        limits.check_pairs(request.pairs)
    if slow := set(request.methods) - set(offered(request.methods)):
        raise UserError(f"This public demo does not run {method_title(min(slow))}, which takes long; leave it out.")


def _within(report: Report, stage: str, place: int, request: CompareRequest) -> Callable[[float], None]:
    """Reports the share that one method has done of itself as a share of them all."""
    return lambda fraction: report(stage, (place + fraction) / len(request.methods))


def _truth(model: LanguageModel, task: str) -> tuple[Circuit | None, Tensor | None]:
    truth = stored_circuit(model.name, task)
    if truth is None:
        return None, None
    return truth, torch.tensor(truth.membership(model.n_layers, model.n_heads))


def _note(model: LanguageModel, pairs: PromptPairs) -> str:
    """Whether the model shows the behaviour at all, where the answers to tell are known."""
    if not pairs.has_answers:
        return ""
    found = measure_behaviour(model, pairs)
    if found.shown:
        return ""
    return (
        f"On these prompts the model hardly shows the behaviour: it solves {100 * found.solved:.0f} % of the positives "
        f"and {100 * found.solved_negative:.0f} % of the negatives. Scores then say little."
    )


def _line(
    model: LanguageModel,
    pairs: PromptPairs,
    method: str,
    seed: int,
    members: Tensor | None,
    report: Callable[[float], None],
) -> Line:
    report(0.0)
    start = time.perf_counter()
    try:
        with _reporting(model, report):
            scores = _scores(model, pairs, method, seed, report)
    except UserError as error:
        return Line(method, None, time.perf_counter() - start, error=faults.told(error))
    except CancelledError:
        raise
    except Exception as error:
        return Line(method, None, time.perf_counter() - start, error=faults.noted(error, f"method {method}"))
    seconds = time.perf_counter() - start
    if members is None:
        return Line(method, scores, seconds)
    evaluation, size = evaluate(scores, members), int(members.sum())
    confusion = confusion_at_size(scores, members, size)
    return Line(method, scores, seconds, evaluation.auc, evaluation.average_precision, confusion.precision)


def _scores(
    model: LanguageModel, pairs: PromptPairs, method: str, seed: int, report: Callable[[float], None]
) -> Tensor:
    if method in METHODS:
        return discover(model, pairs, method=method, seed=seed, progress=lambda *_: report(0.5)).node_scores
    return score_heads(model, pairs, method=method, seed=seed)


@contextmanager
def _reporting(model: LanguageModel, report: Callable[[float], None]) -> Iterator[None]:
    """While open, every pass through the last block reports, so that Cancel ends methods that know no progress."""

    def look(*_: Any) -> None:
        report(0.5)

    hook = model.sites[-1].block.register_forward_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()


# --- what the page shows of it -----------------------------------------------------------------------------


def rank_shares(scores: Tensor) -> Ranks:
    """[any] scores to the share of the other heads that each head outscores, flat; ties count half."""
    flat = pd.Series(scores.flatten().double().numpy())
    return np.asarray((flat.rank() - 1) / max(len(flat) - 1, 1), dtype=np.float64)


def table(lines: Sequence[Line], *, has_truth: bool) -> pd.DataFrame:
    """One row a method that gave scores, the best first: method, needs, the figures, seconds, name."""
    columns = {
        "method": [line.title for line in lines],
        "needs": [method_needs(line.method) for line in lines],
        "auc": [line.auc for line in lines],
        "average_precision": [line.average_precision for line in lines],
        "at_size": [line.at_size for line in lines],
        "seconds": [line.seconds for line in lines],
        "name": [line.method for line in lines],
    }
    frame = pd.DataFrame(columns).astype({"auc": float, "average_precision": float, "at_size": float})
    if not has_truth:
        return frame.drop(columns=["auc", "average_precision", "at_size"]).sort_values("seconds", ignore_index=True)
    return frame.sort_values("auc", ascending=False, kind="stable", ignore_index=True)


def heads(line: Line, truth: Circuit | None) -> pd.DataFrame:
    """One row a head: layer, head, name, score, rank (from 1), rank_share, max_share, status.

    The status is that of the method's best heads, as many as the circuit has; without one all are OUTSIDE.
    """
    assert line.scores is not None
    n_layers, n_heads = line.scores.shape
    scores = line.scores.flatten().double().numpy()
    highest = max(float(scores.max()), 1e-12)
    rank = np.empty(len(scores), dtype=np.int64)
    rank[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    frame = pd.DataFrame(
        {
            "layer": np.repeat(np.arange(n_layers), n_heads),
            "head": np.tile(np.arange(n_heads), n_layers),
            "score": scores,
            "rank_share": line.ranks,
            "rank": rank,
            "max_share": np.clip(scores, 0, None) / highest,
        }
    )
    names = [head_name(layer, head) for layer, head in zip(frame["layer"], frame["head"], strict=True)]
    frame["name"] = names
    if truth is None:
        return frame.assign(status=OUTSIDE)
    inside = np.array(truth.membership(n_layers, n_heads)).flatten()
    found = (frame["rank"] <= len(truth)).to_numpy()
    status = [found & inside, found & ~inside, ~found & inside]
    return frame.assign(status=np.select(status, [TRUE_POSITIVE, FALSE_POSITIVE, MISSED], OUTSIDE))


def agreement(lines: Sequence[Line]) -> pd.DataFrame:
    """Spearman correlation of every two methods' scores: first, second, correlation; NaN where one's are all equal."""
    scored = [line for line in lines if line.scores is not None]
    rows = [(a.title, b.title, correlation(a.ranks, b.ranks)) for a in scored for b in scored]
    return pd.DataFrame(rows, columns=["first", "second", "correlation"])


def correlation(a: Ranks, b: Ranks) -> float:
    """Correlation of two rankings; NaN where one has only ties."""
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


# --- two runs ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Two runs on models of one shape, head by head.

    Attributes:
        first: one run.
        second: the other.
    """

    first: View
    second: View

    def __post_init__(self) -> None:
        a, b = (view.discovery.node_scores.shape for view in (self.first, self.second))
        if a != b:
            raise UserError(
                f"The first run has {a[0]} layers of {a[1]} heads, the second {b[0]} of {b[1]}: heads of different "
                "models cannot be set against each other; choose two runs of one model."
            )

    @cached_property
    def heads(self) -> pd.DataFrame:
        """One row a head: layer, head, name, each run's score, rank and rank_share, their change, and the side.

        change is the second run's rank_share less the first's, within -1 and 1; side is the run that ranks the head
        higher, "first" or "second", or "" where both rank it alike; found says whose circuit, at its first
        threshold, has it: "both", "first", "second" or "neither".
        """
        a, b = self.first.heads, self.second.heads
        frame = a[["layer", "head", "name"]].copy()
        for name, view, other in (("first", self.first, a), ("second", self.second, b)):
            frame[f"{name}_score"], frame[f"{name}_rank"] = other["score"], other["rank"]
            frame[f"{name}_share"] = rank_shares(view.discovery.node_scores)
            frame[f"{name}_found"] = (other["score"] >= view.start) & (view.top_score > 0)
        frame["change"] = frame["second_share"] - frame["first_share"]
        frame["size"] = frame["change"].abs()
        frame["side"] = np.select([frame["change"] > 0, frame["change"] < 0], ["second", "first"], "")
        both = [frame["first_found"] & frame["second_found"], frame["first_found"], frame["second_found"]]
        frame["found"] = np.select(both, ["both", "first", "second"], "neither")
        return frame

    @property
    def overlap(self) -> dict[str, int]:
        """How many heads are in both circuits, in one alone, each at its first threshold: both, first, second."""
        counts = self.heads["found"].value_counts()
        return {side: int(counts.get(side, 0)) for side in ("both", "first", "second")}

    @cached_property
    def correlation(self) -> float:
        """Spearman correlation of the scores."""
        return correlation(self.heads["first_share"].to_numpy(), self.heads["second_share"].to_numpy())

    def most_changed(self, n: int) -> pd.DataFrame:
        """The n heads with the largest change, if any, among those that either run finds or ranks in its upper tenth.

        The order of heads with next to no score is chance; a head that goes from rank 200 to 100 is no news.
        """
        frame = self.heads
        upper = frame[["first_share", "second_share"]].max(axis=1) >= 0.9
        seen = frame[(upper | (frame["found"] != "neither")) & (frame["size"] > 0)]
        return seen.sort_values("size", ascending=False, kind="stable", ignore_index=True).head(n)


def same_question(first: View, second: View) -> str:
    """What differs between two runs beside their scores, "" where model, task and prompts are the same."""
    a, b = first.discovery, second.discovery
    said = []
    if a.model_name != b.model_name:
        said.append(f"of different models ({a.model_name} and {b.model_name})")
    elif a.provenance.get("model_digest") != b.provenance.get("model_digest"):
        said.append("of different weights under one name")
    if a.task != b.task:
        said.append(f"on different tasks: {task_title(a.task)} and {task_title(b.task)}")
    elif a.prompts != b.prompts:
        said.append("on different prompts")
    return f"These runs are {' and '.join(said)}." if said else ""


def custom_pairs(view: View | None) -> PromptPairs | None:
    """A user's own prompts on show, None where a task's are."""
    return view.discovery.prompts if view is not None and view.discovery.task == CUSTOM else None
