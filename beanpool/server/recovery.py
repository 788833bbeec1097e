"""What a pool can do for jobs whose connection was lost.

"The work is done, but the delete got lost" is what makes jobs run twice, and it can be mended safely: in the same
server process an id never names another job, and ``reserve-job`` takes the job only if nobody else has it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TypeVar

from beanpool.connection import Job
from beanpool.errors import BeanpoolError, CommandTimeout, JobLost, Phase, job_lost, without_frames
from beanpool.protocol import DELETE, RESERVE_JOB, STATS_JOB, Command, Reply, encode_job, parse_mapping
from beanpool.server.connection_pool import ConnectionPool
from beanpool.server.lease import Lease
from beanpool.server.pooled_connection import PooledConnection
from beanpool.server.reservations import Reservations
from beanpool.telemetry import Observers, Reporter

_ANOTHER = "another job has its id"

Result = TypeVar("Result")
Steps = Generator[tuple[Command, Sequence[Job]], Sequence[Reply], Result]
"""Yields a command, and the jobs that it is for, and is sent the replies."""


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
        recovered = self.deletes_of([(job, sent)])
        try:
            connection = self._pool.acquire(deadline)
        except BeanpoolError as error:
            recovered.cannot_begin(error)
        else:
            try:
                _carry_out(recovered.steps(connection), connection, deadline)
            except BaseException as error:
                recovered.end(connection, error)
                if not isinstance(error, BeanpoolError):
                    raise
            else:
                recovered.end(connection)
        # An error with a name here would be in a circle with this frame.
        outcomes = [outcome for outcome in recovered.outcomes if outcome is not None]
        recovered.outcomes.clear()
        if outcomes:
            raise outcomes.pop()

    def deletes_of(self, jobs: Sequence[tuple[Job, bool]]) -> RecoveredDeletes:
        """The deletes of those of `jobs` that are still the same and nobody else has.

        :param jobs: all of one server process, and whether a delete before may have been carried out.
        """
        return RecoveredDeletes(self._pool, jobs)

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
            [reason] = _carry_out(_reserve_again(connection, [(job, False)], _instance(job)), connection, deadline)
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


class RecoveredDeletes:
    """The deletes of jobs that lost their connection, all of one server process, in a few round trips for all of them.

    Who has a connection carries out the steps, and ends it.
    """

    def __init__(self, pool: ConnectionPool, jobs: Sequence[tuple[Job, bool]]) -> None:
        self.pool = pool
        self.outcomes: list[JobLost | None] = [None] * len(jobs)
        """For each job None, or why it could not be deleted."""
        self._jobs = jobs
        self._undecided = set(range(len(jobs)))
        # Those that are reserved again, once they are being deleted.
        self._deleting: list[int] = []
        # What is reserved here and not deleted goes back only if the connection is closed.
        self._clean = True

    def cannot_begin(self, error: BeanpoolError) -> None:
        """No connection is to be had."""
        self._fail(self._undecided, f"its server cannot be asked again ({error})", error)

    def steps(self, connection: PooledConnection) -> Steps[None]:
        """What to ask on this connection, as the answers come in."""
        jobs, undecided = self._jobs, self._undecided
        reserved = []
        reasons = yield from _reserve_again(connection, jobs, _instance(jobs[0][0]))
        for position, reason in enumerate(reasons):
            if reason is None:
                reserved.append(position)
                continue
            undecided.discard(position)
            self._clean = self._clean and reason is not _ANOTHER
            if reason:
                self._fail([position], reason)
        self._deleting = reserved
        self._deleted((yield DELETE, [jobs[position][0] for position in reserved]))

    def _deleted(self, replies: Sequence[Reply]) -> None:
        for position, reply in zip(self._deleting, replies, strict=False):
            self._undecided.discard(position)
            if reply.status != "DELETED":
                self._clean = False
                self._fail([position], f"it could not be deleted again ({reply.status})")

    def end(
        self, connection: PooledConnection, error: BaseException | None = None, replies: Sequence[Reply] = ()
    ) -> None:
        """All steps are done, or the connection broke by `error`: give it back.

        :param replies: those to the last step that came before it broke.
        """
        if error is not None:
            self.pool.checkin(connection, broken=error)
            self._deleted(replies)
            self._fail(self._undecided, f"the attempt to delete it again failed ({error})", error)
        elif self._clean:
            self.pool.checkin(connection)
        else:
            self.pool.discard(connection, "it holds a job that nobody works on")

    def _fail(self, positions: Iterable[int], reason: str, cause: BaseException | None = None) -> None:
        for position in positions:
            self.outcomes[position] = error = _lost(self._jobs[position][0], reason)
            # Without the frames, which have the jobs and what is told of them.
            error.__cause__ = without_frames(cause) if cause is not None else None


def _carry_out(steps: Steps[Result], connection: PooledConnection, deadline: float) -> Result:
    """Carry out the steps, and wait for the answers."""
    try:
        command, jobs = next(steps)
        while True:
            command, jobs = steps.send(list(_ask(connection, command, jobs, deadline)))
    except StopIteration as end:
        result: Result = end.value
        return result


def _reserve_again(
    connection: PooledConnection, jobs: Sequence[tuple[Job, bool]], instance: str
) -> Steps[list[str | None]]:
    """Reserve the jobs; returns for each None, or why it was not done (empty if it need not be done)."""
    stranger = why_another(connection, instance)
    if stranger is not None:
        return [stranger] * len(jobs)
    asked = [job for job, _ in jobs]
    replies = yield STATS_JOB, asked
    reasons = [_why_not(connection, reply, sent) for reply, (_, sent) in zip(replies, jobs, strict=True)]
    ready = [position for position, reason in enumerate(reasons) if reason is None]
    replies = yield RESERVE_JOB, [asked[position] for position in ready]
    for position, reply in zip(ready, replies, strict=True):
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
