"""A run as a file: written with its name, and read from somebody's upload, which may be anything."""

from __future__ import annotations

import json
import math

import orjson

from dsae_core import documents
from dsae_core.codes import INACTIVE
from dsae_core.errors import UserError
from dsae_core.result import Discovery
from dsae_core.ui.request import RunRequest
from dsae_core.ui.view import View

MAX_NAME = 120
"""Characters of a run's name."""


def clean_name(name: str) -> str:
    """A name on one line, without control characters, cut to MAX_NAME."""
    return "".join(c for c in " ".join(name.split()) if c.isprintable())[:MAX_NAME].strip()


def named_json(found: Discovery, name: str) -> bytes:
    """A run's JSON with the name that somebody gave it, which readers of a Discovery pass over."""
    text = found.to_json()
    return text[:-1] + b',"name":' + orjson.dumps(name) + b"}" if name else text


def parse_named(content: bytes) -> tuple[Discovery, str]:
    """The discovery in an uploaded file, checked for all that the pages rely on, and its name, "" where it has none.

    Raises:
        UserError: it is not one; the message says what is wrong.
    """
    try:
        data = json.loads(content.decode("utf-8-sig"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # of bytes, of JSON, and of numbers with too many digits
        raise UserError(
            "The file is not JSON; choose one that Export, Discovery.save or dsae discover --json wrote."
        ) from error
    if isinstance(data, dict) and "heads" in data and "node_scores" not in data:
        raise UserError("This is a circuit alone; choose a file of Export, Discovery (JSON): it has the scores, too.")
    found = Discovery.from_dict(data)
    check(found)
    try:
        name = clean_name(documents.text(data.get("name", ""), "its name"))
    except ValueError as error:
        raise UserError(f"The saved discovery is malformed: {error}.") from error
    return found, name


def check(found: Discovery) -> None:
    """Raise a UserError where a discovery, well-formed as such, has values that no run gives."""
    n_all, n_positions = found.codes.shape[:2]
    timings = found.timings.values()
    tests = {
        "it has no scores": found.node_scores.numel() > 0 and n_positions > 0,
        "it needs positive and negative prompts": 0 < found.n_positive < n_all,
        "its codes are out of range": bool((found.codes >= INACTIVE).all()),
        "its prompts are not as many as its codes": found.prompts is None
        or len(found.prompts) == found.n_positive == n_all - found.n_positive,
        "its tokens do not fit its codes": n_positions == 1 or all(len(row) == n_positions for row in found.tokens),
        "its times are not durations": all(math.isfinite(value) and value >= 0 for value in timings),
        "its settings are not plain values": all(
            isinstance(value, str | int | float) and len(str(value)) <= 100 for value in found.settings.values()
        ),
        "a name in it is too long": max(map(len, (found.model_name, found.task))) <= 300,
    }
    for complaint, fine in tests.items():
        if not fine:
            raise UserError(f"The saved discovery cannot be shown: {complaint}.")
    RunRequest.of(found)
    _ = View.of(found).evaluation  # refuses one whose heads are not those of the model it names


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
