"""How long a batch may wait for servers that do not answer: arithmetic alone. No I/O, no clock, no lock."""

from __future__ import annotations

_LEAST_SHARE = 1 / 4
"""What a server gets that has not failed yet, of the timeout, however much others have used up."""
_MOST_TIMEOUTS = 2


class StallBudget:
    """The time in which nothing comes of waiting: one timeout since a put was last stored, two at the very most.

    A batch may have any length, so it has no end that could be known before. What is bounded is the time that passes in
    vain: for connections, for replies that do not come, between two attempts. As long as puts are stored, none does.

    :param timeout: of a single put (seconds).
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._spent = 0.0

    @property
    def left(self) -> float:
        """How much there is yet (seconds)."""
        return max(0.0, self._timeout - self._spent)

    def spend(self, seconds: float) -> None:
        """So much time has passed, and nothing has come of it."""
        self._spent += seconds

    def renew(self) -> None:
        """A put was stored."""
        self._spent = 0.0

    def rest(self, seconds: float) -> None:
        """The source of the puts has taken so much time: the batch was not at work."""
        self._spent = max(0.0, self._spent - seconds)

    def patience(self, share: float, fresh: bool) -> float:
        """How long a server may be waited for (seconds).

        :param share: of what is left; less than 1 where others are to have a turn after it.
        :param fresh: whether it has not failed since a put was last stored. Such a one is asked even if others have
            used up the time: nothing is refused that a healthy server would take.
        """
        usual = self.left * share
        least = self._timeout * _LEAST_SHARE if fresh else 0.0
        return max(0.0, min(max(usual, least), _MOST_TIMEOUTS * self._timeout - self._spent))
