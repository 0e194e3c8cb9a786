"""A benchmark on the workers of a cluster: the same rows as run_benchmark gives, in the same record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dsae_core.benchmark import (
    benchmark_settings,
    check_methods,
    compared_circuit,
    merge_benchmarks,
    missing_methods,
)
from dsae_core.benchmark_record import Benchmark, join_settings
from dsae_core.circuits import Circuit
from dsae_core.engines.cluster import Placement, ray_pool
from dsae_core.engines.pool import Failed, Job, Pool
from dsae_core.engines.worker import ModelFacts, Scored, Worker
from dsae_core.errors import UserError
from dsae_core.patching_record import Notice
from dsae_core.stages import Progress

Truths = Mapping[str, Mapping[str, Circuit]]
"""By model and task, the circuit that scores are compared with."""


def benchmark_on_ray(
    models: Sequence[str],
    placement: Placement,
    *,
    tasks: Sequence[str],
    methods: Sequence[str],
    draws: Sequence[int],
    examples: int = 10,
    truths: Sequence[Circuit] = (),
    known: Benchmark | None = None,
    notice: Notice,
    progress: Progress | None = None,
    save: Callable[[Benchmark], object] | None = None,
) -> tuple[Benchmark | None, list[Failed]]:
    """run_benchmark on the workers of a Ray cluster, over any number of models, with the same arguments and errors.

    Returns:
        `known` and what was run now, together (None where there is neither), and the rows that failed three times.
    """
    jobs, compared = plan_jobs(
        models, tasks=tasks, methods=methods, draws=draws, examples=examples, truths=truths, known=known
    )
    if known is not None:  # refused before a cluster is started for it
        asked = {"examples": examples, "threads": placement.threads}
        join_settings(known.settings, {**asked, "models": [], "tasks": [], "methods": [], "draws": []})
    if not jobs:
        return known, []
    arguments = {"device": placement.device, "threads": placement.threads}
    with ray_pool(Worker, arguments, placement, notice=notice) as pool:
        return run_on(
            pool,
            jobs,
            compared,
            methods=methods,
            draws=draws,
            examples=examples,
            threads=placement.threads,
            known=known,
            progress=progress,
            save=save,
        )


def plan_jobs(
    models: Sequence[str],
    *,
    tasks: Sequence[str],
    methods: Sequence[str],
    draws: Sequence[int],
    examples: int,
    truths: Sequence[Circuit],
    known: Benchmark | None,
) -> tuple[list[Job], Truths]:
    """Every row that is not known yet, as a job, and the circuits that rows are compared with.

    Raises:
        UserError: no such task or method, or no circuit for a model and a task.
    """
    check_methods(methods)
    compared = {model: {task: compared_circuit(model, task, truths) for task in tasks} for model in models}
    jobs = [
        Job(
            model,
            "score",
            {"task": task, "draw": draw, "examples": examples, "method": method, "truth": compared[model][task]},
            label=f"{model}, {task}, draw {draw}, {method}",
            group=f"{model}, {task}, draw {draw}",
        )
        for model in models
        for task in tasks
        for draw in draws
        for method in missing_methods(known, model, task, draw, methods)
    ]
    return jobs, compared


def run_on(
    pool: Pool,
    jobs: Sequence[Job],
    compared: Truths,
    *,
    methods: Sequence[str],
    draws: Sequence[int],
    examples: int,
    threads: int,
    known: Benchmark | None,
    progress: Progress | None = None,
    save: Callable[[Benchmark], object] | None = None,
) -> tuple[Benchmark | None, list[Failed]]:
    """Do the jobs of plan_jobs.

    Args:
        pool: the workers.
        jobs: the rows to run.
        compared: the circuits they are compared with.
        methods: names of all methods that were asked for, done before or not.
        draws: all seeds, likewise.
        examples: prompt pairs a draw.
        threads: threads of each worker.
        known: what was run before; it is kept.
        progress: called as ("ray", share done).
        save: called after each row with everything that is known by then.

    Returns:
        `known` and what was run now, together, and the jobs that failed three times.

    Raises:
        UserError: what any worker's UserError says, or `known` was made with other settings.
    """
    done, failed, ended = known, [], 0
    pool.submit(jobs)
    for outcome in pool.results():
        if isinstance(outcome, Failed):
            if outcome.refused:
                raise UserError(outcome.reason)
            failed.append(outcome)
        elif isinstance(outcome.value, ModelFacts):
            facts = outcome.value
            settings = benchmark_settings(facts, compared[facts.name], methods, draws, examples, threads)
            done = _ordered(_add(done, Benchmark((), (), settings, {})), known, list(compared))
            continue  # before any work is done for it, other settings have been refused
        elif isinstance(outcome.value, Scored):
            assert done is not None  # its model's settings came first
            if outcome.value.unsolved is not None:
                pool.drop(outcome.job.group)
            done = _add(done, _part(outcome.value, done.settings))
            if save is not None:
                save(done)
        ended += 1
        if progress is not None:
            progress("ray", min(1.0, ended / len(jobs)))
    return done, failed


def _part(scored: Scored, settings: dict[str, Any]) -> Benchmark:
    if scored.row is None or scored.scores is None:
        assert scored.unsolved is not None
        return Benchmark((), (scored.unsolved,), settings, {})
    return Benchmark((scored.row,), (), settings, {scored.row.key: scored.scores.flatten().tolist()})


def _add(done: Benchmark | None, part: Benchmark) -> Benchmark:
    if done is None:
        return part
    settings = join_settings(done.settings, part.settings)
    return merge_benchmarks([replace(done, settings=settings), replace(part, settings=settings)])


def _ordered(done: Benchmark, known: Benchmark | None, models: Sequence[str]) -> Benchmark:
    """The models as the file and then the command name them, and not as workers happened to load them."""
    before = [] if known is None else [model["name"] for model in known.settings["models"]]
    places = {name: place for place, name in enumerate(dict.fromkeys([*before, *models]))}
    ordered = sorted(done.settings["models"], key=lambda model: places[model["name"]])
    return merge_benchmarks([replace(done, settings={**done.settings, "models": ordered})])
