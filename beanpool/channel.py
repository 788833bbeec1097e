"""One socket to one server, and the rule that a reply is only ever given to the command that asked.

A channel is in step with its server only between complete replies. Whatever goes wrong in mid-command
(a timeout, an interrupt, a reply that the protocol has not) breaks it for good: it is closed, and says
why to whoever uses it next.
"""

from __future__ import annotations

import collections
import contextlib
import enum
import itertools
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from beanpool.errors import BeanpoolError, CommandFailed, CommandTimeout, ConnectionFailed, Phase, refusal
from beanpool.protocol.commands import DELETE, PUT, RESERVE_WITH_TIMEOUT, Command
from beanpool.protocol.parser import Parser
from beanpool.protocol.replies import ID, Reply
from beanpool.readiness import LONGEST_WAIT, wait_for
from beanpool.resolving import describe

_READ_SIZE = 4096
_LARGE_READ_SIZE = 256 * 1024
# A socket that was idle for longer is looked at before it is used: a server that went away, or sent
# something unasked, is found out while the command is certainly not sent.
_TRUSTED_IDLE_SECONDS = 0.01
# How much of a pipeline may be on its way (bytes), but for a single request that is larger.
_WINDOW = 32 * 1024
# How many bytes of replies are worth waking up for. Far more would not come: a server's TCP sends only so many small
# packets before one is acknowledged, and the system acknowledges what is read.
_GATHERED = 128
_TIMEOUT_SLACK = 0.05
_SHORTEST_TIMEOUT = 0.001
# As a plain number: to combine two members of an enumeration takes several functions written in Python.
_PEEK = int(socket.MSG_PEEK)


Item = TypeVar("Item")

OF_THE_PARENT = "it belongs to the parent process"

_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


class ChannelState(enum.Enum):
    """Whether a channel may be used."""

    IN_STEP = "in step"
    IN_COMMAND = "in the middle of a command"
    CLOSED = "closed"


# Without a look into the class for every command.
_IN_STEP = ChannelState.IN_STEP
_IN_COMMAND = ChannelState.IN_COMMAND
_monotonic = time.monotonic


class _PatientView(socket.SocketType):
    """A second way to use the socket of a channel: it waits, for as long as its timeout says.

    A wait by the kernel's own timeout begins anew with each signal. For a socket that has a timeout Python waits by
    ``poll``, until the same moment whatever comes; but it polls before it sends, too. So sending is left to the socket
    itself, which never waits, and so is closing.
    """

    __slots__ = ()

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.fileno())

    def __del__(self) -> None:
        # In place of what would close the descriptor.
        pass


class Channel:
    """A connected socket, its parser, and the commands whose replies are due."""

    __slots__ = (
        "__weakref__",
        "_closed_because",
        "_due",
        "_gathering",
        "_parser",
        "_patience",
        "_patient",
        "_socket",
        "_unsent",
        "in_flight",
        "interrupted",
        "server",
        "state",
        "used_at",
    )

    def __init__(self, sock: socket.socket, server: str) -> None:
        self.server = server
        self.state = ChannelState.IN_STEP
        self._socket = sock
        sock.setblocking(False)
        self._patient = _PatientView(sock)
        # Its timeout (seconds).
        self._patience = LONGEST_WAIT
        self._patient.settimeout(LONGEST_WAIT)
        self._parser = Parser(server)
        self._due: collections.deque[Command] = collections.deque()
        # What the kernel has not taken yet of the requests of the commands that are due.
        self._unsent: bytes | memoryview = b""
        self._closed_because = ""
        # How many bytes it takes for the kernel to call the socket readable.
        self._gathering = 1
        self.used_at = time.monotonic()
        self.in_flight = 0
        self.interrupted = False
        """Whether this process has shut it down under its user: what the user sees then says nothing of the server."""
        _channels.add(self)

    def __del__(self) -> None:
        # An interrupt may have come before there was a socket.
        sock = getattr(self, "_socket", None)
        if sock is not None:
            sock.close()

    def fileno(self) -> int:
        """The descriptor of the socket, for selectors; -1 when it is closed."""
        return self._socket.fileno()

    # Blocking use: one command, one reply.

    def exchange(self, command: Command, request: bytes, deadline: float) -> Reply:
        """Send one command and return its reply.

        :param deadline: when to give up (monotonic seconds).
        :raises ConnectionFailed: if the connection is or gets broken; `may_have_taken_effect` tells
            whether all of the command was sent.
        :raises CommandTimeout: if the deadline passes.
        :raises UnexpectedResponse: if the reply is none that this command may have.
        """
        now = _monotonic()
        if self.state is not _IN_STEP or now - self.used_at > _TRUSTED_IDLE_SECONDS:
            self._check_usable(command)
        remaining = deadline - now
        if remaining <= 0:
            raise self._too_late(command, Phase.SENDING)
        self.used_at = now
        self.state = _IN_COMMAND
        try:
            # Patience that ends too early only means to look at the clock, and to wait on.
            if self._patience > remaining + _TIMEOUT_SLACK:
                self._limit_patience(command, deadline, Phase.SENDING)
            # One send and one receive is what nearly every command takes; the methods below go on from there.
            try:
                sent = self._socket.send(request)
            except OSError as error:
                sent = self._send_failed(command, error)
            if sent != len(request):
                self._send_on(command, request, sent, deadline)
            try:
                data = self._patient.recv(_READ_SIZE)
            except OSError as error:
                data = self._receive_failed(command, deadline, error)
            reply = command.whole(data)
            if reply is None:
                reply = self._read_on(command, data, deadline)
        except BaseException as error:
            self._fail(error)
            raise
        if self.state is _IN_COMMAND:
            self.state = _IN_STEP
        return reply

    def exchange_until(self, command: Command, request: bytes, until: float, grace: float) -> Reply | None:
        """As :meth:`exchange`, but None if no reply has come until then (monotonic seconds): it is still due.

        :param grace: how long the rest of one may take that has begun to come (seconds).
        """
        self._check_usable(command)
        self.begin(request, (command,))
        reply = self.pick_up(until)
        return self.pick_up(until + grace) if reply is None and self._parser.unread else reply

    def _read_on(self, command: Command, data: bytes, deadline: float) -> Reply:
        if not data:
            raise self._broken_in_reply(command, "the server closed the connection")
        parser = self._parser
        parser.feed(data)
        while (reply := parser.next(command)) is None:
            parser.feed(self._receive(command, deadline, _LARGE_READ_SIZE))
        if parser.unread:
            self.close("the server sent bytes that answer no command")
        return reply

    def _check_usable(self, command: Command) -> None:
        if self.state is ChannelState.IN_COMMAND:
            self.close("the command before was interrupted in its middle")
        elif self.state is ChannelState.IN_STEP:
            self.check_quiet()
        if self.state is ChannelState.CLOSED:
            raise self._not_sent(command)

    def _not_sent(self, command: Command) -> ConnectionFailed:
        return ConnectionFailed(
            f"{self.server}: {command.name} was not sent, the connection is closed: {self._closed_because}",
            server=self.server,
            phase=Phase.CLOSED,
        )

    def check_quiet(self) -> bool:
        """Look at an idle socket: if the server has closed it, or sent anything unasked, close it too."""
        if self.state is not ChannelState.IN_STEP:
            return False
        try:
            data = self._socket.recv(1, _PEEK)
        except BlockingIOError:
            self.used_at = time.monotonic()
            return True
        except OSError as error:
            self.close(describe(error))
            return False
        self.close("the server sent bytes that answer no command" if data else "the server closed it")
        return False

    def _send_failed(self, command: Command, error: OSError) -> int:
        if isinstance(error, BlockingIOError):
            return 0
        raise self._broken_in_sending(command, error) from error

    def _send_on(self, command: Command, request: bytes, sent: int, deadline: float) -> None:
        # A counting send, not sendall: what the kernel has not accepted in full is certainly not executed.
        rest = memoryview(request)[sent:]
        while rest:
            remaining = deadline - _monotonic()
            if remaining <= 0 or not self._await_room(remaining):
                raise self._too_late(command, Phase.SENDING)
            try:
                sent = self._socket.send(rest)
            except OSError as error:
                sent = self._send_failed(command, error)
            rest = rest[sent:]
        self._limit_patience(command, deadline)

    def _await_room(self, seconds: float) -> bool:
        return wait_for(self._socket, write=True, read=False, seconds=seconds)

    def _receive_failed(self, command: Command, deadline: float, error: OSError) -> bytes:
        if not _is_timeout(error):
            raise self._broken_in_reply(command, describe(error)) from error
        self._limit_patience(command, deadline)
        return self._receive(command, deadline, _READ_SIZE)

    def _receive(self, command: Command, deadline: float, size: int) -> bytes:
        if self._parser.unread:
            # A trickle of bytes must not outlive the deadline.
            self._limit_patience(command, deadline)
        try:
            data = self._patient.recv(size)
        except OSError as error:
            return self._receive_failed(command, deadline, error)
        if not data:
            raise self._broken_in_reply(command, "the server closed the connection")
        return data

    def _limit_patience(self, command: Command, deadline: float, phase: Phase = Phase.WAITING) -> None:
        """Let the next receive wait until the deadline, but not for longer."""
        remaining = deadline - _monotonic()
        if remaining <= 0:
            raise self._too_late(command, phase)
        try:
            self._be_patient(remaining)
        except OSError as error:
            if phase is Phase.WAITING:
                raise self._broken_in_reply(command, describe(error)) from error
            raise self._broken_in_sending(command, error) from error

    def _be_patient(self, seconds: float) -> None:
        self._patience = min(max(seconds, _SHORTEST_TIMEOUT), LONGEST_WAIT)
        self._patient.settimeout(self._patience)

    def _broken_in_sending(self, command: Command, error: OSError) -> ConnectionFailed:
        reason = f"it was closed: {self._closed_because}" if self._closed_because else describe(error)
        return ConnectionFailed(
            f"{self.server}: the connection broke while {command.name} was being sent ({reason}); "
            "the command was not executed",
            server=self.server,
            phase=Phase.SENDING,
            errno=error.errno,
        )

    def _broken_in_reply(self, command: Command, reason: str) -> ConnectionFailed:
        if self._closed_because:
            reason = f"the connection was closed: {self._closed_because}"
        return ConnectionFailed(
            f"{self.server}: no reply to {command.name} ({reason}); whether it took effect is not known",
            server=self.server,
            phase=Phase.WAITING,
            may_have_taken_effect=True,
        )

    def _too_late(self, command: Command, phase: Phase) -> CommandTimeout:
        waiting = phase is Phase.WAITING
        return CommandTimeout(
            f"{self.server}: the time for {command.name} ran out while {phase.value}; "
            + ("whether it took effect is not known" if waiting else "it was not executed"),
            server=self.server,
            phase=phase,
            may_have_taken_effect=waiting,
        )

    # Pipelined use: many commands, replies in order.

    def exchange_many(self, requests: Iterable[tuple[Command, bytes]], timeout: float) -> Iterator[Reply]:
        """Send many commands in few round trips and yield their replies in order.

        What is in flight is bounded, so any number of commands is safe: beanstalkd stops reading from a
        client that does not read its replies.

        :param timeout: the longest wait for any progress (seconds).
        :raises ConnectionFailed: and the other errors of :meth:`exchange`; :attr:`in_flight` then says how many of
            the commands without a reply may have taken effect.
        """
        self.in_flight = 0
        source = iter(requests)
        upcoming = next(source, None)
        sizes: collections.deque[int] = collections.deque()
        due = self._due
        in_flight = 0
        if upcoming is None:
            return
        self._check_usable(upcoming[0])
        self.state = ChannelState.IN_COMMAND
        try:
            while upcoming is not None or due:
                batch: list[bytes | memoryview] = [self._unsent]
                while upcoming is not None and (not in_flight or in_flight + len(upcoming[1]) <= _WINDOW):
                    command, request = upcoming
                    batch.append(request)
                    due.append(command)
                    sizes.append(len(request))
                    in_flight += len(request)
                    upcoming = next(source, None)
                deadline = time.monotonic() + timeout
                self._unsent = memoryview(b"".join(batch))
                self._flush(due[-1])
                sent = sizes[0] <= in_flight - len(self._unsent)
                self._limit_patience(due[0], deadline, Phase.WAITING if sent else Phase.SENDING)
                # Refill in halves: the server works on one while the other travels.
                while due and (upcoming is None or in_flight > _WINDOW // 2 or in_flight + len(upcoming[1]) > _WINDOW):
                    reply = self._parser.next(due[0])
                    while reply is None:
                        sent = sizes[0] <= in_flight - len(self._unsent)
                        self._read_more(due[0], deadline, Phase.WAITING if sent else Phase.SENDING)
                        reply = self._parser.next(due[0])
                    due.popleft()
                    in_flight -= sizes.popleft()
                    yield reply
                    if self.state is ChannelState.CLOSED:
                        # Whoever took the reply found that the server is out of step.
                        if due:
                            raise self._broken_in_reply(due[0], "it is closed")
                        if upcoming is not None:
                            raise self._not_sent(upcoming[0])
                    deadline = time.monotonic() + timeout
        except GeneratorExit:
            self.close("a pipeline was left in its middle")
            raise
        except BaseException as error:
            sent_bytes = in_flight - len(self._unsent)
            self.in_flight = sum(end <= sent_bytes for end in itertools.accumulate(sizes))
            self._fail(error)
            raise
        if self._parser.unread:
            self.close("the server sent bytes that answer no command")
        elif self.state is ChannelState.IN_COMMAND:
            self.state = ChannelState.IN_STEP
            self.used_at = time.monotonic()

    def _read_more(self, command: Command, deadline: float, phase: Phase) -> None:
        """Wait for replies, and send on meanwhile: the server may read no more before its replies are read."""
        if not self._unsent:
            self._parser.feed(self._receive(command, deadline, _LARGE_READ_SIZE))
            return
        remaining = deadline - _monotonic()
        if remaining <= 0 or not wait_for(self._socket, write=True, seconds=remaining):
            raise self._too_late(command, phase)
        try:
            data = self._socket.recv(_LARGE_READ_SIZE)
        except BlockingIOError:
            self._flush(command)
            self._limit_patience(command, deadline, phase)
            return
        except OSError as error:
            raise self._broken_in_reply(command, describe(error)) from error
        if not data:
            raise self._broken_in_reply(command, "the server closed the connection")
        self._parser.feed(data)

    def _flush(self, command: Command) -> None:
        """Send what is unsent, as much as the kernel takes now."""
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                return
            except OSError as error:
                raise self._broken_in_sending(command, error) from error
            self._unsent = self._unsent[sent:]

    @property
    def unsent(self) -> int:
        """How many bytes of the requests whose replies are due the kernel has not taken: the last ones.

        Once the channel is closed: a command that ends among them was certainly not carried out.
        """
        return len(self._unsent)

    @property
    def wants_write(self) -> bool:
        """Whether to wait until it is writable, too, before replies are picked up: something is unsent."""
        return bool(self._unsent)

    # Batches of one command: replies picked up as they come.

    def post(self, command: Command, data: bytes, count: int) -> None:
        """Send `count` requests of one command, without waiting; the methods below send on, and pick up the replies.

        :raises ConnectionFailed: if the connection is or gets broken; :attr:`unsent` then says how much was not sent.
        """
        self._unsent = memoryview(b"".join((self._unsent, data)))
        if not self._due:
            self._check_usable(command)
        self.state = ChannelState.IN_COMMAND
        self._due.extend([command] * count)
        try:
            self._flush(command)
        except BaseException as error:
            self._fail(error)
            raise

    def gather(self, to_come: int) -> None:
        """Let selectors call this readable when many replies are there, not for each; until nothing is due.

        A server writes its replies one by one, and to be woken for each costs more than the reply itself.

        :param to_come: how long the replies to posted commands are that are due, at least (bytes).
        """
        size = max(1, min(_GATHERED, to_come - self._parser.unread))
        if size != self._gathering:
            # An interrupt in between leaves it in mid-command, and so of no further use.
            self._gathering = size
            # Windows has no such thing. If it is closed by now, whoever reads from it is told.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def collect_inserted(self) -> Iterator[Reply | Sequence[int]]:
        """Pick up the replies to posted puts that are there, without waiting; errors as for :meth:`pick_up`.

        A run of plain ``INSERTED`` replies comes as the list of its ids.
        """
        return self._collect(PUT, self._parser.next_inserted)

    def collect_reserved(self) -> Iterator[Reply | Sequence[tuple[int, bytes]]]:
        """The same of posted ``reserve-with-timeout``; a run of ``RESERVED`` comes as the list of ids and bodies."""
        return self._collect(RESERVE_WITH_TIMEOUT, self._parser.next_reserved)

    def collect_deleted(self) -> Iterator[Reply | Sequence[int]]:
        """The same of posted deletes; a run of ``DELETED`` comes as a range of so many."""
        return self._collect(DELETE, self._parser.next_deleted)

    def _collect(self, command: Command, next_run: Callable[[int], Sequence[Item]]) -> Iterator[Reply | Sequence[Item]]:
        due = self._due
        try:
            try:
                data = self._socket.recv(_LARGE_READ_SIZE)
            except BlockingIOError:
                self._flush(command)
                return
            if not data:
                raise self._broken_in_reply(command, "the server closed the connection")
            self._parser.feed(data)
            while due:
                run = next_run(len(due))
                if run:
                    for _ in run:
                        due.popleft()
                    yield run
                    continue
                reply = self._parser.next(command)
                if reply is None:
                    break
                due.popleft()
                yield reply
                if self.state is ChannelState.CLOSED and due:
                    # Whoever took the reply found that the server is out of step.
                    raise self._broken_in_reply(command, "it is closed")
            if not due and self._parser.unread:
                raise self._broken_in_reply(command, "the server sent bytes that answer no command")
            if not due:
                self.gather(0)
            self._flush(command)
        except BeanpoolError as error:
            # Not one of the socket, though it may be an OSError.
            self._fail(error)
            raise
        except OSError as error:
            failure = self._broken_in_reply(command, describe(error))
            self._fail(failure)
            raise failure from error
        except BaseException as error:
            self._fail(error)
            raise
        if not due and self.state is ChannelState.IN_COMMAND:
            self.state = ChannelState.IN_STEP
            self.used_at = time.monotonic()

    # Event-driven use: requests go out, replies are picked up when the socket is readable.

    def begin(self, request: bytes, commands: Iterable[Command]) -> None:
        """Send a `request` of several commands, without waiting: :meth:`pick_up` sends on what does not go out at once.

        :raises ConnectionFailed: if the connection broke.
        """
        self.state = _IN_COMMAND
        self.used_at = _monotonic()
        self._due.extend(commands)
        try:
            if self._unsent:
                self._unsent = memoryview(b"".join((self._unsent, request)))
                return
            try:
                sent = self._socket.send(request)
            except BlockingIOError:
                sent = 0
            if sent != len(request):
                self._unsent = memoryview(request)[sent:]
        except OSError as error:
            failure = ConnectionFailed(
                f"{self.server}: the connection broke while a command was being sent ({describe(error)})",
                server=self.server,
                phase=Phase.SENDING,
            )
            self._fail(failure)
            raise failure from error
        except BaseException as error:
            self._fail(error)
            raise

    def pick_up(self, until: float | None = None) -> Reply | None:
        """Return the next due reply; None if it has not arrived in full.

        :param until: wait for it until this time (monotonic seconds); None never waits. If it is not there then,
            the command stays in flight: pick its reply up later, or cancel it.
        :raises ConnectionFailed: if the connection broke.
        :raises UnexpectedResponse: if the reply is none that its command may have.
        """
        due, parser = self._due, self._parser
        command = due[0]
        try:
            reply = parser.next(command) if parser.buffer else None
            while reply is None:
                if until is not None:
                    data = self._read_until(command, until)
                else:
                    data = self._socket.recv(_LARGE_READ_SIZE if parser.buffer else _READ_SIZE)
                if not data:
                    raise self._broken_in_reply(command, "the server closed the connection")
                if not parser.buffer:
                    reply = command.whole(data)
                if reply is None:
                    parser.feed(data)
                    reply = parser.next(command)
            due.popleft()
            if parser.buffer and not due:
                raise self._broken_in_reply(command, "the server sent bytes that answer no command")
        except BlockingIOError:
            if self._unsent:
                self._send_more(command)
            return None
        except BeanpoolError as error:
            # Not one of the socket, though it may be an OSError.
            self._fail(error)
            raise
        except OSError as error:
            failure = self._broken_in_reply(command, describe(error))
            self._fail(failure)
            raise failure from error
        except BaseException as error:
            self._fail(error)
            raise
        if not due and self.state is _IN_COMMAND:
            self.state = _IN_STEP
        return reply

    def _send_more(self, command: Command) -> None:
        try:
            self._flush(command)
        except BaseException as error:
            self._fail(error)
            raise

    def _read_until(self, command: Command, until: float) -> bytes:
        while True:
            remaining = until - _monotonic()
            if remaining <= 0:
                return self._socket.recv(_LARGE_READ_SIZE)
            if self._unsent:
                with contextlib.suppress(BlockingIOError):
                    return self._socket.recv(_LARGE_READ_SIZE)
                self._flush(command)
                if self._unsent:
                    wait_for(self._socket, write=True, seconds=remaining)
                continue
            if self._patience > remaining + _TIMEOUT_SLACK:
                self._be_patient(remaining)
            try:
                return self._patient.recv(_READ_SIZE)
            except TimeoutError as error:
                if not _is_timeout(error):
                    raise
                # Time to look at the clock; it may have been an earlier caller's patience that has ended.
                self._be_patient(max(0.0, until - _monotonic()))

    @property
    def due(self) -> int:
        """How many replies are due."""
        return len(self._due)

    # The end.

    def refuse(self, command: Command, reply: Reply) -> CommandFailed:
        """Build the error of a refusal, and close the channel if the refusal leaves it out of step."""
        if reply.status in command.out_of_step or reply.status == "INTERNAL_ERROR":
            self.close(f"the server answered {reply.status} to {command.name}")
        named = command.replies.get(reply.status) == ID
        return refusal(command.name, reply.status, [str(reply.number)] if named else [])

    def _fail(self, error: BaseException) -> None:
        self.close(str(error) if isinstance(error, BeanpoolError) else f"{type(error).__name__} in mid-command")

    def close(self, because: str) -> None:
        """Close the socket; the server gives back what this connection had reserved. Idempotent."""
        if self.state is not ChannelState.CLOSED:
            # The reason first: an interrupt in between must leave no closed channel without one.
            self._closed_because = because
            self.state = ChannelState.CLOSED
        # Before the number may be somebody else's.
        self._patient.detach()
        self._socket.close()

    def half_close(self) -> None:
        """Say that no more commands will come: the server ends a waiting reserve and takes back what raced in."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        if self.state is not ChannelState.CLOSED:
            self._closed_because = "its reserve was cancelled"
            self.state = ChannelState.CLOSED

    def interrupt(self, because: str = "") -> None:
        """Make whoever waits on this channel in another thread return at once; its owner closes it.

        :param because: what the owner's error shall say; nothing leaves it at what the owner sees.
        """
        if because and self.state is not ChannelState.CLOSED:
            self.state = ChannelState.CLOSED
            self._closed_because = because
        self.interrupted = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def at_end(self) -> bool:
        """After :meth:`half_close`: read what is left; true once the server has closed its side too."""
        try:
            while self._socket.recv(_LARGE_READ_SIZE):
                pass
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    @property
    def closed(self) -> bool:
        """Whether the channel is of no further use."""
        return self.state is ChannelState.CLOSED

    @property
    def closed_because(self) -> str:
        """Why it is closed, in words; empty while it is open."""
        return self._closed_because


def _is_timeout(error: OSError) -> bool:
    # Python's own has no errno, unlike ETIMEDOUT of a dead peer.
    return isinstance(error, TimeoutError) and error.errno is None


def _leave_to_parent() -> None:
    # In a forked child: the sockets are the parent's. Closing the descriptor sends nothing.
    for channel in list(_channels):
        channel.close(OF_THE_PARENT)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
