"""dsae ground-truth: measure every head's effect by exact patching."""

from __future__ import annotations

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
    ablation_named,
    check_target,
    load,
    prompt_pairs,
)


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

    kind = ablation_named(ablation)
    check_target(json_file)
    with ProgressBar() as bar:
        language_model = load(model, device, bar.update)
        pairs = prompt_pairs(language_model, task, prompts, examples, seed)
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
