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


def lost(job: Job, reason: str) -> JobLost:
    """The error of a job whose reservation is gone."""
    return JobLost(f"job {job.id} of {job.server} is lost: {reason}", reason=reason)


def delete_again(pool: ServerPool, job: Job, instance: str, sent: bool, deadline: float) -> None:
    """Delete `job` if it is still the same and nobody else has it.

    :param instance: the id of the server process that the job was reserved from.
    :param sent: whether a delete before may have been carried out.
    :raises JobLost: if it is not, or that cannot be found out.
    """
    reason = ""
    try:
        with pool.lend(deadline) as connection:
            reason = _delete_on(connection, job, instance, sent, deadline)
    except BeanpoolError as error:
        raise lost(job, f"its connection is gone, and its server could not be asked again ({error})") from error
    if reason:
        raise lost(job, reason)


def _delete_on(connection: PooledConnection, job: Job, instance: str, sent: bool, deadline: float) -> str:
    if not instance or connection.instance != instance:
        return "its connection is gone, and its server was restarted"
    channel = connection.channel
    reply = channel.exchange(STATS_JOB, encode_job(STATS_JOB, job.id), deadline)
    if reply.status == "NOT_FOUND":
        # Ids are not used twice by one process, so it was our own delete, or that of a worker who had it after us.
        return "" if sent else "its connection is gone, and it was finished elsewhere"
    if reply.status != "OK":
        return f"its connection is gone, and the server answered {reply.status} when asked for it"
    state = parse_mapping("stats-job", reply.body, connection.server).get("state")
    if state != "ready":
        return f"its connection is gone, and it is {state} now"
    reply = channel.exchange(RESERVE_JOB, encode_job(RESERVE_JOB, job.id), deadline)
    if reply.status != "RESERVED":
        return f"its connection is gone, and it cannot be reserved again ({reply.status})"
    if reply.number != job.id or reply.body != job.data:
        connection.drop("it holds a job that was not asked for")
        return "its connection is gone, and another job has its id"
    reply = channel.exchange(DELETE, encode_job(DELETE, job.id), deadline)
    if reply.status != "DELETED":
        connection.drop("it holds a job that nobody works on")
        return f"its connection is gone, and it could not be deleted again ({reply.status})"
    return ""
