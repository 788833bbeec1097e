"""What a pool counts: what became of callers and connections, and what the server has answered."""

from __future__ import annotations

import weakref
from typing import Protocol

from beanpool.protocol import NO_REPLIES, PUT_BURIED, Tally
from beanpool.runtime import Lock
from beanpool.telemetry import SERVER_COUNTS, Counters


class Counting(Protocol):
    """A connection that counts the replies that come over it."""

    tally: Tally


class PoolCounters:
    """The counters of the pool of one server.

    Rare events are counted under a lock. The replies to commands are not: a connection has one user at a time, who
    counts in the connection's own tally, and what users count one after the other is ordered by what hands the
    connection on. So no count is lost, with or without a global lock, and a call that has returned is counted.
    """

    def __init__(self) -> None:
        self.rare = Counters(SERVER_COUNTS)
        self._lock = Lock()
        # The tally of the connections that are gone, and the others. It is swapped as a whole.
        self._tallies: tuple[Tally, tuple[tuple[weakref.ref[Counting], Tally], ...]] = NO_REPLIES, ()

    def watch(self, connection: Counting) -> None:
        """Count what comes over this connection, from now on until nobody has it any more."""
        mine = weakref.ref(connection), connection.tally
        with self._lock:
            while True:
                before = self._tallies
                # Nobody counts any more in the tally of an object that does not exist.
                gone = [tally for known, tally in before[1] if known() is None]
                living = tuple(entry for entry in before[1] if entry[0]() is not None)
                after = _sum(before[0], *gone), (*living, mine)
                # A signal handler in this thread may have made a connection meanwhile, or one may have gone.
                if self._tallies is before and len(gone) + len(living) == len(before[1]):
                    self._tallies = after
                    return

    def snapshot(self) -> dict[str, int]:
        """All counts."""
        gone, living = self._tallies
        replies = _sum(gone, *(tally for _, tally in living))
        return {
            **self.rare.snapshot(),
            "puts": replies["INSERTED"] + replies[PUT_BURIED],
            "reserved": replies["RESERVED"],
            "deleted": replies["DELETED"],
            "released": replies["RELEASED"],
            "buried": replies["BURIED"] - replies[PUT_BURIED],
            "touched": replies["TOUCHED"],
        }


def _sum(*tallies: Tally) -> Tally:
    return {word: sum(tally[word] for tally in tallies) for word in NO_REPLIES}
