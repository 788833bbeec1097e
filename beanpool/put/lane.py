"""One connection of a batch of puts: what was collected for it, what is on its way, and since when it is silent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from beanpool.errors import BeanpoolError
from beanpool.net import Exchange
from beanpool.protocol import PUT
from beanpool.put.failover import Tried
from beanpool.put.item import EncodedPut
from beanpool.server import Member, PooledConnection

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


class Lane(Exchange[Item[Token]]):
    """One connection that puts into one tube of one server.

    :param unproven: whether the server has failed before: it gets one put, and more when it has stored that.
    """

    __slots__ = ("has_retries", "in_flight", "member", "unproven", "unsent", "unsent_bytes")

    connection: PooledConnection

    def __init__(self, member: Member, connection: PooledConnection, unproven: bool) -> None:
        super().__init__(connection)
        self.member = member
        self.unproven = unproven
        self.has_retries = False
        self.unsent: list[Item[Token]] = []
        self.unsent_bytes = 0
        self.in_flight = 0
        """How much is due (bytes)."""

    def put(self) -> None:
        """Send what was collected, as far as it goes at once.

        :raises ConnectionFailed: if the connection is or gets broken.
        """
        items = self.unsent[:1] if self.unproven else self.unsent
        self.unsent = self.unsent[len(items) :]
        requests = [item[1].request for item in items]
        size = sum(map(len, requests))
        self.unsent_bytes -= size
        self.in_flight += size
        self.send(PUT, items, requests)

    def split(self, error: BeanpoolError) -> list[tuple[Item[Token], BeanpoolError]]:
        """Empty the lane, whose connection is gone: each put, and what it is told. Some were sent, some were not."""
        unsent = [(item, self.failure(error, sent=False)) for item in self.take_unsent()]
        return [*self.fail(error), *unsent]

    def take_unsent(self) -> list[Item[Token]]:
        """Take out what was collected and not sent."""
        unsent, self.unsent = self.unsent, []
        self.unsent_bytes = 0
        return unsent
