"""The queue of callers that wait for a connection of a server."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from beanpool.errors import BeanpoolError, PoolTimeout
from beanpool.server.places import Places, Stage
from beanpool.server.pooled_connection import PooledConnection
from beanpool.server.shortage import Demand, Shortage
from beanpool.server.ticket import Ticket
from beanpool.telemetry import Counters

_REMEMBERED_FOR = 5.0


class PoolQueue:
    """Lets commands and reserves wait for a connection, in one order.

    :param server: its address.
    :param lock: the pool's.
    :param starved: is called without the lock when a command has to wait.
    :param checkin: takes back a connection whose waiter has given up.
    :param ended: builds the error of a pool that hands out no connection any more.
    """

    def __init__(
        self,
        server: str,
        lock: threading.RLock,
        places: Places,
        counters: Counters,
        *,
        starved: Callable[[], None],
        checkin: Callable[[PooledConnection], None],
        ended: Callable[[], BeanpoolError],
    ) -> None:
        self._shortage = Shortage()
        # When a reserve that could not wait was last told that jobs have all connections.
        self._refused_at = -math.inf
        self._server = server
        self._lock = lock
        self._places = places
        self._counters = counters
        self._starved = starved
        self._checkin = checkin
        self._ended = ended

    @property
    def contended(self) -> bool:
        """Whether somebody waits for a connection."""
        return bool(self._places.queue)

    @property
    def starving(self) -> bool:
        """Whether somebody wants a connection, waiting for it or not, or went without one a moment ago."""
        return bool(self._places.queue) or time.monotonic() - self._refused_at < _REMEMBERED_FOR

    def refuse(self) -> None:
        """A reserve that does not wait is told that jobs have all connections; called under the pool's lock."""
        self._refused_at = time.monotonic()
        self._shortage.note(len(self._places.taken) + 1, refused=True)

    def shortage(self, now: float, returns: int) -> Demand | None:
        """What callers want if they go short of connections and nobody was told so far; to be asked now and then.

        :param now: monotonic seconds.
        :param returns: how often a connection has come back.
        """
        places = self._places
        if not places.queue and not self._shortage.of_interest:
            return None
        with self._lock:
            return self._shortage.look(now, places.limit, places.held_by_jobs(), len(places.queue), returns)

    def exhausted(self) -> PoolTimeout:
        """The error of a caller for whom no connection became free."""
        places = self._places
        in_use = max(min(places.limit, len(places.connections())), places.held_by_jobs())
        holders = "unfinished jobs"
        if any(connection.lent for connection in places.connections()):
            holders += ", or lent by pool.connection()"
        return PoolTimeout(
            f"{self._server}: no connection became free in time: {in_use} of {places.limit} are in use, "
            f"{places.held_by_jobs()} of them by {holders}. Finish or release jobs (one that failed is kept "
            f"by its traceback, too), or raise max_connections, which is {places.limit} (or pool.resize)"
        )

    def wait(self, deadline: float, *, for_jobs: bool = False) -> PooledConnection | None:
        """Wait for a connection for a command; None if there is none until then (monotonic seconds).

        :param for_jobs: whether jobs may be reserved on it, so that it is none of those that only commands get.
        :raises BeanpoolError: if those who wait are told to fail, or the pool hands out none any more.
        """
        ticket = Ticket()
        ticket.for_jobs = for_jobs
        started = time.monotonic()
        # The block begins before the ticket is queued: after an interrupt no ticket without an owner may be left.
        try:
            with self._lock:
                if self._places.stage is not Stage.OPEN:
                    raise self._ended()
                # What came free between the first look and now.
                connection = None
                if not self._places.others_come_first():
                    places = self._places
                    connection = places.take_for_jobs() if for_jobs else places.take()
                if connection is not None:
                    return connection
                self._append(ticket)
            self._starved()
            ticket.signal.acquire(timeout=max(0.0, deadline - started))
        except BaseException:
            connection = self._leave(ticket, started)
            if connection is not None:
                self._checkin(connection)
            raise
        connection = self._leave(ticket, started)
        if connection is None and ticket.error is not None:
            raise ticket.error
        return connection

    def _append(self, ticket: Ticket) -> None:
        places = self._places
        places.queue.append(ticket)
        self._counters.add("requests_queued")
        self._shortage.note(len(places.taken) + len(places.queue))

    def _leave(self, ticket: Ticket, since: float) -> PooledConnection | None:
        with self._lock:
            self._places.leave_queue(ticket)
            connection = ticket.connection
        self._counters.add("requests_wait_ms", round((time.monotonic() - since) * 1000))
        self._counters.add("requests_errors", connection is None)
        return connection

    def join(self, ticket: Ticket) -> None:
        """Queue for a connection for a caller who is told when it has one.

        :raises BeanpoolError: if the pool hands out none any more.
        """
        with self._lock:
            if self._places.stage is not Stage.OPEN:
                raise self._ended()
            self._append(ticket)
            self._places.fill()
        if not ticket.for_jobs and not ticket.settled:
            self._starved()

    def leave(self, ticket: Ticket) -> None:
        """Take one who has joined out of the queue; what it has got goes back."""
        with self._lock:
            self._places.leave_queue(ticket)
        if ticket.connection is not None:
            self._checkin(ticket.connection)

    def fill_places(self) -> None:
        """Give those who wait the places of connections that were collected without a word."""
        with self._lock:
            self._places.fill()

    def fail(self, build_error: Callable[[], BeanpoolError]) -> None:
        """Let all who wait fail now."""
        with self._lock:
            queue = list(self._places.queue)
            self._places.queue.clear()
        for ticket in queue:
            ticket.error = build_error()
            ticket.wake()
