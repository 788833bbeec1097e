"""What a pool's jobs can do beyond their own connection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from beanpool.errors import JobLost, job_lost
from beanpool.job import Job
from beanpool.lease import Lease
from beanpool.pooled_connection import PooledConnection
from beanpool.recovery import delete_again, reacquire, why_another
from beanpool.reporter import Reporter
from beanpool.reservations import Reservations
from beanpool.server_pool import ConnectionPool


class JobHome:
    """The server that a job lives in, as the pool reaches it.

    :param reporter: is told of every job whose reservation is gone.
    """

    __slots__ = ("_pool", "_reporter", "_reservations")

    def __init__(self, pool: ConnectionPool, reservations: Reservations, reporter: Reporter) -> None:
        self._pool = pool
        self._reservations = reservations
        self._reporter = reporter

    @contextlib.contextmanager
    def borrow(self, job: Job, deadline: float) -> Iterator[PooledConnection]:
        """Lend a connection to the very server process that the job lives in.

        :raises JobLost: if that process is gone.
        """
        with self._pool.lend(deadline) as connection:
            reason = why_another(connection, _instance(job))
            if reason is not None:
                raise job_lost(job.number, job.server, reason)
            yield connection

    def delete_again(self, job: Job, sent: bool, deadline: float) -> None:
        """See :func:`beanpool.recovery.delete_again`.

        :raises JobLost: if it cannot be done.
        """
        [outcome] = self.delete_all_again([(job, sent)], deadline)
        if outcome is not None:
            raise outcome

    def delete_all_again(self, jobs: Sequence[tuple[Job, bool]], deadline: float) -> list[JobLost | None]:
        """The same for many jobs, of one server process; returns what it would raise."""
        return delete_again(self._pool, jobs, _instance(jobs[0][0]), deadline)

    def reacquire(self, job: Job, deadline: float) -> tuple[PooledConnection, Lease[PooledConnection]]:
        """See :func:`beanpool.recovery.reacquire`."""
        connection = reacquire(self._pool, job, _instance(job), deadline)
        return connection, self._reservations.lease(connection)

    def lost(self, job: Job, reason: str) -> None:
        """The job's reservation is gone."""
        self._reporter.job_lost(job.server, job.id, reason)


def _instance(job: Job) -> str:
    connection = job.connection
    return connection.instance if isinstance(connection, PooledConnection) else ""
