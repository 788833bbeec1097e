"""Jobs of one connection that many threads finish at the same time, in one round trip instead of one after another.

A command on a reserved job goes over the connection that holds it, where one thread at a time has its turn. A worker
fetches many messages at once over one connection, and acknowledges each in the thread that has worked on it: to a
server that is far away the last of them would wait for a round trip of each of the others, and in the end in vain.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from beanpool.connection import Job
from beanpool.errors import without_frames


class _Asked:
    """A thread that wants a job to be finished."""

    __slots__ = ("error", "finished", "gone", "job", "leads", "told")

    def __init__(self, job: Job[Any]) -> None:
        self.job = job
        self.told = threading.Event()
        """Whether its job was finished, or it is to lead."""
        self.finished = False
        """Whether that was tried."""
        self.error: Exception | None = None
        self.leads = False
        """Whether it is the one that finishes jobs of the connection now."""
        self.gone = False
        """Whether it waits no longer."""


class FinishedTogether:
    """Finishes jobs. While a thread does so on a connection, others that come leave theirs to the next one.

    :param one: finishes a job; raises if it was not done.
    :param many: finishes many, and returns for each None, or why it was not done.
    """

    def __init__(
        self, one: Callable[[Job[Any]], object], many: Callable[[Sequence[Job[Any]]], Sequence[Exception | None]]
    ) -> None:
        self._one = one
        self._many = many
        self._lock = threading.Lock()
        # By connection, while a thread is at work on it: whose job is to be finished next.
        self._waiting: dict[object, list[_Asked]] = {}

    def __call__(self, job: Job[Any]) -> None:
        """Finish a job; returns when the server has answered.

        :raises Exception: why it was not done.
        """
        connection, mine = job.connection, _Asked(job)
        try:
            with self._lock:
                mine.leads = connection not in self._waiting
                self._waiting.setdefault(connection, []).append(mine)
            if not mine.leads:
                mine.told.wait()
            if mine.leads:
                self._lead(self._waiting[connection])
        finally:
            with self._lock:
                mine.gone = True
                if mine.leads:
                    self._pass_on(connection)
        if mine.error is not None:
            raise mine.error

    def _lead(self, waiting: list[_Asked]) -> None:
        """Finish all that wait, the thread's own too."""
        together: list[_Asked] = []
        outcomes: Sequence[Exception | None] | None = None
        try:
            with self._lock:
                together += waiting
                waiting.clear()
            if len(together) > 1:
                outcomes = self._many([asked.job for asked in together])
            else:
                self._one(together[0].job)
                outcomes = [None]
        except Exception as error:
            outcomes = [without_frames(error)] * len(together)
        finally:
            with self._lock:
                if outcomes is None:
                    # This thread was interrupted: one of the others tries it again.
                    waiting += together
                else:
                    for asked, outcome in zip(together, outcomes, strict=True):
                        asked.finished, asked.error = True, outcome
                        asked.told.set()

    def _pass_on(self, connection: object) -> None:
        """Have another one lead, if there is one; the lock is held."""
        waiting = self._waiting[connection]
        waiting[:] = [asked for asked in waiting if not (asked.gone or asked.finished)]
        if waiting:
            waiting[0].leads = True
            waiting[0].told.set()
        else:
            del self._waiting[connection]
