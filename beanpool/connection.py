"""One connection to one server, with the API that users of beanstalkc know."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from beanpool.address import DEFAULT_HOST, DEFAULT_PORT, Address, parse_address
from beanpool.channel import OF_THE_PARENT, Channel, ChannelState
from beanpool.checks import check_encoding, check_seconds
from beanpool.dialing import connect
from beanpool.errors import (
    BeanpoolError,
    CommandFailed,
    CommandTimeout,
    ConnectionFailed,
    NotPicklable,
    Phase,
    UnexpectedResponse,
)
from beanpool.job import Job
from beanpool.locks import within
from beanpool.own_limits import no_descriptor
from beanpool.patching import check_unpatched
from beanpool.protocol.arguments import (
    DEFAULT_PRIORITY,
    DEFAULT_TTR,
    DEFAULT_TUBE_NAME,
    MAX_RESERVE_TIMEOUT,
    MAX_UINT32,
    Body,
    check_reserve_timeout,
    encode_body,
)
from beanpool.protocol.commands import (
    BURY,
    DELETE,
    IGNORE,
    KICK,
    KICK_JOB,
    LIST_TUBE_USED,
    LIST_TUBES,
    LIST_TUBES_WATCHED,
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
    Command,
    encode_bare,
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
from beanpool.protocol.documents import decode, parse_list, parse_mapping
from beanpool.protocol.replies import Reply
from beanpool.readiness import wait_for

if TYPE_CHECKING:  # pipeline.py is loaded by the first pipeline.
    from beanpool.pipeline import Pipeline

DEFAULT_CONNECT_TIMEOUT = 2.0
DEFAULT_TIMEOUT = 5.0

RESERVE_SLICE = 30
"""The longest single wait in a reserve (seconds): a client that vanished is no ghost waiter for longer."""

_NO_WAIT = encode_reserve_with_timeout(0)
_AT_FIRST = (DEFAULT_TUBE_NAME,)
# Without a look into the class for every command of a job.
_CLOSED = ChannelState.CLOSED
_CLOSED_BY_CLOSE = "it was closed by close()"
# A command that began before, and whose time ends with that of who waits for it, says how it ended (seconds).
_GRACE = 0.1

YamlParsing = bool | Callable[..., Any]


class Connection(NotPicklable):
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

    origin: tuple[str, str] | None = None
    """Its server, and the id of the server process; None where nobody has asked for it."""

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
        self.guard: threading.Lock = threading.Lock()
        """Who has it may use the connection while jobs are reserved on it; see :meth:`turn`."""
        self._reserving = False
        self._wanted = False
        """Whether it was opened, and not closed by :meth:`close`: its next use opens it if it has no channel then."""
        self.held: set[int] = set()
        """The jobs that are reserved here, as far as is known: it may be more than are left, but never fewer."""
        self.era: int = 0
        """How often it was connected anew: jobs of an earlier era are not this connection's any more."""

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Connection:
        """Connect to ``beanstalk://host:port`` or ``beanstalk+unix:///path``; `options` as for the constructor."""
        connection = cls.__new__(cls)
        connection._prepare(
            parse_address(url),
            options.pop("parse_yaml", True),
            options.pop("connect_timeout", DEFAULT_CONNECT_TIMEOUT),
            options.pop("timeout", DEFAULT_TIMEOUT),
            options.pop("encoding", "utf-8"),
        )
        if options:
            raise TypeError(f"from_url() got an unexpected argument {sorted(options)[0]!r}")
        connection.connect()
        return connection

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<{type(self).__name__} to {self.server}, {state}, uses {self.used}, watches {','.join(self.watched)}>"

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
            self._dial()
            self.used, self.watched = DEFAULT_TUBE_NAME, _AT_FIRST

    def _dial(self) -> Channel:
        sock = connect(self.address, time.monotonic() + self.connect_timeout)
        self.era += 1
        self.held = set()
        channel = self._channel = Channel(sock, self.server)
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
        if self.guard.locked():
            # The thread in mid-command closes the socket: only then can nobody else get its descriptor meanwhile.
            channel.interrupt(_CLOSED_BY_CLOSE)
        else:
            channel.close(_CLOSED_BY_CLOSE)

    def reconnect(self) -> None:
        """Close the connection, make a new one, and use and watch the same tubes again."""
        self.close()
        used, watched = self.used, self.watched
        self.guard = threading.Lock()
        self._reserving = False
        with self.guard:
            self._open_anew(used, watched)

    def _open_anew(self, used: str, watched: tuple[str, ...]) -> Channel:
        """Open it, and use and watch these tubes. For who has the guard."""
        try:
            channel = self._dial()
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
        changes = [(USE, used)] if used != DEFAULT_TUBE_NAME else []
        changes += [(WATCH, tube) for tube in watched if tube != DEFAULT_TUBE_NAME]
        if DEFAULT_TUBE_NAME not in watched:
            # Last: it must watch something at all times.
            changes.append((IGNORE, DEFAULT_TUBE_NAME))
        requests = ((command, encode_tube(command, tube)) for command, tube in changes)
        count = 1
        for reply, (command, tube) in zip(channel.exchange_many(requests, self.timeout), changes, strict=False):
            if command is USE:
                self.use_result(tube, reply)
                continue
            count += 1 if command is WATCH else -1
            if reply.status != "WATCHING":
                raise self.refuse(command, reply)
            if reply.number != count:
                raise self.violated(command, f"{reply.number} watched tubes where {count} are due", reply.status)

    def __enter__(self) -> Connection:
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
        return _CLOSED_BY_CLOSE if self.era else "it was never opened"

    def look(self) -> None:
        """Find out, without a round trip, whether the server has closed the connection while nobody used it.

        For who has the guard.
        """
        if self._channel is not None:
            self._channel.check_quiet()

    @property
    def inherited(self) -> bool:
        """Whether it was made before a fork, in the parent process."""
        channel = self._channel
        # Asked before every command of a job: most often the first look is enough.
        return channel is not None and channel.state is _CLOSED and channel.closed_because is OF_THE_PARENT

    # One command.

    def _exchange(self, command: Command, request: bytes, wait: float = 0) -> Reply:
        deadline = time.monotonic() + self.timeout + wait
        guard = self.guard
        with guard if not guard.locked() else self._contended(deadline):
            channel = self._channel or self._open_channel()
            return channel.exchange(command, request, deadline)

    def _contended(self, deadline: float) -> AbstractContextManager[Any]:
        """What to do when another thread has the guard: this connection belongs to one thread at a time."""
        raise self._in_use()

    def _open_channel(self) -> Channel:
        if self._channel is not None:
            return self._channel
        if self._wanted:
            return self._open_anew(self.used, self.watched)
        raise ConnectionFailed(
            f"{self.server}: the connection is closed: {self.closed_because}", server=self.server, phase=Phase.CLOSED
        )

    def _in_use(self) -> BeanpoolError:
        return BeanpoolError(
            f"{self!r} is in use by another thread; give each thread its own Connection, or share a PoolManager"
        )

    def turn(self, deadline: float) -> AbstractContextManager[Any]:
        """Have the guard for a block, as soon as those who came before have let go of it.

        :raises CommandTimeout: if they have not before `deadline` (monotonic seconds); nothing was sent.
        :raises BeanpoolError: if another thread waits in a reserve on this connection.
        """
        # Whoever takes it between this look and the block began no later, and ends in time.
        return self.guard if not self.guard.locked() else self.queue_up(deadline)

    @contextlib.contextmanager
    def queue_up(self, deadline: float) -> Iterator[None]:
        """As :meth:`turn`, where the guard is taken.

        :raises ReentrantCall: if a signal handler calls it that has interrupted this thread's own turn.
        """
        if self._reserving:
            raise self._in_use()
        if self._interrupted():
            raise within(f"a command on {self!r}")
        guard = self.guard
        taken: list[bool] = []
        try:
            seconds = min(max(0.0, deadline + _GRACE - time.monotonic()), threading.TIMEOUT_MAX)
            # In one step: an interrupt between taking it and noting that it is taken would leave it so for good.
            taken.extend(map(guard.acquire, (True,), (seconds,)))
            if not taken[0]:
                raise CommandTimeout(
                    f"{self.server}: the time ran out while commands of other threads on the same connection were "
                    "under way; nothing was sent",
                    server=self.server,
                    phase=Phase.SENDING,
                )
            yield
        finally:
            if taken == [True]:
                guard.release()

    def _interrupted(self) -> bool:
        """Whether this thread is, further down its stack, in a method of the package that uses this connection.

        Only who has to wait asks that, so that nobody has to note who he is.
        """
        frame: FrameType | None = sys._getframe(1)
        # The call at hand first, up to whoever made it.
        while frame is not None and _is_ours(frame):
            frame = frame.f_back
        while frame is not None:
            if _is_ours(frame):
                known = frame.f_locals
                if known.get("connection") is self or known.get("self") is self:
                    return True
            frame = frame.f_back
        return False

    def job_exchange(self, command: Command, request: bytes, deadline: float) -> Reply:
        """Carry out a command of a job that this connection has reserved, for the thread that has the guard."""
        channel = self._channel or self._open_channel()
        return channel.exchange(command, request, deadline)

    def job_priority(self, jid: int, deadline: float) -> int | None:
        """The priority of a job that this connection has reserved (``stats-job``), for the thread that has the guard.

        :returns: None if the server does not know the job.
        """
        reply = self.job_exchange(STATS_JOB, encode_job(STATS_JOB, jid), deadline)
        if reply.status == "NOT_FOUND":
            return None
        if reply.status != "OK":
            raise self.refuse(STATS_JOB, reply)
        priority = self._parse(STATS_JOB, reply).get("pri")
        if type(priority) is not int or not 0 <= priority <= MAX_UINT32:
            raise self.violated(STATS_JOB, "no valid priority")
        return priority

    def refuse(self, command: Command, reply: Reply) -> CommandFailed:
        """Build the error of a refused command; closes the connection where the refusal leaves it out of step."""
        return self._open_channel().refuse(command, reply)

    def violated(self, command: Command, what: str, status: str = "") -> UnexpectedResponse:
        """Close the connection over a reply that is well-formed and wrong, and build the error."""
        error = UnexpectedResponse(
            *(command.name, status, []),
            message=f"{self.server} answered {command.name} with {what}; the connection is closed",
            server=self.server,
        )
        self._open_channel().close(str(error))
        return error

    def _plain(self, command: Command, request: bytes, success: str) -> None:
        self.plain_result(command, success, None, self._exchange(command, request))

    def plain_result(self, command: Command, success: str, finished: int | None, reply: Reply) -> None:
        """Check the reply to a command that returns nothing.

        :param finished: the job that is not reserved here any more, if that is what the reply says.
        """
        if finished is not None and reply.status in (success, "NOT_FOUND", "BURIED"):
            self.held.discard(finished)
        if reply.status != success:
            raise self.refuse(command, reply)

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
        reply = self._exchange(PUT, encode_put(encode_body(body, self.encoding), priority, delay, ttr))
        return reply.number if reply.status == "INSERTED" else self.put_result(reply)

    def put_result(self, reply: Reply) -> int:
        """The id in the reply to a put, or its refusal raised."""
        if reply.status == "INSERTED":
            return reply.number
        raise self.refuse(PUT, reply)

    def use(self, tube: str) -> str:
        """Put jobs into `tube` from now on (``use``); returns its name."""
        return self.use_result(tube, self._exchange(USE, encode_tube(USE, tube)))

    def use_result(self, tube: str, reply: Reply) -> str:
        """Note the tube that the reply to a ``use`` confirms."""
        if reply.status != "USING":
            raise self.refuse(USE, reply)
        if reply.tube != tube:
            raise self.violated(USE, f"another tube ({reply.tube})", reply.status)
        self.used = tube
        return tube

    def ping(self) -> bool:
        """Make a round trip (``list-tube-used``): True, or the error of a connection that is no more."""
        self.using()
        return True

    def using(self) -> str:
        """The name of the used tube, as the server knows it (``list-tube-used``)."""
        reply = self._exchange(LIST_TUBE_USED, encode_bare(LIST_TUBE_USED))
        if reply.status != "USING":
            raise self.refuse(LIST_TUBE_USED, reply)
        return reply.tube

    # Reserving jobs.

    def reserve(self, timeout: float | None = None) -> Job | None:
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
        if self.guard.locked():
            raise self._in_use()
        with self.guard:
            self._reserving = True
            try:
                if isinstance(seconds, float):
                    return self.reserve_result(RESERVE_WITH_TIMEOUT, self._reserve_to_the_point(seconds))
                remaining = seconds
                while True:
                    wait = RESERVE_SLICE if remaining is None or remaining > RESERVE_SLICE else remaining
                    request = _NO_WAIT if not wait else encode_reserve_with_timeout(wait)
                    channel = self._channel or self._open_channel()
                    reply = channel.exchange(RESERVE_WITH_TIMEOUT, request, time.monotonic() + wait + self.timeout)
                    if remaining is not None:
                        remaining -= wait
                    if reply.status != "TIMED_OUT" or remaining == 0:
                        return self.reserve_result(RESERVE_WITH_TIMEOUT, reply)
            finally:
                self._reserving = False

    def _reserve_to_the_point(self, seconds: float) -> Reply:
        until = time.monotonic() + seconds
        channel = self._channel or self._open_channel()

        def ask(wait: int) -> Reply:
            request = encode_reserve_with_timeout(wait)
            return channel.exchange(RESERVE_WITH_TIMEOUT, request, time.monotonic() + wait + self.timeout)

        # What is ready comes first, however far the server is, and however short the wait.
        reply = ask(0)
        while reply.status == "TIMED_OUT" and (remaining := until - time.monotonic()) > 0:
            whole = min(int(remaining), RESERVE_SLICE)
            if whole == RESERVE_SLICE or (whole and self.held):
                reply = ask(whole)
            elif self.held:
                # To give the connection up would give them up.
                wait_for(channel, write=False, seconds=remaining)
                return ask(0)
            else:
                request = encode_reserve_with_timeout(whole + 1)
                in_time = channel.exchange_until(RESERVE_WITH_TIMEOUT, request, until, self.timeout)
                if in_time is None:
                    # The server takes back what it may have sent meanwhile.
                    self._channel = None
                    channel.close("its reserve was over in the middle of a second")
                    break
                reply = in_time
        return reply

    def reserve_result(self, command: Command, reply: Reply) -> Job | None:
        """The job in the reply to a reserve."""
        if reply.status == "RESERVED":
            self.held.add(reply.number)
            tube = self.watched[0] if len(self.watched) == 1 else None
            return Job.of(self, reply.number, reply.body, tube, None, None)
        if reply.status == "TIMED_OUT":
            return None
        raise self.refuse(command, reply)

    def reserve_job(self, jid: int) -> Job:
        """Reserve the job with this id, be it ready, delayed or buried (``reserve-job``, beanstalkd 1.12 and newer).

        :raises NotFound: if there is none, or it is reserved.
        """
        return self.reserve_job_result(jid, self._exchange(RESERVE_JOB, encode_job(RESERVE_JOB, jid)))

    def reserve_job_result(self, jid: int, reply: Reply) -> Job:
        """The job in the reply to a ``reserve-job``."""
        if reply.status != "RESERVED":
            raise self.refuse(RESERVE_JOB, reply)
        if reply.number != jid:
            raise self.violated(RESERVE_JOB, "another job", reply.status)
        self.held.add(reply.number)
        return Job(self, reply.number, reply.body)

    def watch(self, tube: str) -> int:
        """Reserve from `tube` too (``watch``); returns how many tubes are watched now."""
        return self.watch_result(WATCH, tube, self._exchange(WATCH, encode_tube(WATCH, tube)))

    def ignore(self, tube: str) -> int:
        """Reserve from `tube` no longer (``ignore``); returns how many tubes are watched now.

        The last watched tube cannot be ignored: that is silently refused and returns 1.
        """
        return self.watch_result(IGNORE, tube, self._exchange(IGNORE, encode_tube(IGNORE, tube)))

    def watch_result(self, command: Command, tube: str, reply: Reply) -> int:
        """Note what the reply to a ``watch`` or ``ignore`` confirms."""
        if reply.status == "NOT_IGNORED":
            return 1
        if reply.status != "WATCHING":
            raise self.refuse(command, reply)
        expected = tuple(name for name in self.watched if name != tube)
        if command is WATCH:
            expected = self.watched if tube in self.watched else (*self.watched, tube)
        if reply.number != len(expected):
            raise self.violated(command, f"{reply.number} watched tubes where {len(expected)} are due", reply.status)
        self.watched = expected
        return reply.number

    def watching(self) -> Any:
        """The names of the watched tubes, as the server knows them (``list-tubes-watched``)."""
        return self._list(LIST_TUBES_WATCHED)

    # Commands on one job, by its id.

    def delete(self, jid: int) -> None:
        """Delete a job that is reserved here, or by nobody (``delete``).

        :raises NotFound: if there is none, or it is reserved by another connection.
        """
        self.plain_result(DELETE, "DELETED", jid, self._exchange(DELETE, encode_job(DELETE, jid)))

    def release(self, jid: int, priority: int = DEFAULT_PRIORITY, delay: float = 0) -> None:
        """Give a job that is reserved here back to its tube (``release``).

        :param priority: its new priority; see :meth:`Job.release` for keeping the old.
        :param delay: how long before it becomes ready again (seconds).
        :raises NotFound: if it is not reserved here.
        :raises Buried: if the server had no memory to queue it, and has buried it.
        """
        reply = self._exchange(RELEASE, encode_release(jid, priority, delay))
        self.plain_result(RELEASE, "RELEASED", jid, reply)

    def bury(self, jid: int, priority: int = DEFAULT_PRIORITY) -> None:
        """Put a job that is reserved here aside (``bury``).

        :raises NotFound: if it is not reserved here.
        """
        self.plain_result(BURY, "BURIED", jid, self._exchange(BURY, encode_bury(jid, priority)))

    def touch(self, jid: int) -> None:
        """Start the TTR of a job that is reserved here anew (``touch``).

        :raises NotFound: if it is not reserved here.
        """
        self._plain(TOUCH, encode_job(TOUCH, jid), "TOUCHED")

    def kick_job(self, jid: int) -> None:
        """Make a buried or delayed job ready (``kick-job``).

        :raises NotFound: if it is neither.
        """
        self._plain(KICK_JOB, encode_job(KICK_JOB, jid), "KICKED")

    def kick(self, bound: int = 1) -> int:
        """Make up to `bound` buried jobs of the used tube ready, or delayed ones if none is buried (``kick``).

        :returns: how many were made ready.
        """
        return self.kick_result(self._exchange(KICK, encode_kick(bound)))

    def kick_result(self, reply: Reply) -> int:
        """The count in the reply to a ``kick``."""
        if reply.status != "KICKED":
            raise self.refuse(KICK, reply)
        return reply.number

    # Looking at jobs.

    def peek(self, jid: int) -> Job | None:
        """Look at the job with this id without reserving it (``peek``); None if there is none."""
        return self.peek_result(PEEK, self._exchange(PEEK, encode_peek(jid)), jid)

    def peek_ready(self) -> Job | None:
        """Look at the next ready job of the used tube (``peek-ready``)."""
        return self.peek_result(PEEK_READY, self._exchange(PEEK_READY, encode_bare(PEEK_READY)))

    def peek_delayed(self) -> Job | None:
        """Look at the delayed job of the used tube that is due first (``peek-delayed``)."""
        return self.peek_result(PEEK_DELAYED, self._exchange(PEEK_DELAYED, encode_bare(PEEK_DELAYED)))

    def peek_buried(self) -> Job | None:
        """Look at the buried job of the used tube that will be kicked first (``peek-buried``)."""
        return self.peek_result(PEEK_BURIED, self._exchange(PEEK_BURIED, encode_bare(PEEK_BURIED)))

    def peek_result(self, command: Command, reply: Reply, jid: int | None = None) -> Job | None:
        """The job in the reply to a peek."""
        if reply.status == "NOT_FOUND":
            return None
        if reply.status != "FOUND":
            raise self.refuse(command, reply)
        if jid is not None and reply.number != jid:
            raise self.violated(command, "another job", reply.status)
        tube = self.used if command is not PEEK else None
        return Job(self, reply.number, reply.body, reserved=False, tube=tube)

    # Tubes and statistics.

    def tubes(self) -> Any:
        """The names of all tubes (``list-tubes``)."""
        return self._list(LIST_TUBES)

    def stats(self) -> Any:
        """The server's statistics (``stats``)."""
        return self.document_result(STATS, self._exchange(STATS, encode_bare(STATS)))

    def stats_job(self, jid: int) -> Any:
        """The statistics of a job (``stats-job``).

        :raises NotFound: if there is none.
        """
        return self.document_result(STATS_JOB, self._exchange(STATS_JOB, encode_job(STATS_JOB, jid)))

    def stats_tube(self, tube: str) -> Any:
        """The statistics of a tube (``stats-tube``).

        :raises NotFound: if there is none.
        """
        return self.document_result(STATS_TUBE, self._exchange(STATS_TUBE, encode_tube(STATS_TUBE, tube)))

    def pause_tube(self, tube: str, seconds: float) -> None:
        """Let nobody reserve from `tube` for this long (``pause-tube``); 0 seconds ends a pause.

        :raises NotFound: if there is no such tube.
        """
        self._plain(PAUSE_TUBE, encode_pause_tube(tube, seconds), "PAUSED")

    def _list(self, command: Command) -> Any:
        return self.document_result(command, self._exchange(command, encode_bare(command)))

    def document_result(self, command: Command, reply: Reply) -> Any:
        """The document in a reply, parsed as `parse_yaml` says."""
        if reply.status != "OK":
            raise self.refuse(command, reply)
        if self.parse_yaml is not True:
            text = decode(reply.body)
            return _apply(self.parse_yaml, text, command) if callable(self.parse_yaml) else text
        return self._parse(command, reply)

    def _parse(self, command: Command, reply: Reply) -> Any:
        parse = parse_mapping if command.name.startswith("stats") else parse_list
        try:
            return parse(command.name, reply.body, self.server)
        except UnexpectedResponse as error:
            self._open_channel().close(str(error))
            raise

    # Many commands in one round trip.

    def pipeline(self) -> Pipeline:
        """Collect commands and send them in as few round trips as possible; see :class:`Pipeline`."""
        try:
            from beanpool.pipeline import Pipeline
        except OSError as error:
            raise no_descriptor("loading the pipeline", error) from error

        return Pipeline(self)

    @contextlib.contextmanager
    def exclusive_channel(self) -> Iterator[Channel]:
        """The channel, for this thread alone."""
        if self.guard.locked():
            raise self._in_use()
        with self.guard:
            yield self._open_channel()


def _is_ours(frame: FrameType) -> bool:
    name: str = frame.f_globals.get("__name__", "")
    # Generators of context managers are entered by way of contextlib.
    return name.startswith("beanpool.") or name == "contextlib"


def _apply(parse: Callable[..., Any], text: str, command: Command) -> Any:
    # Here, not at the top: most programs leave the parsing to us.
    import inspect

    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(parse).parameters
    except (TypeError, ValueError):
        # Some that are written in C do not say.
        parameters = {}
    named = parameters.get("command")
    if named is None or named.kind is inspect.Parameter.POSITIONAL_ONLY or named is next(iter(parameters.values())):
        return parse(text)
    return parse(text, command=command.name)
