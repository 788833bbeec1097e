"""Whether callers go short of connections to a server: not for a moment, but so that somebody should do something."""

from __future__ import annotations

import dataclasses

# How long it must have been over before it is worth another word (seconds).
_OVER_FOR = 60.0
# What to set the limit to is said in round numbers.
_ROUND = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """What callers want of the connections to a server."""

    limit: int
    """``max_connections``."""
    held_by_jobs: int
    """Connections that are held by unfinished jobs."""
    wanted: int
    """The most that were in use and waited for at the same time."""
    advised: int
    """What ``max_connections`` would have to be at least for nobody to wait."""


class Shortage:
    """Notes who had to wait for a connection, and says so once.

    A short wait is how a pool works, and a server that does not answer keeps everybody waiting whatever the limit is.
    So there is a shortage where two looks in a row find somebody waiting although connections come back, or jobs hold
    all of them.
    """

    def __init__(self) -> None:
        self._most_wanted = 0
        self._refused = False
        self._returns = 0
        self._short_before = False
        self._told = False
        self._over_since = 0.0

    def note(self, wanted: int, *, refused: bool = False) -> None:
        """Somebody found no connection free; called under the pool's lock.

        :param wanted: how many are in use and waited for by now.
        :param refused: whether it was a reserve that jobs in hand leave none.
        """
        self._most_wanted = max(self._most_wanted, wanted)
        self._refused = self._refused or refused

    @property
    def of_interest(self) -> bool:
        """Whether to look at all, also if nobody waits at the moment."""
        return self._refused or self._short_before or self._told

    def look(self, now: float, limit: int, held_by_jobs: int, waiting: int, returns: int) -> Demand | None:
        """See how things are, a few times in a minute at least; what to say, if there is something new.

        :param now: monotonic seconds.
        :param returns: how often connections have come back so far.
        """
        refused, self._refused = self._refused, False
        moves = returns != self._returns or held_by_jobs >= limit
        self._returns = returns
        short = moves and (waiting > 0 or refused)
        lasts = short and self._short_before
        self._short_before = short
        if not short:
            if not self._over_since:
                self._over_since = now
            if now - self._over_since >= _OVER_FOR:
                self._told = False
            if not waiting:
                self._most_wanted = 0
            return None
        self._over_since = 0.0
        if not lasts or self._told:
            return None
        self._told = True
        wanted = max(self._most_wanted, limit + waiting, limit + 1)
        return Demand(limit, held_by_jobs, wanted, -(-wanted // _ROUND) * _ROUND)
