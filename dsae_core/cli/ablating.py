"""dsae faithfulness: keep only a method's best heads, and remove them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsae_core.cli.options import (
    METHOD_NAMES,
    DeviceOption,
    JsonOption,
    ModelOption,
    ProgressBar,
    PromptsOption,
    SeedOption,
    TaskOption,
    ablation_named,
    check_figure,
    check_target,
    load,
    pairs_source,
)
from dsae_core.errors import UserError
from dsae_core.files import write_atomic

if TYPE_CHECKING:
    from dsae_core.faithfulness import FaithfulnessReport


def faithfulness(
    model: ModelOption = "smollm2-135m",
    task: TaskOption = None,
    prompts: PromptsOption = None,
    examples: Annotated[int, typer.Option(min=1, help="Prompt pairs to score heads from, for a task.")] = 10,
    method: Annotated[str, typer.Option(help=f"One of: {METHOD_NAMES}.")] = "positional",
    seed: SeedOption = 0,
    test_examples: Annotated[int, typer.Option(min=1, help="Other prompt pairs to ablate heads on.")] = 20,
    test_seed: Annotated[int, typer.Option(help="Seed of those.")] = 2000,
    test_prompts: Annotated[
        Path | None, typer.Option(help="CSV file of prompt pairs to ablate heads on; else --prompts' own.")
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
    if task is not None and test_prompts is not None:
        raise UserError("--test-prompts goes with --prompts; a task draws its own, see --test-seed.")
    source = pairs_source(task, prompts)
    other = None if task is None and test_prompts is None else pairs_source(task, test_prompts)
    check_target(json_file)
    check_figure(figure)
    from dsae_core.benchmark import ALL_METHODS, score_heads
    from dsae_core.faithfulness import faithfulness_report

    if method not in ALL_METHODS:
        raise UserError(f"There is no method {method!r}; choose one of {', '.join(ALL_METHODS)}.")
    kind = ablation_named(ablation)
    with ProgressBar() as bar:
        language_model = load(model, device, bar.update)
        pairs = source(language_model.tokenizer, examples, seed)
        tested = pairs if other is None else other(language_model.tokenizer, test_examples, test_seed)
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
