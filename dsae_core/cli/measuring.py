"""dsae ground-truth: measure every head's effect by exact patching."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsae_core.cli.options import (
    TASK_NAMES,
    DeviceOption,
    JsonOption,
    ProgressBar,
    PromptsOption,
    SeedOption,
    ablation_named,
    check_one_source,
    check_target,
    check_task,
    listed,
    load,
    read_prompts,
)
from dsae_core.cli.placing import AddressOption, EngineOption, ThreadsOption, WorkersOption, notify, placement_of
from dsae_core.errors import UserError

if TYPE_CHECKING:
    from dsae_core.circuits import Circuit
    from dsae_core.measurement import Plan, Target
    from dsae_core.prompts import PromptPairs


def ground_truth(
    models: Annotated[
        str, typer.Option("--models", "--model", help="Models, separated by commas: known names, hub names, folders.")
    ] = "smollm2-135m",
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            "--task",
            help=f"Built-in tasks, separated by commas: {TASK_NAMES}.",
        ),
    ] = None,
    prompts: PromptsOption = None,
    examples: Annotated[int, typer.Option(min=1, help="Prompt pairs to patch on; 32 or more for a record.")] = 32,
    seed: SeedOption = 1000,
    threshold: Annotated[float, typer.Option(min=0.0, help="Smallest effect that counts, as a share.")] = 0.02,
    ablation: Annotated[
        str, typer.Option(help="What a patched head puts out: interchange, mean or zero.")
    ] = "interchange",
    edges: Annotated[bool, typer.Option("--edges", help="Also patch every direct path between its heads.")] = False,
    json_file: JsonOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write one file for every model and task into this folder; finished ones are kept."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Use nothing that an earlier run has measured.")] = False,
    device: DeviceOption = "cpu",
    engine: EngineOption = "local",
    address: AddressOption = None,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Measure every head's effect by exact patching, and write the circuit.

    Every pass is kept beside the circuit's file as it is done: after an interruption the same command goes on there.
    """
    check_one_source(tasks, prompts)
    names = ["custom"] if tasks is None else listed(tasks)
    for name in () if tasks is None else names:
        check_task(name)
    own_pairs = None if prompts is None else read_prompts(prompts)
    from dsae_core.measurement import Plan, describe_circuit

    plan = Plan(
        seed, ablation_named(ablation), threshold, edges, keep_finished=out is not None and not fresh, fresh=fresh
    )
    place = placement_of(engine, address=address, workers=workers, threads=threads, device=device)
    targets = _targets(listed(models), names, json_file, out)
    unmeasured: list[tuple[Target, str]] = []

    def show(target: Target, circuit: Circuit) -> None:
        if len(targets) > 1:
            typer.echo(f"{target.model} on {target.task}:")
        for line in describe_circuit(circuit):
            typer.echo(line)
        if target.path is not None:
            typer.echo(f"Written to {target.path}")

    with ProgressBar() as bar:
        if place is None:
            for target, found in _measure_here(targets, plan, own_pairs, examples, device, bar):
                if isinstance(found, UserError):
                    unmeasured.append((target, str(found)))
                else:
                    show(target, found)
        else:
            from dsae_core.engines.measuring import measure_on_ray

            unmeasured = measure_on_ray(
                targets,
                place,
                plan,
                examples=examples,
                pairs=own_pairs,
                notice=notify,
                progress=bar.update,
                on_circuit=show,
            )
    if len(targets) == 1 and unmeasured:
        raise UserError(unmeasured[0][1])
    for target, reason in unmeasured:
        typer.echo(f"Not measured: {target.model} on {target.task}. {reason}")
    if unmeasured:
        raise UserError(f"{len(unmeasured)} of {len(targets)} circuits were not measured.")


def _targets(models: list[str], names: list[str], json_file: Path | None, out: Path | None) -> list[Target]:
    """What is to be measured, and where it goes; what cannot be is refused before any work is done for it."""
    from dsae_core.measurement import Target, folder_targets

    if json_file is not None and out is not None:
        raise UserError("Give either --json, for one circuit, or --out, for any number.")
    if out is None:
        if len(models) * len(names) > 1:
            raise UserError("Several circuits go into a folder; name one with --out.")
        check_target(json_file)
        return [Target(models[0], names[0], json_file)]
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot write into {out}: {error.strerror}; give a folder, or one whose parent exists."
        ) from error
    return folder_targets(out, models, names)


def _measure_here(
    targets: Sequence[Target], plan: Plan, own_pairs: PromptPairs | None, examples: int, device: str, bar: ProgressBar
) -> Iterator[tuple[Target, Circuit | UserError]]:
    """Measure one target after another in this process: each with its circuit, or with what kept it from being one."""
    from dsae_core.measurement import finished_circuit, measure_circuit
    from dsae_core.tasks import TASKS

    for name, same_model in itertools.groupby(targets, key=lambda target: target.model):
        own = list(same_model)
        try:
            model = load(name, device, bar.update)
        except UserError as error:
            yield from ((target, error) for target in own)
            continue
        for target in own:
            try:
                pairs = own_pairs or TASKS[target.task].make(model.tokenizer, examples, plan.seed)
                found = finished_circuit(target, plan, model, pairs, notice=notify)
                if found is None:
                    found = measure_circuit(model, pairs, plan, target, notice=notify, progress=bar.update)
                yield target, found
            except UserError as error:
                yield target, error
