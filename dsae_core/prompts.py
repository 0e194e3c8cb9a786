"""Prompt pairs: what a discovery is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dsae_core import documents
from dsae_core.errors import UserError

Metric = Literal["logit_difference", "probability_difference"]


@dataclass(frozen=True)
class PromptPairs:
    """Prompts that show a behaviour, and near-copies for which it cannot happen.

    Attributes:
        positive: prompts that show it.
        negative: the matched near-copies; positive[i] and negative[i] are a pair.
        answer: for each pair the tokens that show the behaviour, as text (" Mary"), or empty where unknown.
            Discovery never reads them; patching and faithfulness do.
        distractor: for each pair the tokens it competes with, or empty.
        task: name of the task, "custom" for a user's own.
        metric: "logit_difference" is the answer's logit less the best distractor's, in nats;
            "probability_difference" is the answers' probability less the distractors'.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    answer: tuple[tuple[str, ...], ...] = ()
    distractor: tuple[tuple[str, ...], ...] = ()
    task: str = "custom"
    metric: Metric = "logit_difference"

    def __post_init__(self) -> None:
        if not self.positive:
            raise UserError("There are no prompt pairs; give at least one positive and one negative prompt.")
        if len(self.positive) != len(self.negative):
            raise UserError(
                f"There are {len(self.positive)} positive prompts but {len(self.negative)} negative ones; "
                "every row needs both."
            )
        for name, column in (("positive", self.positive), ("negative", self.negative)):
            for row, prompt in enumerate(column, start=1):
                if not isinstance(prompt, str) or not prompt.strip():
                    raise UserError(f"Row {row}, column {name}: the prompt is empty.")
                if not documents.is_unicode(prompt):
                    raise UserError(f"Row {row}, column {name}: the prompt is no Unicode text; write it anew.")
        for name, answers in (("answer", self.answer), ("distractor", self.distractor)):
            if answers and len(answers) != len(self.positive):
                raise UserError(f"Column {name} has {len(answers)} rows for {len(self.positive)} prompt pairs.")
            for row, texts in enumerate(answers, start=1):
                if isinstance(texts, str) or not texts:
                    raise UserError(f"Row {row}, column {name}: give a tuple of one text or more.")
                if not all(isinstance(text, str) and documents.is_unicode(text) for text in texts):
                    raise UserError(f"Row {row}, column {name}: the cell is no Unicode text; write it anew.")
        if bool(self.answer) != bool(self.distractor):
            raise UserError("Give both columns answer and distractor, or neither.")

    def __len__(self) -> int:
        return len(self.positive)

    @property
    def cells(self) -> tuple[str, ...]:
        """What to call each prompt in an error, positives first: its row, counted from 1, and its column."""
        return tuple(
            f"Row {row}, column {column}" for column in ("positive", "negative") for row in range(1, len(self) + 1)
        )

    @property
    def has_answers(self) -> bool:
        """Whether answers and distractors are known, so that a metric can be computed."""
        return bool(self.answer)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form that from_dict reads."""
        return {
            "task": self.task,
            "metric": self.metric,
            "positive": list(self.positive),
            "negative": list(self.negative),
            "answer": [list(a) for a in self.answer],
            "distractor": [list(d) for d in self.distractor],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PromptPairs:
        """Build prompt pairs from their JSON form; UserError where they are malformed."""
        try:
            metric = documents.field(data, "metric")
            if metric not in ("logit_difference", "probability_difference"):
                raise ValueError("its metric is not known")
            return cls(
                positive=documents.texts(documents.field(data, "positive"), "positive"),
                negative=documents.texts(documents.field(data, "negative"), "negative"),
                answer=tuple(
                    documents.texts(a, "answer") for a in documents.items(documents.field(data, "answer"), "answer")
                ),
                distractor=tuple(
                    documents.texts(d, "distractor")
                    for d in documents.items(documents.field(data, "distractor"), "distractor")
                ),
                task=documents.text(documents.field(data, "task"), "task"),
                metric=metric,
            )
        except ValueError as error:
            raise UserError(f"The prompt pairs are malformed: {error}.") from error
