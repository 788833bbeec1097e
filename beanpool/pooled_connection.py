"""A connection of a pool: it knows its server process, and takes on the tubes that a call needs."""

from __future__ import annotations

import collections
import functools
import math
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from beanpool.address import Address
from beanpool.channel import Channel, ChannelState
from beanpool.connection import Connection
from beanpool.dialing import Connector, connect
from beanpool.errors import CommandFailed, CommandTimeout, ConnectionFailed, Phase
from beanpool.lease import JobRef, forget
from beanpool.locks import Lock
from beanpool.protocol.arguments import DEFAULT_TUBE_NAME, MAX_JOB_SIZE
from beanpool.protocol.commands import (
    IGNORE,
    RESERVE_WITH_TIMEOUT,
    STATS,
    USE,
    WATCH,
    Command,
    encode_bare,
    encode_reserve_with_timeout,
    encode_tube,
)
from beanpool.protocol.identity import Identity, parse_identity
from beanpool.protocol.replies import Reply
from beanpool.readiness import wait_for

_STATS_REQUEST = encode_bare(STATS)
_SWEEP_REQUEST = encode_reserve_with_timeout(0)
_SWEEP = (RESERVE_WITH_TIMEOUT,)
_monotonic = time.monotonic
_UNKNOWN = Identity("", "", False, None)

Step = tuple[Command, bytes, Callable[[Reply], None]]
Plan = tuple[list[Step], Command, bytes]
"""Commands whose replies are checked on the way, and the last one, whose reply is given to the caller."""


class PooledConnection(Connection):
    """A connection that a :class:`~beanpool.server_pool.ConnectionPool` owns; made closed, opened by its first user.

    Beside the blocking calls it can be driven by readiness, so that one thread waits on many servers:
    :meth:`begin_dialing`, :meth:`begin_reserve`, then :meth:`step` whenever :meth:`fileno` is ready.
    """

    origin: tuple[str, str]
    """The server, and the id of its process: what its :class:`~beanpool.JobId` objects share."""

    channel: Channel
    """The channel; there is none before it was opened."""

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
        self._prepare(address, True, connect_timeout, timeout, encoding)
        self.generation = generation
        self.opened_channel: Channel | None = None
        """The channel once there is one; :attr:`channel` is for who knows that there is."""
        self.counted = False
        """Whether it takes a place in its pool; the pool's to say, under its lock."""
        self.may_hold_jobs = False
        """Whether it was checked out for a reserve; the pool's to say, too."""
        self.evict: Callable[[], None] | None = None
        """While it waits in a reserve: has that cancelled, for who needs the connection more."""
        self.waits_since = 0.0
        """When that began (monotonic seconds)."""
        self.lease_lock = Lock()
        """Guards the state of its lease. Its own: a lease is made while its caller waits for a job."""
        self.identity = _UNKNOWN
        self.largest_body = MAX_JOB_SIZE
        """What the server takes (bytes), as far as it is known."""
        self.origin = (self.server, "")
        self._learn = learn
        self._opened = opened
        self._dialing: Connector | None = None
        # What is sent once the connection stands, and who checks the replies that come before the last one.
        self._plan: Callable[[], Plan] | None = None
        self._checks: collections.deque[Callable[[Reply], None]] = collections.deque()
        self._allowed_seconds = 0.0
        self.jobs: dict[int, JobRef] = {}
        """The unfinished jobs that were reserved on this connection, by id."""
        self.in_hand: dict[int, JobRef] = {}
        """Those of all connections to the same server process; its pool's to set, once that is known."""
        self.give_up_at = 0.0
        """When whatever is in flight is late (monotonic seconds): then call :meth:`step` if it is :attr:`dialing`, else
        :meth:`late`."""

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
        """Whether somebody works on a job that was reserved on it."""
        return not self.closed and any(ref() is not None for ref in self.jobs.copy().values())

    def interrupt(self) -> None:
        """Make whoever uses the connection in another thread return at once."""
        channel = self._channel
        if channel is not None:
            channel.interrupt()

    # Blocking use.

    def _contended(self, deadline: float) -> AbstractContextManager[None]:
        # It is lent to one caller at a time. But a job's command that comes too late, when the last job is finished and
        # the next caller has the connection, takes the guard for a moment all the same, to see that.
        return self.queue_up(deadline)

    def open(self, deadline: float) -> None:
        """Connect, and learn who the server is (``stats``).

        A connect alone proves nothing: a stopped server accepts it too.
        """
        deadline = min(deadline, time.monotonic() + self.connect_timeout)
        self._install(Channel(connect(self.address, deadline), self.server))
        started = time.monotonic()
        try:
            reply = self.channel.exchange(STATS, _STATS_REQUEST, deadline)
        except ConnectionFailed as error:
            raise self._no_handshake(error) from error
        self._identify(reply, started)

    def _install(self, channel: Channel) -> None:
        self._channel = self.opened_channel = self.channel = channel
        self.used, self.watched = DEFAULT_TUBE_NAME, (DEFAULT_TUBE_NAME,)

    def _identify(self, reply: Reply, asked_at: float) -> None:
        if reply.status != "OK":
            # Not a CommandFailed: it would be taken for the answer to the command that comes next.
            self.channel.close(f"the server answered {reply.status} when asked who it is")
            raise ConnectionFailed(
                f"{self.server}: the connection was accepted, but the server says {reply.status} when asked who it is",
                server=self.server,
                phase=Phase.HANDSHAKE,
            )
        greeted_before = bool(self.instance)
        self.identity = parse_identity(reply.body)
        if self.identity.max_job_size is not None:
            self.largest_body = self.identity.max_job_size
        self.origin = (self.server, self.identity.instance)
        # The server may have been restarted since this connection was wished for: it is of the generation it found.
        self.generation = self._learn(self.identity, time.monotonic() - asked_at)
        if not greeted_before:
            self._opened(self)

    def _no_handshake(self, error: ConnectionFailed) -> ConnectionFailed:
        kind = CommandTimeout if isinstance(error, CommandTimeout) else ConnectionFailed
        return kind(
            f"{self.server}: the connection was accepted, but the server does not answer ({error})",
            server=self.server,
            phase=Phase.HANDSHAKE,
        )

    def use_tube(self, tube: str, deadline: float) -> None:
        """Make `tube` the used one (``use``), unless it is.

        Its reply is waited for: a put behind a failed ``use`` would land in the tube before.
        """
        if self.used != tube:
            self.use_result(tube, self.channel.exchange(USE, encode_tube(USE, tube), deadline))

    # Event-driven use.

    def begin_dialing(self, deadline: float = math.inf) -> None:
        """Start to connect; :meth:`step` goes on with it when :meth:`fileno` is ready.

        :param deadline: until when at most (monotonic seconds), if there is less time than is allowed for it.
        """
        self._dialing = Connector(self.address, min(deadline, time.monotonic() + self.connect_timeout))

    @property
    def dialing(self) -> bool:
        """Whether a connect is under way."""
        return self._dialing is not None

    def fileno(self) -> int:
        """The descriptor to wait on; -1 if there is none."""
        # Another thread may close it between two looks.
        dialing = self._dialing
        if dialing is not None:
            return dialing.fileno()
        return self._channel.fileno() if self._channel is not None else -1

    def live_descriptor(self) -> int:
        """As :meth:`fileno`, for selectors that would not take a -1.

        :raises ConnectionFailed: if another thread has closed the connection, as a pool that is closed does.
        """
        descriptor = self.fileno()
        if descriptor < 0:
            raise self.closed_meanwhile()
        return descriptor

    def closed_meanwhile(self) -> ConnectionFailed:
        """The error of who finds that another thread has closed the connection, now or between two looks."""
        return ConnectionFailed(
            f"{self.server}: the connection was closed while it was waited on", server=self.server, phase=Phase.CLOSED
        )

    @property
    def wants_write(self) -> bool:
        """Whether to wait until the descriptor is writable, too: a connect is under way, or something is unsent."""
        dialing = self._dialing
        if dialing is not None:
            return dialing.wants_write
        channel = self.opened_channel
        return channel is not None and channel.wants_write

    def begin_reserve(self, tubes: tuple[str, ...], seconds: int) -> None:
        """Ask for a job of `tubes`, waiting this long on the server; the reply comes from :meth:`step`.

        Handshake and tubes go along in the same round trip where they are needed; their replies are checked
        before the job is accepted.
        """
        request = encode_reserve_with_timeout(seconds) if seconds else _SWEEP_REQUEST
        # What is kept for later knows this connection weakly: one that is dropped in between must go at once, place and
        # all, and not when the garbage collector comes to it.
        this = weakref.proxy(self)
        self._begin(lambda: (list(this._retune(tubes)), RESERVE_WITH_TIMEOUT, request), seconds + self.timeout)

    def sweep(self, tubes: tuple[str, ...], until: float) -> Reply | None:
        """Ask for a job of `tubes` that is ready, and wait for the reply until then (monotonic seconds).

        :returns: None if it is not there until then: it comes from :meth:`step`, like that to :meth:`begin_reserve`.
        """
        channel = self.opened_channel
        if channel is not None and self.watched == tubes:
            self._allowed_seconds = self.timeout
            self.give_up_at = _monotonic() + self.timeout
            channel.begin(_SWEEP_REQUEST, _SWEEP)
            return channel.pick_up(until)
        if channel is None:
            self.begin_dialing()
        self.begin_reserve(tubes, 0)
        return self.await_reply(until)

    def begin_probe(self, patience: float = math.inf) -> None:
        """Ask the server who it is (``stats``): a round trip proves that it lives; :meth:`step` returns the reply.

        :param patience: how long it may take (seconds), if that is shorter than the time allowed to connect.
        """
        self.begin_questions([], patience)

    def begin_questions(self, questions: list[Step], patience: float = math.inf) -> None:
        """As :meth:`begin_probe`, and ask this in the same round trip."""
        self._begin(lambda: (questions, STATS, _STATS_REQUEST), min(patience, self.connect_timeout))

    def begin_command(
        self, command: Command, request: bytes, deadline: float, *, uses: str | None, watches: tuple[str, ...] | None
    ) -> None:
        """Send a command; the reply comes from :meth:`step`. What it takes goes along in the same round trip.

        A connection that is still :attr:`dialing` asks who its server is as well, except with a ``stats``, whose reply
        says that: give it to :meth:`greet`.

        :param deadline: until when it is to be answered (monotonic seconds).
        :param uses: the tube that the connection has to use; None if that is all the same.
        :param watches: the tubes that it has to watch; None if that is all the same.
        """
        # As in begin_reserve.
        this = weakref.proxy(self)
        self._begin(lambda: (this._prepare_for(uses, watches), command, request), deadline - time.monotonic())

    def _prepare_for(self, uses: str | None, watches: tuple[str, ...] | None) -> list[Step]:
        steps: list[Step] = []
        if uses is not None and self.used != uses:
            check = functools.partial(PooledConnection._now_uses, weakref.proxy(self), uses)
            steps.append((USE, encode_tube(USE, uses), check))
        if watches is not None:
            steps += self._retune(watches)
        return steps

    def _now_uses(self, tube: str, reply: Reply) -> None:
        self.use_result(tube, reply)

    def greet(self, reply: Reply) -> None:
        """Take in the reply to a ``stats`` that was the last command."""
        self._identify(reply, self.give_up_at - self._allowed_seconds)

    def _begin(self, plan: Callable[[], Plan], allowed_seconds: float) -> None:
        now = time.monotonic()
        self._allowed_seconds = allowed_seconds
        if self._dialing is not None:
            self._plan = plan
            self.give_up_at = self._dialing.late_at
        else:
            self.give_up_at = now + allowed_seconds
            self._send_script(*plan())

    def watches_only(self, tubes: tuple[str, ...]) -> bool:
        """Whether the watched tubes are exactly these."""
        watched = self.watched
        return watched == tubes or (len(watched) == len(tubes) and set(watched) == set(tubes))

    def _retune(self, tubes: tuple[str, ...]) -> Iterator[Step]:
        # There may be thousands of tubes: nothing here looks at all of them for each of them.
        this = weakref.proxy(self)
        watched, wanted = dict.fromkeys(self.watched), dict.fromkeys(tubes)
        changes = [(WATCH, tube) for tube in tubes if tube not in watched]
        # Ignored last: a connection must watch something at all times.
        changes += [(IGNORE, tube) for tube in watched if tube not in wanted]
        count = len(watched)
        for number, (command, tube) in enumerate(changes, 1):
            count += 1 if command is WATCH else -1
            after = tubes if number == len(changes) else None
            check = functools.partial(PooledConnection._confirm, this, command, count, after)
            yield command, encode_tube(command, tube), check

    def _confirm(self, command: Command, count: int, after: tuple[str, ...] | None, reply: Reply) -> None:
        """Check the reply to a ``watch`` or ``ignore``.

        :param count: how many tubes are watched then.
        :param after: which ones, if this is the last reply: what is left in between is of no further use.
        """
        if reply.status == "NOT_IGNORED":
            raise self.violated(IGNORE, "NOT_IGNORED where several tubes are watched")
        if reply.status != "WATCHING":
            raise self.refuse(command, reply)
        if reply.number != count:
            raise self.violated(command, f"{reply.number} watched tubes where {count} are due")
        if after is not None:
            self.watched = after

    def _send_script(self, steps: list[Step], last: Command, request: bytes) -> None:
        channel = self.opened_channel or self._open_channel()
        if not steps:
            channel.begin(request, (last,))
            return
        self._checks.extend(check for _, _, check in steps)
        joined = b"".join(part for _, part, _ in steps) + request
        channel.begin(joined, [*(command for command, _, _ in steps), last])

    def step(self) -> Reply | None:
        """Go as far as is possible without waiting; return the last reply once it is there.

        :raises ConnectionFailed: if the connection cannot be made, or broke.
        :raises UnexpectedResponse: if the server does not speak the protocol.
        :raises CommandFailed: if it refused a part of the way; the connection is closed then.
        """
        dialing = self._dialing
        if dialing is not None and not self._finish_dialing(dialing):
            return None
        return self._pick_up((self.opened_channel or self._open_channel()).pick_up)

    @property
    def next_step(self) -> Callable[[], Reply | None]:
        """What :meth:`step` comes to, as long as nothing else is done with the connection."""
        channel = self.opened_channel
        return self.step if self._dialing is not None or self._checks or channel is None else channel.pick_up

    def await_reply(self, until: float) -> Reply | None:
        """As :meth:`step`, but wait for the reply until this time (monotonic seconds)."""
        while self._dialing is not None:
            reply = self.step()
            if reply is not None or self._dialing is None:
                break
            now = time.monotonic()
            if now >= until:
                return None
            # If neither comes, the next step goes on with another address, or says that there is none.
            wait_for(self, write=self.wants_write, seconds=min(until, self.give_up_at) - now)
        else:
            reply = None
        if reply is not None:
            return reply
        channel = self.opened_channel or self._open_channel()
        return self._pick_up(lambda: channel.pick_up(until))

    @property
    def waiting(self) -> bool:
        """Whether something is in flight."""
        return self._dialing is not None or (self._channel is not None and self._channel.due > 0)

    def _finish_dialing(self, dialing: Connector) -> bool:
        sock = dialing.step()
        if sock is None and time.monotonic() >= dialing.late_at:
            dialing.skip()
            sock = dialing.step()
        if sock is None:
            self.give_up_at = dialing.late_at
            return False
        self._dialing = None
        self._install(Channel(sock, self.server))
        started = time.monotonic()
        self.give_up_at = started + self.connect_timeout
        plan, self._plan = self._plan, None
        steps, last, request = plan() if plan is not None else ([], STATS, _STATS_REQUEST)
        if last is STATS:
            self._allowed_seconds = self.connect_timeout
        else:
            greeted = functools.partial(PooledConnection._greeted, weakref.proxy(self), started)
            steps.insert(0, (STATS, _STATS_REQUEST, greeted))
        self._send_script(steps, last, request)
        return True

    def _greeted(self, started: float, reply: Reply) -> None:
        self._identify(reply, started)
        self.give_up_at = started + self._allowed_seconds

    def _pick_up(self, receive: Callable[[], Reply | None]) -> Reply | None:
        reply = receive()
        if reply is None or not self._checks:
            return reply
        while reply is not None and self._checks:
            try:
                self._checks.popleft()(reply)
            except CommandFailed as error:
                # The reserve behind it may still bring a job, from tubes that nobody asked for.
                self.channel.close(str(error))
                raise
            reply = receive()
        # Thousands of tubes take their time, and a server that answers is not late.
        self.give_up_at = max(self.give_up_at, time.monotonic() + self._allowed_seconds)
        return reply

    def late(self) -> ConnectionFailed:
        """Close the connection because what is in flight is late, and build the error.

        Not while it is :attr:`dialing`: then :meth:`step` goes on with another address, or raises.
        """
        now = time.monotonic()
        greeting = bool(self._checks)
        asked = "the connection was accepted, but the server does not answer" if greeting else "no reply"
        error = CommandTimeout(
            f"{self.server}: {asked} in the time allowed",
            server=self.server,
            phase=Phase.HANDSHAKE if greeting else Phase.WAITING,
            may_have_taken_effect=not greeting,
        )
        # Less than all of it, if its caller has no patience.
        allowed = self._allowed_seconds if self.instance else self.connect_timeout
        error.waited = max(0.0, now - (self.give_up_at - allowed))
        self.drop(str(error))
        return error

    def drop(self, because: str) -> None:
        """Close the connection, in whatever state it is."""
        if self._dialing is not None:
            self._dialing.close()
            self._dialing = None
        self._checks.clear()
        # They are lost now. What they leave here would keep this object, and its place in the pool, alive.
        if self.jobs:
            forget(self.in_hand, self.jobs, self.jobs.copy())
        if self._channel is not None:
            self._channel.close(because)

    def half_close(self) -> Channel | None:
        """Cancel the reserve in flight; returns the channel, to be read to its end, or None if there is none yet."""
        if self._dialing is not None or self._channel is None:
            self.drop("its reserve was cancelled")
            return None
        self._checks.clear()
        self._channel.half_close()
        return self._channel
