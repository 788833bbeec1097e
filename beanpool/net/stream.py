"""One socket to one server: sending, receiving, and every way in which the connection can break.

A stream is in step with its server only between complete replies. Any failure in mid-command (a timeout, an interrupt,
a reply that the protocol does not allow) breaks it for good: it is closed, and its next user gets the reason.
"""

from __future__ import annotations

import collections
import contextlib
import enum
import os
import socket
import time
import weakref

from beanpool.errors import BeanpoolError, CommandTimeout, ConnectionFailed, Phase, describe
from beanpool.net.readiness import LONGEST_WAIT, wait_for
from beanpool.protocol import NO_REPLIES, Command, Parser, Tally

READ_SIZE = 4096
LARGE_READ_SIZE = 256 * 1024
_SHORTEST_TIMEOUT = 0.001
# A plain number: combining members of an enumeration calls several functions of Python.
_PEEK = int(socket.MSG_PEEK)

OF_THE_PARENT = "it belongs to the parent process"

_streams: weakref.WeakSet[Stream] = weakref.WeakSet()


class ChannelState(enum.Enum):
    """Whether a channel may be used."""

    IN_STEP = "in step"
    IN_COMMAND = "in the middle of a command"
    CLOSED = "closed"


class _PatientView(socket.SocketType):
    """A second view of the socket of a stream, which waits as long as its timeout allows.

    The kernel's own timeout of a socket starts anew after each signal. For a socket with a timeout Python waits by
    ``poll``, whose end stays the same whatever signals come; but it polls before it sends, too. So the socket itself,
    which never waits, sends and closes.
    """

    __slots__ = ()

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.fileno())

    def __del__(self) -> None:
        # In place of what would close the descriptor.
        pass


class Stream:
    """A connected socket, its parser, the commands whose replies are due, and what of their requests is unsent.

    :class:`~beanpool.net.channel.Channel` adds the commands.
    """

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
        "tally",
        "used_at",
    )

    def __init__(self, sock: socket.socket, server: str, tally: Tally | None = None) -> None:
        self.server = server
        self.tally: Tally = NO_REPLIES.copy() if tally is None else tally
        """Counts the replies that have come. Only the thread that uses the stream counts, so it takes no lock."""
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
        """Whether this process has shut it down in use: the error that its user gets says nothing of the server."""
        _streams.add(self)

    def __del__(self) -> None:
        # An interrupt may have come before there was a socket.
        sock = getattr(self, "_socket", None)
        if sock is not None:
            sock.close()

    def fileno(self) -> int:
        """The descriptor of the socket, for selectors; -1 when it is closed."""
        return self._socket.fileno()

    @property
    def due(self) -> int:
        """How many replies are due."""
        return len(self._due)

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

    # Before a command.

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

    # In a command: sending, and receiving until a deadline.

    def _send_failed(self, command: Command, error: OSError) -> int:
        if isinstance(error, BlockingIOError):
            return 0
        raise self._broken_in_sending(command, error) from error

    def _send_on(self, command: Command, request: bytes, sent: int, deadline: float) -> None:
        # A counting send, not sendall: what the kernel has not accepted in full is certainly not executed.
        rest = memoryview(request)[sent:]
        while rest:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not self._await_room(remaining):
                raise self._too_late(command, Phase.SENDING, deadline)
            try:
                sent = self._socket.send(rest)
            except OSError as error:
                sent = self._send_failed(command, error)
            rest = rest[sent:]
        self._limit_patience(command, deadline)

    def _await_room(self, seconds: float) -> bool:
        return wait_for(self._socket, write=True, read=False, seconds=seconds)

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

    def _receive_failed(self, command: Command, deadline: float, error: OSError) -> bytes:
        if not is_timeout(error):
            raise self._broken_in_reply(command, describe(error)) from error
        self._limit_patience(command, deadline)
        return self._receive(command, deadline, READ_SIZE)

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

    def _read_more(self, command: Command, deadline: float, phase: Phase) -> None:
        """Wait for replies, and send on meanwhile: the server may read no more before its replies are read."""
        if not self._unsent:
            self._parser.feed(self._receive(command, deadline, LARGE_READ_SIZE))
            return
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not wait_for(self._socket, write=True, seconds=remaining):
            raise self._too_late(command, phase, deadline)
        try:
            data = self._socket.recv(LARGE_READ_SIZE)
        except BlockingIOError:
            self._flush(command)
            self._limit_patience(command, deadline, phase)
            return
        except OSError as error:
            raise self._broken_in_reply(command, describe(error)) from error
        if not data:
            raise self._broken_in_reply(command, "the server closed the connection")
        self._parser.feed(data)

    def _limit_patience(self, command: Command, deadline: float, phase: Phase = Phase.WAITING) -> None:
        """Let the next receive wait until the deadline, but not for longer."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise self._too_late(command, phase, deadline)
        try:
            self._be_patient(remaining)
        except OSError as error:
            if phase is Phase.WAITING:
                raise self._broken_in_reply(command, describe(error)) from error
            raise self._broken_in_sending(command, error) from error

    def _be_patient(self, seconds: float) -> None:
        self._patience = min(max(seconds, _SHORTEST_TIMEOUT), LONGEST_WAIT)
        self._patient.settimeout(self._patience)

    # What goes wrong.

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

    def _too_late(self, command: Command, phase: Phase, deadline: float) -> CommandTimeout:
        waiting = phase is Phase.WAITING
        error = CommandTimeout(
            f"{self.server}: the time for {command.name} ran out while {phase.value}; "
            + ("whether it took effect is not known" if waiting else "it was not executed"),
            server=self.server,
            phase=phase,
            may_have_taken_effect=waiting,
        )
        # Not how late this thread was woken: that says something of this machine.
        error.waited = max(0.0, deadline - self.used_at)
        return error

    def _fail(self, error: BaseException) -> None:
        self.close(str(error) if isinstance(error, BeanpoolError) else f"{type(error).__name__} in mid-command")

    def _fail_in_reply(self, command: Command, error: BaseException) -> None:
        """Close it because of an `error` while receiving; an error of the socket is raised as one of beanpool."""
        # A BeanpoolError may be an OSError, too, but then it is not one of the socket.
        if isinstance(error, OSError) and not isinstance(error, BeanpoolError):
            failure = self._broken_in_reply(command, describe(error))
            self._fail(failure)
            raise failure from error
        self._fail(error)

    # The end.

    def close(self, because: str) -> None:
        """Close the socket; the server gives back what this connection had reserved. Idempotent."""
        if self.state is not ChannelState.CLOSED:
            # The reason first: even after an interrupt in between, a closed channel has one.
            self._closed_because = because
            self.state = ChannelState.CLOSED
        # First: once the socket is closed, its number may belong to another one.
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

        :param because: what the error in that thread says; without it, that says what the thread sees.
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
            while self._socket.recv(LARGE_READ_SIZE):
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


def is_timeout(error: OSError) -> bool:
    """Whether the socket's own timeout has ended. ETIMEDOUT of a dead peer is the same class, but has an errno."""
    return isinstance(error, TimeoutError) and error.errno is None


def _leave_to_parent() -> None:
    # In a forked child: the sockets are the parent's. Closing the descriptor sends nothing.
    for stream in list(_streams):
        stream.close(OF_THE_PARENT)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
