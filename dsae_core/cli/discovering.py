"""dsae discover: score every head from prompt pairs."""

from __future__ import annotations

import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsae_core.cli.options import (
    DeviceOption,
    JsonOption,
    ModelOption,
    ProgressBar,
    PromptsOption,
    SeedOption,
    TaskOption,
    check_target,
    load,
    pairs_source,
)
from dsae_core.errors import UserError
from dsae_core.files import write_atomic
from dsae_core.settings import METHODS, method_settings

if TYPE_CHECKING:
    from dsae_core.circuits import Circuit
    from dsae_core.result import Discovery


FEW_PAIRS = 5
"""With fewer, the reader of a ranking is told to give more."""

_SETTINGS = " ".join(f"{name} has {', '.join(f.name for f in fields(cls))}." for name, cls in METHODS.items())


def discover(
    model: ModelOption = "smollm2-135m",
    task: TaskOption = None,
    prompts: PromptsOption = None,
    examples: Annotated[int, typer.Option(min=1, help="Prompt pairs to draw for a task.")] = 10,
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(METHODS)}.")] = "positional",
    seed: SeedOption = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help=f"A setting of the method; repeatable. {_SETTINGS}"),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Heads in the predicted circuit.")] = 20,
    rate: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Instead as many heads as this rate of false discoveries allows."),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Circuit JSON to compare with, in place of the stored one.")
    ] = None,
    json_file: JsonOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Score every attention head from prompt pairs."""
    options = _method_options(method, setting or [])
    check_target(json_file)
    source = pairs_source(task, prompts)
    given = None if truth is None else _read_truth(truth)
    with ProgressBar() as bar:
        start = time.perf_counter()
        language_model = load(model, device, bar.update)
        load_seconds = time.perf_counter() - start
        pairs = source(language_model.tokenizer, examples, seed)
        if prompts is not None:
            from dsae_core.behaviour import discover_checked as run
        else:
            from dsae_core.discovery import discover as run

        found = run(language_model, pairs, method=method, seed=seed, progress=bar.update, **options)
    found = replace(found, timings={"load": load_seconds, **found.timings})
    circuit = found.circuit(top_k=top_k) if rate is None else found.circuit(rate=rate)
    metrics = _metrics(found, circuit, _stored_truth(found) if given is None else given)
    _print_discovery(found, circuit, metrics)
    if len(pairs) < FEW_PAIRS:
        typer.echo(f"With {len(pairs)} of 5 to 10 prompt pairs chance ranks high.")
    if json_file is not None:
        document = {**found.to_dict(), "circuit": [list(head) for head in circuit.heads], "metrics": metrics}
        write_atomic(json_file, json.dumps(document, separators=(",", ":")) + "\n")
        typer.echo(f"Written to {json_file}")


def _method_options(method: str, assignments: list[str]) -> dict[str, Any]:
    """Settings given as NAME=VALUE, read as JSON where they are JSON and as text otherwise."""
    options: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise UserError(f"--set {assignment!r} is not of the form NAME=VALUE.")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    method_settings(method, options)
    return options


def _read_truth(path: Path) -> Circuit:
    from dsae_core.circuits import read_circuit

    return read_circuit(path)


def _stored_truth(found: Discovery) -> Circuit | None:
    from dsae_core.circuits import stored_circuit

    return stored_circuit(found.model_name, found.task)


def _metrics(found: Discovery, circuit: Circuit, truth: Circuit | None) -> dict[str, Any] | None:
    """Node AUC and average precision, and precision (None where no head is predicted) and recall of the predicted
    circuit; None without a truth.
    """
    if truth is None:
        return None
    evaluation = found.evaluate(truth)
    hits = len(set(circuit.heads) & set(truth.heads))
    return {
        "truth": truth.name,
        "truth_heads": len(truth),
        "auc": evaluation.auc,
        "average_precision": evaluation.average_precision,
        "predicted_heads": len(circuit),
        "precision": hits / len(circuit) if len(circuit) else None,
        "recall": hits / len(truth),
    }


def _print_discovery(found: Discovery, circuit: Circuit, metrics: dict[str, Any] | None) -> None:
    for line in _listed_heads(found, len(circuit)):
        typer.echo(line)
    if metrics is None:
        typer.echo("No truth is stored for this model and task; measure one with dsae ground-truth.")
    else:
        precision = "-" if metrics["precision"] is None else f"{metrics['precision']:.2f}"
        typer.echo(
            f"Against the {metrics['truth']} circuit ({metrics['truth_heads']} heads): AUC {metrics['auc']:.3f}, "
            f"average precision {metrics['average_precision']:.3f}, precision {precision}, "
            f"recall {metrics['recall']:.2f}"
        )
    typer.echo("Seconds: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in found.timings.items()))
    for note in found.warnings:
        typer.echo(f"Note: {note}")


def _listed_heads(found: Discovery, n_listed: int) -> list[str]:
    """The best heads, five a line, parted where the page's circuit ends, and how many of them are there by chance."""
    from dsae_core.significance import RATE

    ranking = found.ranking()
    best = [f"{layer}.{head} {float(found.node_scores[layer, head]):.2f}" for layer, head in ranking[:n_listed]]
    lines = [f"{n_listed} best heads of {len(ranking)} (layer.head, score):"]
    rates = found.false_discovery_rates()
    if rates is None:
        return lines + _in_fives(best)
    cut = int((rates <= RATE).sum())
    lines += _in_fives(best[:cut])
    if 0 < cut < n_listed:
        lines.append(f"  -- up to here, an estimated {_percent(RATE)} false discoveries --")
    lines += _in_fives(best[cut:])
    lines.append(f"At an estimated {_percent(RATE)} false discoveries: {cut} head{'' if cut == 1 else 's'}.")
    if best:
        among = _percent(float(rates[ranking[n_listed - 1]]))
        lines[-1] += f" Of those listed, an estimated {among} are false discoveries."
    return lines


def _in_fives(cells: list[str]) -> list[str]:
    return [
        "  " + "   ".join(f"{text:<12}" for text in cells[start : start + 5]).rstrip()
        for start in range(0, len(cells), 5)
    ]


def _percent(rate: float) -> str:
    return f"{100 * rate:.0f} %" if rate >= 0.005 else "<1 %"
