"""A few commands on jobs of one lease, driven by readiness, beside whoever works on them."""

from __future__ import annotations

from beanpool.connection import Wish, leave_line, try_turn
from beanpool.server.lease import Lease
from beanpool.server.pooled_connection import PooledConnection


class LeaseRound:
    """Commands on some jobs of a lease. While it is under way it has the connection for itself."""

    def __init__(self, lease: Lease[PooledConnection]) -> None:
        self.lease = lease
        self.connection = lease.connection
        self.give_up_at = 0.0
        """When the server is late (monotonic seconds)."""

    def live_descriptor(self) -> int:
        """What to wait on until it is readable, before the next step.

        :raises ConnectionFailed: if another thread has closed the connection; end the round then, too.
        """
        return self.connection.live_descriptor()

    def take_connection(self, wish: Wish) -> bool:
        """Have the connection until the end of the round.

        :param wish: is told when it is worth another try.
        :returns: false if it is in use, or no longer held for these jobs.
        """
        if not self.lease.pin():
            leave_line(self.connection, wish)
            return False
        if not try_turn(self.connection, wish):
            self.lease.unpin()
            return False
        return True
