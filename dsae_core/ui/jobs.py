"""One queue of work for the whole server: a single worker, progress, cancelling, and the latest results."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from dsae_core.errors import UserError
from dsae_core.models.memory import give_back_memory
from dsae_core.ui import faults

Status = Literal["queued", "running", "done", "failed", "cancelled"]
Report = Callable[[str, float], None]
"""Called with a stage's name and the share of it done; it raises where somebody pressed Cancel."""

T = TypeVar("T")
Work = Callable[[Report], T]

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)


class CancelledError(Exception):
    """Raised inside the work, by the next progress report after somebody pressed Cancel."""


@dataclass(eq=False)
class Job:
    """One piece of work, from the moment it is asked for. The worker writes it, pages read it.

    Attributes:
        title: what it does, in words for the page and the log; no words of a visitor.
        key: an equal key recalls its result later; None where nothing is to be remembered.
        status: where it stands.
        stage: name of the stage it is in, "" before the first.
        fraction: share of that stage done.
        result: what the work returned, once the status is "done".
        error: the sentence to show, once the status is "failed".
        started: when it left the queue, in seconds of time.monotonic().
        seen: when somebody last looked at it, likewise.
        number: of all jobs of this process, from 1.
    """

    title: str = ""
    key: Hashable | None = None
    status: Status = "queued"
    stage: str = ""
    fraction: float = 0.0
    result: Any = None
    error: str = ""
    started: float | None = None
    seen: float = field(default_factory=time.monotonic)
    number: int = field(default_factory=lambda: next(_numbers))
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _ended: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ("done", "failed", "cancelled")

    @property
    def stopping(self) -> bool:
        """Whether Cancel was pressed and the work has not ended yet."""
        return self._stop.is_set() and not self.over

    @property
    def elapsed(self) -> float:
        """Seconds since the work left the queue."""
        return 0.0 if self.started is None else time.monotonic() - self.started

    def wait(self, seconds: float) -> bool:
        """Wait for the end, so many seconds at most; whether it has come."""
        return self._ended.wait(seconds)


class JobQueue:
    """Does one job after another on a thread of its own."""

    def __init__(
        self,
        *,
        keep: int = 8,
        patience: float = 180.0,
        most: int | None = None,
        longest: float | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            keep: how many of the latest results to remember.
            patience: a job that nobody looks at for so many seconds is dropped; its page was closed.
            most: jobs that may wait; a job beyond them fails at once. None for any number.
            longest: seconds after which a running job is ended at its next report; None for any time.
            prepare: called once, on the thread that does the jobs, before the first.
        """
        self._keep = keep
        self._patience = patience
        self._most = most
        self._longest = longest
        self._prepare = prepare
        self._waiting: deque[tuple[Job, Work[Any]]] = deque()
        self._results: OrderedDict[Hashable, Any] = OrderedDict()
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._busy = False

    def submit(self, work: Work[Any], *, key: Hashable | None = None, title: str = "") -> Job:
        """Put a job at the end of the queue; where that is full the job comes back failed.

        Args:
            work: does it; it must call its report often, for Cancel to take effect. What it returns is the result.
            key: to recall the result by; None to remember nothing.
            title: what it does, in words for the page.
        """
        with self._changed:
            job = Job(title, key)
            if self._most is not None and len(self._waiting) >= self._most:
                self._drop_left()
            if self._most is not None and len(self._waiting) >= self._most:
                job.error = f"{self._most} runs of other visitors wait already; try again in a minute."
                _end(job, "failed")
                return job
            self._waiting.append((job, work))
            _log.info("job %d queued as number %d: %s", job.number, len(self._waiting), title)
            if self._worker is None:
                self._worker = threading.Thread(target=self._run, name="dsae-runs", daemon=True)
                self._worker.start()
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or have a running one end at its next progress report."""
        with self._changed:
            job._stop.set()
            place = self._place(job)
            if place is not None:
                del self._waiting[place]
                _end(job, "cancelled")

    def look(self, job: Job) -> int:
        """How many jobs come before a queued one, the running one included; 0 once it runs."""
        job.seen = time.monotonic()
        with self._changed:
            place = self._place(job)
            return 0 if place is None else place + self._busy  # an idle worker takes the first one in no time

    def recall(self, key: Hashable) -> Any:
        """The remembered result of a job with an equal key, None if there is none."""
        with self._changed:
            return self._results.get(key)

    def _drop_left(self) -> None:
        """Take jobs out of the queue whose pages were closed."""
        now = time.monotonic()
        for job in [job for job, _ in self._waiting if now - job.seen > self._patience]:
            del self._waiting[self._place(job) or 0]
            _end(job, "cancelled")

    def _place(self, job: Job) -> int | None:
        return next((i for i, (waiting, _) in enumerate(self._waiting) if waiting is job), None)

    def _run(self) -> None:
        if self._prepare is not None:
            self._prepare()
        while True:
            self._do(*self._next())  # no name for the job here: it would outlive the job until the next one comes
            with self._changed:
                self._busy = False
            give_back_memory()  # what a run took for a moment, a server would keep for good

    def _next(self) -> tuple[Job, Work[Any]]:
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            job, work = self._waiting.popleft()
            self._busy = True
            job.started = time.monotonic()
            job.status = "running"
            return job, work

    def _do(self, job: Job, work: Work[Any]) -> None:
        def report(stage: str, fraction: float) -> None:
            if job._stop.is_set() or time.monotonic() - job.seen > self._patience:
                raise CancelledError
            if self._longest is not None and job.elapsed > self._longest:
                raise UserError(f"The run took more than {self._longest:.0f} s, which this server ends; ask for less.")
            job.stage, job.fraction = stage, min(max(fraction, 0.0), 1.0)

        try:
            report("", 0.0)
            result = work(report)
        except CancelledError:
            _end(job, "cancelled")
        except UserError as error:
            job.error = faults.told(error)
            _end(job, "failed")
        except Exception as error:
            job.error = faults.noted(error, "the run")
            _end(job, "failed")
        else:
            if job.key is not None:
                self._remember(job.key, result)
            job.result = result
            _end(job, "done")

    def _remember(self, key: Hashable, result: Any) -> None:
        with self._changed:
            self._results[key] = result
            self._results.move_to_end(key)
            while len(self._results) > self._keep:
                self._results.popitem(last=False)


def _end(job: Job, status: Status) -> None:
    job.status = status
    _log.info("job %d %s after %.2f s", job.number, status, job.elapsed)
    job._ended.set()
