"""The command line: dsae discover | ground-truth | benchmark | published | faithfulness | profile | models | app.

A UserError becomes one sentence on standard error and exit code 2.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from dsae_core.errors import UserError
from dsae_core.files import read_text, write_atomic
from dsae_core.settings import METHODS, method_settings
from dsae_core.stages import Progress

if TYPE_CHECKING:
    from dsae_core.circuits import Circuit
    from dsae_core.faithfulness import FaithfulnessReport
    from dsae_core.interventions import Ablation
    from dsae_core.models import LanguageModel
    from dsae_core.prompts import PromptPairs
    from dsae_core.result import Discovery

app = typer.Typer(
    help="Find the attention heads behind a language model's behaviour from ten prompt pairs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
models_app = typer.Typer(help="The models that can be named, and fetching them.", no_args_is_help=True)
app.add_typer(models_app, name="models")

ModelOption = Annotated[str, typer.Option("--model", help="A known name, a hub name, or a local folder.")]
TaskOption = Annotated[
    str | None,
    typer.Option("--task", help="A built-in task: ioi, greater_than, docstring, induction, pronoun, successor."),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option("--prompts", help="CSV: positive,negative[,answer,distractor], in place of a task."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the prompts and of the dictionary.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu or cuda.")]


@app.command()
def discover(
    model: ModelOption = "smollm2-135m",
    task: TaskOption = None,
    prompts: PromptsOption = None,
    examples: Annotated[int, typer.Option(help="Prompt pairs to draw for a task.")] = 10,
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(METHODS)}.")] = "positional",
    seed: SeedOption = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method; repeatable."),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Heads in the predicted circuit.")] = 20,
    truth: Annotated[
        Path | None, typer.Option(help="Circuit JSON to compare with, in place of the stored one.")
    ] = None,
    json_file: JsonOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Score every attention head from prompt pairs."""
    options = _method_options(method, setting or [])
    _check_target(json_file)
    with _ProgressBar() as bar:
        start = time.perf_counter()
        language_model = _load(model, device, bar.update)
        load_seconds = time.perf_counter() - start
        pairs = _prompt_pairs(language_model, task, prompts, examples, seed)
        from dsae_core.discovery import discover as run

        found = run(language_model, pairs, method=method, seed=seed, progress=bar.update, **options)
    found = replace(found, timings={"load": load_seconds, **found.timings})
    circuit = found.circuit(top_k=top_k)
    metrics = _metrics(found, circuit, _truth(truth, found))
    _print_discovery(found, circuit, metrics)
    if json_file is not None:
        document = {**found.to_dict(), "circuit": [list(head) for head in circuit.heads], "metrics": metrics}
        write_atomic(json_file, json.dumps(document, separators=(",", ":")) + "\n")
        typer.echo(f"Written to {json_file}")


@app.command("ground-truth")
def ground_truth(
    model: ModelOption = "smollm2-135m",
    task: TaskOption = None,
    prompts: PromptsOption = None,
    examples: Annotated[int, typer.Option(min=1, help="Prompt pairs to patch on; 32 or more for a record.")] = 32,
    seed: SeedOption = 1000,
    threshold: Annotated[float, typer.Option(min=0.0, help="Smallest effect that counts, as a share.")] = 0.02,
    ablation: Annotated[
        str, typer.Option(help="What a patched head puts out: interchange, mean or zero.")
    ] = "interchange",
    edges: Annotated[bool, typer.Option("--edges", help="Also patch every direct path between its heads.")] = False,
    json_file: JsonOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Measure every head's effect by exact patching, and write the circuit."""
    from dsae_core.interventions import interchange_effects, measured_circuit
    from dsae_core.paths import path_effects, with_edges

    kind = _ablation(ablation)
    _check_target(json_file)
    with _ProgressBar() as bar:
        language_model = _load(model, device, bar.update)
        pairs = _prompt_pairs(language_model, task, prompts, examples, seed)
        effects = interchange_effects(language_model, pairs, seed=seed, ablation=kind, progress=bar.update)
        circuit = measured_circuit(language_model, pairs, effects, seed=seed, ablation=kind, threshold=threshold)
        if edges:
            found = path_effects(language_model, pairs, circuit.heads, seed=seed, progress=bar.update)
            circuit = with_edges(circuit, found, threshold)
    typer.echo(f"{len(circuit)} heads of {language_model.n_all_heads} have an effect of {threshold:.0%} or more:")
    for layer, head in sorted(circuit.heads, key=lambda h: -abs(circuit.effects[h[0]][h[1]])):
        low, high = circuit.intervals[layer][head]
        typer.echo(f"  {layer}.{head:<3} {circuit.effects[layer][head]:+.3f}  [{low:+.3f}, {high:+.3f}]")
    for edge in circuit.edges[:20]:
        (a, b), (c, d) = edge.sender, edge.receiver
        typer.echo(f"  {a}.{b} -> {c}.{d}  {edge.effect:+.3f}  [{edge.low:+.3f}, {edge.high:+.3f}]")
    if json_file is not None:
        circuit.save(json_file)
        typer.echo(f"Written to {json_file}")


@app.command()
def benchmark(
    models: Annotated[
        str, typer.Option("--models", "--model", help="Models, separated by commas: known names, hub names, folders.")
    ] = "smollm2-135m",
    tasks: Annotated[str, typer.Option(help="Task names, separated by commas.")] = "ioi,greater_than,docstring",
    methods: Annotated[str, typer.Option(help="Method names, separated by commas, or all.")] = "all",
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
) -> None:
    """Compare methods with the measured circuits, and print the table."""
    from dsae_core.benchmark import ALL_METHODS, Benchmark, merge_benchmarks, read_benchmark, run_benchmark
    from dsae_core.circuits import read_circuit

    _check_target(json_file)
    _check_figure(figure)
    if figure is not None and not merge and draws < 2:
        raise UserError("A figure of stability needs at least two draws; give --draws 2 or more.")
    done: Benchmark | None = None
    if merge:
        done = shown = merge_benchmarks([read_benchmark(path) for path in merge])
    else:
        names, chosen, seeds = _listed(models), _listed(tasks), range(first_draw, first_draw + draws)
        ways = ALL_METHODS if methods == "all" else tuple(_listed(methods))
        if json_file is not None and json_file.exists() and not fresh:
            done = read_benchmark(json_file)
        truths = [read_circuit(path) for path in truth or []]
        with _ProgressBar() as bar:
            for name in names:
                done = run_benchmark(
                    _load(name, device, bar.update),
                    tasks=chosen,
                    methods=ways,
                    draws=seeds,
                    examples=examples,
                    truths=truths,
                    known=done,
                    progress=bar.update,
                    save=None if json_file is None else lambda rows: rows.save(json_file),
                )
        assert done is not None  # --models has at least one name
        shown = done.only(models=names, tasks=chosen, methods=ways, draws=seeds)
    for miss in shown.unsolved:
        typer.echo(f"Not scored: {miss['model']} does not do {miss['task']}, draw {miss['draw']}.")
    if shown.rows:
        typer.echo(shown.markdown())
        typer.echo(f"Compared with {'; '.join(shown.truths())}.")
    if json_file is not None:
        done.save(json_file)
        typer.echo(f"Written to {json_file}")
    if figure is not None:
        from dsae_core.figures import save_svg, stability_chart

        save_svg(stability_chart(shown.stability()), figure)
        typer.echo(f"Written to {figure}")


@app.command()
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

    GPT-2 small and attn-only-4l, a dictionary of 10 prompts, codes of 250 + 250, against the published circuits. A
    model that cannot be had is named, with how to get it; exit code 2 where none could be.
    """
    from dsae_core.published import run_published

    _check_target(json_file)
    folders: dict[str, str] = {}
    for assignment in weights or []:
        name, separator, folder = assignment.partition("=")
        if not separator or not folder:
            raise UserError(f"--weights {assignment!r} is not of the form MODEL=FOLDER.")
        folders[name] = folder
    with _ProgressBar() as bar:
        done = run_published(
            lambda name: _load(folders.get(name, name), device, bar.update),
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


@app.command()
def faithfulness(
    model: ModelOption = "smollm2-135m",
    task: TaskOption = None,
    prompts: PromptsOption = None,
    examples: Annotated[int, typer.Option(min=1, help="Prompt pairs to score heads from, for a task.")] = 10,
    method: Annotated[str, typer.Option(help="A method or baseline, as in dsae benchmark.")] = "positional",
    seed: SeedOption = 0,
    test_examples: Annotated[int, typer.Option(min=1, help="Other prompt pairs to ablate heads on.")] = 20,
    test_seed: Annotated[int, typer.Option(help="Seed of those.")] = 2000,
    test_prompts: Annotated[
        Path | None, typer.Option(help="CSV of prompt pairs to ablate heads on; else --prompts' own.")
    ] = None,
    ablation: Annotated[
        str, typer.Option(help="What an ablated head puts out: interchange, mean or zero.")
    ] = "interchange",
    random: Annotated[int, typer.Option(min=0, help="Random rankings to compare with, seeds 0, 1, ...")] = 5,
    json_file: JsonOption = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the curves, as this SVG file.")] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Keep only a method's best heads, and remove them: how much of the behaviour is left.

    Kept is f(k) = (m(k) - m(0)) / (m(all) - m(0)), where m(k) is the mean task metric with the k best heads left and
    all others ablated; CPR is the area under f over the share of heads, CMD that of |1 - f| (Mueller et al. 2025).
    """
    from dsae_core.benchmark import ALL_METHODS, score_heads
    from dsae_core.faithfulness import faithfulness_report

    if method not in ALL_METHODS:
        raise UserError(f"There is no method {method!r}; choose one of {', '.join(ALL_METHODS)}.")
    kind = _ablation(ablation)
    if task is not None and test_prompts is not None:
        raise UserError("--test-prompts goes with --prompts; a task draws its own, see --test-seed.")
    _check_target(json_file)
    _check_figure(figure)
    with _ProgressBar() as bar:
        language_model = _load(model, device, bar.update)
        pairs = _prompt_pairs(language_model, task, prompts, examples, seed)
        if task is not None or test_prompts is not None:
            tested = _prompt_pairs(language_model, task, test_prompts, test_examples, test_seed)
        else:
            tested = pairs
        bar.update("score", 0.0)
        scores = score_heads(language_model, pairs, method=method, seed=seed)
        report = faithfulness_report(
            language_model, tested, scores, seeds=range(random), ablation=kind, progress=bar.update
        )
    _print_faithfulness(report, method, same_prompts=tested is pairs)
    if json_file is not None:
        settings = {"method": method, "seed": seed, "ablation": kind, "random": random}
        if task is not None:
            settings |= {"examples": examples, "test_examples": test_examples, "test_seed": test_seed}
        document = {
            "schema": 1,
            "model": language_model.name,
            "model_digest": language_model.digest,
            "task": pairs.task,
            "settings": settings,
            **report.to_dict(),
            "scores": scores.tolist(),
            "prompts": pairs.to_dict(),
            "test_prompts": tested.to_dict(),
        }
        write_atomic(json_file, json.dumps(document) + "\n")
        typer.echo(f"Written to {json_file}")
    if figure is not None:
        from dsae_core.figures import faithfulness_chart, save_svg

        save_svg(faithfulness_chart(report.points(), n_heads=language_model.n_all_heads, method=method), figure)
        typer.echo(f"Written to {figure}")


@app.command()
def profile(
    model: ModelOption = "smollm2-135m",
    task: TaskOption = None,
    prompts: PromptsOption = None,
    examples: Annotated[int, typer.Option(min=1, help="Prompt pairs to draw for a task.")] = 10,
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(METHODS)}.")] = "positional",
    seed: SeedOption = 0,
    rivals: Annotated[bool, typer.Option(help="Compare each operator with plain torch.")] = True,
    compile_twins: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Also through torch.compile, which takes a minute or so.")
    ] = True,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also measure how time grows with heads, examples.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Write one discovery's timeline here, for Perfetto or chrome://tracing.")
    ] = None,
    json_file: JsonOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Measure where a discovery's time goes: stages, operators against the device's ceilings and plain torch."""
    method_settings(method, {})
    _check_target(json_file)
    _check_target(trace)
    from dsae_core.profiling import measure_scaling, profile_discovery

    with _ProgressBar() as bar:
        language_model = _load(model, device, bar.update)
        pairs = _prompt_pairs(language_model, task if task or prompts else "ioi", prompts, examples, seed)
        done = profile_discovery(
            language_model,
            pairs,
            method=method,
            seed=seed,
            rivals=rivals,
            compile_twins=compile_twins,
            trace=trace,
            progress=bar.update,
        )
        if scaling:
            done = replace(done, scaling=measure_scaling(progress=bar.update))
    typer.echo(done.markdown())
    if json_file is not None:
        write_atomic(json_file, json.dumps(done.to_dict()) + "\n")
        typer.echo(f"Written to {json_file}")
    if trace is not None:
        typer.echo(f"Written to {trace}")


@models_app.command("list")
def models_list() -> None:
    """List the models that can be named, and whether they are here."""
    from dsae_core.models import available_models

    for info in available_models():
        typer.echo(f"{info.name:<16} {'ready' if info.fetched else 'not fetched':<12} {info.description}")


@models_app.command("fetch")
def models_fetch(name: Annotated[str, typer.Argument(help="A name of `dsae models list`.")]) -> None:
    """Fetch and convert a model; does nothing where it is already here."""
    from dsae_core.models import fetch_model

    with _ProgressBar() as bar:
        path = fetch_model(name, progress=bar.update)
    typer.echo(f"{name} is ready in {path}")


@app.command("app")
def dashboard(
    port: Annotated[int, typer.Option(help="Port of the page.")] = 8501,
    address: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    headless: Annotated[bool, typer.Option(help="Do not open a browser.")] = False,
) -> None:
    """Open the dashboard in a browser."""
    spec = importlib.util.find_spec("dsae_core.ui.entry")
    if spec is None or spec.origin is None:
        raise UserError("This installation has no dashboard; install dsae-core again.")
    arguments = [sys.executable, "-m", "streamlit", "run", spec.origin]
    arguments += [f"--server.port={port}", f"--server.address={address}"]
    arguments += [f"--server.headless={str(headless).lower()}", "--browser.gatherUsageStats=false"]
    arguments += ["--server.showEmailPrompt=false"]  # a first run must not wait for somebody to type
    sys.stdout.flush()
    os.execv(sys.executable, arguments)


class _ProgressBar:
    """A terminal progress bar that follows stages; silent where standard error is no terminal."""

    def __enter__(self) -> _ProgressBar:
        self._bar = tqdm(total=100, disable=None, leave=False, bar_format="{desc:<12}{bar} {percentage:3.0f} %")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, stage: str, fraction: float) -> None:
        self._bar.set_description_str(stage, refresh=False)
        self._bar.n = round(100 * fraction)
        self._bar.refresh()


def _load(name: str, device: str, progress: Progress) -> LanguageModel:
    from dsae_core.models import load_model

    return load_model(name, device=device, progress=progress)


def _prompt_pairs(
    model: LanguageModel, task: str | None, prompts: Path | None, examples: int, seed: int
) -> PromptPairs:
    from dsae_core.tasks import TASKS, read_pairs_csv

    if (task is None) == (prompts is None):
        raise UserError("Give either --task or --prompts.")
    if prompts is not None:
        return read_pairs_csv(read_text(prompts, "the prompts file"))
    if task is None or task not in TASKS:
        raise UserError(f"There is no task {task!r}; choose one of {', '.join(TASKS)}.")
    return TASKS[task].make(model.tokenizer, examples, seed)


def _ablation(name: str) -> Ablation:
    from dsae_core.interventions import ABLATIONS

    kind = next((known for known in ABLATIONS if known == name), None)
    if kind is None:
        raise UserError(f"There is no ablation {name!r}; choose one of {', '.join(ABLATIONS)}.")
    return kind


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


def _check_target(path: Path | None) -> None:
    """Refuse a file that could not be written before any work is done for it."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UserError(f"Cannot write {path}: it is a folder, or its folder does not exist.")


def _check_figure(path: Path | None) -> None:
    """The same for a figure, whose name must end in .svg."""
    if path is not None:
        from dsae_core.figures import require_svg

        require_svg(path)
        _check_target(path)


def _listed(text: str) -> list[str]:
    """The names in text, separated by commas, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UserError(f"{text!r} names nothing; give one or more names, separated by commas.")
    return names


def _truth(path: Path | None, found: Discovery) -> Circuit | None:
    from dsae_core.circuits import read_circuit, stored_circuit

    return read_circuit(path) if path is not None else stored_circuit(found.model_name, found.task)


def _metrics(found: Discovery, circuit: Circuit, truth: Circuit | None) -> dict[str, Any] | None:
    """Node AUC and average precision, and precision and recall of the predicted circuit; None without a truth."""
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
        "precision": hits / len(circuit),
        "recall": hits / len(truth),
    }


def _print_discovery(found: Discovery, circuit: Circuit, metrics: dict[str, Any] | None) -> None:
    typer.echo(f"{len(circuit)} best heads of {found.node_scores.numel()} (layer.head, score):")
    best = [f"{layer}.{head} {float(found.node_scores[layer, head]):.2f}" for layer, head in found.ranking()]
    for start in range(0, len(circuit), 5):
        typer.echo("  " + "   ".join(f"{text:<12}" for text in best[start : min(start + 5, len(circuit))]).rstrip())
    if metrics is None:
        typer.echo("No truth is stored for this model and task; measure one with dsae ground-truth.")
    else:
        typer.echo(
            f"Against the {metrics['truth']} circuit ({metrics['truth_heads']} heads): AUC {metrics['auc']:.3f}, "
            f"average precision {metrics['average_precision']:.3f}, precision {metrics['precision']:.2f}, "
            f"recall {metrics['recall']:.2f}"
        )
    typer.echo("Seconds: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in found.timings.items()))
    for note in found.warnings:
        typer.echo(f"Note: {note}")


def _print_faithfulness(report: FaithfulnessReport, method: str, *, same_prompts: bool) -> None:
    """The curves as a table, then the areas beside those of random rankings."""
    curve, frame = report.curve, report.frame()
    typer.echo("heads  kept   removed  KL     | random: kept  removed  KL")
    for row in frame.itertuples():
        shares = f"{row.size:>5}  {row.kept:>5.2f}  {row.removed:>7.2f}  {row.kl:>5.2f}"
        null = f"  |         {row.random_kept:>5.2f}  {row.random_removed:>7.2f}  {row.random_kl:>5.2f}"
        typer.echo(shares + (null if report.random else ""))
    typer.echo(f"Metric: {curve.metric_full:.3f} whole, {curve.metric_empty:.3f} with every head ablated.")
    for name in ("cpr", "cmd"):
        null = ", ".join(f"{getattr(other, name):.3f}" for other in report.random)
        typer.echo(f"{name.upper()} {getattr(curve, name):.3f} by {method}" + (f"; random {null}" if null else ""))
    if curve.metric_full <= curve.metric_empty:
        typer.echo("Note: the metric is no higher with the heads than without them, so these shares mean little.")
    if same_prompts:
        typer.echo("Note: heads were scored and ablated on the same prompts; --test-prompts gives others.")


def main() -> None:
    """Entry point of the dsae command."""
    try:
        app()
    except UserError as error:
        typer.echo(f"dsae: {error}", err=True)
        sys.exit(2)
