"""The task metric: what the model's next-token prediction says about the behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsae_core.errors import UserError
from dsae_core.prompts import Metric, PromptPairs
from dsae_core.tasks.vocabulary import Tokenizer, continuation_ids

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AnswerTokens:
    """Token ids of the answers and distractors of each prompt pair.

    Attributes:
        answer: ids for each pair.
        distractor: ids for each pair.
        metric: how they become a number.
    """

    answer: tuple[tuple[int, ...], ...]
    distractor: tuple[tuple[int, ...], ...]
    metric: Metric


def answer_tokens(tokenizer: Tokenizer, pairs: PromptPairs) -> AnswerTokens:
    """Look up the answers' and distractors' tokens.

    Raises:
        UserError: the pairs have no answers, or one is not a single token after its prompt; names row and column.
    """
    if not pairs.has_answers:
        raise UserError("These prompts have no answers; add the columns answer and distractor.")
    return AnswerTokens(
        answer=_column(tokenizer, pairs.positive, pairs.answer, "answer"),
        distractor=_column(tokenizer, pairs.positive, pairs.distractor, "distractor"),
        metric=pairs.metric,
    )


def _column(
    tokenizer: Tokenizer, prompts: tuple[str, ...], column: tuple[tuple[str, ...], ...], name: str
) -> tuple[tuple[int, ...], ...]:
    rows: list[tuple[int, ...]] = []
    for row, (prompt, texts) in enumerate(zip(prompts, column, strict=True), start=1):
        if not texts:
            raise UserError(f"Row {row}, column {name}: it is empty.")
        ids: list[int] = []
        for text in texts:
            found = continuation_ids(tokenizer, prompt, text)
            if len(found) != 1:
                raise UserError(
                    f"Row {row}, column {name}: {text!r} is {len(found) or 'not'} separate "
                    f"token{'s' if len(found) else ''} after its prompt for this model; give one token, with the "
                    "space before it where it starts a word."
                )
            ids.extend(found)
        rows.append(tuple(ids))
    return tuple(rows)


def task_metric(logits: Tensor, answers: AnswerTokens) -> Tensor:
    """The metric of each prompt.

    Args:
        logits: [N, V] next-token logits at the last position; N a multiple of the number of pairs P, row i
            belonging to pair i mod P.
        answers: token ids of the P pairs.

    Returns:
        [N] float64: nats for a logit difference, probability for a probability difference.
    """
    import torch  # here, so that prompts are read and refused without it

    logits = logits.double()
    if answers.metric == "probability_difference":
        logits = torch.softmax(logits, dim=-1)
    n_pairs = len(answers.answer)
    values = []
    for row in range(logits.shape[0]):
        right = logits[row, list(answers.answer[row % n_pairs])]
        wrong = logits[row, list(answers.distractor[row % n_pairs])]
        if answers.metric == "probability_difference":
            values.append(right.sum() - wrong.sum())
        else:
            values.append(right.max() - wrong.max())
    return torch.stack(values)
