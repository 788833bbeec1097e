"""What becomes of the servers of a cluster when others are named: pure, on whatever stands for a member."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from beanpool.config import Server


class Known(Protocol):
    """A member, as far as this needs to know it."""

    @property
    def server(self) -> Server:
        """What was named when it joined."""

    @property
    def leaving(self) -> bool:
        """Whether it is only reserved from until it is empty."""


KnownMember = TypeVar("KnownMember", bound=Known)


@dataclasses.dataclass(frozen=True, slots=True)
class Change(Generic[KnownMember]):
    """From the members of now to those that were named."""

    staying: tuple[tuple[KnownMember | None, Server], ...]
    """Every server that was named, in that order, with the member that it is already; None if it joins."""
    leaving: tuple[KnownMember, ...]
    """Those that were not named and are reserved from until they are empty."""
    removed: tuple[KnownMember, ...]
    """Those that go at once."""

    def is_none(self, members: Sequence[KnownMember]) -> bool:
        """Whether all of these members, of which the change was planned, stay or leave as before."""
        staying = all(
            member is not None and member.server == server and not member.leaving for member, server in self.staying
        )
        after = [*(member for member, _ in self.staying), *self.leaving]
        return staying and all(member.leaving for member in self.leaving) and after == list(members)


def plan_change(members: Sequence[KnownMember], named: Iterable[Server], *, drain: bool) -> Change[KnownMember]:
    """Plan the change from `members` to the servers that were `named`, which are distinct.

    A member is the same server if both its name and its address are: its connections and its health stay. The same
    name at another address is another server, which has the keys of the one before. The same address under another
    name is the same server process, of which there must be no second member: the one before goes at once, and what it
    held is reserved by the new one.

    :param drain: whether those that were not named are reserved from until they are empty.
    """
    before = {_identity(member.server): member for member in members}
    staying = tuple((before.pop(_identity(server), None), server) for server in named)
    addresses = {str(server.address) for _, server in staying}
    leaving = tuple(m for m in before.values() if drain and str(m.server.address) not in addresses)
    return Change(staying, leaving, tuple(member for member in before.values() if member not in leaving))


def _identity(server: Server) -> tuple[str, str]:
    return server.key, str(server.address)
