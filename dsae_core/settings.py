"""Every setting of the two methods, with its default and its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from dsae_core.errors import UserError


@dataclass(frozen=True)
class PaperSettings:
    """The method of O'Neill & Bui 2024, with the values of the paper and of the authors' code.

    Attributes:
        pool: how a prompt's positions become one row: the mean over its tokens, or its last token.
        n_features: features of the dictionary that all heads share.
        l1: weight of the sparsity term (the paper uses 0.02; 0.05 for the docstring task).
        epochs: full-batch Adam steps.
        learning_rate: Adam's.
        train_examples: prompts drawn from positives and negatives together to train on.
        inactive: a row on which no feature is active has no code ("exclude"), or code 0 ("zero", what the
            authors' argmax over zeros gives).
        per_union: divide a head's count by the number of codes it uses in all.
    """

    pool: Literal["mean", "last"] = "mean"
    n_features: int = 200
    l1: float = 0.02
    epochs: int = 500
    learning_rate: float = 1e-3
    train_examples: int = 10
    inactive: Literal["exclude", "zero"] = "exclude"
    per_union: bool = False


@dataclass(frozen=True)
class PositionalSettings:
    """One TopK dictionary a head over all positions, codes compared position by position.

    Attributes:
        n_features: features of each head's dictionary.
        k: features active in a row while training. A row has one code, so 1 fits it best.
        epochs: full-batch Adam steps.
        learning_rate: Adam's.
        threshold: activation up to which a row has no code, in units of the mean norm of all heads' rows.
        change_weight: power of a head's share of the change at the last position in its score; 0 leaves it out.
    """

    n_features: int = 64
    k: int = 1
    epochs: int = 20
    learning_rate: float = 1e-2
    threshold: float = 0.5
    change_weight: float = 0.2


MethodSettings = PaperSettings | PositionalSettings
METHODS: Mapping[str, type[PaperSettings] | type[PositionalSettings]] = {
    "positional": PositionalSettings,
    "paper": PaperSettings,
}


def method_settings(method: str, options: Mapping[str, Any]) -> MethodSettings:
    """The settings of a method, its defaults changed by options.

    Raises:
        UserError: no such method or setting, or a value of the wrong kind or range.
    """
    if method not in METHODS:
        raise UserError(f"There is no method {method!r}; choose one of {', '.join(METHODS)}.")
    cls = METHODS[method]
    hints = get_type_hints(cls)
    for name, value in options.items():
        if name not in hints:
            known = ", ".join(f.name for f in fields(cls))
            raise UserError(f"Method {method!r} has no setting {name!r}; it has {known}.")
        _check(name, value, hints[name])
    settings = cls(**options)
    if isinstance(settings, PositionalSettings) and settings.k > settings.n_features:
        raise UserError(f"k ({settings.k}) cannot exceed n_features ({settings.n_features}).")
    return settings


def _check(name: str, value: Any, kind: Any) -> None:
    choices = get_args(kind)
    if choices:
        if value not in choices:
            raise UserError(f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}.")
    elif kind is bool:
        if not isinstance(value, bool):
            raise UserError(f"{name} is {value!r}; it must be true or false.")
    elif isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
        raise UserError(f"{name} is {value!r}; it must be a number{'' if kind is float else ' without a fraction'}.")
    elif not 0 <= value < 1e9 or (value == 0 and name not in {"l1", "threshold", "epochs", "change_weight"}):
        raise UserError(f"{name} is {value!r}; it must be positive.")


def settings_to_dict(method: str, seed: int, settings: MethodSettings) -> dict[str, Any]:
    """The JSON form: the method, the seed and every setting."""
    return {"method": method, "seed": seed, **asdict(settings)}
