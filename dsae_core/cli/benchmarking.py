"""dsae benchmark and dsae published: tables of methods against circuits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsae_core.cli.options import (
    METHOD_NAMES,
    TASK_NAMES,
    DeviceOption,
    JsonOption,
    ProgressBar,
    check_figure,
    check_target,
    listed,
    load,
)
from dsae_core.cli.placing import AddressOption, EngineOption, ThreadsOption, WorkersOption, notify, placement_of
from dsae_core.errors import UserError
from dsae_core.files import write_atomic

if TYPE_CHECKING:
    from dsae_core.benchmark import Benchmark
    from dsae_core.engines.cluster import Placement
    from dsae_core.engines.pool import Failed


def benchmark(
    models: Annotated[
        str, typer.Option("--models", "--model", help="Models, separated by commas: known names, hub names, folders.")
    ] = "smollm2-135m",
    tasks: Annotated[str, typer.Option(help=f"Some of, with commas: {TASK_NAMES}.")] = "ioi,greater_than,docstring",
    methods: Annotated[str, typer.Option(help=f"all, or some of, with commas: {METHOD_NAMES}.")] = "all",
    draws: Annotated[int, typer.Option(min=1, help="Draws of prompts.")] = 5,
    first_draw: Annotated[int, typer.Option(min=0, help="Seed of the first draw; the others follow.")] = 0,
    examples: Annotated[int, typer.Option(min=1, help="Prompt pairs a draw.")] = 10,
    truth: Annotated[
        list[Path] | None,
        typer.Option(help="Circuit JSON to compare its model and task with, in place of a stored one; repeatable."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write each row to this file as it is done; what the file has is not run again."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start the file over.")] = False,
    merge: Annotated[
        list[Path] | None, typer.Option(help="Run nothing: put this file and the others given so together; repeatable.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw how alike methods rank heads on different draws, as this SVG file.")
    ] = None,
    device: DeviceOption = "cpu",
    engine: EngineOption = "local",
    address: AddressOption = None,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Compare methods with the measured circuits, and print the table."""
    from dsae_core.benchmark import ALL_METHODS, check_methods, check_tasks, merge_benchmarks, read_benchmark
    from dsae_core.circuits import read_circuit

    check_target(json_file)
    check_figure(figure)
    if figure is not None and not merge and draws < 2:
        raise UserError("A figure of stability needs at least two draws; give --draws 2 or more.")
    place = partial(placement_of, engine, address=address, workers=workers, threads=threads, device=device)
    place()  # or refuse at once
    failed: list[Failed] = []
    if merge:
        done = shown = merge_benchmarks([read_benchmark(path) for path in merge])
    else:
        names, chosen, seeds = listed(models), listed(tasks), range(first_draw, first_draw + draws)
        ways = ALL_METHODS if methods == "all" else tuple(listed(methods))
        check_tasks(chosen)
        check_methods(ways)
        known = read_benchmark(json_file) if json_file is not None and json_file.exists() and not fresh else None
        done, failed = _run(
            names,
            place(usual_threads=1 if known is None else known.settings["threads"]),
            device,
            tasks=chosen,
            methods=ways,
            draws=seeds,
            examples=examples,
            truths=[read_circuit(path) for path in truth or []],
            known=known,
            save=None if json_file is None else lambda rows: rows.save(json_file),
        )
        shown = done.only(models=names, tasks=chosen, methods=ways, draws=seeds)
    _print_table(shown)
    if json_file is not None:
        done.save(json_file)
        typer.echo(f"Written to {json_file}")
    if figure is not None:
        from dsae_core.figures import save_svg, stability_chart

        save_svg(stability_chart(shown.stability()), figure)
        typer.echo(f"Written to {figure}")
    if failed:
        raise UserError(f"{len(failed)} rows are missing, for they failed three times; the same command tries again.")


def _run(
    models: Sequence[str], place: Placement | None, device: str, *, known: Benchmark | None, **asked: Any
) -> tuple[Benchmark, list[Failed]]:
    """Run what is asked for, as run_benchmark() names it, here or on Ray's workers; also the rows that failed."""
    from dsae_core.benchmark import run_benchmark

    failed: list[Failed] = []
    with ProgressBar() as bar:
        if place is not None:
            from dsae_core.engines.benchmarking import benchmark_on_ray

            known, failed = benchmark_on_ray(models, place, notice=notify, known=known, progress=bar.update, **asked)
        else:
            for name in models:
                known = run_benchmark(load(name, device, bar.update), known=known, progress=bar.update, **asked)
    for failure in failed:
        typer.echo(f"Not run: {failure.job.label}. {failure.reason}.")
    if known is None:
        raise UserError("Every job failed three times, so nothing was run.")
    return known, failed


def _print_table(shown: Benchmark) -> None:
    for miss in shown.unsolved:
        typer.echo(f"Not scored: {miss['model']} does not do {miss['task']}, draw {miss['draw']}.")
    if not shown.rows:
        return
    typer.echo(shown.markdown())
    typer.echo(f"Compared with {'; '.join(shown.truths())}.")
    if any(row.engine == "ray" for row in shown.rows):
        typer.echo(f"Rows: {shown.measured_by()}; Ray's workers run side by side, which lengthens their seconds.")


def published(
    draws: Annotated[int, typer.Option(min=1, help="Draws of prompts and dictionaries.")] = 5,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL=FOLDER", help="Where a model's files are, if not on the hub; repeatable."),
    ] = None,
    json_file: JsonOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Run the experiment of O'Neill & Bui 2024 again, beside the authors' figures.

    GPT-2 small and attn-only-4l, a dictionary of 10 prompts, codes of 250 + 250, against the published circuits. Both
    models are fetched from the hub, once, some 0.8 GB together. Then every draw sends 500 prompts of each of three
    tasks through a model and trains a dictionary for each; --draws 1 does a fifth of the five draws' work. A model that
    cannot be had is named, with how to get it; exit code 2 where none could be.
    """
    from dsae_core.published import run_published

    check_target(json_file)
    folders: dict[str, str] = {}
    for assignment in weights or []:
        name, separator, folder = assignment.partition("=")
        if not separator or not folder:
            raise UserError(f"--weights {assignment!r} is not of the form MODEL=FOLDER.")
        folders[name] = folder
    with ProgressBar() as bar:
        done = run_published(
            lambda name: load(folders.get(name, name), device, bar.update),
            draws=range(draws),
            progress=bar.update,
        )
    if done.rows:
        typer.echo(done.markdown())
    for name, reason in done.missing.items():
        typer.echo(f"Not run: {name}. {reason}")
    if not done.rows:
        raise UserError("None of the models could be loaded, so nothing was run.")
    if json_file is not None:
        write_atomic(json_file, json.dumps(done.to_dict()) + "\n")
        typer.echo(f"Written to {json_file}")
