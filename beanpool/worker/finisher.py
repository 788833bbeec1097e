"""What is done with a job after its handler: deleted, tried again, buried, given up as lost, or given back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from beanpool.connection import Job
from beanpool.errors import BeanpoolError, Buried, JobLost, NotFound
from beanpool.events import Event
from beanpool.telemetry import Listeners, log_safely, logger
from beanpool.worker import events
from beanpool.worker.deletes import Done
from beanpool.worker.outcome import Again, Aside, Bury, Retry, decide, tries_of
from beanpool.worker.tally import Tally
from beanpool.worker.task import Duty

log = logger("worker")
_monotonic = time.monotonic


class Finisher:
    """Finishes the jobs of a worker; logs, counts and tells listeners what became of them.

    :param pool: the pool's name.
    :param outage: told of a failure in a tube, says how long the tube will be left alone (seconds); None if it is not.
    """

    def __init__(self, pool: str, outage: Callable[[Duty], float | None]) -> None:
        self.tally = Tally()
        self._listeners = Listeners()
        self.heard = False
        """Whether there are listeners; they are there before the first job."""
        self._pool = pool
        self._outage = outage

    def hear(self, listener: Callable[[Event], Any]) -> None:
        """Tell `listener` of all events."""
        self._listeners.add(listener)
        self.heard = True

    def started(self, duty: Duty, job: Job, waited: float) -> None:
        """The handler is about to be called; for who has looked whether anybody listens."""
        self._listeners.publish(events.JobStarted(self._pool, duty.tube, job.server, job.number, waited))

    def done(self, duty: Duty, job: Job, seconds: float) -> None:
        """The handler has returned: delete the job, unless it has finished that itself."""
        try:
            if is_mine(job):
                job.delete()
        except BeanpoolError as error:
            self.lost(duty, job, seconds, error)
            return
        self.tally.add("done")
        if self.heard:
            self._listeners.publish(events.JobDone(self._pool, duty.tube, job.server, job.number, seconds))

    def deleted(self, duty: Duty, jobs: Sequence[Done], outcomes: Sequence[Exception | None]) -> None:
        """These jobs are done, and were deleted, or could not be."""
        lost = 0
        for (job, seconds), error in zip(jobs, outcomes, strict=True):
            if error is not None:
                lost += 1
                self.lost(duty, job, seconds, error)
            elif self.heard:
                self._listeners.publish(events.JobDone(self._pool, duty.tube, job.server, job.number, seconds))
        self.tally.add("done", len(jobs) - lost)

    def failed(
        self, duty: Duty, job: Job, seconds: float, error: BaseException, known: Mapping[str, Any] | None = None
    ) -> None:
        """The handler has raised: let the job wait on its server, or bury it.

        :param known: the job's ``stats-job``, asked for since it was reserved; None if they are to be asked for.
        """
        asked_for = isinstance(error, Retry | Bury)
        outage = None if asked_for else self._outage(duty)
        if not asked_for:
            self.tally.add("failed")
        if not is_mine(job):
            self._log(
                logging.ERROR, "job %d of %s, tube %s: the handler has finished the job and failed", job, duty, error
            )
            return
        try:
            verdict = decide(error, job.stats() if known is None else known, duty.retry, outage)
            try:
                if isinstance(verdict, Again):
                    job.release(verdict.priority, verdict.delay)
                else:
                    job.bury(verdict.priority)
            except Buried:
                verdict = Aside(verdict.priority, verdict.tries, "the server has no memory to queue it")
        except BeanpoolError as trouble:
            self.lost(duty, job, seconds, trouble, error)
            return
        if isinstance(verdict, Again):
            self._retried(duty, job, seconds, verdict, error, quietly=asked_for)
        else:
            self._buried(duty, job, seconds, verdict, error)

    def _retried(
        self, duty: Duty, job: Job, seconds: float, verdict: Again, error: BaseException, *, quietly: bool
    ) -> None:
        self.tally.add("retried")
        text = "job %d of %s, tube %s: try %d failed after %.3f s; again in %d s"
        values = (verdict.tries, seconds, verdict.delay)
        self._log(logging.INFO if quietly else logging.WARNING, text, job, duty, None if quietly else error, *values)
        if self.heard:
            self._listeners.publish(
                events.JobRetried(
                    self._pool, duty.tube, job.server, job.number, seconds, verdict.tries, verdict.delay, error
                )
            )

    def refuses(self, duty: Duty, job: Job, most: int, known: Mapping[str, Any] | None = None) -> bool:
        """Bury the job if it was delivered more often than that. True if it cannot be run.

        :param known: as for :meth:`failed`.
        """
        try:
            stats = job.stats() if known is None else known
            deliveries = int(stats["reserves"])
            if deliveries <= most:
                return False
            priority = int(stats["pri"])
            job.bury(priority)
        except BeanpoolError as trouble:
            self.lost(duty, job, 0.0, trouble)
        else:
            verdict = Aside(priority, tries_of(stats), f"it was delivered {deliveries} times")
            self._buried(duty, job, 0.0, verdict, None)
        return True

    def _buried(self, duty: Duty, job: Job, seconds: float, verdict: Aside, error: BaseException | None) -> None:
        self.tally.add("buried")
        text = "job %d of %s, tube %s: buried at try %d, after %.3f s: %s"
        shown = None if isinstance(error, Bury) else error
        self._log(logging.ERROR, text, job, duty, shown, verdict.tries, seconds, verdict.why)
        if self.heard:
            self._listeners.publish(
                events.JobBuried(self._pool, duty.tube, job.server, job.number, seconds, verdict.tries, error)
            )

    def lost(
        self, duty: Duty, job: Job, seconds: float, trouble: BaseException, error: BaseException | None = None
    ) -> None:
        """The job could not be finished: its reservation is gone. It is not deleted."""
        self.tally.add("lost")
        reason = trouble.reason if isinstance(trouble, JobLost) else str(trouble)
        if isinstance(trouble, NotFound):
            reason = "the server does not know it any more"
        self._log(logging.WARNING, "job %d of %s, tube %s: lost after %.3f s: %s", job, duty, error, seconds, reason)
        if self.heard:
            self._listeners.publish(
                events.JobLost(self._pool, duty.tube, job.server, job.number, seconds, reason, error)
            )

    def give_back(self, tube: str, at_work: Job | None, others: Iterable[Job], began: float = 0.0) -> None:
        """Give jobs back unfinished, in such a way that it counts as no try: by closing their connections.

        A released job would have been tried once more. These connections have no other jobs in hand.

        :param at_work: the one whose handler runs since `began` (monotonic seconds).
        """
        jobs = [*([] if at_work is None else [at_work]), *others]
        for connection in {job.connection for job in jobs}:
            connection.close()
        self.tally.add("given_back", len(jobs))
        now = _monotonic()
        for job in jobs:
            seconds = now - began if job is at_work else 0.0
            log_safely(
                log,
                logging.INFO,
                "job %d of %s, tube %s: given back after %.3f s",
                job.number,
                job.server,
                tube,
                seconds,
            )
            if self.heard:
                self._listeners.publish(events.JobGivenBack(self._pool, tube, job.server, job.number, seconds))

    def _log(self, level: int, text: str, job: Job, duty: Duty, error: BaseException | None, *values: object) -> None:
        log_safely(log, level, text, job.number, job.server, duty.tube, *values, exc_info=error)


def is_mine(job: Job) -> bool:
    """Whether the job is still to be finished: a handler may have done that itself."""
    return job.reserved or job.lost
