"""One connection of a batch of puts: what was collected for it, what is on its way, and since when it is silent."""

from __future__ import annotations

import collections
import time
from typing import Generic, NamedTuple, TypeVar

from beanpool.errors import BeanpoolError, CommandTimeout, ConnectionFailed, Phase, UnexpectedResponse
from beanpool.member import Member
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.commands import PUT
from beanpool.put_item import EncodedPut
from beanpool.putting import Tried

Place = TypeVar("Place")


class Retry(NamedTuple, Generic[Place]):
    """A put that was tried: it begins as one that was not."""

    place: Place
    put: EncodedPut
    attempts: Tried
    asked: set[Member]
    """The servers that need not be asked again this time round."""


Item = tuple[Place, EncodedPut] | Retry[Place]
"""A put, and the place that its outcome has."""


class Lane(Generic[Place]):
    """One connection that puts into one tube of one server.

    :param unproven: whether the server has failed before: it gets one put, and more when it has stored that.
    """

    __slots__ = (
        "connection",
        "due",
        "has_retries",
        "in_flight",
        "member",
        "progress_at",
        "silent_at",
        "unproven",
        "unsent",
        "unsent_bytes",
    )

    def __init__(self, member: Member, connection: PooledConnection, unproven: bool) -> None:
        self.member = member
        self.connection = connection
        self.unproven = unproven
        self.has_retries = False
        self.unsent: list[Item[Place]] = []
        self.unsent_bytes = 0
        self.due: collections.deque[Item[Place]] = collections.deque()
        self.in_flight = 0
        self.silent_at = 0.0
        """When it will have been silent for too long, while something is due (monotonic seconds)."""
        self.progress_at = 0.0

    def wait_from_now(self, patience: float) -> None:
        """Something was sent to an idle server, or a reply has come: it may be silent for so long (seconds)."""
        self.progress_at = time.monotonic()
        self.silent_at = self.progress_at + patience

    def send(self) -> None:
        """Send what was collected, as far as it goes at once; the channel sends on when replies are picked up.

        :raises ConnectionFailed: if the connection is or gets broken.
        """
        items = self.unsent[:1] if self.unproven else self.unsent
        self.unsent = self.unsent[len(items) :]
        data = b"".join([item[1].request for item in items])
        self.due.extend(items)
        self.in_flight += len(data)
        self.unsent_bytes -= len(data)
        self.connection.channel.post(PUT, data, len(items))

    def silence(self) -> CommandTimeout:
        """The error of a server that has not answered in time."""
        error = CommandTimeout(
            f"{self.member.address}: no reply to a put in the time allowed",
            server=self.member.address,
            phase=Phase.WAITING,
            may_have_taken_effect=True,
        )
        error.waited = time.monotonic() - self.progress_at
        return error

    def split(self, error: BeanpoolError) -> list[tuple[Item[Place], BeanpoolError]]:
        """Empty the lane, whose connection is gone: each put, and what it is told. Some were sent, some were not."""
        not_executed = self._take_back()
        sent, self.due = self.due, collections.deque()
        told: list[tuple[Item[Place], BeanpoolError]] = []
        for items, may_be_stored in ((sent, True), (not_executed, False)):
            failure = self._told(error, may_be_stored)
            told += [(item, failure) for item in items]
        return told

    def _told(self, error: BeanpoolError, may_be_stored: bool) -> BeanpoolError:
        server = self.member.address
        if isinstance(error, UnexpectedResponse):
            return UnexpectedResponse(str(error), server=server, may_have_taken_effect=may_be_stored)
        kind = CommandTimeout if isinstance(error, CommandTimeout) else ConnectionFailed
        phase = Phase.WAITING if may_be_stored else Phase.SENDING
        return kind(str(error), server=server, phase=phase, may_have_taken_effect=may_be_stored)

    def _take_back(self) -> list[Item[Place]]:
        """What was certainly not executed; what may have been is left in `due`."""
        unsent = self.connection.channel.unsent
        not_executed = self.take_unsent()[::-1]
        while unsent > 0 and self.due:
            item = self.due.pop()
            unsent -= len(item[1].request)
            not_executed.append(item)
        return not_executed[::-1]

    def take_unsent(self) -> list[Item[Place]]:
        """Take out what was collected and not sent."""
        unsent, self.unsent = self.unsent, []
        self.unsent_bytes = 0
        return unsent
