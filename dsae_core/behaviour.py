"""Whether a model shows the behaviour at all: the task metric on positives and on negatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dsae_core.discovery import discover
from dsae_core.errors import UserError
from dsae_core.interventions import tokenize_sides
from dsae_core.looking import anywhere
from dsae_core.models import LanguageModel, last_logits
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery
from dsae_core.settings import method_settings
from dsae_core.stages import Progress, Stages
from dsae_core.tasks import answer_tokens, task_metric

CHECK = "check"
"""The stage in which discover_checked measures the behaviour."""


@dataclass(frozen=True)
class Behaviour:
    """The task metric over prompt pairs.

    Attributes:
        positive: mean metric on positives.
        negative: mean metric on negatives, with the positives' answers.
        solved: share of positives with a metric above 0: the answer beats the distractor.
        solved_negative: the same share of negatives.
    """

    positive: float
    negative: float
    solved: float
    solved_negative: float

    @property
    def mostly_solved(self) -> bool:
        """Whether most positives are solved."""
        return self.solved > 0.5

    @property
    def shown(self) -> bool:
        """Whether there is a behaviour to look for: most positives are solved, and more of them than negatives."""
        return self.mostly_solved and self.solved > self.solved_negative and self.positive > self.negative

    def counts(self, n: int) -> str:
        """On how many of n pairs' prompts the answer beats the distractor, in words."""
        positives, negatives = (f"{n} {name}{'' if n == 1 else 's'}" for name in ("positive", "negative"))
        solved, solved_negative = round(self.solved * n), round(self.solved_negative * n)
        return f"the answer beats the distractor on {solved} of {positives} and on {solved_negative} of {negatives}"


def measure_behaviour(model: LanguageModel, pairs: PromptPairs) -> Behaviour:
    """Run both sides and compute the metric.

    Raises:
        UserError: the pairs have no answers, or an answer is not one token.
    """
    answers = answer_tokens(model.tokenizer, pairs)
    positive, negative = (
        task_metric(last_logits(model, side.ids, side.mask), answers) for side in tokenize_sides(model, pairs)
    )
    return Behaviour(
        positive=float(positive.mean()),
        negative=float(negative.mean()),
        solved=float((positive > 0).double().mean()),
        solved_negative=float((negative > 0).double().mean()),
    )


def discover_checked(
    model: LanguageModel,
    pairs: PromptPairs,
    *,
    known: Behaviour | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Discovery:
    """discover(), and first, for prompts with answers, whether the model shows the behaviour; warns where it does not.

    Args:
        model: as in discover.
        pairs: as in discover; without answers nothing is measured and nothing said.
        known: what measure_behaviour has found already, of this model and these pairs.
        progress: as in discover.
        settings: all other arguments of discover.

    Raises:
        UserError: as in discover.
    """
    options = {name: value for name, value in settings.items() if name not in ("method", "seed", "preview")}
    method_settings(settings.get("method", "positional"), options)  # a wrong setting should cost no forward pass
    stages = Stages(progress)
    remarks: tuple[str, ...] = ()
    if pairs.has_answers and known is not None:
        remarks = _remarks(known, len(pairs))
    elif pairs.has_answers:
        with stages.stage(CHECK):
            try:
                behaviour = anywhere(model, [], lambda model, _: measure_behaviour(model, pairs))
            except UserError as error:
                remarks = (f"Whether the model shows the behaviour could not be checked. {error}",)
            else:
                remarks = _remarks(behaviour, len(pairs))
    found = discover(model, pairs, progress=progress, **settings)
    return replace(found, warnings=(*remarks, *found.warnings), timings={**stages.seconds, **found.timings})


def _remarks(behaviour: Behaviour, n: int) -> tuple[str, ...]:
    if behaviour.shown:
        return ()
    negatives, model = "The negatives show this behaviour as much", "The model does not show this behaviour"
    what = negatives if behaviour.mostly_solved else model
    return (f"{what}: {behaviour.counts(n)}, so the scores say little.",)
