"""What a patching run has measured so far, in a file beside its target, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsae_core.errors import UserError
from dsae_core.files import read_text, write_atomic
from dsae_core.prompts import PromptPairs

SCHEMA = 1

Notice = Callable[[str], object]
"""Called with a sentence for whoever started the run."""


def partial_path(target: Path) -> Path:
    """Where a run that will write `target` keeps what it has measured: beside it."""
    return target.with_name(f"{target.name}.partial")


def prompts_digest(pairs: PromptPairs) -> str:
    """SHA-256 of the prompts, their answers and the metric."""
    return hashlib.sha256(json.dumps(pairs.to_dict()).encode()).hexdigest()


def run_identity(
    *, model: str, digest: str, device: str, pairs: PromptPairs, seed: int, ablation: str
) -> dict[str, str | int]:
    """Everything that a head's loss depends on; runs that agree in it may share what they measured."""
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    return {
        "model": model,
        "model_digest": digest,
        "device": device,
        "prompts": prompts_digest(pairs),
        "seed": seed,
        "ablation": ablation,
        "versions": ", ".join(versions),
    }


class PatchingRecord:
    """The losses of the forward passes that were done, by the name of the pass, each [N, heads or paths] float64.

    Attributes:
        metrics: [N] float64 on the positives and on the negatives, once they are known.
    """

    def __init__(self, path: Path | None = None, identity: Mapping[str, str | int] | None = None) -> None:
        """An empty record; without a path it is kept in memory only."""
        self._path = path
        self._identity = dict(identity or {})
        self._losses: dict[str, list[list[float]]] = {}
        self.metrics: tuple[Tensor, Tensor] | None = None

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, str | int], *, notice: Notice) -> PatchingRecord:
        """The record in a file, or an empty one where there is none or it is another run's; `notice` says so."""
        record = cls(path, identity)
        if not path.exists():
            return record
        try:
            data = json.loads(read_text(path, "the partial measurement"))
            before = dict(data["identity"]) if data["schema"] == SCHEMA else {}
            metrics = _numbers(data["metrics"])
            losses = {str(name): _numbers(rows) for name, rows in data["losses"].items()}
            positive, negative = (torch.tensor(side, dtype=torch.float64) for side in metrics)
            if any(len(rows) != len(positive) for rows in (negative.tolist(), *losses.values())):
                raise ValueError("rows")
        except (UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            notice(f"{path} is damaged and is not used; everything is measured again.")
            return record
        differing = [name for name, value in record._identity.items() if before.get(name) != value]
        if differing:
            notice(f"{path} is of another run, which differs in {', '.join(differing)}; it is not used.")
            return record
        record.metrics, record._losses = (positive, negative), losses
        return record

    def get(self, name: str, width: int) -> Tensor | None:
        """The losses [N, width] of a pass; None where it is still to be done."""
        rows = self._losses.get(name)
        if rows is None or any(len(row) != width for row in rows):
            return None
        return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), width)

    def put(self, name: str, losses: Tensor) -> None:
        """Keep the losses [N, width] of a pass, in the file too; `metrics` must be known."""
        self._losses[name] = losses.double().tolist()
        if self._path is None:
            return
        assert self.metrics is not None
        document = {
            "schema": SCHEMA,
            "identity": self._identity,
            "metrics": [side.tolist() for side in self.metrics],
            "losses": self._losses,
        }
        write_atomic(self._path, json.dumps(document) + "\n")

    def remove(self) -> None:
        """Take the file away."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _numbers(rows: Any) -> list[list[float]]:
    """Rows of finite numbers, as they were written."""
    numbers = [[float(value) for value in row] for row in rows]
    if not all(math.isfinite(value) for row in numbers for value in row):
        raise ValueError("not finite")
    return numbers
