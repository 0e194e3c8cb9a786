"""Exact patching on the workers of a cluster: the circuits that measure_circuit gives, with the same partial files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from dsae_core.circuits import Circuit
from dsae_core.engines.cluster import Placement, ray_pool
from dsae_core.engines.pool import Failed, Job, Pool
from dsae_core.engines.worker import ModelFacts, Opened, Worker
from dsae_core.errors import UserError
from dsae_core.interventions import HeadGroup, effects_of, head_groups, measured_circuit
from dsae_core.measurement import Plan, Target, finish, finished_circuit, open_record
from dsae_core.patching_record import Notice, PatchingRecord
from dsae_core.paths import PathGroup, edges_of, path_groups, with_edges
from dsae_core.prompts import PromptPairs
from dsae_core.stages import Progress


def measure_on_ray(
    targets: Sequence[Target],
    placement: Placement,
    plan: Plan,
    *,
    examples: int,
    pairs: PromptPairs | None = None,
    notice: Notice,
    progress: Progress | None = None,
    on_circuit: Callable[[Target, Circuit], object],
) -> list[tuple[Target, str]]:
    """measure_on, on workers of its own; `placement` says where they are and how large."""
    arguments = {"device": placement.device, "threads": placement.threads}
    with ray_pool(Worker, arguments, placement, notice=notice) as pool:
        return measure_on(
            pool,
            targets,
            plan,
            examples=examples,
            pairs=pairs,
            notice=notice,
            progress=progress,
            on_circuit=on_circuit,
        )


def measure_on(
    pool: Pool,
    targets: Sequence[Target],
    plan: Plan,
    *,
    examples: int,
    pairs: PromptPairs | None,
    notice: Notice,
    progress: Progress | None = None,
    on_circuit: Callable[[Target, Circuit], object],
) -> list[tuple[Target, str]]:
    """Measure every target: one job a forward pass.

    Args:
        pool: the workers.
        targets: the circuits to measure.
        plan: how.
        examples: prompt pairs to draw for a task.
        pairs: prompts to use in place of a task's.
        notice: called with a sentence for the user.
        progress: called as ("patch", share of the passes known so far).
        on_circuit: called with each circuit when it has been written.

    Returns:
        The targets that could not be measured, and why.
    """
    runs = {f"{t.model}, {t.task}": _Run(t, plan, notice) for t in targets}
    pool.submit(run.first_job(name, examples, pairs) for name, run in runs.items())
    unmeasured: list[tuple[Target, str]] = []
    ended, total = 0, len(runs)
    for outcome in pool.results():
        if outcome.job.call == "load" and not isinstance(outcome, Failed):
            continue
        run = runs[outcome.job.group]
        ended += 1
        if run.failed:
            continue
        try:
            if isinstance(outcome, Failed):
                raise UserError(outcome.reason)
            jobs = list(run.take(outcome.job, outcome.value))
        except UserError as error:
            run.failed = True
            pool.drop(outcome.job.group)
            unmeasured.append((run.target, str(error)))
            continue
        total += len(jobs)
        pool.submit(jobs)
        if run.circuit is not None:
            on_circuit(run.target, run.circuit)
        if progress is not None:
            progress("patch", ended / total)
    return unmeasured


@dataclass
class _Prepared:
    """What is known once a worker has opened a target's prompts."""

    facts: ModelFacts
    pairs: PromptPairs
    record: PatchingRecord
    groups: list[HeadGroup]


class _Run:
    """One target's way from prompts to a circuit: which jobs are next, and what their results come to."""

    def __init__(self, target: Target, plan: Plan, notice: Notice) -> None:
        self.target = target
        self.failed = False
        self.circuit: Circuit | None = None
        self._plan, self._notice = plan, notice
        self._prepared: _Prepared | None = None
        self._without_edges: Circuit | None = None
        self._path_groups: list[PathGroup] = []
        self._missing: dict[Job, HeadGroup | PathGroup] = {}

    def first_job(self, name: str, examples: int, pairs: PromptPairs | None) -> Job:
        arguments = {"task": self.target.task, "examples": examples, "seed": self._plan.seed}
        arguments |= {"pairs": pairs, "ablation": self._plan.ablation}
        return Job(self.target.model, "open", arguments, label=f"{name}, its prompts", group=name)

    def take(self, job: Job, value: Opened | Tensor) -> Iterator[Job]:
        """Keep a result, and give the jobs that follow from it."""
        if isinstance(value, Opened):
            yield from self._open(job, value)
            return
        assert self._prepared is not None
        self._prepared.record.put(self._missing.pop(job).name, value)
        if not self._missing:
            yield from self._advance(job.group)

    def _open(self, job: Job, opened: Opened) -> Iterator[Job]:
        facts, pairs = opened.facts, opened.pairs
        self.circuit = finished_circuit(self.target, self._plan, facts, pairs, notice=self._notice)
        if self.circuit is not None:
            return
        record = open_record(
            self.target, self._plan, pairs, digest=facts.digest, device=facts.device.type, notice=self._notice
        )
        if record.metrics is None:
            record.metrics = (opened.metric_positive, opened.metric_negative)
        groups = head_groups(facts.n_layers, facts.n_heads, len(pairs))
        self._prepared = _Prepared(facts, pairs, record, groups)
        for group in groups:
            if record.get(group.name, len(group.heads)) is None:
                arguments = {"pairs": pairs, "ablation": self._plan.ablation, **group._asdict()}
                yield self._await("patch", arguments, group, job.group)
        if not self._missing:
            yield from self._advance(job.group)

    def _await(self, call: str, arguments: dict[str, object], group: HeadGroup | PathGroup, name: str) -> Job:
        job = Job(self.target.model, call, arguments, label=f"{name}, {group.name}", group=name)
        self._missing[job] = group
        return job

    def _advance(self, name: str) -> Iterator[Job]:
        """All passes of a stage are in: on to the paths, or to the end."""
        assert self._prepared is not None
        plan, pairs, record = self._plan, self._prepared.pairs, self._prepared.record
        if self._without_edges is None:
            effects = effects_of(record, self._prepared.groups, seed=plan.seed)
            circuit = measured_circuit(
                self._prepared.facts,
                pairs,
                effects,
                seed=plan.seed,
                ablation=plan.ablation,
                threshold=plan.threshold,
            )
            self._without_edges = circuit
            self._path_groups = path_groups(circuit.heads, len(pairs)) if plan.edges else []
            for group in self._path_groups:
                if record.get(group.name, len(group.senders)) is None:
                    arguments = {"pairs": pairs, "heads": circuit.heads, **group._asdict()}
                    yield self._await("paths", arguments, group, name)
        if not self._missing:
            circuit = self._without_edges
            if plan.edges:
                circuit = with_edges(circuit, edges_of(record, self._path_groups, seed=plan.seed), plan.threshold)
            finish(circuit, self.target, record)
            self.circuit = circuit
