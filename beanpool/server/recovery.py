"""What a pool can do for jobs whose connection was lost.

"The work is done, but the delete got lost" is what makes jobs run twice, and it can be mended safely: in the same
server process an id never names another job, and ``reserve-job`` takes the job only if nobody else has it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence

from beanpool.connection import Job
from beanpool.errors import BeanpoolError, CommandTimeout, JobLost, Phase, job_lost, without_frames
from beanpool.protocol import DELETE, RESERVE_JOB, STATS_JOB, Command, Reply, encode_job, parse_mapping
from beanpool.server.connection_pool import ConnectionPool
from beanpool.server.lease import Lease
from beanpool.server.pooled_connection import PooledConnection
from beanpool.server.reservations import Reservations
from beanpool.telemetry import Observers, Reporter

_ANOTHER = "another job has its id"


def _lost(job: Job, reason: str) -> JobLost:
    return job_lost(job.number, job.server, f"its connection is gone, and {reason}")


def why_another(connection: PooledConnection, instance: str) -> str | None:
    """Why a connection is none to the server process `instance`; None if it is one. Without an id nobody can tell."""
    if not instance or not connection.instance:
        return "its server does not say which process it is, and the id may be another job's"
    if connection.instance != instance:
        return "its server was restarted, and the id may be another job's"
    return None


class Recovery:
    """What jobs of a server can have done beyond their own connection.

    :param reporter: is told of every job whose reservation is gone.
    """

    __slots__ = ("_pool", "_reporter", "_reservations", "observers")

    def __init__(self, pool: ConnectionPool, reservations: Reservations, reporter: Reporter) -> None:
        self._pool = pool
        self._reservations = reservations
        self._reporter = reporter
        self.observers: Observers = reporter.observers

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

    def lost(self, job: Job, reason: str) -> None:
        """The job's reservation is gone."""
        self._reporter.job_lost(job.server, job.id, reason)

    def delete_again(self, job: Job, sent: bool, deadline: float) -> None:
        """Delete a job that is still the same and nobody else has.

        :param sent: whether a delete before may have been carried out.
        :raises JobLost: if it cannot be done.
        """
        [outcome] = self.delete_all_again([(job, sent)], deadline)
        if outcome is not None:
            try:
                raise outcome
            finally:
                # Else it has this frame, which has it.
                del outcome

    def delete_all_again(self, jobs: Sequence[tuple[Job, bool]], deadline: float) -> list[JobLost | None]:
        """Delete those of `jobs` that are still the same and nobody else has, in a few round trips for all of them.

        :param jobs: all of one server process, and whether a delete before may have been carried out.
        :returns: for each None, or why it could not be deleted.
        """
        pool, instance = self._pool, _instance(jobs[0][0])
        outcomes: list[JobLost | None] = [None] * len(jobs)

        def fail(positions: Iterable[int], reason: str, cause: BaseException | None = None) -> None:
            for position in positions:
                outcomes[position] = error = _lost(jobs[position][0], reason)
                # Without the frames, which have the jobs and what is told of them.
                error.__cause__ = without_frames(cause) if cause is not None else None

        try:
            connection = pool.acquire(deadline)
        except BeanpoolError as error:
            fail(range(len(jobs)), f"its server cannot be asked again ({error})", error)
            return outcomes
        undecided = set(range(len(jobs)))
        # What is reserved here and not deleted goes back only if the connection is closed.
        clean = True
        try:
            reserved = []
            for position, reason in enumerate(_reserve_again(connection, jobs, instance, deadline)):
                if reason is None:
                    reserved.append(position)
                    continue
                undecided.discard(position)
                clean = clean and reason is not _ANOTHER
                if reason:
                    fail([position], reason)
            replies = _ask(connection, DELETE, [jobs[position][0] for position in reserved], deadline)
            for position, reply in zip(reserved, replies, strict=True):
                undecided.discard(position)
                if reply.status != "DELETED":
                    clean = False
                    fail([position], f"it could not be deleted again ({reply.status})")
        except BaseException as error:
            pool.checkin(connection, broken=error)
            if not isinstance(error, BeanpoolError):
                raise
            fail(undecided, f"the attempt to delete it again failed ({error})", error)
        else:
            if clean:
                pool.checkin(connection)
            else:
                pool.discard(connection, "it holds a job that nobody works on")
        return outcomes

    def reacquire(self, job: Job, deadline: float) -> tuple[PooledConnection, Lease[PooledConnection]]:
        """Reserve `job` again; returns the connection that holds it now, and its lease.

        :raises JobLost: if somebody else has it, or it cannot be found out whether it is still the same.
        """
        pool = self._pool
        try:
            connection = pool.acquire(deadline)
        except BeanpoolError as error:
            raise _lost(job, f"its server cannot be asked again ({error})") from error
        try:
            [reason] = _reserve_again(connection, [(job, False)], _instance(job), deadline)
        except BaseException as error:
            pool.checkin(connection, broken=error)
            if isinstance(error, BeanpoolError):
                raise _lost(job, f"its server could not be asked again ({error})") from error
            raise
        if reason is None:
            return connection, self._reservations.lease(connection)
        if reason is _ANOTHER:
            pool.discard(connection, "it holds a job that nobody works on")
        else:
            pool.checkin(connection)
        raise _lost(job, reason)


def _instance(job: Job) -> str:
    connection = job.connection
    return connection.instance if isinstance(connection, PooledConnection) else ""


def _reserve_again(
    connection: PooledConnection, jobs: Sequence[tuple[Job, bool]], instance: str, deadline: float
) -> list[str | None]:
    """Reserve the jobs; returns for each None, or why it was not done (empty if it need not be done)."""
    stranger = why_another(connection, instance)
    if stranger is not None:
        return [stranger] * len(jobs)
    asked = [job for job, _ in jobs]
    replies = _ask(connection, STATS_JOB, asked, deadline)
    reasons = [_why_not(connection, reply, sent) for reply, (_, sent) in zip(replies, jobs, strict=True)]
    ready = [position for position, reason in enumerate(reasons) if reason is None]
    for position, reply in zip(
        ready, _ask(connection, RESERVE_JOB, [asked[position] for position in ready], deadline), strict=True
    ):
        job = asked[position]
        if reply.status == "UNKNOWN_COMMAND":
            reasons[position] = "its server is too old to be asked for one job (reserve-job needs beanstalkd 1.12)"
        elif reply.status != "RESERVED":
            reasons[position] = f"somebody else has it ({reply.status})"
        elif reply.number != job.number or reply.body != job.data:
            reasons[position] = _ANOTHER
    return reasons


def _why_not(connection: PooledConnection, reply: Reply, sent: bool) -> str | None:
    """Why a job cannot be reserved again, by its statistics; None if it can, and empty if it need not."""
    if reply.status == "NOT_FOUND":
        # One process does not use an id twice, so the job is gone: by our delete if one was sent.
        return "" if sent else "it was finished elsewhere"
    if reply.status != "OK":
        return f"the server answered {reply.status} when asked about it"
    state = parse_mapping(STATS_JOB.name, reply.body, connection.server).get("state")
    return None if state == "ready" else f"it is {state} now"


def _ask(connection: PooledConnection, command: Command, jobs: Sequence[Job], deadline: float) -> Iterator[Reply]:
    """One command for each job, pipelined, all within the deadline."""
    requests = [(command, encode_job(command, job.number)) for job in jobs]
    server = connection.server
    if time.monotonic() >= deadline:
        raise CommandTimeout(f"{server}: no time is left for {command.name}", server=server, phase=Phase.SENDING)
    for reply in connection.channel.exchange_many(requests, deadline - time.monotonic()):
        yield reply
        if time.monotonic() >= deadline and connection.channel.due:
            raise CommandTimeout(
                f"{server}: the time ran out while replies to {command.name} came in",
                server=server,
                phase=Phase.WAITING,
            )
