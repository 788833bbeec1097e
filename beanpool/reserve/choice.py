"""Which of the jobs that came in is given out first."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Mapping, Sequence

from beanpool.reserve.server_waiter import Delivery, Post, ServerWaiter
from beanpool.reserve.tube_order import TubeOrder

# How long a job may wait for what comes before it, in a strict order of tubes (seconds).
_LONGEST_HELD = 0.5
# How long after a server was asked again to wait its silence means that it has no job, at least (seconds), and in round
# trips.
_SETTLED_AFTER = 0.002
_ROUND_TRIPS = 1.25


class Choice:
    """Chooses among the jobs that came in. Used by the leader of a wait.

    :param by_post: the connections that wait.
    :param empty: where it was said that there is no job, and nothing else since.
    :param deliveries: the jobs that came in.
    """

    def __init__(
        self,
        order: TubeOrder,
        by_post: Mapping[Post, ServerWaiter],
        empty: Mapping[Post, float],
        deliveries: collections.deque[Delivery],
    ) -> None:
        self._order = order
        self._by_post = by_post
        self._empty = empty
        self._deliveries = deliveries
        # Since when there were jobs that nobody may have yet.
        self._held_since = 0.0
        self.look_at = math.inf
        """When one of them may be given out, if nothing else comes (monotonic seconds)."""

    def best(self, among: Sequence[int] | None = None) -> Delivery | None:
        """The job that is to be given out first, of those that came in; None if none may be.

        :param among: the groups of tubes that may be, in their order, when all others of these have no job; None if
            that is to be seen by what waits.
        """
        order, deliveries = self._order, self._deliveries
        if len(order.groups) == 1:
            return deliveries[0] if deliveries else None
        ranking = order.ranking() if among is None else among
        self.look_at = math.inf
        now = time.monotonic()
        for number in ranking:
            for delivery in deliveries:
                member, connection, _ = delivery
                if order.number(connection.watched) == number and (
                    among is not None
                    or not order.is_strict
                    or all(self._is_settled((member, before), now) for before in range(number))
                ):
                    return delivery
        return None

    def give_back_late(self, now: float) -> float:
        """Give back the jobs that have to wait for what comes before them, if that takes long.

        :returns: when to look again (monotonic seconds).
        """
        if not self._deliveries:
            self._held_since = 0.0
        elif not self._held_since:
            self._held_since = now
        elif now >= self._held_since + _LONGEST_HELD:
            self._held_since = 0.0
            while self._deliveries:
                member, connection, _ = self._deliveries.popleft()
                member.pool.discard(connection, "others came before its job")
        return self._held_since + _LONGEST_HELD if self._held_since else math.inf

    def _is_settled(self, post: Post, now: float) -> bool:
        """Whether a connection waits there, and there is no job: it would have come by now."""
        waiter = self._by_post.get(post)
        if waiter is None or post not in self._empty:
            return False
        settled_at = waiter.asked_at + max(_SETTLED_AFTER, _ROUND_TRIPS * (post[0].health.round_trip or 0.0))
        if settled_at > now:
            self.look_at = min(self.look_at, settled_at)
        return settled_at <= now
