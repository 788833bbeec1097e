"""One connection to one server, with the API that users of beanstalkc know."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from beanpool.connection import results
from beanpool.connection.body_type import BodyT
from beanpool.connection.fractional_reserve import RESERVE_SLICE, reserve_to_the_point
from beanpool.connection.job import Job
from beanpool.connection.results import YamlParsing
from beanpool.connection.session import DEFAULT_CONNECT_TIMEOUT, DEFAULT_TIMEOUT, Session
from beanpool.connection.turns import in_use
from beanpool.errors import About
from beanpool.net import DEFAULT_HOST, DEFAULT_PORT, Address, parse_address
from beanpool.protocol import (
    BURY,
    DEFAULT_PRIORITY,
    DEFAULT_TTR,
    DELETE,
    IGNORE,
    KICK,
    KICK_JOB,
    LIST_TUBE_USED,
    LIST_TUBES,
    LIST_TUBES_WATCHED,
    MAX_RESERVE_TIMEOUT,
    PAUSE_TUBE,
    PEEK,
    PEEK_BURIED,
    PEEK_DELAYED,
    PEEK_READY,
    PUT,
    RELEASE,
    RESERVE_JOB,
    RESERVE_WITH_TIMEOUT,
    STATS,
    STATS_JOB,
    STATS_TUBE,
    TOUCH,
    USE,
    WATCH,
    Body,
    Command,
    check_reserve_timeout,
    encode_bare,
    encode_body,
    encode_bury,
    encode_job,
    encode_kick,
    encode_pause_tube,
    encode_peek,
    encode_put,
    encode_release,
    encode_reserve_with_timeout,
    encode_tube,
)
from beanpool.runtime import no_descriptor

if TYPE_CHECKING:  # Loaded by the first pipeline.
    from beanpool.connection.pipeline import Pipeline

_NO_WAIT = encode_reserve_with_timeout(0)


class Connection(Session[BodyT]):
    """A connection to one server. It belongs to one thread at a time; using it from two at once raises.

    It connects at once, and sends nothing that it was not asked to. After a timeout, an interrupt or an
    unexpected reply in mid-command it is closed, and says so; :meth:`reconnect` makes it new.

    :param host: host name or IP address.
    :param port: TCP port.
    :param parse_yaml: what the stats and list methods return: True parses the YAML (tube names stay ``str``,
        counters are numbers), False leaves the text, a callable gets the text; if it has a parameter called
        ``command``, it is given that too, by name: which command the text answers, such as ``stats-job``.
    :param connect_timeout: the longest wait for a connection (seconds); None, which is for ever to other clients, is
        the default here: nothing hangs.
    :param timeout: the longest wait for a reply, on top of what a reserve waits (seconds).
    :param encoding: how ``str`` bodies travel; None for ``bytes`` only.
    :raises ConnectionFailed: if nobody accepts the connection.
    """

    @overload
    def __init__(
        self: Connection[str],
        host: str = "localhost",
        port: int = 11300,
        parse_yaml: YamlParsing = True,
        connect_timeout: float | None = 2.0,
        *,
        timeout: float = 5.0,
        encoding: str = "utf-8",
    ) -> None: ...

    @overload
    def __init__(
        self: Connection[bytes],
        host: str = "localhost",
        port: int = 11300,
        parse_yaml: YamlParsing = True,
        connect_timeout: float | None = 2.0,
        *,
        timeout: float = 5.0,
        encoding: None,
    ) -> None: ...

    @overload
    def __init__(
        self: Connection[str | bytes],
        host: str = "localhost",
        port: int = 11300,
        parse_yaml: YamlParsing = True,
        connect_timeout: float | None = 2.0,
        *,
        timeout: float = 5.0,
        encoding: str | None,
    ) -> None: ...

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        parse_yaml: YamlParsing = True,
        connect_timeout: float | None = DEFAULT_CONNECT_TIMEOUT,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        encoding: str | None = "utf-8",
    ) -> None:
        self._prepare(Address(host, port), parse_yaml, connect_timeout, timeout, encoding)
        self.connect()

    @overload
    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        parse_yaml: YamlParsing = True,
        connect_timeout: float | None = 2.0,
        timeout: float = 5.0,
        encoding: str = "utf-8",
    ) -> Self: ...

    @overload
    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        parse_yaml: YamlParsing = True,
        connect_timeout: float | None = 2.0,
        timeout: float = 5.0,
        encoding: None,
    ) -> Connection[bytes]: ...

    @overload
    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        parse_yaml: YamlParsing = True,
        connect_timeout: float | None = 2.0,
        timeout: float = 5.0,
        encoding: str | None,
    ) -> Connection[str | bytes]: ...

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        parse_yaml: YamlParsing = True,
        connect_timeout: float | None = DEFAULT_CONNECT_TIMEOUT,
        timeout: float = DEFAULT_TIMEOUT,
        encoding: str | None = "utf-8",
    ) -> Any:
        """Connect to ``beanstalk://host:port`` or ``beanstalk+unix:///path``; the rest as for the constructor."""
        connection = cls.__new__(cls)
        connection._prepare(parse_address(url), parse_yaml, connect_timeout, timeout, encoding)
        connection.connect()
        return connection

    # Putting jobs.

    def put(self, body: Body, priority: int = DEFAULT_PRIORITY, delay: float = 0, ttr: float = DEFAULT_TTR) -> int:
        """Put a job into the used tube (``put``).

        :param body: ``str`` (if the connection has an encoding) or bytes-like.
        :param priority: 0 (most urgent) to 2**32 - 1.
        :param delay: how long before the job becomes ready (whole seconds).
        :param ttr: how long a worker may take before the job is given to another (whole seconds; 0 counts as 1).
        :returns: the job's id.
        :raises JobTooBig: if the body exceeds the server's ``max-job-size``.
        :raises Draining: if the server takes no new jobs.
        :raises OutOfMemory: if it has no room.
        :raises Buried: if the job was stored, but in the buried state; its ``id`` tells the job's.
        """
        data = encode_body(body, self.encoding)
        request = encode_put(data, priority, delay, ttr)
        deadline = time.monotonic() + self.timeout
        guard = self._guard
        # As _ask() does it, which every put would have to call.
        if guard.locked():
            raise in_use(self)
        with guard:
            channel = self._channel or self._open_channel()
            reply = channel.exchange(PUT, request, deadline)
        return reply.number if reply.status == "INSERTED" else results.stored(len(data), channel, reply)

    def use(self, tube: str) -> str:
        """Put jobs into `tube` from now on (``use``); returns its name."""
        return self._ask(USE, encode_tube(USE, tube), functools.partial(results.use, self, tube))

    def ping(self) -> bool:
        """Make a round trip (``list-tube-used``): True, or the error of a connection that is no more."""
        self.using()
        return True

    def using(self) -> str:
        """The name of the used tube, as the server knows it (``list-tube-used``)."""
        return self._ask(LIST_TUBE_USED, encode_bare(LIST_TUBE_USED), results.using)

    # Reserving jobs.

    def reserve(self, timeout: float | None = None) -> Job[BodyT] | None:
        """Reserve the next job of the watched tubes; None if none came in time (``reserve-with-timeout``).

        :param timeout: how long to wait (seconds, 0 to 2**31 - 1); None waits for ever, in bounded
            slices, so that a dead or frozen server is noticed. A server knows whole seconds only. So if such a wait
            ends within a second, the connection is given up, and opened anew by its next use, with the same tubes; or,
            if jobs are reserved on it, the last part of that second is waited out without asking the server.
        :raises DeadlineSoon: if a job that is reserved here is in its last second, and no other is ready.
        """
        seconds = timeout
        if type(seconds) is not int or not 0 <= seconds <= MAX_RESERVE_TIMEOUT:
            seconds = None if timeout is None else check_reserve_timeout(timeout)
        if self._guard.locked():
            raise in_use(self)
        with self._guard:
            self._reserving = True
            try:
                if isinstance(seconds, float):
                    return self._reserved(*reserve_to_the_point(self, seconds))
                remaining = seconds
                while True:
                    wait = RESERVE_SLICE if remaining is None or remaining > RESERVE_SLICE else remaining
                    request = _NO_WAIT if not wait else encode_reserve_with_timeout(wait)
                    channel = self._channel or self._open_channel()
                    reply = channel.exchange(RESERVE_WITH_TIMEOUT, request, time.monotonic() + wait + self.timeout)
                    if remaining is not None:
                        remaining -= wait
                    if reply.status != "TIMED_OUT" or remaining == 0:
                        return self._reserved(channel, reply)
            finally:
                self._reserving = False

    def reserve_job(self, jid: int) -> Job[BodyT]:
        """Reserve the job with this id, be it ready, delayed or buried (``reserve-job``, beanstalkd 1.12 and newer).

        :raises NotFound: if there is none, or it is reserved.
        """
        return self._ask(RESERVE_JOB, encode_job(RESERVE_JOB, jid), functools.partial(self._reserved_by_id, jid))

    def watch(self, tube: str) -> int:
        """Reserve from `tube` too (``watch``); returns how many tubes are watched now."""
        return self._ask(WATCH, encode_tube(WATCH, tube), functools.partial(results.watch, self, WATCH, tube))

    def ignore(self, tube: str) -> int:
        """Reserve from `tube` no longer (``ignore``); returns how many tubes are watched now.

        The last watched tube cannot be ignored: that is silently refused and returns 1.
        """
        return self._ask(IGNORE, encode_tube(IGNORE, tube), functools.partial(results.watch, self, IGNORE, tube))

    def watching(self) -> Any:
        """The names of the watched tubes, as the server knows them (``list-tubes-watched``)."""
        return self._ask_document(LIST_TUBES_WATCHED, encode_bare(LIST_TUBES_WATCHED))

    # Commands on one job, by its id.

    def delete(self, jid: int) -> None:
        """Delete a job that is reserved here, or by nobody (``delete``).

        :raises NotFound: if there is none, or it is reserved by another connection.
        """
        self._ask(DELETE, encode_job(DELETE, jid), functools.partial(self._finished, DELETE, "DELETED", jid))

    def release(self, jid: int, priority: int | None = None, delay: float = 0) -> None:
        """Give a job that is reserved here back to its tube (``release``).

        :param priority: its new priority; None keeps the one it has (asked by ``stats-job``).
        :param delay: how long before it becomes ready again (seconds).
        :raises NotFound: if it is not reserved here.
        :raises Buried: if the server had no memory to queue it, and has buried it.
        """
        encode_release(jid, 0 if priority is None else priority, delay)
        self._give_up(RELEASE, lambda known: encode_release(jid, known, delay), "RELEASED", jid, priority)

    def bury(self, jid: int, priority: int | None = None) -> None:
        """Put a job that is reserved here aside (``bury``).

        :param priority: its new priority; None keeps the one it has (asked by ``stats-job``).
        :raises NotFound: if it is not reserved here.
        """
        encode_bury(jid, 0 if priority is None else priority)
        self._give_up(BURY, lambda known: encode_bury(jid, known), "BURIED", jid, priority)

    def touch(self, jid: int) -> None:
        """Start the TTR of a job that is reserved here anew (``touch``).

        :raises NotFound: if it is not reserved here.
        """
        self._plain(TOUCH, encode_job(TOUCH, jid), "TOUCHED", job=jid)

    def kick_job(self, jid: int) -> None:
        """Make a buried or delayed job ready (``kick-job``).

        :raises NotFound: if it is neither.
        """
        self._plain(KICK_JOB, encode_job(KICK_JOB, jid), "KICKED", job=jid)

    def kick(self, bound: int = 1) -> int:
        """Make up to `bound` buried jobs of the used tube ready, or delayed ones if none is buried (``kick``).

        :returns: how many were made ready.
        """
        return self._ask(KICK, encode_kick(bound), results.kicked)

    # Looking at jobs.

    def peek(self, jid: int) -> Job[BodyT] | None:
        """Look at the job with this id without reserving it (``peek``); None if there is none."""
        return self._ask(PEEK, encode_peek(jid), functools.partial(self._found, PEEK, jid))

    def peek_ready(self) -> Job[BodyT] | None:
        """Look at the next ready job of the used tube (``peek-ready``)."""
        return self._peek(PEEK_READY)

    def peek_delayed(self) -> Job[BodyT] | None:
        """Look at the delayed job of the used tube that is due first (``peek-delayed``)."""
        return self._peek(PEEK_DELAYED)

    def peek_buried(self) -> Job[BodyT] | None:
        """Look at the buried job of the used tube that will be kicked first (``peek-buried``)."""
        return self._peek(PEEK_BURIED)

    # Tubes and statistics.

    def tubes(self) -> Any:
        """The names of all tubes (``list-tubes``)."""
        return self._ask_document(LIST_TUBES, encode_bare(LIST_TUBES))

    def stats(self) -> Any:
        """The server's statistics (``stats``)."""
        return self._ask_document(STATS, encode_bare(STATS))

    def stats_job(self, jid: int) -> Any:
        """The statistics of a job (``stats-job``).

        :raises NotFound: if there is none.
        """
        return self._ask_document(STATS_JOB, encode_job(STATS_JOB, jid), job=jid)

    def stats_tube(self, tube: str) -> Any:
        """The statistics of a tube (``stats-tube``).

        :raises NotFound: if there is none.
        """
        return self._ask_document(STATS_TUBE, encode_tube(STATS_TUBE, tube), tube=tube)

    def pause_tube(self, tube: str, seconds: float) -> None:
        """Let nobody reserve from `tube` for this long (``pause-tube``); 0 seconds ends a pause.

        :raises NotFound: if there is no such tube.
        """
        self._plain(PAUSE_TUBE, encode_pause_tube(tube, seconds), "PAUSED", tube=tube)

    # Many commands in one round trip.

    def pipeline(self) -> Pipeline:
        """Collect commands and send them in as few round trips as possible; see :class:`Pipeline`."""
        try:
            from beanpool.connection.pipeline import Pipeline
        except OSError as error:
            raise no_descriptor("loading the pipeline", error) from error

        return Pipeline(self)

    # What the verbs have in common.

    def _plain(self, command: Command, request: bytes, success: str, **about: Unpack[About]) -> None:
        self._ask(command, request, functools.partial(results.confirm, command, success, **about))

    def _give_up(
        self, command: Command, encode: Callable[[int], bytes], success: str, jid: int, priority: int | None
    ) -> None:
        deadline = time.monotonic() + self.timeout
        if priority is None:
            read = functools.partial(self._priority, command, jid)
            priority = self._ask(STATS_JOB, encode_job(STATS_JOB, jid), read, deadline)
        self._ask(command, encode(priority), functools.partial(self._finished, command, success, jid), deadline)

    def _peek(self, command: Command) -> Job[BodyT] | None:
        return self._ask(command, encode_bare(command), functools.partial(self._found, command, None))

    def _ask_document(self, command: Command, request: bytes, **about: Unpack[About]) -> Any:
        return self._ask(command, request, functools.partial(results.document, self.parse_yaml, command, **about))
