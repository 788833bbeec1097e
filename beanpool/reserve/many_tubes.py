"""A reserve of very many tubes: few connections look at one after the other, and one waits for all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from beanpool.connection import Job
from beanpool.reserve.server_waiter import Begun, Delivery
from beanpool.reserve.sweep import Sweeper
from beanpool.reserve.tube_names import name_tubes
from beanpool.reserve.wait import SharedWait
from beanpool.reserve.waker import Interruption
from beanpool.server import Member

# How many of very many tubes are asked by themselves, where they take turns, before all are at once.
_MOST_LOOKS = 8
# How long a server may take to say which tubes its jobs are from (seconds).
_NAMED_WITHIN = 1.0
_monotonic = time.monotonic


class ManyTubes:
    """Looks for jobs of more tubes than can be waited for one by one.

    :param sweeper: asks the servers.
    :param timeout: the pool's (seconds).
    """

    def __init__(self, sweeper: Sweeper, timeout: float) -> None:
        self._sweeper = sweeper
        self._timeout = timeout

    def run(
        self,
        shared: SharedWait,
        waited: SharedWait,
        until: float,
        wait_for_all: bool,
        begun: Begun,
        errors: dict[str, BaseException],
        missed: list[Member],
        interruption: Interruption | None,
    ) -> Delivery | None:
        """Sweep for one of very many tubes after the other, over few connections: one will wait for all of them.

        Where they take turns, some are enough: the next call goes on with others, and no tube is left out for ever.
        """
        for held in waited.held():
            return held
        spared = self.known_to_be_empty(waited, wait_for_all)
        ranking = shared.order.ranking()
        looks = ranking[:_MOST_LOOKS] if shared.order.is_fair else ranking
        slow: set[Member] = set()
        for hears in (False, True) if wait_for_all and len(looks) == len(ranking) else (False,):
            for number in looks:
                delivery = self._sweeper.run(
                    shared, number, until, wait_for_all, begun, errors, missed, interruption, spared, hears=hears
                )
                shared.order.served(number)
                if delivery is not None:
                    return delivery
                left = self.leave_slow_ones(begun)
                slow |= left
                spared |= left
                if _monotonic() >= until or (interruption is not None and interruption.came):
                    return None
            slow.update(missed)
            if not slow:
                break
            spared = {member for member in waited.members() if member not in slow}
        missed[:] = dict.fromkeys(missed)
        if len(looks) < len(ranking):
            return self._sweeper.run(waited, 0, until, wait_for_all, begun, errors, missed, interruption)
        if wait_for_all:
            # A job may have been on its way when its server was asked over another connection.
            for held in waited.held():
                return held
        return None

    def leave_slow_ones(self, begun: Begun) -> set[Member]:
        """Let go of what was begun for one of very many tubes; returns the servers that have not answered.

        They are asked for all tubes at once: it would take them too long one by one.
        """
        slow = {member for member, connection, _ in begun if connection.waiting}
        self._sweeper.dismiss(begun)
        return slow

    def known_to_be_empty(self, waited: SharedWait, wait_for_all: bool) -> set[Member]:
        """The servers where a connection waits for all tubes; a mere look wants somebody to get what comes in."""
        if wait_for_all and waited.kept is not None:
            return set()
        return {member for member in waited.members() if waited.waits_on((member, 0), for_sure=True)}

    def name_tubes(self, jobs: Sequence[Job[Any]], shared: SharedWait) -> None:
        """Find out of which tubes jobs are that came over a connection that watches all of them."""
        name_tubes(jobs, shared.members(), _monotonic() + min(self._timeout, _NAMED_WITHIN))
        if jobs and jobs[-1].tube is not None:
            shared.order.served(shared.order.number((jobs[-1].tube,)))
