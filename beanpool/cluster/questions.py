"""What the servers of a cluster are asked, command by command."""

from __future__ import annotations

from typing import Any

from beanpool.cluster.fan_out import Question
from beanpool.connection import Job, found_job, results
from beanpool.errors import About
from beanpool.protocol import (
    KICK,
    LIST_TUBE_USED,
    PEEK_READY,
    STATS,
    STATS_JOB,
    STATS_TUBE,
    USE,
    Command,
    Reply,
    encode_bare,
    encode_job,
    encode_kick,
    encode_tube,
)
from beanpool.server import PooledConnection


def _round_trip(connection: PooledConnection, reply: Reply, seconds: float) -> float:
    results.using(connection.channel, reply)
    return seconds


def _statistics(connection: PooledConnection, reply: Reply, _: float) -> Any:
    # It may be the handshake as well.
    connection.identify(reply)
    return results.document(True, STATS, connection.channel, reply)


WHO_IS_IT = Question(STATS, encode_bare(STATS), lambda connection, reply, _: connection.identify(reply))
"""Which server process answers; None."""

ROUND_TRIP = Question(LIST_TUBE_USED, encode_bare(LIST_TUBE_USED), _round_trip)
"""How long an answer takes (seconds)."""

STATISTICS = Question(STATS, encode_bare(STATS), _statistics)


def for_a_job(command: Command, tube: str) -> Question:
    """A copy of a job of the tube, or None; asked with one of the ``peek`` commands."""

    def read(connection: PooledConnection, reply: Reply, _: float) -> Job | None:
        return found_job(connection, command, tube, None, connection.channel, reply)

    return Question(command, encode_bare(command), read, uses=tube)


def about_tubes(
    command: Command, request: bytes, tube: str | None, used: str | None, watched: tuple[str, ...] | None
) -> Question:
    """A document about one tube or all of them; None if the command only changes one.

    A tube exists while somebody uses or watches it.

    :param tube: which one; None for all of them.
    :param used: the tube that the connection uses meanwhile; None if that is all the same.
    :param watched: those that it watches; None if that is all the same.
    """

    about: About = {"tube": tube} if tube is not None else {}

    def read(connection: PooledConnection, reply: Reply, _: float) -> Any:
        return None if reply.status == "PAUSED" else results.document(True, command, connection.channel, reply, **about)

    return Question(command, request, read, uses=used, watches=watched)


def about_tube(tube: str, used: str | None = None, watched: tuple[str, ...] | None = None) -> Question:
    """The statistics of a tube; the rest as for :func:`about_tubes`."""
    return about_tubes(STATS_TUBE, encode_tube(STATS_TUBE, tube), tube, used, watched)


def to_kick(bound: int, tube: str) -> Question:
    """How many jobs of the tube were made ready, up to `bound`."""

    def read(connection: PooledConnection, reply: Reply, _: float) -> int:
        return results.kicked(connection.channel, reply)

    return Question(KICK, encode_kick(bound), read, uses=tube)


def to_use(tube: str) -> Question:
    """Let the connection use this tube from here on; its name."""

    def read(connection: PooledConnection, reply: Reply, _: float) -> str:
        return results.use(connection, tube, connection.channel, reply)

    return Question(USE, encode_tube(USE, tube), read)


def next_ready(tube: str) -> Question:
    """The id of the job that is reserved next from the tube, or None; the connection must use that already."""

    def read(connection: PooledConnection, reply: Reply, _: float) -> int | None:
        job = found_job(connection, PEEK_READY, tube, None, connection.channel, reply)
        return job.id if job is not None else None

    return Question(PEEK_READY, encode_bare(PEEK_READY), read)


def about_job(jid: int) -> Question:
    """The statistics of a job."""

    def read(connection: PooledConnection, reply: Reply, _: float) -> Any:
        return results.document(True, STATS_JOB, connection.channel, reply, job=jid)

    return Question(STATS_JOB, encode_job(STATS_JOB, jid), read)
