"""One thread of a worker: takes jobs, calls handlers, and has noted what became of them."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from beanpool.connection import Job
from beanpool.errors import BeanpoolError, PoolClosed
from beanpool.reserve import Waker
from beanpool.telemetry import log_safely
from beanpool.worker.batch import Batches
from beanpool.worker.crew import Crew, Notice
from beanpool.worker.current import working_on
from beanpool.worker.deletes import Deletes, Done
from beanpool.worker.finisher import is_mine, log
from beanpool.worker.hand import YOUNG, Hand
from beanpool.worker.outcome import Bury, Retry
from beanpool.worker.places import Seat
from beanpool.worker.task import Duty
from beanpool.worker.time_limit import TimeLimit

# Pauses after errors that are none of a handler's (seconds): the first one, and the longest.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_monotonic = time.monotonic


class Runner:
    """One of a worker's threads."""

    def __init__(self, crew: Crew, number: int) -> None:
        self._crew = crew
        self._waker = Waker()
        self._told = threading.Event()
        self._seat = Seat(self.wake)
        self._limit: TimeLimit | None = None
        self._pause = _FIRST_PAUSE
        self.ended = False
        """Whether the thread will take no more jobs, and has none; the supervisor is told when it becomes true."""
        self.hand = Hand()
        self.deletes = Deletes(self._delete, crew.flusher)
        self._thread = threading.Thread(target=self._run, name=f"{crew.name}-{number}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for the end of the thread, for so long (seconds)."""
        self._thread.join(timeout)

    def wake(self) -> None:
        """Let it look anew for what it may wait; from any thread."""
        # In this order: a waker that is set is always cleared, for the other follows.
        self._waker.set()
        self._told.set()

    @property
    def is_stuck(self) -> bool:
        """Whether its handler runs on although its time limit is over."""
        return self._limit is not None and self._limit.overrun

    def look(self, now: float) -> float:
        """Keep a job alive that has become old, end a handler whose time is over; called by the supervisor.

        Returns when it is to look again (monotonic seconds).
        """
        job = self.hand.old_job(now)
        if job is not None and (self.hand.until is None or now < self.hand.until):
            with contextlib.suppress(BeanpoolError):
                self._crew.kept.add(job, until=self.hand.until)
            if not self.hand.has(job):
                # It was finished meanwhile.
                self._crew.kept.discard(job)
        dues = (self.hand.due, -math.inf if self._limit is None else self._limit.enforce(now))
        # What lies behind has been seen to.
        return min((due for due in dues if due > now), default=math.inf)

    # The thread.

    def _run(self) -> None:
        self._limit = TimeLimit()
        try:
            while not self._crew.stopping:
                try:
                    self._take_and_work()
                    self._pause = _FIRST_PAUSE
                except PoolClosed:
                    self._crew.mailbox.put(Notice.CLOSED)
                    break
                except BaseException as error:
                    self._rest_after(error)
            self._crew.give_up(self._seat)
        finally:
            self.ended = True
            self._crew.mailbox.put(Notice.ENDED)

    def _rest_after(self, error: BaseException) -> None:
        expected = isinstance(error, BeanpoolError)
        text = "%s takes no job for %.1f s, after an error: %s"
        values = (self._thread.name, self._pause, error)
        log_safely(log, logging.WARNING if expected else logging.ERROR, text, *values, exc_info=not expected)
        self._told.wait(self._pause)
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause)

    def _take_and_work(self) -> None:
        crew = self._crew
        if self._told.is_set():
            # Before anything is looked at: who changes it afterwards ends the wait.
            self._waker.clear()
            self._told.clear()
        tubes, timeout = crew.enter(self._seat)
        if crew.stopping:
            return
        if not tubes:
            self._told.wait(timeout)
            return
        order = crew.settings.order if len(tubes) > 1 else "any"
        job = crew.pool.reserve(timeout, tubes=tubes, order=order, waker=self._waker)
        if job is not None:
            self._work_on(job, tubes)

    def _work_on(self, job: Job, tubes: Sequence[str]) -> None:
        jobs = [job]
        try:
            tube = job.tube or (tubes[0] if len(tubes) == 1 else job.stats()["tube"])
            duty = self._crew.duties[tube]
            self._crew.took(self._seat, tube)
            try:
                if duty.batches is not None:
                    jobs += self._more(duty.batches, job, tube)
                self._crew.finisher.tally.add("taken", len(jobs))
                if len(jobs) > 1:
                    self._run_all(duty, jobs)
                else:
                    self._run_alone(duty, job)
            finally:
                if duty.batches is not None:
                    self._crew.kept.discard(job)
                self._crew.done(self._seat)
        except BaseException:
            # What nobody works on goes back to its server now: the error refers to it, as long as that is dealt with.
            self.hand.rest()
            self.deletes.flush(wait=True)
            self._crew.finisher.give_back(job.tube or "?", None, [one for one in jobs if one.reserved])
            raise

    def _more(self, batches: Batches, first: Job, tube: str) -> list[Job]:
        """What there is more of the tube on the first job's server, up to the size of a batch."""
        wanted = self._crew.more(batches.next() - 1)
        jobs: list[Job] = []
        if not wanted:
            return jobs
        try:
            if self._crew.settings.keep_alive:
                # From now on: a far server takes a good part of a short TTR for its answer.
                self._crew.kept.add(first)
            jobs = self._crew.pool.reserve_many(wanted, 0, tubes=tube, server=first.server)
        except BeanpoolError:
            # The first one is in hand; the next reserve meets what is wrong.
            pass
        finally:
            self._crew.took_more(wanted, len(jobs))
        batches.came(len(jobs))
        return jobs

    def _run_alone(self, duty: Duty, job: Job) -> None:
        crew, began = self._crew, _monotonic()
        until = None if duty.time_limit is None else began + duty.time_limit
        keep_alive = crew.settings.keep_alive
        if not self.hand.begin(duty.tube, job, began, until, kept=not keep_alive):
            return
        if keep_alive:
            crew.look_at(began + YOUNG)
        try:
            self._run_one(duty, job, began, 0.0, alone=True)
        finally:
            if keep_alive and self.hand.kept:
                crew.kept.discard(job)
        if duty.batches is not None:
            duty.batches.ran(1, _monotonic() - began)

    def _run_all(self, duty: Duty, jobs: Sequence[Job]) -> None:
        came = began = _monotonic()
        count = 0
        self.hand.take(duty.tube, jobs)
        with self._crew.pool.keep(jobs) if self._crew.settings.keep_alive else contextlib.nullcontext() as kept:
            # It is kept as one of the batch now.
            self._crew.kept.discard(jobs[0])
            stats = {} if self._crew.settings.max_deliveries is None else self._stats_of(jobs)
            while (job := self.hand.next(began)) is not None:
                if kept is not None and duty.time_limit is not None:
                    kept.add(job, until=began + duty.time_limit)
                self._run_one(duty, job, began, began - came, alone=False, known=stats.get(job))
                count += 1
                began = _monotonic()
                if duty.breaker is not None and self._crew.left_alone(duty.tube):
                    self._give_rest_back(duty)
            self.deletes.flush()
        if duty.batches is not None and count:
            duty.batches.ran(count, began - came)

    def _stats_of(self, jobs: Sequence[Job]) -> dict[Job, Mapping[str, Any]]:
        """The statistics of jobs, in one round trip. They are true as long as the jobs are reserved."""
        outcomes = self._crew.pool.stats_jobs(jobs)
        return {job: stats for job, stats in zip(jobs, outcomes, strict=True) if not isinstance(stats, Exception)}

    def _run_one(
        self,
        duty: Duty,
        job: Job,
        began: float,
        waited: float,
        *,
        alone: bool,
        known: Mapping[str, Any] | None = None,
    ) -> None:
        finisher, most = self._crew.finisher, self._crew.settings.max_deliveries
        if most is not None and finisher.refuses(duty, job, most, known):
            self.hand.settle()
            return
        if finisher.heard:
            finisher.started(duty, job, waited)
        error = self._call(duty, job)
        seconds = _monotonic() - began
        if not self.hand.settle():
            return
        if duty.breaker is not None and (error is None or isinstance(error, Retry | Bury)):
            self._crew.succeeded(duty.tube)
        if error is not None:
            finisher.failed(duty, job, seconds, error, known)
        elif alone or not is_mine(job):
            finisher.done(duty, job, seconds)
        else:
            self.deletes.add(duty.tube, Done(job, seconds))

    def _call(self, duty: Duty, job: Job) -> BaseException | None:
        limit = self._limit if duty.time_limit is not None else None
        token = working_on.set(job)
        try:
            try:
                if limit is not None and duty.time_limit is not None:
                    self._crew.look_at(limit.begin(duty.time_limit))
                duty.handler(job)
            finally:
                if limit is not None:
                    limit.end()
        except BaseException as error:
            # It may have come within the end of the limit.
            if limit is not None:
                limit.end()
            return error
        finally:
            working_on.reset(token)
        return None

    def _give_rest_back(self, duty: Duty) -> None:
        rest = self.hand.rest()
        if rest:
            # What is done must be deleted before the connections are closed that it came from.
            self.deletes.flush(wait=True)
            self._crew.finisher.give_back(duty.tube, None, rest)

    def _delete(self, tube: str, jobs: Sequence[Done]) -> None:
        duty, finisher = self._crew.duties[tube], self._crew.finisher
        try:
            outcomes = self._crew.pool.delete_many([done.job for done in jobs])
        except BeanpoolError as error:
            outcomes = [error] * len(jobs)
        finisher.deleted(duty, jobs, outcomes)
