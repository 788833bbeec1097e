"""Finishing jobs without holding up whoever asks for it: each server has its jobs finished by itself.

Celery acknowledges its messages one after the other, in the loop that also fetches them. A server that is silent, or
far away, is to keep neither the messages of the others nor its own from coming.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from beanpool import Job, PoolManager

# How long whoever asks waits for the answer (seconds). What takes longer goes on without him.
_PATIENCE = 0.1
# Threads that are at work at most; servers that are silent keep one each.
_MOST_AT_WORK = 64


class End(NamedTuple):
    """What is to become of a job."""

    verb: str
    """``delete``, ``bury`` or ``release``."""
    delay: int = 0
    """How long it then waits (seconds)."""


class Finish:
    """A job that is to be finished."""

    __slots__ = ("answered", "end", "ended", "job")

    def __init__(self, job: Job[bytes], end: End, ended: Callable[[Exception | None], None]) -> None:
        self.job = job
        self.end = end
        self.ended = ended
        # An event would take longer than all the rest.
        self.answered = threading.Lock()
        self.answered.acquire()


class Finisher:
    """Finishes the jobs of a pool: those of a server together, in few round trips."""

    def __init__(self, pool: PoolManager[bytes]) -> None:
        self._pool = pool
        self.start_afresh()

    def start_afresh(self) -> None:
        """In a forked child, which has none of the parent's threads."""
        self._lock = threading.Lock()
        self._threads = concurrent.futures.ThreadPoolExecutor(_MOST_AT_WORK, "beanpool-kombu")
        # What is to be done next, by server, while a thread is at work on it.
        self._next: dict[str, list[Finish]] = {}
        # Where it took longer than anybody waits.
        self._slow: set[str] = set()

    def finish(
        self, job: Job[bytes], end: End, ended: Callable[[Exception | None], None], *, wait: bool = False
    ) -> None:
        """Finish a job. It returns once that is done, or when it takes long: then it goes on.

        :param ended: is told of the end: None, or why it could not be done.
        :param wait: whether to return no sooner, however long it takes.
        """
        server, one = job.server, Finish(job, end, ended)
        with self._lock:
            waiting = self._next.get(server)
            if waiting is None:
                self._next[server] = [one]
            else:
                waiting.append(one)
            waits = waiting is None and server not in self._slow
        if waiting is None:
            try:
                self._threads.submit(self._work, server)
            except RuntimeError:
                # No thread can be started, or the interpreter ends.
                self._work(server)
        if wait or waits:
            one.answered.acquire(timeout=-1 if wait else _PATIENCE)

    def close(self) -> None:
        """Wait for all that is to be done."""
        self._threads.shutdown()

    def _work(self, server: str) -> None:
        while True:
            with self._lock:
                together = self._next.pop(server, [])
                if not together:
                    return
                # Others that come leave theirs here.
                self._next[server] = []
            began = time.monotonic()
            for end in dict.fromkeys(one.end for one in together):
                self._carry_out(end, [one for one in together if one.end == end])
            with self._lock:
                if time.monotonic() - began > _PATIENCE:
                    self._slow.add(server)
                else:
                    self._slow.discard(server)

    def _carry_out(self, end: End, those: list[Finish]) -> None:
        outcomes: list[Exception | None]
        jobs = [one.job for one in those]
        try:
            if end.verb == "delete" and len(jobs) == 1:
                # The usual case, and the quickest.
                jobs[0].delete()
                outcomes = [None]
            elif end.verb == "delete":
                outcomes = self._pool.delete_many(jobs)
            elif end.verb == "bury":
                outcomes = self._pool.bury_many(jobs)
            else:
                outcomes = self._pool.release_many(jobs, delay=end.delay)
        except Exception as error:
            # Whatever it is, those that come next have their turn.
            outcomes = [error] * len(those)
        for one, outcome in zip(those, outcomes, strict=True):
            one.ended(outcome)
            one.answered.release()
