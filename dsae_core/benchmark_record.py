"""What a benchmark writes down: a row a method and draw, every head's scores, and what is needed to run it again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dsae_core import documents
from dsae_core.errors import UserError
from dsae_core.files import read_text, write_atomic

SCHEMA = 1
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class BenchmarkRow:
    """One method on one draw of prompts.

    Attributes:
        model: the model's name.
        task: the task's name.
        method: the method's name.
        draw: seed of the prompts and of the method.
        auc: area under the ROC curve of its scores against the truth.
        average_precision: area under the precision-recall curve.
        precision: of as many best heads as the truth has; equal to the recall there.
        recall: likewise.
        seconds: wall time of the method, without loading the model.
        peak_mib: growth of the process's resident memory while it ran, in MiB.
        cpu_seconds: processor time of the process's threads together, which other programs change less than the
            wall time; None in files from before it was measured.
        engine: what ran it: "local", one row after another, or "ray", beside the rows of other workers, which may
            have slowed it; None in files from before there was a choice.
        threads: threads it computed with; None likewise, and the settings' `threads` then hold.
    """

    model: str
    task: str
    method: str
    draw: int
    auc: float
    average_precision: float
    precision: float
    recall: float
    seconds: float
    peak_mib: float
    cpu_seconds: float | None = None
    engine: str | None = None
    threads: int | None = None

    @property
    def key(self) -> str:
        """model/task/method/draw: what its scores are filed under."""
        return f"{self.model}/{self.task}/{self.method}/{self.draw}"


@dataclass(frozen=True)
class Benchmark:
    """Rows, the draws that were left out because the model does not do them, and what is needed to run it again.

    Attributes:
        rows: one a model, task, method and draw.
        unsolved: model, task, draw and behaviour of the draws that were not scored.
        settings: `models` (name, digest and, by task, the truth), `tasks`, `methods`, `draws`, `examples`, `threads`,
            `device` and `method_settings`; with one model also its `model`, `model_digest` and `truths` by themselves.
        scores: every head's score, layer by layer, by the row's key.
    """

    rows: tuple[BenchmarkRow, ...]
    unsolved: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    scores: dict[str, list[float]]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form that from_dict reads; scores are keyed model/task/method/draw."""
        return {
            "schema": SCHEMA,
            "settings": self.settings,
            "rows": [asdict(row) for row in self.rows],
            "unsolved": list(self.unsolved),
            "stability": self.stability(),
            "scores": self.scores,
        }

    @classmethod
    def from_dict(cls, data: Any) -> Benchmark:
        """Build a benchmark from its JSON form, of this version or an earlier one without `cpu_seconds` and `engine`.

        Raises:
            UserError: a field is missing or of the wrong kind, a row has no scores or ran with other threads than
                the settings name, or the schema is another.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            raise UserError(f"This is not a benchmark file of schema {SCHEMA}.")
        try:
            settings = _read_settings(documents.field(data, "settings"))
            rows = tuple(_read_row(row) for row in documents.items(documents.field(data, "rows"), "rows"))
            scores = {
                key: [documents.number(v, f"a score of {key}") for v in documents.items(values, f"the scores of {key}")]
                for key, values in documents.members(documents.field(data, "scores"), "scores").items()
            }
            unsolved = tuple(
                _read_unsolved(miss) for miss in documents.items(documents.field(data, "unsolved"), "unsolved")
            )
        except ValueError as error:
            raise UserError(f"The benchmark file is malformed: {error}.") from error
        models = [model["name"] for model in settings["models"]]
        for row in rows:
            named = row.model in models and row.task in settings["tasks"]
            if not (named and row.method in settings["methods"] and row.draw in settings["draws"]):
                raise UserError(f"The benchmark file is malformed: its settings do not name the row {row.key}.")
            if row.threads not in (None, settings["threads"]):
                raise UserError(
                    f"The benchmark file is malformed: {row.key} ran with {row.threads} threads and its settings say "
                    f"{settings['threads']}."
                )
            if row.key not in scores:
                raise UserError(f"The benchmark file is malformed: it has no scores for {row.key}.")
        return cls(rows, unsolved, settings, scores)

    def save(self, path: str | Path) -> Path:
        """Write the benchmark as JSON, atomically; read it back with read_benchmark."""
        return write_atomic(path, json.dumps(self.to_dict()) + "\n")

    def only(
        self,
        *,
        models: Collection[str] | None = None,
        tasks: Collection[str] | None = None,
        methods: Collection[str] | None = None,
        draws: Collection[int] | None = None,
    ) -> Benchmark:
        """The part with these models, tasks, methods and draws; None takes all. Settings stay those of the whole."""

        def wanted(model: str, task: str, draw: int) -> bool:
            pairs = ((models, model), (tasks, task), (draws, draw))
            return all(chosen is None or value in chosen for chosen, value in pairs)

        rows = tuple(
            row
            for row in self.rows
            if wanted(row.model, row.task, row.draw) and (methods is None or row.method in methods)
        )
        unsolved = tuple(m for m in self.unsolved if wanted(m["model"], m["task"], m["draw"]))
        return replace(self, rows=rows, unsolved=unsolved, scores={row.key: self.scores[row.key] for row in rows})

    def frame(self) -> pd.DataFrame:
        """The rows as a table."""
        return pd.DataFrame([asdict(row) for row in self.rows])

    def stability(self) -> list[dict[str, Any]]:
        """Mean Spearman correlation of a method's scores between draws, for each model, task and method.

        Left out where there is one draw only, or where scores do not vary between heads.
        """
        groups: dict[tuple[str, str, str], list[list[float]]] = {}
        for row in self.rows:
            groups.setdefault((row.model, row.task, row.method), []).append(self.scores[row.key])
        found = []
        for (model, task, method), draws in groups.items():
            ranks = pd.DataFrame([pd.Series(draw).rank() for draw in draws]).T.corr().to_numpy()
            between = ranks[np.tril_indices(len(draws), -1)]
            defined = between[~np.isnan(between)]
            if defined.size:
                mean = float(defined.mean())
                found.append({"model": model, "task": task, "method": method, "rank_correlation": mean})
        return found

    def truths(self) -> list[str]:
        """For each model and task that has rows, in words: which circuit its scores were compared with."""
        pairs = {(row.model, row.task) for row in self.rows}
        return [
            f"the {truth['name']} circuit of {model['name']} for {task} ({truth['heads']} heads)"
            for model in self.settings["models"]
            for task, truth in model["truths"].items()
            if (model["name"], task) in pairs
        ]

    def measured_by(self) -> str:
        """In words: which engine ran how many of the rows, and with how many threads each."""
        counts = Counter(row.engine or "local" for row in self.rows)
        rows = ", ".join(f"{number} by the engine {engine}" for engine, number in counts.items())
        threads = self.settings["threads"]
        return f"{rows}, each with {threads} thread{'' if threads == 1 else 's'}"

    def markdown(self) -> str:
        """One line a method: mean AUC / average precision on each task, their means, seconds and memory.

        One table a model; with several models, each under its name. Where a method lacks a task there is no mean.
        """
        frame = self.frame()
        models = list(dict.fromkeys(frame["model"]))
        tables = [_table(frame[frame["model"] == model]) for model in models]
        if len(models) == 1:
            return tables[0]
        return "\n\n".join(f"{model}\n\n{table}" for model, table in zip(models, tables, strict=True))


def _read_settings(data: Any) -> dict[str, Any]:
    """The settings of a file, of an earlier version too, which had one model and no list of models."""
    settings = documents.plain(data, "settings")
    if "models" not in settings:
        model, digest, truths = (documents.field(settings, name) for name in ("model", "model_digest", "truths"))
        settings["models"] = [{"name": model, "digest": digest, "truths": truths}]
    for name in ("tasks", "methods"):
        documents.texts(documents.field(settings, name), name)
    for draw in documents.items(documents.field(settings, "draws"), "draws"):
        documents.whole(draw, "a draw", high=_LARGEST)
    for name in ("examples", "threads"):
        documents.whole(documents.field(settings, name), name)
    documents.members(settings.get("method_settings", {}), "method_settings")
    models = documents.items(settings["models"], "models")
    names = [documents.text(documents.field(model, "name"), "a model's name") for model in models]
    if len(set(names)) < len(names):
        raise ValueError("a model is named twice")
    for model in models:
        documents.text(documents.field(model, "digest"), "a model's digest")
        for task, truth in documents.members(documents.field(model, "truths"), "truths").items():
            documents.text(documents.field(truth, "name"), f"the name of the truth of {task}")
            documents.whole(documents.field(truth, "heads"), f"the heads of the truth of {task}")
    return settings


def _read_row(data: Any) -> BenchmarkRow:
    names = ("auc", "average_precision", "precision", "recall", "seconds", "peak_mib")
    model, task, method = (documents.text(documents.field(data, name), name) for name in ("model", "task", "method"))
    cpu, engine, threads = (data.get(name) for name in ("cpu_seconds", "engine", "threads"))
    return BenchmarkRow(
        model=model,
        task=task,
        method=method,
        draw=documents.whole(documents.field(data, "draw"), "draw", high=_LARGEST),
        **{name: documents.number(documents.field(data, name), name) for name in names},
        cpu_seconds=None if cpu is None else documents.number(cpu, "cpu_seconds"),
        engine=None if engine is None else documents.text(engine, "engine"),
        threads=None if threads is None else documents.whole(threads, "threads"),
    )


def _read_unsolved(data: Any) -> dict[str, Any]:
    miss = documents.plain(data, "unsolved")
    for name in ("model", "task"):
        documents.text(documents.field(miss, name), name)
    documents.whole(documents.field(miss, "draw"), "draw", high=_LARGEST)
    return miss


def _table(frame: pd.DataFrame) -> str:
    tasks = list(dict.fromkeys(frame["task"]))
    lines = [
        "| method | " + " | ".join(tasks) + " | mean AUC | mean AP | spread of AUC | seconds | CPU seconds | MiB |",
        "|" + "---|" * (len(tasks) + 7),
    ]
    for method in dict.fromkeys(frame["method"]):
        rows = frame[frame["method"] == method]
        by_task = rows.groupby("task")[["auc", "average_precision"]].mean()
        cells = [
            f"{by_task.loc[task, 'auc']:.3f} / {by_task.loc[task, 'average_precision']:.2f}"
            if task in by_task.index
            else "-"
            for task in tasks
        ]
        whole = len(by_task) == len(tasks)
        means = [f"{by_task[name].mean():.3f}" if whole else "-" for name in ("auc", "average_precision")]
        spread = rows.groupby("task")["auc"].std(ddof=0).mean()
        cpu = pd.to_numeric(rows["cpu_seconds"]).median()  # of those rows that have it
        lines.append(
            f"| {method} | {' | '.join([*cells, *means])} | {spread:.3f} | {rows['seconds'].median():.2f} | "
            f"{'-' if np.isnan(cpu) else format(cpu, '.2f')} | {rows['peak_mib'].max():.0f} |"
        )
    return "\n".join(lines)


def read_benchmark(path: str | Path) -> Benchmark:
    """Read a benchmark that Benchmark.save or `dsae benchmark --json` wrote.

    Raises:
        UserError: the file cannot be read or is not a benchmark.
    """
    try:
        data = documents.parse_json(read_text(path, "the benchmark file"))
    except ValueError as error:
        raise UserError(f"{path} is not a benchmark file: it is not valid JSON.") from error
    return Benchmark.from_dict(data)


def merge_benchmarks(parts: Sequence[Benchmark]) -> Benchmark:
    """All rows of several benchmarks, ordered by model, task, draw and method as these first appear.

    Where two have the same row, the first is kept.

    Raises:
        UserError: the parts were made with other settings (examples, threads, a model's weights, a truth, ...), the
            same row has other scores in two of them, or there are none.
    """
    if not parts:
        raise UserError("There are no benchmarks to merge; give at least one.")
    settings = parts[0].settings
    rows = {row.key: row for row in parts[0].rows}
    scores = dict(parts[0].scores)
    unsolved = {(m["model"], m["task"], m["draw"]): m for m in parts[0].unsolved}
    for part in parts[1:]:
        settings = join_settings(settings, part.settings)
        for row in part.rows:
            if row.key in rows and scores[row.key] != part.scores[row.key]:
                raise UserError(
                    f"Two of the benchmarks have other scores for {row.key}, so their methods are not the same; "
                    "run one of them again."
                )
            rows.setdefault(row.key, row)
            scores.setdefault(row.key, part.scores[row.key])
        for miss in part.unsolved:
            unsolved.setdefault((miss["model"], miss["task"], miss["draw"]), miss)
    places = {name: {v: i for i, v in enumerate(settings[name])} for name in ("tasks", "methods", "draws")}
    models = {model["name"]: i for i, model in enumerate(settings["models"])}
    ordered = sorted(
        rows.values(),
        key=lambda r: (
            models[r.model],
            places["tasks"][r.task],
            places["draws"][r.draw],
            places["methods"][r.method],
        ),
    )
    return Benchmark(tuple(ordered), tuple(unsolved.values()), settings, {row.key: scores[row.key] for row in ordered})


def join_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of both together.

    What only one of them records (a file of an earlier version has no `device`) counts as the other's too.

    Raises:
        UserError: they contradict each other; names the first setting that differs.
    """
    joined: dict[str, Any] = {}
    for name in ("examples", "threads", "device"):
        values = [settings[name] for settings in (one, other) if name in settings]
        if len(values) == 2:
            _require_same(name, *values)
        if values:
            joined[name] = values[0]
    models = {model["name"]: model for model in one["models"]}
    for model in other["models"]:
        models[model["name"]] = _join_model(models.get(model["name"]), model)
    options = dict(one.get("method_settings", {}))
    for method, values in other.get("method_settings", {}).items():
        if method in options:
            _require_same(f"the settings of {method}", options[method], values)
        options[method] = values
    joined |= {
        "models": list(models.values()),
        "tasks": list(dict.fromkeys([*one["tasks"], *other["tasks"]])),
        "methods": list(dict.fromkeys([*one["methods"], *other["methods"]])),
        "draws": sorted({*one["draws"], *other["draws"]}),
        "method_settings": options,
    }
    if len(models) == 1:
        (model,) = models.values()
        joined |= {"model": model["name"], "model_digest": model["digest"], "truths": model["truths"]}
    return joined


def _join_model(one: Mapping[str, Any] | None, other: Mapping[str, Any]) -> dict[str, Any]:
    if one is None:
        return dict(other)
    _require_same(f"the weights of {one['name']}", one["digest"], other["digest"])
    truths = dict(one["truths"])
    for task, truth in other["truths"].items():
        before = truths.get(task, {})
        for name in before.keys() & truth.keys():
            _require_same(f"the truth of {task} ({name})", before[name], truth[name])
        truths[task] = {**before, **truth}
    return {**one, "truths": truths}


def _require_same(what: str, one: Any, other: Any) -> None:
    if one != other:
        shown = f": {one!r} and {other!r}" if max(len(repr(one)), len(repr(other))) < 80 else ""
        raise UserError(
            f"The benchmarks differ in {what}{shown}. Write to another file, or start this one over with --fresh."
        )
