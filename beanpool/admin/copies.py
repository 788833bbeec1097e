"""Copies of jobs: put in another place first, and taken back only where the original is certainly still somebody's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from beanpool.admin.outcome import Tally
from beanpool.admin.stored_job import StoredJob
from beanpool.connection import Connection, JobId
from beanpool.errors import (
    BeanpoolError,
    Buried,
    ConnectionFailed,
    Draining,
    JobTooBig,
    NotFound,
    OutOfMemory,
    PutFailed,
    UnexpectedResponse,
    job_lost,
    refusal,
)
from beanpool.manager import PoolManager
from beanpool.put import Put

KeyOf = str | bytes | Callable[[StoredJob], str | bytes | None] | None
"""The key of all copies, or what tells that of each."""

# A copy that is to be buried must be nobody's until it is: it waits for so long (seconds), and never comes by itself.
HIDDEN = 365 * 86400

Copy = JobId | Exception


class Copies:
    """Puts copies: on one server, over a connection of its own, or by the pool, on any.

    :param tube: theirs; None for that of each job.
    :param home: the connection, which uses that tube, and the server and process at its other end.
    """

    def __init__(
        self,
        pool: PoolManager[Any],
        tube: str | None,
        key: KeyOf,
        timeout: float | None,
        home: tuple[Connection[Any], tuple[str, str]] | None = None,
    ) -> None:
        self._pool = pool
        self._tube = tube
        self._key = key
        self._timeout = timeout
        self._home = home

    def put(self, jobs: Sequence[StoredJob]) -> list[Copy]:
        """Put a copy of each job; returns the copy's id, or why there is none. Buried jobs have theirs buried."""
        copies = self._put_by_pool(jobs) if self._home is None else self._put_at_home(jobs, *self._home)
        to_bury = [
            number
            for number, (job, copy) in enumerate(zip(jobs, copies, strict=True))
            if job.state == "buried" and isinstance(copy, JobId) and not copy.buried
        ]
        if to_bury:
            hidden = [(copies[number], jobs[number].priority) for number in to_bury]
            for number, error in zip(to_bury, bury_copies(self._pool, hidden, self._timeout), strict=True):
                if error is not None:
                    copies[number] = NotBuried(copies[number], error)
        return copies

    def _put_by_pool(self, jobs: Sequence[StoredJob]) -> list[Copy]:
        key = self._key
        puts = [
            Put(
                job.data,
                key(job) if callable(key) else key,
                job.tube if self._tube is None else self._tube,
                job.priority,
                delay_of_copy(job),
                job.ttr,
            )
            for job in jobs
        ]
        return list(self._pool.put_many(puts, timeout=self._timeout))

    def _put_at_home(
        self, jobs: Sequence[StoredJob], connection: Connection[Any], origin: tuple[str, str]
    ) -> list[Copy]:
        with connection.pipeline() as pipeline:
            for job in jobs:
                pipeline.put(job.data, job.priority, delay_of_copy(job), job.ttr)
        copies: list[Copy] = []
        for outcome in pipeline.results:
            if isinstance(outcome, Buried) and outcome.id is not None:
                copies.append(JobId(outcome.id, *origin, buried=True))
            else:
                copies.append(outcome if isinstance(outcome, Exception) else JobId(outcome, *origin))
        # It may take no more, and others may.
        refused = [number for number, copy in enumerate(copies) if isinstance(copy, Draining | OutOfMemory)]
        if refused:
            elsewhere = self._put_by_pool([jobs[number] for number in refused])
            for number, copy in zip(refused, elsewhere, strict=True):
                copies[number] = copy
        return copies


class NotBuried(Exception):
    """A copy is stored, and could not be buried: it waits, and is to be taken back."""

    def __init__(self, copy: Copy, cause: Exception) -> None:
        super().__init__(str(cause))
        assert isinstance(copy, JobId)
        self.copy = copy
        self.cause = cause


def delay_of_copy(job: StoredJob) -> int:
    """The delay with which a copy is put (seconds)."""
    return HIDDEN if job.state == "buried" else job.delay


def bury_copies(
    pool: PoolManager[Any], copies: Sequence[tuple[Copy, int]], timeout: float | None
) -> list[Exception | None]:
    """Bury copies that were put with a delay: by reserving and burying them, in one request.

    :param copies: each with its priority.
    :returns: None, or what went wrong, for each.
    """
    outcomes: list[Exception | None] = [None] * len(copies)
    by_server: dict[tuple[str, str], list[int]] = {}
    for number, (copy, _) in enumerate(copies):
        assert isinstance(copy, JobId)
        by_server.setdefault((copy.server, copy.instance), []).append(number)
    if not by_server:
        return outcomes

    def bury(process: tuple[str, str]) -> list[Exception | None]:
        numbers = by_server[process]
        try:
            return _bury_on(pool, *process, [copies[number] for number in numbers], timeout)
        except (BeanpoolError, ValueError) as error:
            # ValueError: the server has left the pool.
            return [error] * len(numbers)

    # At once: one that is far or silent holds up no other.
    with ThreadPoolExecutor(len(by_server), thread_name_prefix="beanpool-admin-bury") as executor:
        for numbers, done in zip(by_server.values(), executor.map(bury, by_server), strict=True):
            for number, outcome in zip(numbers, done, strict=True):
                outcomes[number] = outcome
    return outcomes


def _bury_on(
    pool: PoolManager[Any], server: str, instance: str, copies: Sequence[tuple[Copy, int]], timeout: float | None
) -> list[Exception | None]:
    with pool.connection(server, timeout=timeout) as connection:
        if str(connection.stats()["id"]) != instance:
            return [job_lost(int(str(copy)), server, "the server was restarted") for copy, _ in copies]
        with connection.pipeline() as pipeline:
            for copy, priority in copies:
                assert isinstance(copy, JobId)
                pipeline.reserve_job(copy)
                pipeline.bury(copy, priority)
        # Where the job could not be reserved, that is why it could not be buried.
        return [
            None if not isinstance(buried, Exception) else reserved if isinstance(reserved, Exception) else buried
            for reserved, buried in zip(pipeline.results[::2], pipeline.results[1::2], strict=True)
        ]


def take_back(pool: PoolManager[Any], copies: Sequence[JobId], timeout: float | None, tally: Tally) -> None:
    """Delete copies whose originals stay; those that cannot be are duplicates."""
    if copies:
        outcomes = pool.delete_many(copies, timeout=timeout)
        tally.duplicates += sum(outcome is not None for outcome in outcomes)


def note_copy(copy: Copy, tally: Tally) -> bool:
    """Count what a put says of a copy; returns whether the lane can go on."""
    if isinstance(copy, JobId):
        tally.duplicates += copy.maybe_duplicate
        if copy.buried:
            tally.fail(refusal("put", "BURIED", [str(copy)], server=copy.server, job=int(copy)))
        return True
    error = copy.cause if isinstance(copy, NotBuried) else copy
    tally.fail(error)
    may_be_stored = isinstance(error, PutFailed) and error.may_be_stored
    if isinstance(error, ConnectionFailed | UnexpectedResponse) and not isinstance(copy, NotBuried):
        may_be_stored = error.may_have_taken_effect
    tally.duplicates += may_be_stored
    # Others may be smaller, or still be there.
    return isinstance(error, JobTooBig | NotFound)
