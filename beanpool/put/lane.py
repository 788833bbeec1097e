"""One connection of a batch of puts: what was collected for it, what is on its way, and since when it is silent."""

from __future__ import annotations

import copy
import enum
import math
import time
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from beanpool.connection import results, unanswered
from beanpool.errors import BeanpoolError, ConnectionFailed, UnexpectedResponse
from beanpool.net import Exchange
from beanpool.protocol import PUT, USE, encode_tube
from beanpool.put.failover import Tried
from beanpool.put.item import EncodedPut
from beanpool.server import Member, PooledConnection, Ticket

CHUNK = 16 * 1024
"""How much is collected before it is sent (bytes)."""

Token = TypeVar("Token")


class Retry(NamedTuple, Generic[Token]):
    """A put that was tried: it begins as one that was not."""

    token: Token
    put: EncodedPut
    attempts: Tried
    asked: set[Member]
    """The servers that need not be asked again this time round."""


Item = tuple[Token, EncodedPut] | Retry[Token]
"""A put, and the token that its outcome has."""

Run = Sequence[tuple[Item[Token], bytes]]
"""Puts that were answered in the same way, each with its request."""


def as_retry(item: Item[Token]) -> Retry[Token]:
    """The put as one that was tried."""
    return item if isinstance(item, Retry) else Retry(item[0], item[1], [], set())


class Stage(enum.Enum):
    """How far a lane has got."""

    UNCONNECTED = "it has no connection yet"
    OPENING = "it is being connected, or told the tube"
    OPEN = "puts can be sent"


class Lane(Exchange[Item[Token]]):
    """One connection that puts into one tube of one server; it collects puts before it has any.

    :param unproven: whether the server has failed before: it gets one put, and more when it has stored that.
    """

    __slots__ = (
        "has_retries",
        "in_flight",
        "largest_body",
        "member",
        "send_at",
        "since",
        "stage",
        "ticket",
        "tube",
        "unproven",
        "unsent",
        "unsent_bytes",
        "until",
    )

    connection: PooledConnection
    """There is none as long as it is unconnected."""

    def __init__(self, member: Member, tube: str, unproven: bool) -> None:
        super().__init__()
        self.member = member
        self.tube = tube
        self.stage = Stage.UNCONNECTED
        self.ticket: Ticket | None = None
        """Its place in the queue for a connection."""
        self.since = time.monotonic()
        """When it began to wait for a connection, and then, to open it (monotonic seconds)."""
        self.until = self.since
        """When that is enough (monotonic seconds)."""
        self.unproven = unproven
        self.has_retries = False
        self.unsent: list[Item[Token]] = []
        self.unsent_bytes = 0
        self.send_at = 0
        """How much has to be collected for it to be sent (bytes): more where it was tried in vain, 0 for the first."""
        self.largest_body: float = math.inf
        """What the server takes (bytes), as far as it is known here."""
        self.in_flight = 0
        """How much is due (bytes)."""

    @property
    def pending(self) -> bool:
        """Whether anything is waited for: replies, or before that, the connection."""
        return bool(self.due) or self.stage is not Stage.OPEN

    @property
    def idle(self) -> bool:
        """Whether it has a connection, and nothing to do with it."""
        return not (self.due or self.unsent) and self.stage is Stage.OPEN

    @property
    def late_at(self) -> float:
        """When it will have been silent for too long, or must be looked at in any case (monotonic seconds)."""
        if self.stage is Stage.OPEN:
            return self.progress_at + self.patience
        if self.stage is Stage.OPENING:
            return min(self.until, self.connection.give_up_at)
        return self.until if self.ticket is not None else math.inf

    @property
    def silent_since(self) -> float:
        """Since when nothing has come of what is waited for (monotonic seconds)."""
        return self.progress_at if self.stage is Stage.OPEN else self.since

    # Its connection.

    def begin(self, connection: PooledConnection, until: float) -> None:
        """Let it have a connection, which is perhaps still to be made, and to be told the tube: until then."""
        self.connection = connection
        self.since, self.until = time.monotonic(), until
        if connection.opened_channel is not None and connection.used == self.tube:
            self.stage = Stage.OPEN
            return
        self.stage = Stage.OPENING
        if connection.opened_channel is None:
            connection.begin_connecting(until)
            if connection.used == self.tube:
                # The tube of every new connection.
                connection.begin_probe(until - self.since)
                return
        # Its reply is waited for: a put behind a failed `use` would land in the tube before.
        connection.begin_command(USE, encode_tube(USE, self.tube), until, uses=None, watches=None)

    def go_on_opening(self) -> None:
        """Go as far as is possible without waiting.

        :raises BeanpoolError: if the connection could not be made, or the server refuses the tube.
        """
        connection = self.connection
        try:
            reply = connection.step()
        except ConnectionFailed as error:
            if connection.opened_channel is None or connection.instance:
                raise
            raise unanswered(connection.server, error) from error
        if reply is None:
            return
        if connection.used == self.tube:
            connection.identify(reply)
        else:
            results.use(connection, self.tube, connection.channel, reply)
        self.stage = Stage.OPEN

    # Puts.

    def put(self, room: int) -> None:
        """Send what was collected, as far as it goes at once.

        :param room: how much may be sent (bytes), but for a single put that is larger.
        :raises ConnectionFailed: if the connection is or gets broken.
        """
        count = 1 if self.unproven else len(self.unsent) if self.unsent_bytes <= room else self._count_within(room)
        items = self.unsent[:count]
        self.unsent = self.unsent[count:]
        requests = [item[1].request for item in items]
        size = sum(map(len, requests))
        self.unsent_bytes -= size
        self.send_at = CHUNK
        self.in_flight += size
        self.send(PUT, items, requests)

    def _count_within(self, room: int) -> int:
        count = 0
        for item in self.unsent:
            room -= len(item[1].request)
            if room < 0 and count:
                break
            count += 1
        return count

    def split(self, error: BeanpoolError) -> list[tuple[Item[Token], BeanpoolError]]:
        """Empty the lane, whose connection is gone: each put, and what it is told. Some were sent, some were not."""
        unsent = self.take_unsent()
        if self.stage is Stage.OPEN:
            return [*self.fail(error), *((item, self.failure(error, sent=False)) for item in unsent)]
        if isinstance(error, ConnectionFailed | UnexpectedResponse):
            # It was no put that got no reply.
            error.may_have_taken_effect = False
        # An exception belongs to one who raises it.
        return [(item, error if number == 0 else copy.copy(error)) for number, item in enumerate(unsent)]

    def take_unsent(self) -> list[Item[Token]]:
        """Take out what was collected and not sent."""
        unsent, self.unsent = self.unsent, []
        self.unsent_bytes = 0
        return unsent
