"""Side jobs: what the page asks a model about a head, a circuit or prompts, beside the discovery itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dsae_core.behaviour import Behaviour, measure_behaviour
from dsae_core.circuits import Head
from dsae_core.errors import UserError
from dsae_core.inspection import (
    NextToken,
    PatchEffect,
    PromotedTokens,
    attention_pattern,
    direct_effects,
    next_tokens,
    patch_effect,
    promoted_tokens,
    read_last_position,
)
from dsae_core.limits import demo_limits
from dsae_core.models import LanguageModel, tokenize
from dsae_core.models.memory import TooLittleMemoryError
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery
from dsae_core.tasks import TASKS
from dsae_core.ui.jobs import Report, Work
from dsae_core.ui.runs import asked_of, loaded_model
from dsae_core.validation import Validation, validate

T = TypeVar("T")

VALIDATION_PAIRS = 10
"""Prompt pairs that a circuit is validated on."""


@dataclass(frozen=True)
class Attention:
    """Where one head attends on the two prompts of a pair, both left-padded to T positions.

    Attributes:
        positive: [T, T] weights, from a position (first axis) to those before it.
        negative: likewise.
        positive_tokens: the T tokens, "" where padded.
        negative_tokens: likewise.
    """

    positive: npt.NDArray[np.float32]
    negative: npt.NDArray[np.float32]
    positive_tokens: tuple[str, ...]
    negative_tokens: tuple[str, ...]


@dataclass(frozen=True)
class HeadOutput:
    """What a head writes straight to the prediction.

    Attributes:
        tokens: for each positive, what the head promotes and suppresses there.
        effects: [L, heads] direct effects of all heads on answer less distractor, mean over positives, in nats; None
            where no answers are known.
        by_pair: this head's direct effect on each positive; empty where no answers are known.
        total: mean logit difference over positives; NaN where no answers are known.
    """

    tokens: tuple[PromotedTokens, ...]
    effects: npt.NDArray[np.float32] | None
    by_pair: tuple[float, ...]
    total: float


@dataclass(frozen=True)
class Validated:
    """A validation and the circuit size it was made for.

    Attributes:
        found: the validation.
        size: of the circuit in question.
        fresh: whether its prompts are other ones than the scores were made from.
    """

    found: Validation
    size: int
    fresh: bool


@dataclass(frozen=True)
class PromptCheck:
    """What the model makes of prompt pairs before anything is scored.

    Attributes:
        behaviour: the metric on both sides; None where no answers are given.
        positive: the likeliest next token of each positive.
        negative: of each negative.
        problem: why the metric could not be computed, "" where it could or no answers are given.
    """

    behaviour: Behaviour | None
    positive: tuple[NextToken, ...]
    negative: tuple[NextToken, ...]
    problem: str = ""


def attention_work(discovery: Discovery, pairs: PromptPairs, row: int, head: Head) -> Work[Attention]:
    """Where a head attends on the prompts of one pair, counted from 0."""

    def ask(model: LanguageModel, report: Report) -> Attention:
        prompts = (pairs.positive[row], pairs.negative[row])
        weights = attention_pattern(model, prompts, *head).numpy()
        tokens = tokenize(model, prompts).tokens
        return Attention(weights[0], weights[1], tokens[0], tokens[1])

    return _asking(discovery, "attend", ask)


def output_work(discovery: Discovery, pairs: PromptPairs, head: Head) -> Work[HeadOutput]:
    """What a head writes straight to the prediction on every positive."""

    def ask(model: LanguageModel, report: Report) -> HeadOutput:
        last = read_last_position(model, pairs.positive)
        report("logits", 0.5)
        tokens = promoted_tokens(model, last, *head)
        if not pairs.has_answers:
            return HeadOutput(tokens, None, (), float("nan"))
        effects = direct_effects(model, pairs, last)
        return HeadOutput(
            tokens=tokens,
            effects=effects.heads.mean(dim=0).numpy(),
            by_pair=tuple(effects.heads[:, head[0], head[1]].tolist()),
            total=float(effects.total.mean()),
        )

    return _asking(discovery, "logits", ask)


def patch_work(discovery: Discovery, pairs: PromptPairs, head: Head) -> Work[PatchEffect]:
    """Interchange patching of one head on the pairs."""
    return _asking(discovery, "patch", lambda model, report: patch_effect(model, pairs, *head))


def validation_work(discovery: Discovery, pairs: PromptPairs, seed: int, size: int) -> Work[Validated]:
    """The circuit kept and removed, on prompts that the scores never saw where the task can draw them."""

    def ask(model: LanguageModel, report: Report) -> Validated:
        other = other_pairs(model, pairs, seed)
        found = validate(model, other or pairs, discovery.node_scores, size=size, progress=report)
        return Validated(found, size, other is not None)

    return _asking(discovery, "ablate", ask)


def other_pairs(model: LanguageModel, pairs: PromptPairs, seed: int) -> PromptPairs | None:
    """Prompt pairs of the same task that are not among these; None where there are none to be had."""
    if pairs.task not in TASKS:
        return None
    drawn = TASKS[pairs.task].make(model.tokenizer, 2 * VALIDATION_PAIRS, seed + 1)
    new = [i for i, prompt in enumerate(drawn.positive) if prompt not in pairs.positive][:VALIDATION_PAIRS]
    if not new:
        return None
    return replace(
        drawn,
        positive=tuple(drawn.positive[i] for i in new),
        negative=tuple(drawn.negative[i] for i in new),
        answer=tuple(drawn.answer[i] for i in new),
        distractor=tuple(drawn.distractor[i] for i in new),
    )


def check_work(model_name: str, pairs: PromptPairs) -> Work[PromptCheck]:
    """Run prompt pairs through a model and see whether it shows the behaviour."""

    def work(report: Report) -> PromptCheck:
        _check_pairs(pairs)
        model = loaded_model(model_name, report)
        return asked_of(model, lambda used: _checked(used, pairs, report))

    return work


def _checked(model: LanguageModel, pairs: PromptPairs, report: Report) -> PromptCheck:
    report("predict", 0.0)
    positive = next_tokens(model, pairs.positive)
    report("predict", 0.4)
    negative = next_tokens(model, pairs.negative)
    if not pairs.has_answers:
        return PromptCheck(None, positive, negative)
    report("predict", 0.7)
    try:
        return PromptCheck(measure_behaviour(model, pairs), positive, negative)
    except TooLittleMemoryError:
        raise
    except UserError as error:
        return PromptCheck(None, positive, negative, str(error))


def _check_pairs(pairs: PromptPairs | None) -> None:
    """Raise a UserError where a public demo does not take these prompts; those of a file may be any."""
    if (limits := demo_limits()) is not None and pairs is not None:
        limits.check_pairs(pairs)


def _asking(discovery: Discovery, stage: str, ask: Callable[[LanguageModel, Report], T]) -> Work[T]:
    """Work that asks the model a discovery was made with."""

    def work(report: Report) -> T:
        _check_pairs(discovery.prompts)
        model = loaded_model(discovery.model_name, report)
        made_with = discovery.provenance.get("model_digest")
        if made_with and model.digest and made_with != model.digest:
            raise UserError(
                f"The weights of {model.name} are not those this result was made with; run the discovery again."
            )
        report(stage, 0.0)
        return asked_of(model, lambda used: ask(used, report))

    return work
