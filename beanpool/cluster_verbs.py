"""A cluster's commands that concern all of its servers."""

from __future__ import annotations

import functools
import time
from typing import Any

from beanpool.cluster import Cluster
from beanpool.errors import BeanpoolError
from beanpool.job import Job
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.arguments import MAX_UINT32, check_int, check_tube
from beanpool.protocol.commands import (
    LIST_TUBE_USED,
    LIST_TUBES,
    PAUSE_TUBE,
    PEEK_BURIED,
    PEEK_DELAYED,
    PEEK_READY,
    STATS,
    STATS_TUBE,
    Command,
    encode_bare,
    encode_pause_tube,
    encode_tube,
)
from beanpool.protocol.replies import Reply
from beanpool.survey import Answers, Question, add_up, ask_all, ask_one, given


class ClusterVerbs(Cluster):
    """Questions to, and commands for, all servers. Each has a ``..._by_server`` twin, which hides no missing server."""

    _used: str
    _watched: tuple[str, ...]

    def ping(self) -> bool:
        """Make a round trip to every server (``list-tube-used``); True if one answers.

        :raises NoServerAvailable: if none does; ``errors`` says why, by address.
        """
        return bool(given(self.ping_by_server(), "answered"))

    def ping_by_server(self) -> Answers:
        """How long every server took to answer (seconds), or its error, by address."""
        return self._ask_all(Question(LIST_TUBE_USED, encode_bare(LIST_TUBE_USED), _round_trip))

    def peek_ready(self, *, tube: str | None = None) -> Job | None:
        """Look at a ready job of the used tube, on whichever server has one (``peek-ready``)."""
        return self._peek(PEEK_READY, tube)

    def peek_delayed(self, *, tube: str | None = None) -> Job | None:
        """Look at a delayed job of the used tube, on whichever server has one (``peek-delayed``)."""
        return self._peek(PEEK_DELAYED, tube)

    def peek_buried(self, *, tube: str | None = None) -> Job | None:
        """Look at a buried job of the used tube, on whichever server has one (``peek-buried``)."""
        return self._peek(PEEK_BURIED, tube)

    def _peek(self, command: Command, tube: str | None) -> Job | None:
        used = self._used if tube is None else tube
        check_tube(used)
        answers = self._ask_all(
            Question(
                command,
                encode_bare(command),
                lambda connection, reply, _: connection.peek_result(command, reply),
                uses=used,
            )
        )
        for job in given(answers, "could be asked for a job"):
            if job is not None:
                member = self._topology.find(job.server)
                return self._reserver.at_home(member, job) if member is not None else None
        return None

    def tubes(self) -> list[str]:
        """The names of the tubes of all servers that answer, sorted (``list-tubes``)."""
        return sorted({name for names in given(self.tubes_by_server(), "listed its tubes") for name in names})

    def tubes_by_server(self) -> Answers:
        """Every server's own tubes, or its error, by address."""
        return self._ask_all_for_tubes(LIST_TUBES, encode_bare(LIST_TUBES), None)

    def stats(self) -> dict[str, Any]:
        """The statistics of all servers that answer, added up (``stats``); see :func:`beanpool.survey.add_up`."""
        return add_up(given(self.stats_by_server(), "gave its statistics"))

    def stats_by_server(self) -> Answers:
        """Every server's own statistics, or its error, by address."""
        return self._ask_all(Question(STATS, encode_bare(STATS), _statistics))

    def stats_tube(self, tube: str) -> dict[str, Any]:
        """The statistics of a tube, added up over the servers that have it (``stats-tube``).

        :raises NotFound: if no server has it.
        """
        return add_up(given(self.stats_tube_by_server(tube), f"gave the statistics of tube {tube}"))

    def stats_tube_by_server(self, tube: str) -> Answers:
        """Every server's own statistics of a tube, or its error, by address."""
        return self._ask_all_for_tubes(STATS_TUBE, encode_tube(STATS_TUBE, tube), tube)

    def pause_tube(self, tube: str, seconds: float) -> None:
        """Let nobody reserve from `tube` for this long, on all servers that have it (``pause-tube``).

        :raises NotFound: if no server has it.
        """
        given(self.pause_tube_by_server(tube, seconds), f"paused tube {tube}")

    def pause_tube_by_server(self, tube: str, seconds: float) -> Answers:
        """As :meth:`pause_tube`; returns None, or the error, by address."""
        return self._ask_all_for_tubes(PAUSE_TUBE, encode_pause_tube(tube, seconds), tube)

    def kick(self, bound: int = 1, *, tube: str | None = None) -> int:
        """Kick up to `bound` jobs of the used tube over all servers (``kick``); returns how many were made ready."""
        return sum(given(self.kick_by_server(bound, tube=tube), "kicked jobs"))

    def kick_by_server(self, bound: int = 1, *, tube: str | None = None) -> Answers:
        """As :meth:`kick`; returns every server's own count, or its error, by address."""
        check_int("bound", bound, 0, MAX_UINT32)
        used = self._used if tube is None else tube
        check_tube(used)
        deadline = time.monotonic() + self._timeout
        answers: Answers = {}
        left = bound
        # One after the other: the bound is one for all.
        members = self._members()
        for index, member in enumerate(members):
            answers[member.address] = 0
            if not left:
                continue
            if member.down or member.twin is not None:
                answers[member.address] = member.unusable("not asked")
                continue
            # A silent server must leave time for those after it.
            now = time.monotonic()
            share = now + (deadline - now) / (len(members) - index)
            try:
                kicked = ask_one(member, share, functools.partial(_kick, left), used)
            except BeanpoolError as error:
                answers[member.address] = error.with_traceback(None)
            else:
                answers[member.address] = kicked
                left -= kicked
        return answers

    def _ask_all(self, question: Question) -> Answers:
        deadline = time.monotonic() + self._timeout
        return ask_all(self._members(), deadline, question)

    def _ask_all_for_tubes(self, command: Command, request: bytes, tube: str | None) -> Answers:
        """Ask about `tube`, or about all tubes (None).

        A tube exists while somebody uses or watches it. So what this pool uses and watches does, as it does for a
        :class:`Connection`, also if nothing was put into it or reserved from it yet.
        """
        ours = tube is None or tube == self._used or tube in self._watched
        used, watched = (self._used, self._watched) if ours else (None, None)

        def read(connection: PooledConnection, reply: Reply, _: float) -> Any:
            return None if reply.status == "PAUSED" else connection.document_result(command, reply)

        return self._ask_all(Question(command, request, read, uses=used, watches=watched))


def _round_trip(connection: PooledConnection, reply: Reply, seconds: float) -> float:
    if reply.status != "USING":
        raise connection.refuse(LIST_TUBE_USED, reply)
    return seconds


def _statistics(connection: PooledConnection, reply: Reply, _: float) -> Any:
    # It may be the handshake as well.
    connection.greet(reply)
    return connection.document_result(STATS, reply)


def _kick(bound: int, connection: PooledConnection, _: float) -> int:
    return connection.kick(bound)
