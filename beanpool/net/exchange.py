"""Connections with requests under way: replies are received from those that are ready; those that are late fail."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from beanpool.errors import BeanpoolError, CommandTimeout, ConnectionFailed, Phase, UnexpectedResponse
from beanpool.net.channel import Channel
from beanpool.net.readiness import Waiter, wait_for_any
from beanpool.protocol import Command, Reply

Token = TypeVar("Token")
Item = TypeVar("Item")
Failure = ConnectionFailed | UnexpectedResponse


class Link(Waiter, Protocol):
    """An open connection."""

    server: str
    channel: Channel


class Pending(Protocol):
    """A connection that may have requests under way."""

    @property
    def connection(self) -> Waiter:
        """What is waited on."""

    @property
    def pending(self) -> bool:
        """Whether it is to answer."""

    @property
    def late_at(self) -> float:
        """When it will have been silent for too long, if it is to answer (monotonic seconds)."""


SomePending = TypeVar("SomePending", bound=Pending)


class Exchange(Generic[Token]):
    """Requests of one command on one connection. Each has a token, by which the sender recognizes it.

    Only a complete reply is progress: a trickle of bytes must not go on for ever.
    """

    __slots__ = ("answered", "connection", "due", "patience", "progress_at")

    connection: Link

    def __init__(self, connection: Link | None = None) -> None:
        if connection is not None:
            # Else it is set later.
            self.connection = connection
        self.due: collections.deque[tuple[Token, bytes]] = collections.deque()
        """The requests that were sent and have no reply yet."""
        self.answered = 0
        """How many requests have a reply."""
        self.patience = 0.0
        """How long the server may be without progress (seconds)."""
        self.progress_at = 0.0
        """When the last complete reply came, or something was sent to an idle server (monotonic seconds)."""

    @property
    def pending(self) -> bool:
        """Whether replies are due."""
        return bool(self.due)

    @property
    def late_at(self) -> float:
        """When it will have been silent for too long, while something is due (monotonic seconds)."""
        return self.progress_at + self.patience

    def send(self, command: Command, tokens: Iterable[Token], requests: Sequence[bytes]) -> None:
        """Send these, as far as they go at once; the channel sends on when replies are received.

        :raises ConnectionFailed: if the connection is or gets broken; the requests stay due until :meth:`fail`.
        """
        if not self.due:
            self.progress_at = time.monotonic()
        self.due.extend(zip(tokens, requests, strict=True))
        self.connection.channel.post(command, b"".join(requests), len(requests))

    def receive(
        self, replies: Iterable[Reply | Sequence[Item]]
    ) -> Iterator[tuple[list[tuple[Token, bytes]], Reply | Sequence[Item]]]:
        """Take in the replies that are there: each, or each run of them, with its requests and their tokens."""
        before = self.answered
        due = self.due
        for reply in replies:
            run = [due.popleft() for _ in range(1 if isinstance(reply, Reply) else len(reply))]
            self.answered += len(run)
            yield run, reply
        if self.answered != before:
            self.progress_at = time.monotonic()

    def late(self, command: Command) -> CommandTimeout:
        """Build the error of a server that has not answered in time."""
        error = CommandTimeout(
            f"{self.connection.server}: no reply to a {command.name} in the time allowed",
            server=self.connection.server,
            phase=Phase.WAITING,
            may_have_taken_effect=True,
        )
        error.waited = min(self.patience, time.monotonic() - self.progress_at)
        return error

    def fail(self, error: BeanpoolError) -> list[tuple[Token, Failure]]:
        """End it, because the connection is gone; returns what was due, each with its error.

        What was not sent in full was certainly not carried out.
        """
        unsent = self.connection.channel.unsent
        failed: list[tuple[Token, Failure]] = []
        while self.due:
            token, request = self.due.pop()
            failed.append((token, self.failure(error, sent=unsent <= 0)))
            unsent -= len(request)
        return failed[::-1]

    def failure(self, error: BeanpoolError, *, sent: bool) -> Failure:
        """The error of one request, made from the `error` that ended the connection.

        :param sent: whether that may have been carried out.
        """
        server = self.connection.server
        if isinstance(error, UnexpectedResponse):
            return UnexpectedResponse(str(error), server=server, may_have_taken_effect=sent)
        kind = CommandTimeout if isinstance(error, CommandTimeout) else ConnectionFailed
        phase = Phase.WAITING if sent else Phase.SENDING
        return kind(str(error), server=server, phase=phase, may_have_taken_effect=sent)


def drive(
    some: Sequence[SomePending],
    receive: Callable[[SomePending], None],
    give_up: Callable[[SomePending], None],
    until: float = math.inf,
) -> bool:
    """Wait until any of these has something to receive, or is late, and see to it.

    :param until: when to wait no longer (monotonic seconds).
    :returns: false if nothing has happened until then.
    """
    until = min([until, *(one.late_at for one in some if one.pending)])
    ready = wait_for_any([(one.connection, one) for one in some], max(0.0, until - time.monotonic()))
    for one in ready:
        receive(one)
    return give_up_late(some, receive, give_up) or bool(ready)


def give_up_late(
    some: Iterable[SomePending], receive: Callable[[SomePending], None], give_up: Callable[[SomePending], None]
) -> bool:
    """Give up those that are late; returns whether any was."""
    now = time.monotonic()
    any_late = False
    for one in some:
        if one.pending and now >= one.late_at:
            # It may have sent something, but too little to wake the caller.
            receive(one)
            if one.pending and now >= one.late_at:
                give_up(one)
            any_late = True
    return any_late
