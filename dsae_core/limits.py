"""What visitors may ask of the dashboard's server: everything on one's own machine, little on a public demo."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

from dsae_core.errors import UserError
from dsae_core.prompts import PromptPairs

VARIABLE = "DSAE_DEMO"
"""The environment variable that makes a server a public demo; its value is Limits.to_text()."""

DEFAULT_MODEL = "smollm2-135m"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """The limits of a public demo.

    Attributes:
        models: names of the models that may be run; no folder can be named, and no other model of the hub.
        pairs: prompt pairs of a run.
        prompt_bytes: bytes of a prompt in UTF-8, so that it has no more tokens than that.
        answer_bytes: bytes of a pair's answers, and of its distractors.
        features: features of a dictionary.
        epochs: full-batch steps of its training.
        method_seconds: what a method of Compare may usually take.
        upload_mb: size of an uploaded file, in MB.
        waiting: jobs in the queue of the whole server, beside the one that runs.
        job_seconds: a job that runs for longer is ended.
        kept_runs: runs kept for one visit.
    """

    models: tuple[str, ...] = (DEFAULT_MODEL,)
    pairs: int = 16
    prompt_bytes: int = 400
    answer_bytes: int = 100
    features: int = 256
    epochs: int = 1000
    method_seconds: int = 10
    upload_mb: int = 5
    waiting: int = 24
    job_seconds: int = 120
    kept_runs: int = 12

    def __post_init__(self) -> None:
        if not self.models:
            raise UserError("A public demo needs at least one model; name it with --models.")
        for name in self.models:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise UserError(f"{name!r} is no name of a model; a public demo allows known names and hub names only.")
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"The demo's limit {field.name} is {value!r}; it must be a whole number from 1 on.")

    def to_text(self) -> str:
        """The JSON that from_text reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Limits:
        """Read limits; those that are not named have their defaults.

        Raises:
            UserError: the text is no JSON object, or a limit is unknown or no limit.
        """
        try:
            found = json.loads(text)
            if not isinstance(found, dict) or not isinstance(found.get("models", []), list):
                raise ValueError("no object, or models that are no list")
            known = {field.name for field in fields(cls)}
            if unknown := sorted(set(found) - known):
                raise UserError(f"The demo has no limit {unknown[0]!r}; it has {', '.join(sorted(known))}.")
        except (ValueError, RecursionError) as error:
            raise UserError(f'{VARIABLE} is no JSON object of limits; write for example {{"pairs": 8}}.') from error
        if "models" in found:
            found["models"] = tuple(found["models"])
        return cls(**found)

    # --- what is refused; each raises a UserError -----------------------------------------------------------

    def check_model(self, name: str) -> None:
        """Refuse a model that is not on the list."""
        if name not in self.models:
            raise UserError(f"This public demo runs {_listed(self.models)} only; choose that model.")

    def check_pairs(self, pairs: PromptPairs) -> None:
        """Refuse prompt pairs that are too many or too long."""
        answer, distractor = (["|".join(texts) for texts in column] for column in (pairs.answer, pairs.distractor))
        self.check_texts(
            {"positive": pairs.positive, "negative": pairs.negative, "answer": answer, "distractor": distractor}
        )

    def check_texts(self, columns: Mapping[str, Sequence[str]]) -> None:
        """Refuse a table with too many rows or too long cells; its columns by name."""
        self.check_number(max(map(len, columns.values()), default=0))
        for name, texts in columns.items():
            most = self.prompt_bytes if name in ("positive", "negative") else self.answer_bytes
            for row, text in enumerate(texts, start=1):
                size = len(text.encode(errors="surrogatepass"))
                if size > most:
                    raise UserError(
                        f"Row {row}, column {name}: the text has {size:,} bytes, and this public demo takes {most} at "
                        "most; shorten it."
                    )

    def check_number(self, n: int) -> None:
        """Refuse too many prompt pairs."""
        if n > self.pairs:
            raise UserError(f"This public demo takes {self.pairs} prompt pairs at most, not {n:,}; use fewer.")

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse settings of a method that take too much time or memory."""
        for name, most in self.largest.items():
            value = options.get(name, 0)
            if isinstance(value, int | float) and not value <= most:
                raise UserError(f"This public demo takes {name} up to {most:,}, not {value:,}; choose less.")

    def check_upload(self, size: int) -> None:
        """Refuse a file of so many bytes."""
        if size > self.upload_mb * 1_000_000:
            raise UserError(f"This public demo takes files of up to {self.upload_mb} MB; choose a smaller one.")

    @property
    def largest(self) -> Mapping[str, int]:
        """The largest value of each setting that costs time or memory, by its name."""
        return {
            "n_features": self.features,
            "k": self.features,
            "epochs": self.epochs,
            "train_examples": 2 * self.pairs,
        }


def demo_limits() -> Limits | None:
    """The limits of this server; None where it is no public demo and there are none.

    Raises:
        UserError: the environment names limits that cannot be read; nothing is allowed then.
    """
    text = os.environ.get(VARIABLE)
    return None if text is None else _read(text)


@lru_cache(maxsize=4)
def _read(text: str) -> Limits:
    return Limits.from_text(text)


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
