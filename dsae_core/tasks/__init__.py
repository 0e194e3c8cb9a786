"""Tasks: behaviours with prompt pairs, answers and a metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dsae_core.prompts import PromptPairs
from dsae_core.tasks.answers import AnswerTokens, answer_tokens, task_metric
from dsae_core.tasks.custom import read_pairs_csv, write_pairs_csv
from dsae_core.tasks.docstring import docstring
from dsae_core.tasks.greater_than import greater_than
from dsae_core.tasks.indirect_object import ioi
from dsae_core.tasks.induction import induction
from dsae_core.tasks.pronoun import pronoun
from dsae_core.tasks.successor import successor
from dsae_core.tasks.vocabulary import Tokenizer


@dataclass(frozen=True)
class Task:
    """A behaviour that prompts can be drawn for.

    Attributes:
        name: the name used in files and commands.
        title: the name shown to people.
        description: one sentence with an example.
        make: (tokenizer, n, seed) -> n prompt pairs.
    """

    name: str
    title: str
    description: str
    make: Callable[[Tokenizer, int, int], PromptPairs]


TASKS: Mapping[str, Task] = {
    "ioi": Task(
        "ioi",
        "Indirect object (IOI)",
        "“Mary and John went to the store, John gave a drink to” is completed with “Mary”.",
        ioi,
    ),
    "greater_than": Task(
        "greater_than",
        "Greater-than",
        "“The war lasted from the year 1732 to the year 17” is completed with a later year.",
        greater_than,
    ),
    "docstring": Task(
        "docstring",
        "Docstring",
        "A Python docstring goes on to document the function's next argument.",
        docstring,
    ),
    "induction": Task(
        "induction",
        "Induction",
        "A sequence of random words is repeated, and the next word follows from its first pass.",
        induction,
    ),
    "pronoun": Task(
        "pronoun",
        "Gendered pronoun",
        "“So Mary is a really great friend, isn't” is completed with “she”.",
        pronoun,
    ),
    "successor": Task(
        "successor",
        "Successor (days and months)",
        "“If today is Monday, then tomorrow is” is completed with “Tuesday”.",
        successor,
    ),
}

__all__ = [
    "TASKS",
    "AnswerTokens",
    "Task",
    "Tokenizer",
    "answer_tokens",
    "docstring",
    "greater_than",
    "induction",
    "ioi",
    "pronoun",
    "read_pairs_csv",
    "successor",
    "task_metric",
    "write_pairs_csv",
]
