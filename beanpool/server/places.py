"""The places of a pool: which connections have one, which of these are idle, and which callers wait for one."""

from __future__ import annotations

import collections
import contextlib
import enum
import time
import weakref
from collections.abc import Callable

from beanpool.server.pooled_connection import PooledConnection
from beanpool.server.ticket import Ticket

# One connection in so many may be made beyond the limit while jobs hold others, at least one.
_JOBS_PER_SPARE = 4
_SPARE_IDLE_FOR = 2.0
# A new connection is made sooner than that so many tubes are watched or ignored on one that is there.
_FAR_APART = 64


class Stage(enum.Enum):
    """The life of a pool."""

    OPEN = "open"
    REMOVED = "its server was removed"
    """The other servers go on; jobs in hand can be finished."""
    CLOSED = "closed"


_OPEN = Stage.OPEN


class Places:
    """Decides who gets a connection of a pool. It does no I/O; callers that change it hold the pool's lock.

    A connection has a place for as long as its object exists and is not given up, so one that is lost to an interrupt
    at whatever line frees its place when it is collected. The places are known by weak references that call nothing:
    an exception in a callback of theirs would be swallowed, and the place with it.

    Jobs hold their connection until they are finished, and what finishes them may need another one: a follow-up put, a
    question to the server. If they could hold all places, workers would wait for themselves. So while jobs hold
    connections, there may be some more than `limit`: a quarter, at least one, and no more than the jobs hold. These are
    for commands, which give them back at once. A reserve never gets one, so connections that hold jobs, or may soon,
    are never more than `limit`.

    :param limit: how many there may be; while jobs hold some of them, a quarter more.
    :param make: makes a connection that is still closed.
    """

    def __init__(self, limit: int, make: Callable[[], PooledConnection]) -> None:
        self.limit = limit
        self._make = make
        self.shrinking = False
        """Whether there may be more than the limit because that was lowered."""
        # What it was before, while that is so.
        self._former_limit = 0
        self.stage = _OPEN
        self.generation = 0
        self.kept_generation = 0
        """Which connections are kept when they come back; -1: none."""
        self.idle: list[PooledConnection] = []
        """The newest one is the last."""
        self.queue: collections.deque[Ticket] = collections.deque()
        self.taken: dict[int, weakref.ref[PooledConnection]] = {}
        """By the ids of the connections: that of an object that is gone is free for the next one."""

    def connections(self) -> list[PooledConnection]:
        """Those that have a place. It needs no lock: it is one look at what is there at the moment."""
        found = [place() for place in self.taken.copy().values()]
        return [connection for connection in found if connection is not None]

    def held_by_jobs(self) -> int:
        """How many are held by unfinished jobs."""
        return sum(connection.holds_jobs for connection in self.connections())

    def may_hold_more_jobs(self) -> bool:
        """Whether a reserve may have one more."""
        return sum(bool(c.may_hold_jobs or c.jobs) for c in self.connections()) < self.limit

    def has_room(self) -> bool:
        """Whether there may be another connection for a command."""
        return self._surplus() < 0

    def has_too_many(self) -> bool:
        """Whether one that comes back is to be closed, since the limit was lowered."""
        self._note_shrinking()
        return self._surplus() > 0

    def _note_shrinking(self) -> None:
        self.shrinking = len(self.connections()) > self.limit
        if not self.shrinking:
            self._former_limit = 0

    def _surplus(self) -> int:
        """How many there are beyond what commands may have; negative if there may be more."""
        connections, limit = self.connections(), self.limit
        if len(connections) >= limit:
            spare = max(1, limit // _JOBS_PER_SPARE)
            jobs = sum(bool(connection.jobs) or connection.lent for connection in connections)
            # More than the limit may hold jobs if that was lowered meanwhile: they must be finished all the same.
            limit = max(limit + min(spare, jobs), min(jobs, self._former_limit) + spare)
        return len(connections) - limit

    def waiting_and_calls(self) -> tuple[list[PooledConnection], int]:
        """The connections on which reserves wait, and how many there are for calls: that no unfinished job holds."""
        connections = self.connections()
        waiting = [connection for connection in connections if connection.evict is not None]
        return waiting, sum(not (connection.jobs or connection.lent) for connection in connections) - len(waiting)

    def would_give_way(self) -> bool:
        """Whether a reserve that waits is cancelled for the next command that finds no connection free."""
        if any(not ticket.for_jobs for ticket in list(self.queue)):
            return False
        waiting, calls = self.waiting_and_calls()
        return calls < len(waiting)

    def others_come_first(self) -> bool:
        """Whether somebody waits who could be served."""
        queue = self.queue
        return bool(queue) and (any(not ticket.for_jobs for ticket in list(queue)) or self.may_hold_more_jobs())

    # Taking one.

    def take(self, tube: str | None = None) -> PooledConnection | None:
        """An idle connection, or a new one, for a command; None if all are in use."""
        idle = self.idle
        if not idle:
            return self._add() if self.has_room() else None
        if tube is not None and idle[-1].used != tube:
            return self._newest(lambda connection: connection.used == tube)
        return idle.pop()

    def take_for_jobs(self, tubes: tuple[str, ...] | None = None) -> PooledConnection | None:
        """An idle connection, or a new one, for a reserve; None if all that there may be are in use.

        :param tubes: those that it is to watch, if that is known.
        """
        if not self.may_hold_more_jobs():
            return None
        connection = self._newest(lambda _: True) if tubes is None else self._nearest(tubes)
        if connection is None:
            if len(self.connections()) >= self.limit:
                return None
            connection = self._add()
        connection.may_hold_jobs = True
        return connection

    def _nearest(self, tubes: tuple[str, ...]) -> PooledConnection | None:
        """Take out the newest one that watches these, else the one that has least to watch and to ignore, roughly.

        None if a new one has less to do: thousands of tubes take longer to watch than a connection takes to make.
        """
        nearest = None
        for connection in reversed(self.idle):
            if connection.watches_only(tubes):
                nearest = connection
                break
            if nearest is None or _distance(connection, tubes) < _distance(nearest, tubes):
                nearest = connection
        if nearest is None or (
            _distance(nearest, tubes) > max(_FAR_APART, len(tubes)) and len(self.connections()) < self.limit
        ):
            return None
        with contextlib.suppress(ValueError):
            # A signal handler may have taken it.
            self.idle.remove(nearest)
            return nearest
        return self.idle.pop() if self.idle else None

    def _newest(self, fits: Callable[[PooledConnection], bool]) -> PooledConnection | None:
        """Take out the newest one that fits, else the newest one; None if a signal handler has taken the last one."""
        idle = self.idle
        connection = next((connection for connection in reversed(idle) if fits(connection)), None)
        if connection is not None:
            with contextlib.suppress(ValueError):
                idle.remove(connection)
                return connection
        return idle.pop() if idle else None

    def _add(self) -> PooledConnection:
        # Those that were collected took their places along; here they are forgotten.
        for key in [key for key, place in self.taken.copy().items() if place() is None]:
            self.taken.pop(key, None)
        connection = self._make()
        self.taken[id(connection)] = weakref.ref(connection)
        connection.counted = True
        return connection

    # Giving one to who waits.

    def serve(self, connection: PooledConnection) -> bool:
        """Hand it to who has waited longest, and may have it; false if nobody does."""
        for ticket in list(self.queue):
            if ticket.connection is None and ticket.for_jobs and not self.may_hold_more_jobs():
                continue
            if self._hand(ticket, connection):
                return True
        return False

    def _hand(self, ticket: Ticket, connection: PooledConnection) -> bool:
        """An interrupt at any line leaves what is to be done to the next one who serves."""
        served_before = ticket.connection is not None
        if not served_before:
            connection.may_hold_jobs = ticket.for_jobs
            ticket.connection = connection
        taken = ticket.wake()
        self.leave_queue(ticket)
        if not taken and not served_before:
            ticket.connection = None
            connection.may_hold_jobs = False
        return taken and not served_before

    def leave_queue(self, ticket: Ticket) -> None:
        """Let it wait no longer."""
        with contextlib.suppress(ValueError):
            self.queue.remove(ticket)

    def fill(self) -> None:
        """Find connections for those who wait, where there is a place."""
        for ticket in list(self.queue):
            if self.stage is not _OPEN:
                return
            connection = ticket.connection
            if connection is None:
                connection = self.take_for_jobs() if ticket.for_jobs else self.take()
            if connection is not None:
                self._hand(ticket, connection)
                if ticket.connection is None and connection.opened_channel is not None:
                    # Its owner is gone.
                    self.idle.append(connection)
                elif ticket.connection is None:
                    self.taken.pop(id(connection), None)
            elif not ticket.for_jobs:
                return

    def free(self, connection: PooledConnection) -> bool:
        """Free its place for others; returns whether it had one."""
        counted, connection.counted = connection.counted, False
        self.taken.pop(id(connection), None)
        self.fill()
        return counted

    def resize(self, limit: int) -> list[PooledConnection]:
        """Change the limit: those who wait get what there is more; returns what is idle and too many."""
        self._former_limit = max(self._former_limit, self.limit)
        self.limit = limit
        self._note_shrinking()
        self.fill()
        # The oldest ones are the first.
        return self._take_idle(self.idle[: max(0, len(self.connections()) - limit)])

    # What is given up; the caller closes it.

    def empty(self) -> list[PooledConnection]:
        """Take out all that are idle."""
        idle, self.idle = self.idle, []
        return idle

    def start_generation(self, generation: int) -> list[PooledConnection]:
        """Keep only what is of this generation, if it is a newer one; returns what is idle."""
        if generation <= self.generation:
            return []
        self.generation = generation
        if self.kept_generation >= 0:
            self.kept_generation = generation
        return self.empty()

    def trim(self, idle_for: float) -> list[PooledConnection]:
        """Take out what has been idle for longer than this (seconds), but for the newest; spare ones much sooner."""
        now = time.monotonic()
        surplus = max(0, len(self.connections()) - self.limit)
        # The oldest ones are the first.
        candidates = [(c, min(idle_for, _SPARE_IDLE_FOR)) for c in self.idle[:-1][:surplus]]
        candidates += [(c, idle_for) for c in self.idle[:-1][surplus:]]
        return self._take_idle([c for c, longest in candidates if now - c.channel.used_at > longest])

    def _take_idle(self, connections: list[PooledConnection]) -> list[PooledConnection]:
        taken = []
        for connection in connections:
            # A signal handler in this thread may have taken it meanwhile.
            with contextlib.suppress(ValueError):
                self.idle.remove(connection)
                taken.append(connection)
        return taken


def _distance(connection: PooledConnection, tubes: tuple[str, ...]) -> int:
    return abs(len(connection.watched) - len(tubes))
