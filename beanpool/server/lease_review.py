"""Finding leases that hold their connection in vain: the TTR of their jobs ran out, and the server has taken them back.

A job that failed is often kept alive by its traceback, or by a future, long after its TTR. While callers want its
connection the server is asked (``stats-job``, on another connection) what has become of such jobs. Closing a connection
whose jobs are all reserved no longer takes nothing from anybody; the jobs are lost, as they were before.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence

from beanpool.connection import let_go
from beanpool.protocol import STATS_JOB, Reply, encode_job, parse_mapping
from beanpool.server.driven_connection import Step
from beanpool.server.pooled_connection import PooledConnection

_SHORTEST_TTR = 1.0
# How many jobs are asked about at once: the replies are some 300 bytes each.
_AT_ONCE = 256
# A server that was stopped takes a moment to see that a TTR has run out (seconds).
_MARGIN = 0.1
_WHY = "the TTR of its unfinished jobs had run out, and others needed the connection"


class _Suspect:
    """A connection that nobody has used since `used_at`, and what is known of its jobs."""

    __slots__ = ("_place", "gone", "not_before", "used_at")

    def __init__(self, connection: PooledConnection, used_at: float) -> None:
        # Weakly: it has its place in the pool for as long as it exists.
        self._place = weakref.ref(connection)
        self.used_at = used_at
        self.gone: set[int] = set()
        """Those that the server has reserved for it no longer."""
        # No TTR is shorter.
        self.not_before = used_at + _SHORTEST_TTR

    def connection(self) -> PooledConnection | None:
        """The connection, unless somebody uses it, or has used it meanwhile: who touches a job still works on it."""
        connection = self._place()
        if connection is None or connection.closed or connection.guard.locked():
            return None
        return connection if connection.channel.used_at == self.used_at else None


class LeaseReview:
    """What one thread asks about the leases of one pool, a few hundred jobs at a time.

    :param connections: returns the pool's connections.
    """

    def __init__(self, connections: Callable[[], Sequence[PooledConnection]]) -> None:
        self._connections = connections
        self._suspects: dict[int, _Suspect] = {}

    def due(self, now: float) -> bool:
        """Whether there is a connection of whose jobs the TTR may have run out."""
        known, self._suspects = self._suspects, {}
        for connection in self._connections():
            channel = connection.opened_channel
            if not connection.jobs or channel is None:
                continue
            suspect = known.get(id(connection))
            if suspect is None or suspect.connection() is not connection:
                suspect = _Suspect(connection, channel.used_at)
            if suspect.connection() is not None:
                self._suspects[id(connection)] = suspect
        return any(suspect.not_before <= now for suspect in self._suspects.values())

    def questions(self, now: float) -> list[Step]:
        """What to ask the server; after the last reply the connections that are held in vain are closed."""
        steps: list[Step] = []
        asked: list[_Suspect] = []
        for suspect in self._suspects.values():
            connection = suspect.connection()
            if connection is None or suspect.not_before > now or len(steps) >= _AT_ONCE:
                continue
            asked.append(suspect)
            jids = [jid for jid in list(connection.jobs) if jid not in suspect.gone]
            for jid in jids[: _AT_ONCE - len(steps)]:
                check = functools.partial(self._note, suspect, jid, now, connection.server)
                steps.append((STATS_JOB, encode_job(STATS_JOB, jid), check))
        if steps:
            command, request, last = steps.pop()
            steps.append((command, request, functools.partial(self._conclude, last, asked)))
        return steps

    def _note(self, suspect: _Suspect, jid: int, asked_at: float, server: str, reply: Reply) -> None:
        again_at = asked_at + _SHORTEST_TTR
        gone = reply.status == "NOT_FOUND"
        if reply.status == "OK":
            stats = parse_mapping(STATS_JOB.name, reply.body, server)
            ttr, left = stats.get("ttr"), stats.get("time-left")
            if stats.get("state") != "reserved":
                gone = True
            elif type(ttr) is int and type(left) is int:
                runs_out_at = suspect.used_at + ttr + _MARGIN
                # Reserved for longer than its TTR, and untouched: somebody else has it now.
                gone = asked_at >= runs_out_at
                again_at = min(runs_out_at, asked_at + left + 1 + _MARGIN)
        if gone:
            suspect.gone.add(jid)
        else:
            suspect.not_before = max(suspect.not_before, again_at)

    def _conclude(self, check: Callable[[Reply], None], asked: list[_Suspect], reply: Reply) -> None:
        check(reply)
        for suspect in asked:
            connection = suspect.connection()
            if connection is not None and suspect.gone.issuperset(list(connection.jobs)):
                _evict(suspect, connection)


def _evict(suspect: _Suspect, connection: PooledConnection) -> None:
    if not connection.guard.acquire(blocking=False):
        return
    try:
        refs = list(connection.jobs.values())
        if refs and connection.channel.used_at == suspect.used_at:
            connection.drop(_WHY)
    finally:
        let_go(connection)
    if refs and connection.closed:
        refs[0].lease.discard(_WHY)
