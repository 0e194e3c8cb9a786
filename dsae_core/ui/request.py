"""What a run is asked to do: the sidebar's settings as one value, to and from a link."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args, get_type_hints

from dsae_core.errors import UserError
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery
from dsae_core.settings import METHODS, method_settings
from dsae_core.tasks import TASKS

CUSTOM = "custom"
"""The task of prompts that somebody brought along."""

MAX_EXAMPLES = 100
MAX_SEED = 2**31 - 1
MAX_PACKED = 6000
"""Characters that prompts may take in a link; browsers and mail programs cut links that are much longer."""

MAX_UNPACKED = 1 << 20

SHOWN_AT = "at"
"""The parameter of a link that names the threshold to show its result at; it is no setting of a run."""

Options = tuple[tuple[str, Any], ...]
"""The settings of a method that differ from its defaults, sorted by name."""


@dataclass(frozen=True)
class RunRequest:
    """One run's settings. Two equal requests give the same scores.

    Attributes:
        model: a known name, a hub name or a folder.
        task: name of a task, or CUSTOM.
        examples: number of prompt pairs drawn; the number of rows for CUSTOM.
        method: "positional" or "paper".
        seed: of the prompts and the dictionary.
        options: settings that differ from the method's defaults.
        pairs: the prompts of a CUSTOM task, None otherwise.
    """

    model: str = "smollm2-135m"
    task: str = "ioi"
    examples: int = 10
    method: str = "positional"
    seed: int = 0
    options: Options = ()
    pairs: PromptPairs | None = None

    @classmethod
    def of(cls, discovery: Discovery) -> RunRequest:
        """The request that a saved discovery answers.

        Raises:
            UserError: its seed is no seed.
        """
        settings = dict(discovery.settings)
        method, seed = str(settings.pop("method", "positional")), settings.pop("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise UserError("The saved discovery cannot be shown: its seed is not a whole number from 0 on.")
        return cls(
            model=discovery.model_name,
            task=discovery.task,
            examples=discovery.n_positive,
            method=method,
            seed=seed,
            options=changed_options(method, settings),
            pairs=discovery.prompts if discovery.task == CUSTOM else None,
        )

    def settable(self) -> bool:
        """Whether the sidebar can be set to this; a file may bring settings that no control has."""
        query = {name: text for name, text in self.to_query().items() if name != "prompts"}
        plain = replace(self, pairs=None, examples=self.examples if self.task != CUSTOM else RunRequest.examples)
        return self.from_query(query, TASKS) == (plain, []) and (self.task != CUSTOM or self.pairs is not None)

    def to_query(self) -> dict[str, str]:
        """The query string's parameters; prompts too long for a link are not among them."""
        named = {"model": self.model, "task": self.task, "method": self.method, "seed": str(self.seed)}
        if self.task != CUSTOM:
            named["examples"] = str(self.examples)
        elif self.pairs is not None and len(packed := pack_pairs(self.pairs)) <= MAX_PACKED:
            named["prompts"] = packed
        return {**named, **{name: str(value) for name, value in self.options}}

    @classmethod
    def from_query(cls, query: Mapping[str, str], tasks: Mapping[str, Any]) -> tuple[RunRequest, list[str]]:
        """The request that a link asks for, defaults where it says nothing; names of parameters not understood."""
        default = cls()
        bad: list[str] = []
        task = query.get("task", default.task)
        if task not in tasks and task != CUSTOM:
            bad, task = [*bad, "task"], default.task
        method = query.get("method", default.method)
        if method not in METHODS:
            bad, method = [*bad, "method"], default.method
        numbers = {"examples": (1, MAX_EXAMPLES, default.examples), "seed": (0, MAX_SEED, default.seed)}
        values: dict[str, int] = {}
        for name, (low, high, fallback) in numbers.items():
            parsed = _parse(query[name], int) if name in query else fallback
            if parsed is None or not low <= parsed <= high:
                bad, parsed = [*bad, name], fallback
            values[name] = parsed
        options, bad_options = _options_from_query(method, query)
        pairs = unpack_pairs(query["prompts"]) if task == CUSTOM and "prompts" in query else None
        if task == CUSTOM:  # as many as there are rows
            values["examples"] = default.examples if pairs is None else len(pairs)
        if pairs is None and "prompts" in query:
            bad.append("prompts")
        if SHOWN_AT in query and threshold_of(query) is None:
            bad.append(SHOWN_AT)
        known = {"model", "task", "method", "prompts", SHOWN_AT, *numbers, *get_type_hints(METHODS[method])}
        bad += bad_options + [name for name in query if name not in known]
        model = query.get("model", "").strip() or default.model
        return cls(model, task, values["examples"], method, values["seed"], options, pairs), bad


def threshold_of(query: Mapping[str, str]) -> float | None:
    """The threshold that a link names, None where it names none that makes sense."""
    value = _parse(query.get(SHOWN_AT, ""), float)
    return value if isinstance(value, float) and 0 <= value < math.inf else None


def pack_pairs(pairs: PromptPairs) -> str:
    """Prompt pairs as text for a link: their JSON, packed with zlib, in base64."""
    text = json.dumps(pairs.to_dict(), separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode().rstrip("=")


def unpack_pairs(text: str) -> PromptPairs | None:
    """The custom prompt pairs that a link's text stands for, None where it stands for none."""
    unpacker = zlib.decompressobj()
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        found = PromptPairs.from_dict(json.loads(unpacker.decompress(packed, MAX_UNPACKED)))
    except (ValueError, zlib.error, RecursionError, UserError):
        return None
    whole = unpacker.eof and not unpacker.unused_data
    return found if whole and found.task == CUSTOM else None


def changed_options(method: str, values: Mapping[str, Any]) -> Options:
    """Those of the values that differ from the method's defaults."""
    if method not in METHODS:
        return tuple(sorted(values.items()))
    defaults = {f.name: f.default for f in fields(METHODS[method])}
    return tuple(sorted((name, value) for name, value in values.items() if value != defaults.get(name)))


def _options_from_query(method: str, query: Mapping[str, str]) -> tuple[Options, list[str]]:
    found: dict[str, Any] = {}
    bad: list[str] = []
    for name, kind in get_type_hints(METHODS[method]).items():
        if name not in query:
            continue
        value = _parse(query[name], kind)
        try:
            method_settings(method, {**found, name: value})
        except UserError:
            bad.append(name)
        else:
            found[name] = value
    return changed_options(method, found), bad


def _parse(text: str, kind: Any) -> Any:
    """The value a parameter's text stands for; None where it stands for none."""
    if get_args(kind):
        return text
    if kind is bool:
        return {"True": True, "False": False}.get(text)
    try:
        return kind(text)
    except ValueError:
        return None
