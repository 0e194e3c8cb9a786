"""Methods x tasks x draws in one table: how well each ranks the measured circuit's heads, and what it costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor

from dsae_core.baselines import BASELINES
from dsae_core.behaviour import measure_behaviour
from dsae_core.benchmark_record import (
    Benchmark,
    BenchmarkRow,
    join_settings,
    merge_benchmarks,
    read_benchmark,
)
from dsae_core.circuits import Circuit, stored_circuit
from dsae_core.discovery import discover
from dsae_core.errors import UserError
from dsae_core.looking import anywhere, room_for_patching
from dsae_core.metrics import confusion_at_size, evaluate
from dsae_core.models import LanguageModel
from dsae_core.prompts import PromptPairs
from dsae_core.settings import METHODS, method_settings
from dsae_core.stages import Progress
from dsae_core.tasks import TASKS

ALL_METHODS = (*METHODS, *BASELINES)

__all__ = [
    "ALL_METHODS",
    "Benchmark",
    "BenchmarkRow",
    "benchmark_settings",
    "check_methods",
    "check_tasks",
    "compared_circuit",
    "merge_benchmarks",
    "missing_methods",
    "read_benchmark",
    "run_benchmark",
    "run_row",
    "score_heads",
    "unsolved_draw",
]


def run_benchmark(
    model: LanguageModel,
    *,
    tasks: Sequence[str],
    methods: Sequence[str],
    draws: Sequence[int],
    examples: int = 10,
    truths: Sequence[Circuit] = (),
    known: Benchmark | None = None,
    progress: Progress | None = None,
    on_row: Callable[[BenchmarkRow], object] | None = None,
    save: Callable[[Benchmark], object] | None = None,
) -> Benchmark:
    """Run every method on every draw of every task, and compare with the stored measured circuit.

    A draw on which the model does not show the behaviour is reported as unsolved and not scored.

    Args:
        model: the model.
        tasks: names of tasks.
        methods: names of methods and baselines.
        draws: seeds.
        examples: prompt pairs a draw.
        truths: circuits to compare with in place of stored ones, taken by their model and task.
        known: what was run before, with this model or others: it is kept, and only what it lacks is run.
        progress: called with the task's name and the share done.
        on_row: called with each row as it is finished.
        save: called after each row with everything that is known by then.

    Returns:
        `known` and what was run now, together.

    Raises:
        UserError: no such task or method, no circuit for a task, or `known` was made with other settings.
    """
    compared = {task: compared_circuit(model.name, task, truths) for task in tasks}
    check_methods(methods)
    threads = torch.get_num_threads()
    settings = benchmark_settings(model, compared, methods, draws, examples, threads)
    if known is not None:
        settings = join_settings(known.settings, settings)  # before any work is done for it
    done = Benchmark((), (), settings, {}) if known is None else merge_benchmarks([_with(known, settings)])
    total = len(tasks) * len(draws)
    for number, (task, draw) in enumerate((task, draw) for task in tasks for draw in draws):
        missing = missing_methods(done, model.name, task, draw, methods)
        if not missing:
            continue
        pairs = TASKS[task].make(model.tokenizer, examples, draw)
        if not done.only(models=[model.name], tasks=[task], draws=[draw]).rows:
            miss = unsolved_draw(model, task, draw, pairs)
            if miss is not None:
                done = merge_benchmarks([done, Benchmark((), (miss,), settings, {})])
                continue
        for place, method in enumerate(missing):
            if progress is not None:
                progress(task, (number + place / len(missing)) / total)
            row, found = run_row(model, task, method, draw, pairs, compared[task])
            done = merge_benchmarks([done, Benchmark((row,), (), settings, {row.key: found.flatten().tolist()})])
            if on_row is not None:
                on_row(row)
            if save is not None:
                save(done)
    return done


def check_methods(methods: Sequence[str]) -> None:
    """Raise a UserError where one of the names is no method's or baseline's."""
    for method in methods:
        if method not in ALL_METHODS:
            raise UserError(f"There is no method {method!r}; choose among {', '.join(ALL_METHODS)}.")


def check_tasks(tasks: Sequence[str]) -> None:
    """Raise a UserError where one of the names is no task's."""
    for task in tasks:
        if task not in TASKS:
            raise UserError(f"There is no task {task!r}; choose among {', '.join(TASKS)}.")


def missing_methods(known: Benchmark | None, model: str, task: str, draw: int, methods: Sequence[str]) -> list[str]:
    """Those methods that have no row yet for this draw; none where the model is known not to do it."""
    if known is None:
        return list(methods)
    there = known.only(models=[model], tasks=[task], draws=[draw])
    if there.unsolved:
        return []
    return [method for method in methods if method not in {row.method for row in there.rows}]


def unsolved_draw(model: LanguageModel, task: str, draw: int, pairs: PromptPairs) -> dict[str, Any] | None:
    """None where the model shows the behaviour on these prompts, else what the benchmark keeps of the draw."""
    behaviour = measure_behaviour(model, pairs)
    return None if behaviour.shown else {"model": model.name, "task": task, "draw": draw, **asdict(behaviour)}


def _with(benchmark: Benchmark, settings: dict[str, Any]) -> Benchmark:
    return Benchmark(benchmark.rows, benchmark.unsolved, settings, benchmark.scores)


class Described(Protocol):
    """What a benchmark keeps of a model: its name, its weights' digest and where it ran."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def device(self) -> torch.device: ...


def benchmark_settings(
    model: Described,
    truths: Mapping[str, Circuit],
    methods: Sequence[str],
    draws: Sequence[int],
    examples: int,
    threads: int,
) -> dict[str, Any]:
    """Everything a benchmark of one model depends on, as Benchmark.settings keeps it."""
    described = {
        task: {"name": truth.name, "heads": len(truth), "members": [list(head) for head in truth.heads]}
        for task, truth in truths.items()
    }
    return {
        "model": model.name,
        "model_digest": model.digest,
        "models": [{"name": model.name, "digest": model.digest, "truths": described}],
        "tasks": list(truths),
        "methods": list(dict.fromkeys(methods)),
        "draws": list(draws),
        "examples": examples,
        "truths": described,
        "threads": threads,
        "device": model.device.type,
        "method_settings": {m: asdict(method_settings(m, {})) for m in methods if m in METHODS},
    }


def compared_circuit(model: str, task: str, given: Sequence[Circuit]) -> Circuit:
    """The circuit that scores of this model and task are compared with: a given one, or else the stored one.

    Raises:
        UserError: there is no such task, or no circuit for it.
    """
    check_tasks([task])
    own = next((truth for truth in given if (truth.model, truth.task) == (model, task)), None)
    truth = own if own is not None else stored_circuit(model, task)
    if truth is None:
        raise UserError(
            f"No circuit is stored for {model} on {task}; measure one with dsae ground-truth --json and give "
            "its file with --truth."
        )
    return truth


def run_row(
    model: LanguageModel, task: str, method: str, draw: int, pairs: PromptPairs, truth: Circuit, engine: str = "local"
) -> tuple[BenchmarkRow, Tensor]:
    """Run one method on one draw's prompts: its row, and every head's score [L, heads]."""
    with _peak_memory() as peak:
        start, start_cpu = time.perf_counter(), time.process_time()
        scores = score_heads(model, pairs, method=method, seed=draw)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    members = torch.tensor(truth.membership(model.n_layers, model.n_heads))
    evaluation = evaluate(scores, members)
    confusion = confusion_at_size(scores, members, len(truth))
    row = BenchmarkRow(
        model=model.name,
        task=task,
        method=method,
        draw=draw,
        auc=evaluation.auc,
        average_precision=evaluation.average_precision,
        precision=confusion.precision,
        recall=confusion.recall,
        seconds=seconds,
        peak_mib=peak(),
        cpu_seconds=cpu_seconds,
        engine=engine,
        threads=torch.get_num_threads(),
    )
    return row, scores


def score_heads(model: LanguageModel, pairs: PromptPairs, *, method: str, seed: int = 0) -> Tensor:
    """[L, heads] scores of any method or baseline, by name."""
    if method in METHODS:
        return discover(model, pairs, method=method, seed=seed).node_scores
    baseline = BASELINES[method]

    def score_on(model: LanguageModel, notes: Sequence[str]) -> Tensor:
        with room_for_patching(model, pairs, baseline.memory):
            return baseline.score(model, pairs, seed).float().cpu()

    return anywhere(model, [], score_on)


@contextmanager
def _peak_memory() -> Iterator[Callable[[], float]]:
    """Sample the process's resident memory; yields a function that gives its growth so far in MiB."""
    process, stop = psutil.Process(), threading.Event()
    start = highest = process.memory_info().rss

    def sample() -> None:
        nonlocal highest
        while not stop.wait(0.005):
            highest = max(highest, process.memory_info().rss)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield lambda: (highest - start) / 2**20
    finally:
        stop.set()
        thread.join()
