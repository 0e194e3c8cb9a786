"""Measure a circuit by exact patching, into a file, so that it can be killed and go on: what both engines share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsae_core.circuits import Circuit, read_circuit
from dsae_core.errors import UserError
from dsae_core.interventions import Ablation, Named, circuit_name, interchange_effects, measured_circuit
from dsae_core.looking import anywhere
from dsae_core.models import LanguageModel
from dsae_core.patching_record import Notice, PatchingRecord, partial_path, prompts_digest, run_identity
from dsae_core.paths import path_effects, with_edges
from dsae_core.prompts import PromptPairs
from dsae_core.stages import Progress


@dataclass(frozen=True)
class Plan:
    """How circuits are measured.

    Attributes:
        seed: of the prompts and the bootstrap.
        ablation: what a patched head puts out.
        threshold: smallest share of the metric's drop that counts.
        edges: whether direct paths between the circuit's heads are patched too.
        keep_finished: whether a circuit that the target's file has from just such a run is kept as it is.
        fresh: whether what an interrupted run has measured is measured again.
    """

    seed: int
    ablation: Ablation = "interchange"
    threshold: float = 0.02
    edges: bool = False
    keep_finished: bool = False
    fresh: bool = False


@dataclass(frozen=True)
class Target:
    """One circuit that is to be measured.

    Attributes:
        model: the model's name.
        task: the task's name, or what stands for it where the prompts come from a file.
        path: where the circuit is written; None where it is only shown.
    """

    model: str
    task: str
    path: Path | None = None


def folder_targets(folder: Path, models: Sequence[str], tasks: Sequence[str]) -> list[Target]:
    """One file in the folder for every model and task, named after both.

    Raises:
        UserError: two models would have the same file.
    """
    targets = [Target(m, t, folder / f"{_file_name(m)}.{_file_name(t)}.json") for m in models for t in tasks]
    if len({target.path for target in targets}) < len(targets):
        raise UserError(
            f"Two of the models {', '.join(models)} would have the same file in {folder}; measure them apart."
        )
    return targets


def _file_name(name: str) -> str:
    """The name without what a file's name cannot have, or should not."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def open_record(
    target: Target, plan: Plan, pairs: PromptPairs, *, digest: str, device: str, notice: Notice
) -> PatchingRecord:
    """What an earlier run of the same target measured; in memory only where nothing is to be written."""
    if target.path is None:
        return PatchingRecord()
    path = partial_path(target.path)
    if plan.fresh:
        path.unlink(missing_ok=True)
    identity = run_identity(
        model=target.model, digest=digest, device=device, pairs=pairs, seed=plan.seed, ablation=plan.ablation
    )
    return PatchingRecord.open(path, identity, notice=notice)


def finish(circuit: Circuit, target: Target, record: PatchingRecord) -> None:
    """Write the circuit where it belongs; what was kept of the measurement is no longer needed."""
    if target.path is not None:
        circuit.save(target.path)
        record.remove()


def finished_circuit(target: Target, plan: Plan, model: Named, pairs: PromptPairs, *, notice: Notice) -> Circuit | None:
    """The circuit in the target's file, if it was measured in just this way; else None, and `notice` says why."""
    if target.path is None or not plan.keep_finished or not target.path.exists():
        return None
    try:
        circuit = read_circuit(target.path)
    except UserError:
        notice(f"{target.path} is no circuit file; it is measured again.")
        return None
    wanted = {
        "seed": plan.seed,
        "prompts_sha256": prompts_digest(pairs),
        "threshold": plan.threshold,
        "model_digest": model.digest,
    }
    differing = [name for name, value in wanted.items() if circuit.provenance.get(name) != value]
    if circuit.name != circuit_name(plan.ablation):
        differing.append("ablation")
    if plan.edges and "edges" not in circuit.provenance:
        differing.append("edges")
    if differing:
        notice(f"{target.path} was measured otherwise (it differs in {', '.join(differing)}); it is measured again.")
        return None
    return circuit


def measure_circuit(
    model: LanguageModel,
    pairs: PromptPairs,
    plan: Plan,
    target: Target,
    *,
    notice: Notice,
    progress: Progress | None = None,
) -> Circuit:
    """Measure one circuit here, in this process, and write it to the target.

    Raises:
        UserError: the pairs cannot be patched, the model does not do the task, or a file cannot be written.
    """

    def measure_on(model: LanguageModel, notes: Sequence[str]) -> Circuit:
        record = open_record(target, plan, pairs, digest=model.digest, device=model.device.type, notice=notice)
        effects = interchange_effects(
            model, pairs, seed=plan.seed, ablation=plan.ablation, record=record, progress=progress
        )
        circuit = measured_circuit(
            model, pairs, effects, seed=plan.seed, ablation=plan.ablation, threshold=plan.threshold
        )
        if plan.edges:
            found = path_effects(model, pairs, circuit.heads, seed=plan.seed, record=record, progress=progress)
            circuit = with_edges(circuit, found, plan.threshold)
        finish(circuit, target, record)
        return circuit

    return anywhere(model, [], measure_on)


def describe_circuit(circuit: Circuit) -> Iterable[str]:
    """The circuit in lines for a terminal: its heads with their effects, strongest first, and its strongest edges."""
    n_heads = sum(map(len, circuit.effects))
    threshold = circuit.provenance["threshold"]
    yield f"{len(circuit)} heads of {n_heads} have an effect of {threshold:.0%} or more:"
    for layer, head in sorted(circuit.heads, key=lambda h: -abs(circuit.effects[h[0]][h[1]])):
        low, high = circuit.intervals[layer][head]
        yield f"  {layer}.{head:<3} {circuit.effects[layer][head]:+.3f}  [{low:+.3f}, {high:+.3f}]"
    for edge in circuit.edges[:20]:
        (a, b), (c, d) = edge.sender, edge.receiver
        yield f"  {a}.{b} -> {c}.{d}  {edge.effect:+.3f}  [{edge.low:+.3f}, {edge.high:+.3f}]"
