"""The states of jobs, for batches that send their own commands, and for a second reservation of the same job."""

from __future__ import annotations

from typing import Any

from beanpool.connection.job import RAN_OUT, SUPERSEDED, Job, JobState, is_inherited
from beanpool.connection.job_protocols import JobLease, JobRecovery
from beanpool.errors import BeanpoolError, JobLost


def state_of(job: Job[Any]) -> JobState:
    """What this process may do with it. The connection is not looked at."""
    return job._state


def reserved_at(job: Job[Any]) -> float:
    """When it was reserved (monotonic seconds)."""
    return job._reserved_at


def recovery_of(job: Job[Any]) -> JobRecovery[Job[Any]] | None:
    """The pool that it came out of."""
    return job._recovery


def lease_of(job: Job[Any]) -> JobLease[Job[Any]] | None:
    """Its lease, while it is reserved and its connection is open; else None."""
    return None if job._state is not JobState.RESERVED or job._cut_off else job._lease


def is_broken(job: Job[Any]) -> bool:
    """Whether its connection broke while it was reserved, and nothing was done about it so far."""
    connection = job._connection
    return job._state is JobState.RESERVED and connection.closed and not is_inherited(connection) and job._epoch >= 0


def set_state(job: Job[Any], state: JobState) -> bool:
    """Set its state, for a batch that has the guard; returns whether it was reserved. The batch ends its lease."""
    reserved = job._state is JobState.RESERVED
    if reserved:
        job._state = state
    job._lease = None
    return reserved


def lose_to_ttr(job: Job[Any]) -> JobLost:
    """A batch got ``NOT_FOUND`` while the job was reserved here: report it lost, and build the error."""
    return job._tell_lost(RAN_OUT)


def disconnect(job: Job[Any], error: BeanpoolError) -> None:
    """Its connection broke while a batch was to delete it: the reservation is gone.

    The batch decides what that comes to, by :func:`mark_deleted` or :func:`report_lost`.
    """
    job._disconnected(error)


def lose(job: Job[Any], error: BeanpoolError) -> JobLost:
    """Its connection broke before a batch could carry out its command: report the job lost, and build the error."""
    lost = job._lose(error)
    lost.__cause__ = error
    return lost


def mark_deleted(job: Job[Any]) -> None:
    """A batch has deleted it over another connection."""
    job._state = JobState.NOT_RESERVED


def report_lost(job: Job[Any], error: JobLost) -> None:
    """A batch could not delete it any more: report it lost."""
    job._tell_lost(error.reason)


def supersede(job: Job[Any], connection: object) -> None:
    """The server has given the job out again, to this very pool: this reservation is over.

    :param connection: where it is reserved now. If that is the same one, it is kept by the other reservation.
    """
    job._epoch = SUPERSEDED
    if job._connection is connection:
        job._lease = None
