"""When to check a server over a new connection: the standing ones all lead to the process that they once found."""

from __future__ import annotations

import random
import weakref

from beanpool.server import Member

_EVERY = 30.0
# How many follow soon when another process has answered: after a restart it is the same one each time.
_AFTER_CHANGE = 4


class FreshChecks:
    """The moments of such checks, for each member. No clock, no I/O.

    :param interval: how often servers are checked otherwise (seconds).
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._due: weakref.WeakKeyDictionary[Member, float] = weakref.WeakKeyDictionary()
        self._soon: weakref.WeakKeyDictionary[Member, int] = weakref.WeakKeyDictionary()
        self._former: weakref.WeakKeyDictionary[Member, tuple[str, ...]] = weakref.WeakKeyDictionary()

    def due(self, member: Member, now: float) -> bool:
        """Whether the next check is to be one (monotonic seconds)."""
        if member not in self._due:
            self._due[member] = now + _EVERY * random.uniform(0.5, 1.5)
        return (
            now >= self._due[member]
            and member.up
            and not member.pool.pruning.keeps_nothing
            # Nothing stands between this process and a Unix socket.
            and member.server.address.path is None
        )

    def began(self, member: Member, now: float) -> None:
        """One has begun."""
        left = self._soon[member] = max(0, self._soon.get(member, 0) - 1)
        self._due[member] = now + (self._interval if left else _EVERY)

    def changed(self, member: Member, now: float) -> float | None:
        """What is believed about a member has changed; returns when the next one is due, if that is soon."""
        former = member.health.former
        if former == self._former.get(member, ()):
            return None
        self._former[member] = former
        self._soon[member] = _AFTER_CHANGE
        due = self._due[member] = now + self._interval / 2
        return due
