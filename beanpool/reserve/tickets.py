"""The places of a wait in the queues for connections."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Protocol

from beanpool.errors import BeanpoolError
from beanpool.reserve.server_waiter import Post
from beanpool.server import PooledConnection, Ticket

# How many connections to one server are queued for at the same time, at most.
_MOST_TICKETS = 32


class Wakeable(Protocol):
    """A wait that has queued for connections."""

    def wake(self) -> None:
        """Look at what has come."""


class _Notify:
    """Tells a wait that a connection has come. It knows that weakly: what an interrupt has left of one gets none."""

    __slots__ = ("_waiters",)

    def __init__(self, waiters: Wakeable) -> None:
        self._waiters = weakref.ref(waiters)

    def __call__(self) -> bool:
        waiters = self._waiters()
        if waiters is None:
            return False
        waiters.wake()
        return True


class Tickets:
    """Where no connection was free: the places in the queue for one.

    :param waiters: are woken when one has come.
    """

    def __init__(self, waiters: Wakeable) -> None:
        self._notify = _Notify(waiters)
        self._tickets: dict[Post, list[Ticket]] = {}

    def __bool__(self) -> bool:
        return bool(self._tickets)

    def __contains__(self, post: object) -> bool:
        return post in self._tickets

    def posts(self) -> list[Post]:
        """For what connections are queued for."""
        return list(self._tickets)

    def queue_up(self, post: Post, most: int) -> bool:
        """Queue for up to so many connections; returns whether one has come already.

        :raises BeanpoolError: if there will be none.
        """
        tickets = self._tickets.setdefault(post, [])
        while len(tickets) < min(most, _MOST_TICKETS):
            tickets.append(Ticket(self._notify))
            post[0].pool.queue_up(tickets[-1])
        return any(ticket.settled for ticket in tickets)

    def collect(self) -> Iterator[tuple[Post, PooledConnection | BeanpoolError]]:
        """Take the connections that have come, or the errors of those that will not."""
        for post, tickets in list(self._tickets.items()):
            for ticket in [ticket for ticket in tickets if ticket.settled]:
                tickets.remove(ticket)
                try:
                    connection = post[0].pool.collect(ticket)
                except BeanpoolError as error:
                    yield post, error
                    continue
                if connection is not None:
                    yield post, connection
            if not tickets:
                del self._tickets[post]

    def leave(self, post: Post) -> None:
        """Queue no longer."""
        for ticket in self._tickets.pop(post, ()):
            post[0].pool.queue.leave(ticket)
