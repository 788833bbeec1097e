"""Touching jobs of one connection, driven by readiness, beside whoever works on them."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterable
from typing import Any

from beanpool.connection import Job, JobState, lease_of, let_go, set_state
from beanpool.protocol import STATS_JOB, TOUCH, Command, encode_job, parse_mapping
from beanpool.server.lease import Lease
from beanpool.server.lease_round import LeaseRound
from beanpool.server.pooled_connection import PooledConnection


class TouchRound(LeaseRound):
    """The touches of some jobs of one lease.

    :param jobs: the jobs, and whether the TTR of each is to be asked for (``stats-job``).
    """

    def __init__(self, lease: Lease[PooledConnection], jobs: Iterable[tuple[Job[Any], bool]]) -> None:
        super().__init__(lease)
        self.began_at = 0.0
        """When the first request was sent (monotonic seconds)."""
        self.touched: dict[Job[Any], float | None] = {}
        """Those that were touched, each with its TTR (seconds) if it was asked for and is known."""
        self.lost: list[Job[Any]] = []
        """Those that the server has reserved for this connection no longer."""
        self._jobs = list(jobs)
        self._due: collections.deque[tuple[Job[Any], Command]] = collections.deque()

    def begin(self) -> bool:
        """Send the commands; true if there are none to send.

        :raises BeanpoolError: if the connection broke; call :meth:`end` then, too.
        """
        self.began_at = time.monotonic()
        self.give_up_at = self.began_at + self.connection.timeout
        requests = []
        for job, asks in self._jobs:
            # What has ended by now stays ended for as long as this has the guard.
            if lease_of(job) is not self.lease:
                continue
            # The touch first: the time that is left may be short.
            for command in (TOUCH, STATS_JOB) if asks else (TOUCH,):
                requests.append(encode_job(command, job.number))
                self._due.append((job, command))
        if requests:
            self.connection.channel.begin(b"".join(requests), [command for _, command in self._due])
        return not requests

    def step(self) -> bool:
        """Go as far as is possible without waiting; true once it is done.

        :raises BeanpoolError: if the connection broke; call :meth:`end` then, too.
        """
        channel = self.connection.channel
        while self._due:
            reply = channel.pick_up()
            if reply is None:
                return False
            job, command = self._due.popleft()
            if command is TOUCH:
                if reply.status == "TOUCHED":
                    self.touched[job] = None
                elif reply.status == "NOT_FOUND":
                    set_state(job, JobState.LOST)
                    self.lost.append(job)
                else:
                    # A server without memory, say: the reservation stands.
                    channel.refuse(command, reply)
            elif reply.status == "OK" and job in self.touched:
                ttr = parse_mapping(STATS_JOB.name, reply.body, self.connection.server).get("ttr")
                self.touched[job] = max(1.0, ttr) if isinstance(ttr, int | float) else None
        return True

    @property
    def untouched(self) -> list[Job[Any]]:
        """Those that were to be touched, and are neither touched nor lost."""
        lost = set(self.lost)
        return [job for job, _ in self._jobs if job not in self.touched and job not in lost]

    def end(self, because: str | None = None) -> None:
        """Let others use the connection again; a reason, `because`, ends it for all."""
        let_go(self.connection)
        try:
            if because is not None:
                self.lease.discard(because)
        finally:
            self.lease.forget(job.number for job in self.lost)
            self.lease.unpin()
