"""Hand jobs to workers, each of which holds one model, and do those again whose worker dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dsae_core.errors import UserError
from dsae_core.models.hub import first_line
from dsae_core.patching_record import Notice

ATTEMPTS = 3
"""How often a job is tried before it is given up."""

PATIENCE = 60.0
"""Seconds without any worker after which the user is told what is waited for."""


@dataclass(frozen=True, eq=False)
class Job:
    """One call of a worker's method, on one model.

    Attributes:
        model: the model's name, which the worker loads first if it holds another.
        call: the name of the method.
        arguments: of the method, by name.
        label: what the job is, in words, for reports.
        group: jobs of one group share what a worker prepares for them, so one worker does them where it can.
    """

    model: str
    call: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    group: str = ""


@dataclass(frozen=True)
class Done:
    """A job that was done, and what the method returned."""

    job: Job
    value: Any


@dataclass(frozen=True)
class Failed:
    """A job that was given up.

    Attributes:
        job: the job.
        reason: what went wrong, one sentence.
        refused: whether it was refused with a UserError, which would come again; else it failed ATTEMPTS times.
    """

    job: Job
    reason: str
    refused: bool


@dataclass(eq=False)
class _Worker:
    handle: Any
    where: str = ""  # host and process, once it has answered
    model: str | None = None  # the model it holds or is loading
    group: str = ""


class Pool:
    """Workers and the jobs that wait for them.

    A job goes to a worker that holds its model, and rather to one that did a job of its group. A worker that dies is
    replaced, and its job goes to the end of the queue; after ATTEMPTS it is given up. A model that cannot be loaded
    takes all jobs on it along.
    """

    def __init__(self, ray: Any, start: Callable[[], Any], size: int, *, version: str, notice: Notice) -> None:
        """Start `size` workers.

        Args:
            ray: the module, connected to a cluster.
            start: starts one worker and gives its handle.
            size: how many workers.
            version: the version of this package that the workers must have too.
            notice: called with a sentence about each worker that died.
        """
        self._ray, self._start, self._version, self._notice = ray, start, version, notice
        self._waiting: list[Job] = []
        self._running: dict[Any, tuple[_Worker, Job]] = {}
        self._idle: list[_Worker] = []
        self._attempts: Counter[Job | tuple[str, str]] = Counter()
        self._answered = False
        for _ in range(size):
            self._start_worker()

    def submit(self, jobs: Iterable[Job]) -> None:
        """Add jobs to the queue."""
        self._waiting += jobs

    def drop(self, group: str) -> None:
        """Take the jobs of a group out of the queue; those that a worker is busy with come to an end."""
        self._waiting = [job for job in self._waiting if job.group != group]

    def results(self) -> Iterator[Done | Failed]:
        """Every job as it ends, the loading of a model ("load") too, until none is left; more may be added meanwhile.

        Raises:
            UserError: no worker can be started, or a worker has another version of this package.
        """
        while self._hand_out():
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=PATIENCE)
            if ready:
                yield from self._take(ready[0])
            elif not self._answered:
                self._notice(f"No worker has started for {PATIENCE:.0f} seconds; the cluster may be busy.")

    # --- handing out -------------------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        handle = self._start()
        self._running[handle.hello.remote()] = (_Worker(handle), Job("", "hello", label="its start"))

    def _hand_out(self) -> bool:
        """Give idle workers something to do; whether there is still anything to wait for."""
        for worker in list(self._idle):
            job = self._next_job(worker)
            if job is not None:
                self._idle.remove(worker)
                self._run(worker, job)
        return bool(self._waiting or any(job.call != "hello" for _, job in self._running.values()))

    def _run(self, worker: _Worker, job: Job) -> None:
        if job.model == worker.model:
            self._waiting.remove(job)
            worker.group = job.group
        else:
            worker.model, worker.group = job.model, ""
            job = Job(job.model, "load", {"name": job.model}, f"the loading of {job.model}")
        self._running[getattr(worker.handle, job.call).remote(**job.arguments)] = (worker, job)

    def _next_job(self, worker: _Worker) -> Job | None:
        """A job on the worker's model, of its group or of nobody's; else one on the model that needs workers most."""
        taken = {other.group for other, _ in self._running.values()}
        own = [job for job in self._waiting if job.model == worker.model]
        if own:
            return min(own, key=lambda job: (job.group != worker.group, job.group in taken))  # the first of the best
        waiting = Counter(job.model for job in self._waiting)
        idle = Counter(other.model for other in self._idle if other is not worker)
        held = Counter(other.model for other, _ in self._running.values()) + idle
        coming = Counter(job.model for _, job in self._running.values() if job.call == "load") + idle
        needing = [job for job in self._waiting if coming[job.model] < waiting[job.model]]
        return max(needing, key=lambda job: waiting[job.model] / (1 + held[job.model]), default=None)

    # --- taking back -------------------------------------------------------------------------------------------

    def _take(self, reference: Any) -> Iterator[Done | Failed]:
        worker, job = self._running.pop(reference)
        errors = self._ray.exceptions
        try:
            value = self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, UserError):
                yield from self._refused(worker, job, str(error.cause))
            else:
                yield from self._died(worker, job, f"{type(error.cause).__name__}: {first_line(error.cause)}")
        except errors.RayError as error:
            yield from self._died(worker, job, first_line(error))
        else:
            if job.call == "hello":
                self._welcome(worker, *value)
            self._idle.append(worker)
            del self._attempts[_key(job)]  # of a model's loadings only those in succession count
            for note in getattr(value, "notes", ()):
                self._notice(f"The worker {worker.where} says: {note}")
            if job.call != "hello":
                yield Done(job, value)

    def _welcome(self, worker: _Worker, where: str, version: str) -> None:
        if version != self._version:
            raise UserError(
                f"The worker {where} has dsae-core {version} and this is {self._version}; install the same version "
                "on every machine of the cluster."
            )
        worker.where, self._answered = where, True

    def _refused(self, worker: _Worker, job: Job, reason: str) -> Iterator[Failed]:
        self._idle.append(worker)
        if job.call == "load":
            worker.model = None
            yield from self._give_up_model(job.model, reason, refused=True)
        else:
            yield Failed(job, reason, refused=True)

    def _died(self, worker: _Worker, job: Job, reason: str) -> Iterator[Failed]:
        """Replace a worker that died or broke, and queue its job again unless it was tried often enough."""
        self._ray.kill(worker.handle)
        self._attempts[_key(job)] += 1
        again = self._attempts[_key(job)] < ATTEMPTS
        if job.call == "hello" and not again:
            raise UserError(f"No worker could be started, {ATTEMPTS} times over: {reason}.")
        then = "which is done again" if again else f"which was tried {ATTEMPTS} times and is given up"
        which = f" ({worker.where})" if worker.where else ""
        self._notice(f"A worker{which} was lost at {job.label}, {then}: {reason}.")
        self._start_worker()
        if again:
            if job.call not in ("hello", "load"):
                self._waiting.append(job)
        elif job.call == "load":
            yield from self._give_up_model(job.model, reason, refused=False)
        else:
            yield Failed(job, reason, refused=False)

    def _give_up_model(self, model: str, reason: str, *, refused: bool) -> Iterator[Failed]:
        given_up = [job for job in self._waiting if job.model == model]
        self._waiting = [job for job in self._waiting if job.model != model]
        for job in given_up:
            yield Failed(job, reason, refused)


def _key(job: Job) -> Job | tuple[str, str]:
    """What counts as the same job when it is tried again: a model's loading by any worker does."""
    return (job.call, job.model) if job.call in ("hello", "load") else job
