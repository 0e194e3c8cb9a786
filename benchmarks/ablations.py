"""What each step of the positional method brings, on the development draws (seeds 0 to 4) of three tasks.

    python benchmarks/ablations.py --json benchmarks/results/ablations.json

Each line takes one step out of the method, or changes one setting, and leaves the rest. Settings were chosen on these
draws; figures that are reported come from others (seeds from 100 on).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from dsae_core.circuits import Circuit, stored_circuit
from dsae_core.codes import INACTIVE
from dsae_core.contrast import code_contrast
from dsae_core.dictionary import train_per_head
from dsae_core.discovery import discover_from_activations
from dsae_core.files import write_atomic
from dsae_core.flow import Surroundings, depth_weight
from dsae_core.metrics import evaluate
from dsae_core.models import HeadOutputs, LanguageModel, collect_head_outputs, load_model, output_weights, tokenize
from dsae_core.ops import encode_codes
from dsae_core.result import Discovery
from dsae_core.settings import PositionalSettings
from dsae_core.tasks import TASKS


@dataclass(frozen=True)
class Draw:
    """Forward passes over one draw of P pairs, and what they show."""

    outputs: HeadOutputs
    mask: Tensor
    w_o: Tensor
    around: Surroundings
    seed: int

    @property
    def n_positive(self) -> int:
        """P."""
        return len(self.mask) // 2


Score = Callable[[Draw], Tensor]
"""Node scores [L, heads] of a draw."""


@dataclass(frozen=True)
class Variant:
    """The method with one thing changed."""

    name: str
    score: Score


def of_method(
    draw: Draw,
    around: Surroundings | None = None,
    *,
    negatives: int | None = None,
    seed: int | None = None,
    **options: Any,
) -> Discovery:
    """The method on a draw, with other surroundings, settings or seed, or on the first few negatives only."""
    n = draw.n_positive
    last = len(draw.mask) if negatives is None else n + negatives
    return discover_from_activations(
        draw.outputs.z[:n],
        draw.outputs.z[n:last],
        draw.w_o,
        draw.mask[:last],
        surroundings=draw.around if around is None else around,
        seed=draw.seed if seed is None else seed,
        **options,
    )


def changed(change: Callable[[Surroundings], Surroundings]) -> Score:
    """The method where less is known of the stream."""
    return lambda draw: of_method(draw, change(draw.around)).node_scores


def set_to(**options: Any) -> Score:
    """The method with other settings."""
    return lambda draw: of_method(draw, **options).node_scores


def voting(runs: Sequence[dict[str, Any]]) -> Score:
    """The mean of several runs' scores."""
    return lambda draw: torch.stack([of_method(draw, **run).node_scores for run in runs]).mean(dim=0)


def unpaired(draw: Draw) -> Tensor:
    """All but one of the negatives, so that there are no pairs: each positive is read against their mean."""
    around = replace(draw.around, residual_norm=_rows(draw.around.residual_norm, len(draw.mask) - 1))
    return of_method(draw, around, negatives=draw.n_positive - 1).node_scores


def pooled(draw: Draw) -> Tensor:
    """Each prompt's mean over its tokens, as for prompts that don't align."""
    real = draw.mask.to(draw.outputs.z.dtype)
    z = torch.einsum("etlhd,et->elhd", draw.outputs.z, real / real.sum(dim=1, keepdim=True)).unsqueeze(1)
    n = draw.n_positive
    return discover_from_activations(z[:n], z[n:], draw.w_o, seed=draw.seed).node_scores


def reranked(draw: Draw) -> Tensor:
    """Scores times the fifth root of what the head's direct paths bring to heads that score."""
    found = of_method(draw)
    assert found.edge_scores is not None
    reached = found.edge_scores @ found.node_scores.flatten()
    return found.node_scores * (reached.reshape(found.node_scores.shape) + 1e-3 * reached.max()) ** 0.2


def one_dictionary(draw: Draw) -> Tensor:
    """One TopK dictionary of 256 features for all heads, on what they write, in d_model numbers."""
    outputs, n = draw.outputs, draw.n_positive
    root = outputs.residual_norm.permute(1, 2, 0)[..., None, None].clamp_min(1e-6).sqrt()
    written = torch.einsum("etlhd,lhdk->etlhk", outputs.z, draw.w_o) / root
    real = draw.mask[:, :, None, None, None].to(written.dtype)
    written = ((written - (written * real).sum(dim=0) / real.sum(dim=0).clamp_min(1)) * real).flatten(2, 3)
    scale = written[draw.mask].norm(dim=-1).mean()
    written = written / scale
    generator = torch.Generator().manual_seed(draw.seed)
    learnt = train_per_head(
        written[draw.mask].flatten(0, 1).unsqueeze(0),
        n_features=256,
        k=1,
        epochs=20,
        learning_rate=1e-2,
        generator=generator,
    )
    rows = written.flatten(0, 2)[None, :, None]  # [1, E T H, 1, D]
    codes, activations = encode_codes(rows, learnt.encoder, learnt.bias, threshold=0.5)
    codes, activations = codes.reshape(written.shape[:3]), activations.reshape(written.shape[:3])
    codes = codes.masked_fill(~draw.mask.unsqueeze(-1), INACTIVE)
    weight = draw.around.weight.repeat_interleave(written.shape[2] // draw.around.weight.shape[2], dim=2)
    decoder = learnt.decoder.expand(written.shape[2], -1, -1)
    node = code_contrast(codes, activations, decoder, n, weight).reshape(outputs.z.shape[2:4])
    scores: Tensor = scale * node * draw.around.emphasis(PositionalSettings().change_weight)
    return scores


def _rows(values: Tensor | None, n: int) -> Tensor | None:
    return None if values is None else values[:n]


VARIANTS = (
    Variant("the method", set_to()),
    Variant("without its share of the change", changed(lambda around: replace(around, shares=None))),
    Variant("depth in place of reach", changed(lambda a: replace(a, weight=depth_weight(*a.weight.shape)))),
    Variant("neither reach nor depth", changed(lambda a: replace(a, weight=torch.ones_like(a.weight)))),
    Variant("without the stream's norm", changed(lambda around: replace(around, residual_norm=None))),
    Variant("head outputs alone", changed(lambda around: Surroundings.unknown(*around.weight.shape))),
    Variant("32 features", set_to(n_features=32)),
    Variant("128 features", set_to(n_features=128)),
    Variant("k = 2", set_to(k=2)),
    Variant("no training", set_to(epochs=0)),
    Variant("60 epochs", set_to(epochs=60)),
    Variant("threshold 0", set_to(threshold=0.0)),
    Variant("threshold 1", set_to(threshold=1.0)),
    Variant("three seeds, mean score", voting([{"seed": seed} for seed in (1, 2, 3)])),
    Variant("32, 64 and 128 features, mean score", voting([{"n_features": n} for n in (32, 64, 128)])),
    Variant("one dictionary for all heads", one_dictionary),
    Variant("re-ranked by its edges", reranked),
    Variant("nine negatives, no pairs", unpaired),
    Variant("positions pooled", pooled),
)


def main() -> None:
    """Run and print one line a variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default="ioi,greater_than,docstring")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    model, tasks = load_model(asked.model), asked.tasks.split(",")
    rows = []
    for task in tasks:
        truth = stored_circuit(model.name, task)
        assert truth is not None
        for draw in range(asked.draws):
            rows += measured(model, task, draw, truth)
    print(f"| variant | {' | '.join(tasks)} | mean |\n|{'---|' * (len(tasks) + 2)}")
    for variant in VARIANTS:
        cells = [_cell(rows, variant, [task]) for task in tasks]
        print(f"| {variant.name} | {' | '.join(cells)} | {_cell(rows, variant, tasks)} |")
    if asked.json is not None:
        write_atomic(asked.json, json.dumps({"schema": 1, "model_digest": model.digest, "rows": rows}, indent=1) + "\n")


def _cell(rows: list[dict[str, Any]], variant: Variant, tasks: list[str]) -> str:
    chosen = [row for row in rows if row["variant"] == variant.name and row["task"] in tasks]
    return f"{mean(r['auc'] for r in chosen):.3f} / {mean(r['average_precision'] for r in chosen):.2f}"


def measured(model: LanguageModel, task: str, seed: int, truth: Circuit) -> list[dict[str, Any]]:
    """One row a variant on one draw of 10 + 10 prompts."""
    pairs = TASKS[task].make(model.tokenizer, 10, seed)
    batch = tokenize(model, [*pairs.positive, *pairs.negative])
    outputs, w_o = collect_head_outputs(model, batch, routes=True), output_weights(model)
    draw = Draw(outputs, batch.mask, w_o, Surroundings.of(outputs, w_o, len(pairs)), seed)
    members = torch.tensor(truth.membership(model.n_layers, model.n_heads))
    rows = []
    for variant in VARIANTS:
        found = evaluate(variant.score(draw), members)
        figures = {"auc": found.auc, "average_precision": found.average_precision}
        rows.append({"task": task, "draw": seed, "variant": variant.name, **figures})
    return rows


if __name__ == "__main__":
    main()
