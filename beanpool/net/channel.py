"""Commands and replies over one socket, and the rule that a reply is only ever given to the command that asked.

A command is exchanged for its reply, many are pipelined, a batch of one command is posted and its replies are collected
as they come, or a selector tells when a reply can be picked up.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar, Unpack

from beanpool.errors import About, CommandFailed, ConnectionFailed, Phase, describe, refusal
from beanpool.net.readiness import wait_for
from beanpool.net.stream import LARGE_READ_SIZE, OF_THE_PARENT, READ_SIZE, ChannelState, Stream, is_timeout
from beanpool.protocol import ID, PUT, RESERVE_WITH_TIMEOUT, Command, Reply

__all__ = ["OF_THE_PARENT", "Channel", "ChannelState"]

# A socket that was idle for longer is looked at before it is used: a server that went away, or sent
# something unasked, is found out while the command is certainly not sent.
_TRUSTED_IDLE_SECONDS = 0.01
# How much of a pipeline may be on its way (bytes), but for a single request that is larger.
_WINDOW = 32 * 1024
# How many bytes of replies are worth waking up for. Far more would not come: a server's TCP sends only so many small
# packets before one is acknowledged, and the system acknowledges what is read.
_GATHERED = 128
_TIMEOUT_SLACK = 0.05

Item = TypeVar("Item")


def _no_run(most: int) -> Sequence[int]:
    return ()


# A global is found faster than a member of an enumeration.
_IN_STEP = ChannelState.IN_STEP
_IN_COMMAND = ChannelState.IN_COMMAND
_monotonic = time.monotonic


class Channel(Stream):
    """Sends commands and receives their replies, in one of four ways."""

    __slots__ = ()

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
            raise self._too_late(command, Phase.SENDING, deadline)
        self.used_at = now
        self.state = _IN_COMMAND
        try:
            # A timeout that ends too early does no harm: the clock is read, and the wait goes on.
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
                data = self._patient.recv(READ_SIZE)
            except OSError as error:
                data = self._receive_failed(command, deadline, error)
            reply = command.parse_whole(data)
            if reply is None:
                reply = self._read_on(command, data, deadline)
        except BaseException as error:
            self._fail(error)
            raise
        if self.state is _IN_COMMAND:
            self.state = _IN_STEP
        self.tally[reply.status] += 1
        return reply

    def exchange_until(self, command: Command, request: bytes, until: float, grace: float) -> Reply | None:
        """As :meth:`exchange`, but None if no reply has come until then (monotonic seconds): it is still due.

        :param grace: once a part of the reply has come, how long the rest may take after `until` (seconds).
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
            parser.feed(self._receive(command, deadline, LARGE_READ_SIZE))
        if parser.unread:
            self.close("the server sent bytes that answer no command")
        return reply

    def refuse(self, command: Command, reply: Reply, **about: Unpack[About]) -> CommandFailed:
        """Build the error of a refusal, and close the channel if the refusal leaves it out of step."""
        if reply.status in command.out_of_step or reply.status == "INTERNAL_ERROR":
            self.close(f"the server answered {reply.status} to {command.name}")
        named = command.replies.get(reply.status) == ID
        results = [str(reply.number)] if named else []
        return refusal(command.name, reply.status, results, server=self.server, **about)

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
                    self.tally[reply.status] += 1
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
        self._send_more(command)

    def gather(self, to_come: int) -> None:
        """Let selectors call this readable when many replies are there, not for each; until nothing is due.

        A server writes its replies one by one, and to be woken for each costs more than the reply itself.

        :param to_come: the least length of all replies that are due to posted commands (bytes).
        """
        size = max(1, min(_GATHERED, to_come - self._parser.unread))
        if size != self._gathering:
            # An interrupt in between leaves it in mid-command, and so of no further use.
            self._gathering = size
            # Not every system has this option. If the socket is closed by now, the next read says so.
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

    def collect_done(self, command: Command) -> Iterator[Reply | Sequence[int]]:
        """The same of posted ``delete``, ``release``, ``bury`` or ``touch``; a run of usual ones comes as a range."""
        return self._collect(command, functools.partial(self._parser.next_done, command))

    def collect(self, command: Command) -> Iterator[Reply | Sequence[int]]:
        """The same of any posted command, reply by reply."""
        return self._collect(command, _no_run)

    def _collect(self, command: Command, next_run: Callable[[int], Sequence[Item]]) -> Iterator[Reply | Sequence[Item]]:
        due = self._due
        try:
            try:
                data = self._socket.recv(LARGE_READ_SIZE)
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
                    self.tally[command.success] += len(run)
                    yield run
                    continue
                reply = self._parser.next(command)
                if reply is None:
                    break
                due.popleft()
                self.tally[reply.status] += 1
                yield reply
                if self.state is ChannelState.CLOSED and due:
                    # Whoever took the reply found that the server is out of step.
                    raise self._broken_in_reply(command, "it is closed")
            if not due and self._parser.unread:
                raise self._broken_in_reply(command, "the server sent bytes that answer no command")
            if not due:
                self.gather(0)
            self._flush(command)
        except BaseException as error:
            self._fail_in_reply(command, error)
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
                    data = self._socket.recv(LARGE_READ_SIZE if parser.buffer else READ_SIZE)
                if not data:
                    raise self._broken_in_reply(command, "the server closed the connection")
                if not parser.buffer:
                    reply = command.parse_whole(data)
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
        except BaseException as error:
            self._fail_in_reply(command, error)
            raise
        if not due and self.state is _IN_COMMAND:
            self.state = _IN_STEP
            if until is None:
                # The server may have let it wait for long, and was there just now.
                self.used_at = _monotonic()
        self.tally[reply.status] += 1
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
                return self._socket.recv(LARGE_READ_SIZE)
            if self._unsent:
                with contextlib.suppress(BlockingIOError):
                    return self._socket.recv(LARGE_READ_SIZE)
                self._flush(command)
                if self._unsent:
                    wait_for(self._socket, write=True, seconds=remaining)
                continue
            if self._patience > remaining + _TIMEOUT_SLACK:
                self._be_patient(remaining)
            try:
                return self._patient.recv(READ_SIZE)
            except TimeoutError as error:
                if not is_timeout(error):
                    raise
                # Read the clock: the timeout that has ended may be one that was set for an earlier caller.
                self._be_patient(max(0.0, until - _monotonic()))
