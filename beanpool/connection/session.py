"""One socket to one server, opened anew where it is needed: its tubes, its turns, one command at a time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from beanpool.connection import results
from beanpool.connection.body_type import BodyT
from beanpool.connection.handshake import tube_changes
from beanpool.connection.job import Job
from beanpool.connection.job_making import found_job, reserved_job
from beanpool.connection.results import YamlParsing
from beanpool.connection.turns import Line, in_use
from beanpool.errors import BeanpoolError, ConnectionFailed, NotPicklable, Phase
from beanpool.net import Address, Channel, connect
from beanpool.protocol import (
    DEFAULT_TUBE_NAME,
    PEEK,
    RESERVE_JOB,
    RESERVE_WITH_TIMEOUT,
    USE,
    Command,
    Reply,
    encode_tube,
)
from beanpool.runtime import check_unpatched
from beanpool.validation import check_encoding, check_seconds

DEFAULT_CONNECT_TIMEOUT = 2.0
DEFAULT_TIMEOUT = 5.0

_AT_FIRST = (DEFAULT_TUBE_NAME,)
_CLOSED_BY_CLOSE = "it was closed by close()"

Answer = TypeVar("Answer")


class Held(set[int]):
    """The ids of the jobs that are reserved on a plain connection: all the :class:`JobLease` that those need."""

    __slots__ = ()

    # Whoever finishes many jobs calls no function of Python's for it.
    end = set.discard

    def hold(self, job: Job[Any]) -> None:
        """Note that this job is reserved."""
        self.add(job.number)


class Session(NotPicklable, Generic[BodyT]):
    """What a :class:`~beanpool.Connection` is but for its verbs: a channel that is opened, closed and opened anew.

    What has an underscore is for the modules beside this one: the pipeline, the fractional reserve, and jobs, to which
    it is a :class:`~beanpool.connection.job_protocols.JobConnection`.
    """

    def _prepare(
        self,
        address: Address,
        parse_yaml: YamlParsing,
        connect_timeout: float | None,
        timeout: float,
        encoding: str | None,
    ) -> None:
        check_unpatched()
        if not (isinstance(parse_yaml, bool) or callable(parse_yaml)):
            raise TypeError(f"parse_yaml must be True, False or a callable, not {type(parse_yaml).__name__}")
        self.address = address
        self.server: str = str(address)
        self.parse_yaml = parse_yaml
        self.connect_timeout: float = (
            DEFAULT_CONNECT_TIMEOUT if connect_timeout is None else check_seconds("connect_timeout", connect_timeout)
        )
        self.timeout: float = check_seconds("timeout", timeout)
        self.encoding: str | None = check_encoding(encoding)
        self._channel: Channel | None = None
        self.used: str = DEFAULT_TUBE_NAME
        """The tube that puts go to, as far as is known here; :meth:`using` asks the server."""
        self.watched: tuple[str, ...] = _AT_FIRST
        """The tubes that reserves take from, as far as is known here; :meth:`watching` asks the server."""
        self._guard = threading.Lock()
        """Who has it may use the connection while jobs are reserved on it; see :mod:`beanpool.connection.turns`."""
        self._line = Line()
        self._reserving = False
        self._wanted = False
        """Whether it was opened, and not closed by :meth:`close`: its next use opens it if it has no channel then."""
        self._held = Held()
        """The jobs that are reserved here, as far as is known: it may be more than are left, but never fewer."""
        self._epoch = 0
        """How often it was connected anew: jobs of an earlier epoch are not this connection's any more."""

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<{type(self).__name__} to {self.server}, {state}, uses {self.used}, watches {','.join(self.watched)}>"

    @property
    def _origin(self) -> None:
        """Nobody has asked which server process it is."""

    @property
    def host(self) -> str:
        """The host that was given."""
        return self.address.host

    @property
    def port(self) -> int:
        """The port that was given."""
        return self.address.port

    # Life cycle.

    def connect(self) -> None:
        """Connect if there is no open connection; like every new one, it uses and watches the tube ``default``.

        :raises ConnectionFailed: if nobody accepts it.
        """
        if self.closed:
            self._make_channel()

    def _make_channel(self) -> Channel:
        """Get a channel, and note which tubes it uses and watches."""
        sock = connect(self.address, time.monotonic() + self.connect_timeout)
        self._epoch += 1
        self._held = Held()
        channel = self._channel = Channel(sock, self.server)
        self.used, self.watched = DEFAULT_TUBE_NAME, _AT_FIRST
        self._wanted = True
        return channel

    def close(self) -> None:
        """Close the connection; the server gives the jobs reserved on it to others at once. Idempotent.

        It may be called while another thread waits in a command: that fails with :class:`ConnectionFailed` at once.
        """
        # First: whoever is about to give up the channel, to open it anew later, must not.
        self._wanted = False
        channel = self._channel
        if channel is None:
            return
        if self._guard.locked():
            # The thread in mid-command closes the socket: only then can nobody else get its descriptor meanwhile.
            channel.interrupt(_CLOSED_BY_CLOSE)
        else:
            channel.close(_CLOSED_BY_CLOSE)

    def reconnect(self) -> None:
        """Close the connection, make a new one, and use and watch the same tubes again."""
        self.close()
        used, watched = self.used, self.watched
        self._guard = threading.Lock()
        self._reserving = False
        with self._guard:
            self._open_anew(used, watched)

    def _open_anew(self, used: str, watched: tuple[str, ...]) -> Channel:
        """Open it, and use and watch these tubes. For who has the guard."""
        try:
            channel = self._make_channel()
            self._take_on(channel, used, watched)
        except BaseException as error:
            # With only a part of its tubes it would put into, or reserve from, the wrong ones.
            if self._channel is not None:
                self._channel.close(str(error) if isinstance(error, BeanpoolError) else _CLOSED_BY_CLOSE)
            raise
        finally:
            self.used, self.watched = used, watched
        return channel

    def _take_on(self, channel: Channel, used: str, watched: tuple[str, ...]) -> None:
        changes = [(USE, used, 0)] if used != self.used else []
        changes += tube_changes(self.watched, watched)
        if not changes:
            return
        requests = ((command, encode_tube(command, tube)) for command, tube, _ in changes)
        replies = channel.exchange_many(requests, self.timeout)
        for reply, (command, tube, count) in zip(replies, changes, strict=False):
            if command is USE:
                results.use(self, tube, channel, reply)
            else:
                results.count(command, count, channel, reply)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the connection is closed or broken."""
        return self._channel.closed if self._channel is not None else not self._wanted

    @property
    def closed_because(self) -> str:
        """Why it is closed, in words; empty while it is open."""
        if self._channel is not None:
            return self._channel.closed_because
        if self._wanted:
            return ""
        return _CLOSED_BY_CLOSE if self._epoch else "it was never opened"

    # One command.

    def _open_channel(self) -> Channel:
        if self._channel is not None:
            return self._channel
        if self._wanted:
            return self._open_anew(self.used, self.watched)
        raise ConnectionFailed(
            f"{self.server}: the connection is closed: {self.closed_because}", server=self.server, phase=Phase.CLOSED
        )

    def _ask(
        self,
        command: Command,
        request: bytes,
        read: Callable[[Channel, Reply], Answer],
        deadline: float | None = None,
    ) -> Answer:
        """Carry out a command; returns what `read` makes of its reply.

        :param deadline: when it must end (monotonic seconds); None for the connection's `timeout` from now on.
        """
        if deadline is None:
            deadline = time.monotonic() + self.timeout
        guard = self._guard
        if guard.locked():
            raise in_use(self)
        with guard:
            channel = self._channel or self._open_channel()
            reply = channel.exchange(command, request, deadline)
        return read(channel, reply)

    @contextlib.contextmanager
    def _exclusive_channel(self) -> Iterator[Channel]:
        """The channel, for this thread alone."""
        if self._guard.locked():
            raise in_use(self)
        with self._guard:
            yield self._open_channel()

    # Replies that concern jobs. To be used as those of beanpool.connection.results.

    def _reserved(self, channel: Channel, reply: Reply) -> Job[Any] | None:
        """The job in the reply to a reserve."""
        if reply.status == "RESERVED":
            self._held.add(reply.number)
            tube = self.watched[0] if len(self.watched) == 1 else None
            return reserved_job(self, reply.number, reply.body, tube, None, self._held, time.monotonic())
        if reply.status == "TIMED_OUT":
            return None
        raise channel.refuse(RESERVE_WITH_TIMEOUT, reply, held=self._held)

    def _reserved_by_id(self, jid: int, channel: Channel, reply: Reply) -> Job[Any]:
        """The job in the reply to a ``reserve-job``."""
        if reply.status != "RESERVED":
            raise channel.refuse(RESERVE_JOB, reply, job=jid)
        if reply.number != jid:
            raise results.violated(channel, RESERVE_JOB, "another job", reply.status)
        self._held.add(reply.number)
        return reserved_job(self, reply.number, reply.body, None, None, self._held, time.monotonic())

    def _found(self, command: Command, jid: int | None, channel: Channel, reply: Reply) -> Job[Any] | None:
        """The job in the reply to a peek."""
        return found_job(self, command, None if command is PEEK else self.used, jid, channel, reply)

    def _priority(self, command: Command, jid: int, channel: Channel, reply: Reply) -> int:
        """The priority in the reply to a ``stats-job`` that was asked for `command`."""
        found = results.priority(channel, reply)
        if found is None:
            self._held.discard(jid)
            raise channel.refuse(command, reply, job=jid)
        return found

    def _finished(self, command: Command, success: str, jid: int, channel: Channel, reply: Reply) -> None:
        """Check the reply to a command after which the job is not reserved here any more."""
        if reply.status in (success, "NOT_FOUND", "BURIED"):
            self._held.discard(jid)
        if reply.status != success:
            raise channel.refuse(command, reply, job=jid)
