"""dsae profile: where a discovery's time goes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

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
from dsae_core.files import write_atomic
from dsae_core.settings import METHODS, method_settings


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
    check_target(json_file)
    check_target(trace)
    source = pairs_source(task if task or prompts else "ioi", prompts)
    from dsae_core.profiling import profile_discovery
    from dsae_core.scaling import measure_scaling

    with ProgressBar() as bar:
        language_model = load(model, device, bar.update)
        pairs = source(language_model.tokenizer, examples, seed)
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
            done = replace(done, scaling=measure_scaling(device=language_model.device, progress=bar.update))
    typer.echo(done.markdown())
    if json_file is not None:
        write_atomic(json_file, json.dumps(done.to_dict()) + "\n")
        typer.echo(f"Written to {json_file}")
    if trace is not None:
        typer.echo(f"Written to {trace}")
