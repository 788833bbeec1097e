"""Giving back jobs that were dropped unfinished while others on the same connection are being worked on.

The last job of a connection is given back by closing it. Here that would take the others away, so each dropped one is
released, with the priority that it has. The monitor's thread does it, driven by readiness: nobody waits for the server
but a job command on the same connection, which would wait for it anyway.
"""

from __future__ import annotations

import collections
import time

from beanpool.connection import let_go, results
from beanpool.protocol import RELEASE, STATS_JOB, encode_job, encode_release
from beanpool.server.lease import Lease
from beanpool.server.lease_round import LeaseRound
from beanpool.server.pooled_connection import PooledConnection

# Their replies fit into socket buffers, and the commands of siblings are not kept waiting for long: some milliseconds.
_AT_ONCE = 256


class PartialRelease(LeaseRound):
    """The release of some jobs of one lease."""

    def __init__(self, lease: Lease[PooledConnection]) -> None:
        super().__init__(lease)
        self._asked: collections.deque[int] = collections.deque()
        self._released: collections.deque[int] = collections.deque()
        self._done: list[int] = []

    def begin(self) -> bool:
        """Send the first commands; true if there are none to send.

        :raises BeanpoolError: if the connection broke; call :meth:`end` then, too.
        """
        self.give_up_at = time.monotonic() + self.connection.timeout
        dropped = self.lease.abandoned()[:_AT_ONCE]
        self._asked.extend(dropped)
        if dropped:
            request = b"".join(encode_job(STATS_JOB, jid) for jid in dropped)
            self.connection.channel.begin(request, [STATS_JOB] * len(dropped))
        return not dropped

    def step(self) -> bool:
        """Go as far as is possible without waiting; true once it is done.

        :raises BeanpoolError: if the connection broke; call :meth:`end` then, too.
        """
        channel = self.connection.channel
        releases = []
        while self._asked:
            reply = channel.pick_up()
            if reply is None:
                break
            jid = self._asked.popleft()
            priority = results.priority(channel, reply)
            if priority is None:
                self._done.append(jid)
            else:
                self._released.append(jid)
                releases.append(encode_release(jid, priority, 0))
        if releases:
            # Each answer has all of the time: the server may be far.
            self.give_up_at = time.monotonic() + self.connection.timeout
            channel.begin(b"".join(releases), [RELEASE] * len(releases))
        while not self._asked and self._released and channel.pick_up() is not None:
            # Whatever it says: what cannot be released is not reserved here, or as good as lost to its TTR.
            self._done.append(self._released.popleft())
        return not self._asked and not self._released

    def end(self, because: str | None = None) -> None:
        """Let others use the connection again; a reason, `because`, ends it for all."""
        let_go(self.connection)
        try:
            if because is not None:
                self.lease.discard(because)
        finally:
            self.lease.unpin()
            for jid in self._done:
                self.lease.end(jid)
