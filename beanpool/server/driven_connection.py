"""One connection driven by readiness, so that one thread waits on many servers."""

from __future__ import annotations

import collections
import functools
import math
import time
import weakref
from collections.abc import Callable, Iterator, Sequence

from beanpool.connection import IDENTIFY, results, tube_changes
from beanpool.errors import CommandFailed, CommandTimeout, ConnectionFailed, Phase
from beanpool.net import Address, Channel, Connector, wait_for
from beanpool.protocol import (
    DEFAULT_TUBE_NAME,
    NO_REPLIES,
    RESERVE_WITH_TIMEOUT,
    STATS,
    USE,
    Command,
    Reply,
    Tally,
    encode_reserve_with_timeout,
    encode_tube,
)

_SWEEP_REQUEST = encode_reserve_with_timeout(0)
_SWEEP = (RESERVE_WITH_TIMEOUT,)
_monotonic = time.monotonic

Step = tuple[Command, bytes, Callable[[Reply], None]]
Plan = tuple[list[Step], Command, bytes]
"""Commands whose replies are checked on the way, and the last one, whose reply is given to the caller."""


class DrivenConnection:
    """A connection that never blocks: first :meth:`begin_connecting`, :meth:`begin_reserve` or the like, then
    :meth:`step` whenever :meth:`fileno` is ready.

    A class that derives from it takes in the server's identity, which it gets by ``_identify``.
    """

    __slots__ = (
        "__weakref__",
        "_allowed_seconds",
        "_channel",
        "_checks",
        "_connector",
        "_plan",
        "address",
        "asked_at",
        "channel",
        "connect_timeout",
        "give_up_at",
        "opened_channel",
        "server",
        "tally",
        "timeout",
        "used",
        "watched",
    )

    channel: Channel
    """The channel; there is none before it was opened."""

    def __init__(self, address: Address, connect_timeout: float, timeout: float) -> None:
        self.address = address
        self.server = str(address)
        self.connect_timeout = connect_timeout
        self.timeout = timeout
        self.tally: Tally = NO_REPLIES.copy()
        """The replies that have come."""
        self.used = DEFAULT_TUBE_NAME
        """The tube that puts go to."""
        self.watched: tuple[str, ...] = (DEFAULT_TUBE_NAME,)
        """The tubes that reserves take from."""
        self._channel: Channel | None = None
        self.opened_channel: Channel | None = None
        """The channel once there is one; :attr:`channel` is for who knows that there is."""
        self._connector: Connector | None = None
        # What is sent once the connection stands, and who checks the replies that come before the last one.
        self._plan: Callable[[], Plan] | None = None
        self._checks: collections.deque[Callable[[Reply], None]] = collections.deque()
        self._allowed_seconds = 0.0
        self.asked_at = 0.0
        """When what is in flight, or was last, was sent (monotonic seconds); commands that block do not say so here."""
        self.give_up_at = 0.0
        """When what is in flight is late (monotonic seconds). Then call :meth:`step` if it is :attr:`connecting`, else
        :meth:`late`."""

    @property
    def closed(self) -> bool:
        """Whether the connection is closed or broken, or was never opened."""
        return self._channel is None or self._channel.closed

    @property
    def closed_because(self) -> str:
        """Why it is closed, in words; empty while it is open."""
        return self._channel.closed_because if self._channel is not None else "it was never opened"

    def _open_channel(self) -> Channel:
        if self._channel is not None:
            return self._channel
        raise ConnectionFailed(
            f"{self.server}: the connection is closed: {self.closed_because}", server=self.server, phase=Phase.CLOSED
        )

    def _install(self, channel: Channel) -> None:
        self._channel = self.opened_channel = self.channel = channel
        self.used, self.watched = DEFAULT_TUBE_NAME, (DEFAULT_TUBE_NAME,)

    def _identify(self, reply: Reply, asked_at: float) -> None:
        """Take in who the server is (the reply to a ``stats``).

        :param asked_at: when that was sent (monotonic seconds).
        :raises ConnectionFailed: if it does not say.
        """
        raise NotImplementedError

    @property
    def _is_identified(self) -> bool:
        """Whether the server has said who it is."""
        raise NotImplementedError

    # Requests go out.

    def begin_connecting(self, deadline: float = math.inf) -> None:
        """Start to connect; :meth:`step` goes on with it when :meth:`fileno` is ready.

        :param deadline: until when at most (monotonic seconds), if there is less time than is allowed for it.
        """
        self._connector = Connector(self.address, min(deadline, time.monotonic() + self.connect_timeout))

    @property
    def connecting(self) -> bool:
        """Whether a connect is under way."""
        return self._connector is not None

    def fileno(self) -> int:
        """The descriptor to wait on; -1 if there is none."""
        # Another thread may close it between two looks.
        connector = self._connector
        if connector is not None:
            return connector.fileno()
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
        connector = self._connector
        if connector is not None:
            return connector.wants_write
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
        self._begin(lambda: (list(this._tube_steps(tubes)), RESERVE_WITH_TIMEOUT, request), seconds + self.timeout)

    def sweep(self, tubes: tuple[str, ...], until: float) -> Reply | None:
        """Ask for a job of `tubes` that is ready, and wait for the reply until then (monotonic seconds).

        :returns: None if it is not there until then: it comes from :meth:`step`, like that to :meth:`begin_reserve`.
        """
        channel = self.opened_channel
        if channel is not None and self.watched == tubes:
            self._allowed_seconds = self.timeout
            self.asked_at = now = _monotonic()
            self.give_up_at = now + self.timeout
            channel.begin(_SWEEP_REQUEST, _SWEEP)
            return channel.pick_up(until)
        if channel is None:
            self.begin_connecting()
        self.begin_reserve(tubes, 0)
        return self.await_reply(until)

    def begin_probe(self, patience: float = math.inf) -> None:
        """Ask the server who it is (``stats``): a round trip proves that it lives; :meth:`step` returns the reply.

        :param patience: how long it may take (seconds), if that is shorter than the time allowed to connect.
        """
        self.begin_questions([], patience)

    def begin_questions(self, questions: list[Step], patience: float = math.inf) -> None:
        """As :meth:`begin_probe`, and ask this in the same round trip."""
        self._begin(lambda: (questions, STATS, IDENTIFY), min(patience, self.connect_timeout))

    def begin_command(
        self,
        command: Command,
        request: bytes,
        deadline: float,
        *,
        uses: str | None,
        watches: tuple[str, ...] | None,
        after: Sequence[Step] = (),
    ) -> None:
        """Send a command; the reply comes from :meth:`step`. What it takes goes along in the same round trip.

        A connection that is still :attr:`connecting` asks who its server is as well, unless the command is ``stats``.
        The reply to that says it: give it to :meth:`identify`.

        :param deadline: until when it is to be answered (monotonic seconds).
        :param uses: the tube that the connection has to use; None if that is all the same.
        :param watches: the tubes that it has to watch; None if that is all the same.
        :param after: commands that are sent before it, in the same round trip, each with what takes its reply.
        """
        # As in begin_reserve.
        this = weakref.proxy(self)
        self._begin(
            lambda: ([*this._prepare_for(uses, watches), *after], command, request), deadline - time.monotonic()
        )

    def _prepare_for(self, uses: str | None, watches: tuple[str, ...] | None) -> list[Step]:
        steps: list[Step] = []
        if uses is not None and self.used != uses:
            check = functools.partial(DrivenConnection._now_uses, weakref.proxy(self), uses)
            steps.append((USE, encode_tube(USE, uses), check))
        if watches is not None:
            steps += self._tube_steps(watches)
        return steps

    def _now_uses(self, tube: str, reply: Reply) -> None:
        results.use(self, tube, self.channel, reply)

    def identify(self, reply: Reply) -> None:
        """Take in the reply to a ``stats`` that was the last command."""
        self._identify(reply, self.asked_at)

    def _begin(self, plan: Callable[[], Plan], allowed_seconds: float) -> None:
        self.asked_at = now = time.monotonic()
        self._allowed_seconds = allowed_seconds
        if self._connector is not None:
            self._plan = plan
            self.give_up_at = self._connector.late_at
        else:
            self.give_up_at = now + allowed_seconds
            self._send_script(*plan())

    def watches_only(self, tubes: tuple[str, ...]) -> bool:
        """Whether the watched tubes are exactly these."""
        watched = self.watched
        return watched == tubes or (len(watched) == len(tubes) and set(watched) == set(tubes))

    def _tube_steps(self, tubes: tuple[str, ...]) -> Iterator[Step]:
        this = weakref.proxy(self)
        changes = tube_changes(self.watched, tubes)
        for number, (command, tube, count) in enumerate(changes, 1):
            after = tubes if number == len(changes) else None
            check = functools.partial(DrivenConnection._confirm, this, command, count, after)
            yield command, encode_tube(command, tube), check

    def _confirm(self, command: Command, count: int, after: tuple[str, ...] | None, reply: Reply) -> None:
        """Check the reply to a ``watch`` or ``ignore``.

        :param count: how many tubes are watched then.
        :param after: which ones, if this is the last reply: what is left in between is of no further use.
        """
        if reply.status == "NOT_IGNORED":
            raise results.violated(self.channel, command, "NOT_IGNORED where several tubes are watched")
        results.count(command, count, self.channel, reply)
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
        connector = self._connector
        if connector is not None and not self._finish_connecting(connector):
            return None
        return self._pick_up((self.opened_channel or self._open_channel()).pick_up)

    @property
    def next_step(self) -> Callable[[], Reply | None]:
        """What :meth:`step` comes to, as long as nothing else is done with the connection."""
        channel = self.opened_channel
        return self.step if self._connector is not None or self._checks or channel is None else channel.pick_up

    def await_reply(self, until: float) -> Reply | None:
        """As :meth:`step`, but wait for the reply until this time (monotonic seconds)."""
        while self._connector is not None:
            reply = self.step()
            if reply is not None or self._connector is None:
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
        return self._connector is not None or (self._channel is not None and self._channel.due > 0)

    def _finish_connecting(self, connector: Connector) -> bool:
        sock = connector.step()
        if sock is None and time.monotonic() >= connector.late_at:
            connector.skip()
            sock = connector.step()
        if sock is None:
            self.give_up_at = connector.late_at
            return False
        self._connector = None
        self._install(Channel(sock, self.server, self.tally))
        self.asked_at = started = time.monotonic()
        self.give_up_at = started + self.connect_timeout
        plan, self._plan = self._plan, None
        steps, last, request = plan() if plan is not None else ([], STATS, IDENTIFY)
        if last is STATS:
            self._allowed_seconds = self.connect_timeout
        else:
            check = functools.partial(DrivenConnection._handshake_done, weakref.proxy(self), started)
            steps.insert(0, (STATS, IDENTIFY, check))
        self._send_script(steps, last, request)
        return True

    def _handshake_done(self, started: float, reply: Reply) -> None:
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

        Not while it is :attr:`connecting`: then :meth:`step` goes on with another address, or raises.
        """
        now = time.monotonic()
        in_handshake = bool(self._checks) and not self._is_identified
        asked = "the connection was accepted, but the server does not answer" if in_handshake else "no reply"
        error = CommandTimeout(
            f"{self.server}: {asked} in the time allowed",
            server=self.server,
            phase=Phase.HANDSHAKE if in_handshake else Phase.WAITING,
            may_have_taken_effect=not in_handshake,
        )
        # Less than all of it, if its caller has no patience.
        allowed = self._allowed_seconds if self._is_identified else self.connect_timeout
        error.waited = max(0.0, min(now, self.give_up_at) - (self.give_up_at - allowed))
        self.drop(str(error))
        return error

    def drop(self, because: str) -> None:
        """Close the connection, in whatever state it is."""
        if self._connector is not None:
            self._connector.close()
            self._connector = None
        self._checks.clear()
        if self._channel is not None:
            self._channel.close(because)

    def half_close(self) -> Channel | None:
        """Cancel the reserve in flight; returns the channel, to be read to its end, or None if there is none yet."""
        if self._connector is not None or self._channel is None:
            self.drop("its reserve was cancelled")
            return None
        self._checks.clear()
        self._channel.half_close()
        return self._channel
