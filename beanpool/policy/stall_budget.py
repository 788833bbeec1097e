"""How long a batch may wait for servers that do not answer. Pure: no I/O, no clock, no lock."""

from __future__ import annotations

_LEAST_SHARE = 1 / 4
"""The share of the timeout that a server gets which has not failed yet, however much other servers have used up."""
_MOST_TIMEOUTS = 2


class StallBudget:
    """The time that may pass without a stored put: one timeout since the last one, two at most.

    A batch may have any length, so no deadline for all of it can be known before. What is bounded is the time without
    progress: waiting for connections, for replies that do not come, between two attempts.

    :param timeout: of a single put (seconds).
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._spent = 0.0

    @property
    def left(self) -> float:
        """How much is left (seconds)."""
        return max(0.0, self._timeout - self._spent)

    def spend(self, seconds: float) -> None:
        """`seconds` have passed without a stored put."""
        self._spent += seconds

    def renew(self) -> None:
        """A put was stored: the whole timeout is available again."""
        self._spent = 0.0

    def rest(self, seconds: float) -> None:
        """The source of the puts has taken `seconds`: they do not count."""
        self._spent = max(0.0, self._spent - seconds)

    def patience(self, share: float, fresh: bool, fair: float = 0.0) -> float:
        """How long a server may be waited for (seconds).

        :param share: of what is left; less than 1 where others are to have a turn after it.
        :param fresh: whether it has not failed since a put was last stored. Such a server is asked even if others have
            used up the time: a put fails only if no healthy server takes it.
        :param fair: what it takes a server that is so far away (seconds), at least: a fresh one gets that.
        """
        usual = self.left * share
        least = max(self._timeout * _LEAST_SHARE, min(fair, self._timeout)) if fresh else 0.0
        return max(0.0, min(max(usual, least), _MOST_TIMEOUTS * self._timeout - self._spent))
