"""Jobs made of replies."""

from __future__ import annotations

from typing import Any

from beanpool.connection import results
from beanpool.connection.job import Job, JobState
from beanpool.connection.job_protocols import JobConnection, JobLease, JobRecovery
from beanpool.net import Channel
from beanpool.protocol import Command, Reply

_RESERVED = JobState.RESERVED
_new_object = object.__new__


def reserved_job(
    connection: JobConnection,
    jid: int,
    data: bytes,
    tube: str | None,
    recovery: JobRecovery[Job[Any]] | None,
    lease: JobLease[Job[Any]],
    reserved_at: float,
) -> Job[Any]:
    """A job that was just reserved: as the constructor would make it, at half of its cost.

    :param reserved_at: when that was (monotonic seconds).
    """
    job: Job[Any] = _new_object(Job)
    job.number = jid
    job.data = data
    job.tube = tube
    job._connection = connection
    job._epoch = connection._epoch
    job._recovery = recovery
    job._lease = lease
    job._reserved_at = reserved_at
    job._state = _RESERVED
    return job


def found_job(
    connection: JobConnection, command: Command, tube: str | None, jid: int | None, channel: Channel, reply: Reply
) -> Job[Any] | None:
    """The job in the reply to a peek.

    :param jid: the id that was asked for; None if any job would do.
    """
    if reply.status == "NOT_FOUND":
        return None
    if reply.status != "FOUND":
        raise channel.refuse(command, reply)
    if jid is not None and reply.number != jid:
        raise results.violated(channel, command, "another job", reply.status)
    return Job(connection, reply.number, reply.body, tube=tube)
