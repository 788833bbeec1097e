"""Finishing the delete of a job whose connection was lost.

"The work is done, but the delete got lost" is what makes jobs run twice, and it can be mended safely: in the same
server process an id never names another job, and ``reserve-job`` takes the job only if nobody else has it.
"""

from __future__ import annotations

from beanpool.errors import BeanpoolError, JobLost
from beanpool.job import Job
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.commands import DELETE, RESERVE_JOB, STATS_JOB, encode_job
from beanpool.protocol.documents import parse_mapping
from beanpool.server_pool import ServerPool

_GONE = "its connection is gone"


def lost(job: Job, reason: str) -> JobLost:
    """The error of a job whose reservation is gone."""
    return JobLost(f"job {job.number} of {job.server} is lost: {reason}", reason=reason)


def why_another(connection: PooledConnection, instance: str) -> str | None:
    """Why a connection is none to the server process `instance`; None if it is one. Without an id nobody can tell."""
    if not instance or not connection.instance:
        return "its server does not say which process it is, and the id may be another job's"
    if connection.instance != instance:
        return "its server was restarted, and the id may be another job's"
    return None


def delete_again(pool: ServerPool, job: Job, instance: str, sent: bool, deadline: float) -> None:
    """Delete `job` if it is still the same and nobody else has it.

    :param instance: the id of the server process that the job was reserved from.
    :param sent: whether a delete before may have been carried out.
    :raises JobLost: if it is not, or that cannot be found out.
    """
    connection = _take_back(pool, job, instance, sent, deadline)
    if connection is None:
        return
    try:
        reply = connection.channel.exchange(DELETE, encode_job(DELETE, job.number), deadline)
    except BaseException as error:
        pool.broke(connection, error)
        if isinstance(error, BeanpoolError):
            raise lost(job, f"{_GONE}, and the attempt to delete it again failed ({error})") from error
        raise
    if reply.status != "DELETED":
        pool.discard(connection, "it holds a job that nobody works on")
        raise lost(job, f"{_GONE}, and it could not be deleted again ({reply.status})")
    pool.release(connection)


def reacquire(pool: ServerPool, job: Job, instance: str, deadline: float) -> PooledConnection:
    """Reserve `job` again; returns the connection that holds it now.

    :raises JobLost: if somebody else has it, or it cannot be found out whether it is still the same.
    """
    connection = _take_back(pool, job, instance, False, deadline)
    if connection is None:
        raise lost(job, f"{_GONE}, and it was finished")
    return connection


def _take_back(pool: ServerPool, job: Job, instance: str, sent: bool, deadline: float) -> PooledConnection | None:
    """Reserve `job` on another connection; None if the delete that was `sent` has taken effect."""
    try:
        connection = pool.acquire(deadline)
    except BeanpoolError as error:
        raise lost(job, f"{_GONE}, and its server cannot be asked again ({error})") from error
    try:
        reason = _reserve_again(connection, job, instance, sent, deadline)
    except BaseException as error:
        pool.broke(connection, error)
        if isinstance(error, BeanpoolError):
            raise lost(job, f"{_GONE}, and its server could not be asked again ({error})") from error
        raise
    if reason is None:
        return connection
    pool.release(connection)
    if not reason:
        return None
    raise lost(job, f"{_GONE}, and {reason}")


def _reserve_again(connection: PooledConnection, job: Job, instance: str, sent: bool, deadline: float) -> str | None:
    """Reserve the job; returns None, or why it was not done (empty if it need not be done)."""
    reason = why_another(connection, instance)
    if reason is not None:
        return reason
    channel = connection.channel
    reply = channel.exchange(STATS_JOB, encode_job(STATS_JOB, job.number), deadline)
    if reply.status == "NOT_FOUND":
        # One process does not use an id twice, so the job is gone: by our delete if one was sent.
        return "" if sent else "it was finished elsewhere"
    if reply.status != "OK":
        return f"the server answered {reply.status} when asked about it"
    state = parse_mapping("stats-job", reply.body, connection.server).get("state")
    if state != "ready":
        return f"it is {state} now"
    reply = channel.exchange(RESERVE_JOB, encode_job(RESERVE_JOB, job.number), deadline)
    if reply.status == "UNKNOWN_COMMAND":
        return "its server is too old to be asked for one job (reserve-job needs beanstalkd 1.12)"
    if reply.status != "RESERVED":
        return f"somebody else has it ({reply.status})"
    if reply.number != job.number or reply.body != job.data:
        # Closing gives the wrong job back.
        connection.drop("it holds a job that was not asked for")
        return "another job has its id"
    return None
