"""A connection of a pool: it knows its server process, and the jobs that are reserved on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Unpack

from beanpool.connection import IDENTIFY, Line, YamlParsing, identity, results, unanswered
from beanpool.errors import About, CommandFailed, ConnectionFailed, NotPicklable, UnexpectedResponse
from beanpool.net import Address, Channel, ChannelState, connect
from beanpool.protocol import MAX_JOB_SIZE, STATS, USE, Command, Identity, Reply, encode_tube
from beanpool.runtime import Lock
from beanpool.server.driven_connection import DrivenConnection
from beanpool.server.lease import JobRef, forget

_UNKNOWN = Identity("", "", False, None)


class PooledConnection(DrivenConnection, NotPicklable):
    """A connection that a :class:`.ConnectionPool` owns; made closed, opened by its first user.

    It is lent to one caller at a time. To jobs it is a :class:`~beanpool.connection.job_protocols.JobConnection`.
    """

    __slots__ = (
        "_guard",
        "_learn",
        "_line",
        "_opened",
        "counted",
        "encoding",
        "evict",
        "generation",
        "identity",
        "in_hand",
        "is_new",
        "jobs",
        "largest_body",
        "lease_lock",
        "lent",
        "made_at",
        "may_hold_jobs",
        "origin",
        "waits_since",
    )

    # Its jobs know no other: it is never connected anew, and nobody waits for a job with the guard in hand.
    _epoch = 0
    _reserving = False
    parse_yaml: YamlParsing = True

    def __init__(
        self,
        address: Address,
        *,
        connect_timeout: float,
        timeout: float,
        encoding: str | None,
        generation: int,
        learn: Callable[[Identity, float], int],
        opened: Callable[[PooledConnection], None],
    ) -> None:
        super().__init__(address, connect_timeout, timeout)
        self.encoding = encoding
        self.generation = generation
        self._guard = threading.Lock()
        self._line = Line()
        self.counted = False
        """Whether it takes a place in its pool; the pool's to say, under its lock."""
        self.lent = False
        """Whether a caller has it for as long as it likes, and may need others meanwhile."""
        self.may_hold_jobs = False
        """Whether it was checked out for a reserve; the pool's to say, too."""
        self.evict: Callable[[], None] | None = None
        """While it waits in a reserve: has that cancelled, for who needs the connection more."""
        self.is_new = True
        """Whether no put has gone over it."""
        self.made_at: float | None = time.monotonic()
        """When it was made, for a user who connects it at once (monotonic seconds); None once it stands."""
        self.waits_since = 0.0
        """When that began (monotonic seconds)."""
        self.lease_lock = Lock()
        """Guards the state of its lease. Its own: a lease is made while its caller waits for a job."""
        self.identity = _UNKNOWN
        self.largest_body = MAX_JOB_SIZE
        """What the server takes (bytes), as far as it is known."""
        self.origin = (self.server, "")
        """The server, and the id of its process: what its :class:`~beanpool.JobId` objects share."""
        self._learn = learn
        self._opened = opened
        self.jobs: dict[int, JobRef] = {}
        """The unfinished jobs that were reserved on this connection, by id."""
        self.in_hand: dict[int, JobRef] = {}
        """Those of all connections to the same server process; its pool's to set, once that is known."""

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<{type(self).__name__} to {self.server}, {state}, uses {self.used}, watches {','.join(self.watched)}>"

    @property
    def guard(self) -> threading.Lock:
        """Who has it may use the connection while jobs are reserved on it; see :mod:`beanpool.connection.turns`."""
        return self._guard

    @property
    def _origin(self) -> tuple[str, str]:
        return self.origin

    @property
    def instance(self) -> str:
        """The id of the server process at the other end."""
        return self.identity.instance

    @property
    def channel_state(self) -> ChannelState | None:
        """The channel's state; None before the connection was opened."""
        return self._channel.state if self._channel is not None else None

    @property
    def holds_jobs(self) -> bool:
        """Whether somebody works on a job that was reserved on it, or may: it is lent."""
        return not self.closed and (self.lent or any(ref() is not None for ref in self.jobs.copy().values()))

    def interrupt(self) -> None:
        """Make whoever uses the connection in another thread return at once."""
        channel = self._channel
        if channel is not None:
            channel.interrupt()

    def close(self) -> None:
        """Close the connection; the server gives the jobs reserved on it to others at once. Idempotent."""
        because = "it was closed by close()"
        channel = self._channel
        if channel is None:
            return
        if self._guard.locked():
            # The thread in mid-command closes the socket: only then can nobody else get its descriptor meanwhile.
            channel.interrupt(because)
        else:
            channel.close(because)

    def refuse(self, command: Command, reply: Reply, **about: Unpack[About]) -> CommandFailed:
        """Build the error of a refused command; closes the connection where the refusal leaves it out of step."""
        return self.channel.refuse(command, reply, **about)

    def violated(self, command: Command, what: str, status: str = "") -> UnexpectedResponse:
        """Close the connection over a reply that is well-formed and wrong, and build the error."""
        return results.violated(self.channel, command, what, status)

    def open(self, deadline: float) -> None:
        """Connect, and learn who the server is (``stats``).

        A connect alone proves nothing: a stopped server accepts it too.
        """
        deadline = min(deadline, time.monotonic() + self.connect_timeout)
        self._install(Channel(connect(self.address, deadline), self.server, self.tally))
        started = time.monotonic()
        try:
            reply = self.channel.exchange(STATS, IDENTIFY, deadline)
        except ConnectionFailed as error:
            raise unanswered(self.server, error) from error
        self._identify(reply, started)

    def _identify(self, reply: Reply, asked_at: float) -> None:
        identified_before = self._is_identified
        self.identity = identity(self.channel, reply)
        if self.identity.max_job_size is not None:
            self.largest_body = self.identity.max_job_size
        self.origin = (self.server, self.identity.instance)
        # The server may have been restarted since this connection was wished for: it is of the generation it found.
        self.generation = self._learn(self.identity, time.monotonic() - asked_at)
        if not identified_before:
            self._opened(self)

    @property
    def _is_identified(self) -> bool:
        return bool(self.identity.instance)

    def use_tube(self, tube: str, deadline: float) -> None:
        """Make `tube` the used one (``use``), unless it is.

        Its reply is waited for: a put behind a failed ``use`` would land in the tube before.
        """
        if self.used != tube:
            channel = self.channel
            results.use(self, tube, channel, channel.exchange(USE, encode_tube(USE, tube), deadline))

    def drop(self, because: str) -> None:
        """Close the connection, in whatever state it is."""
        # They are lost now. What they leave here would keep this object, and its place in the pool, alive.
        if self.jobs:
            forget(self.in_hand, self.jobs, self.jobs.copy())
        super().drop(because)
