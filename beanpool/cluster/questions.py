"""What the servers of a cluster are asked, all at once or one after the other."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

from beanpool.cluster.fan_out import Answers, Question, ask_one
from beanpool.connection import Job, found_job, results
from beanpool.errors import About, BeanpoolError
from beanpool.protocol import KICK, LIST_TUBE_USED, STATS, Command, Reply, encode_bare, encode_kick
from beanpool.server import Member, PooledConnection


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


def kick_in_turn(members: Sequence[Member], deadline: float, bound: int, tube: str) -> Answers:
    """Kick up to `bound` jobs, which is one bound for all servers; returns each one's count, or its error.

    :param deadline: monotonic seconds.
    """
    answers: Answers = {}
    left = bound
    for index, member in enumerate(members):
        answers[member.address] = 0
        if not left:
            continue
        if member.down or member.duplicate_of is not None:
            answers[member.address] = member.unusable("not asked")
            continue
        # A silent server must leave time for those after it.
        now = time.monotonic()
        share = now + (deadline - now) / (len(members) - index)
        try:
            kicked = ask_one(member, share, functools.partial(_kick, left), tube)
        except BeanpoolError as error:
            answers[member.address] = error.with_traceback(None)
        else:
            answers[member.address] = kicked
            left -= kicked
    return answers


def _kick(bound: int, connection: PooledConnection, deadline: float) -> int:
    channel = connection.channel
    return results.kicked(channel, channel.exchange(KICK, encode_kick(bound), deadline))
