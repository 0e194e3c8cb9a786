"""Saved discoveries: a file that is read must be shown, written and read back; a page's upload likewise."""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from dsae_core.errors import UserError
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery, read_discovery
from dsae_core.ui import run_files
from fuzz.documents import mutate_json
from fuzz.scratch import scratch_file
from fuzz.target import Target, require


def example(task: str, pooled: bool) -> Discovery:
    """2 layers of 2 heads, 2 pairs, 2 positions or pooled."""
    n_positions = 1 if pooled else 2
    generator = torch.Generator().manual_seed(0)
    return Discovery(
        node_scores=torch.rand(2, 2, generator=generator),
        pair_scores=torch.eye(4),
        codes=torch.randint(-1, 5, (4, n_positions, 4), generator=generator, dtype=torch.int32),
        activations=torch.rand(4, n_positions, 4, generator=generator),
        n_positive=2,
        tokens=(("a", " b"), ("a", " c"), ("a", " d"), ("", "e")),
        settings={"method": "positional", "seed": 1, "threshold": 0.5},
        timings={"train": 0.5},
        provenance={"model": "toy", "versions": {"torch": "2"}},
        prompts=PromptPairs(("a b", "a c"), ("a d", "e"), ((" x",), (" y", " z")), ((" u",), (" v",)), task=task),
        warnings=("a warning",),
        edge_scores=None if pooled else torch.zeros(4, 4),
    )


_SEEDS = (
    json.dumps(example("ioi", False).to_dict()).encode(),
    json.dumps({**example("custom", True).to_dict(), "name": "a name"}).encode(),
)


def _run(data: bytes) -> None:
    with scratch_file(data) as path:
        try:
            found = read_discovery(path)
        except UserError:
            found = None
    if found is not None:
        _check(found)
    try:
        shown, name = run_files.parse_named(data)
    except UserError:
        return
    again, same_name = run_files.parse_named(run_files.named_json(shown, name))
    require(again.to_dict() == shown.to_dict(), "upload reads back")
    require(name == same_name and len(name) <= run_files.MAX_NAME, "its name is another")


def _check(found: Discovery) -> None:
    document = found.to_dict()
    text = json.dumps(document, allow_nan=False)
    require(Discovery.from_dict(json.loads(text)).to_dict() == document, "the run does not read back")
    json.dumps(document, ensure_ascii=False).encode()  # a page shows any text in it
    require(_is_finite(document), "a number that is not finite was taken")
    require(len(found.to_frame()) == found.node_scores.numel(), "the table has other heads")
    require(len(found.ranking()) == found.node_scores.numel(), "the ranking has other heads")
    require(found.circuit(top_k=1).heads == tuple(found.ranking()[:1]), "the best head is another")
    require(bool(torch.isfinite(found.softmax()).all()), "the softmax is not finite")


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


TARGETS = {"saved_run": Target(_run, _SEEDS, mutate_json)}
