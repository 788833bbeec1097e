"""Which servers there are, and in which order a put asks them: an immutable snapshot, swapped as a whole."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping

from beanpool.config import AnyServer, label
from beanpool.policy import Rendezvous, weighted_round_robin
from beanpool.server import Member


class Topology:
    """The members of a cluster at one moment.

    The hash is over all members: health never changes a key's order, it only decides which of them are asked.

    :param rendezvous: the hash, if it is known already.
    :param turns: counts the puts without a key.
    :param weights: those of members that are about to get another one.
    """

    __slots__ = (
        "_by_address",
        "_members_by_name",
        "_owns",
        "_rendezvous",
        "_suspect",
        "_turns",
        "_up",
        "_up_twice",
        "distinct",
        "members",
        "next_taker",
        "single",
    )

    def __init__(
        self,
        members: tuple[Member, ...],
        rendezvous: Rendezvous | None = None,
        turns: Iterator[int] | None = None,
        weights: Mapping[Member, float] | None = None,
    ) -> None:
        self.members: tuple[Member, ...] = members
        self.distinct: tuple[Member, ...] = tuple(member for member in members if member.duplicate_of is None)
        """Without those that are other names of the same server processes."""
        self.single: Member | None = members[0] if len(members) == 1 else None
        self._members_by_name = {member.name: member for member in members}
        self._by_address = {member.address: member for member in members}
        shares = [member.weight for member in members] if weights is None else [weights[m] for m in members]
        self._rendezvous = rendezvous or Rendezvous(zip((m.name for m in members), shares, strict=True))
        # Asked of the rendezvous, it would be a function's call for every key.
        self._owns = len(self._rendezvous) > 0
        self._up = tuple(member for member in self.distinct if member.up)
        self._up_twice = self._up * 2
        self._suspect = tuple(member for member in self.distinct if not member.up and not member.down)
        # Suspect servers get what has a key of theirs; what can go anywhere goes to those that are up.
        takers = [member for member in members if member.accepting and member.up]
        takers = takers or [member for member in members if member.accepting]
        schedule = [takers[index] for index in weighted_round_robin([member.weight for member in takers])]
        # Every process starts elsewhere, so that a fleet's first puts do not meet on one server.
        self._turns = turns or itertools.count(random.randrange(1 << 30))
        # The turn modulo the length, without a line of Python.
        turn = map(schedule.__getitem__, map(len(schedule).__rmod__, self._turns)) if schedule else iter(())
        self.next_taker: Callable[[], Member | None] = functools.partial(next, turn, None)
        """The server whose turn it is to take a put without a key; None if none takes any."""

    def refreshed(self) -> Topology:
        """The same members, after the health of one changed."""
        return Topology(self.members, self._rendezvous, self._turns)

    def find(self, server: AnyServer) -> Member | None:
        """The member with this name or address."""
        name = label(server)
        return self._members_by_name.get(name) or self._by_address.get(name)

    def get(self, server: AnyServer) -> Member:
        """The member with this name or address.

        :raises ValueError: if there is none.
        """
        member = self.find(server)
        if member is None:
            raise ValueError(f"server must be one of {', '.join(self._members_by_name)}, not {server!r}")
        return member

    def owner(self, key: str | bytes) -> Member | None:
        """The server that `key` belongs to while it accepts puts; None if all weights are 0."""
        return self._members_by_name[self._rendezvous.owner(key)] if self._owns else None

    def order(self, key: str | bytes | None) -> list[Member]:
        """The servers in the order in which they are asked to take a put: a key's fixed one, or the next turns."""
        if key is not None:
            return [self._members_by_name[name] for name in self._rendezvous.order(key)]
        first = self.next_taker()
        rest = [member for member in self.distinct if member is not first and member.weight > 0]
        random.shuffle(rest)
        rest.sort(key=lambda member: not member.up)
        return rest if first is None else [first, *rest]

    def rotation(self, start: int) -> Iterator[Member]:
        """All servers but those that are down, those that are up first, from a rotating start."""
        # Turned after the others are left out: else whoever follows a dead server would come first twice as often.
        # One by one: most often the first one has a job, and hundreds of others need not be touched.
        count = len(self._up)
        first = start % count if count else 0
        turned = map(self._up_twice.__getitem__, range(first, first + count))
        return itertools.chain(turned, self._suspect) if self._suspect else turned


def duplicates(members: Iterable[Member]) -> dict[Member, Member]:
    """The members that are other names of server processes in the list, each with the first name that is not down."""
    first: dict[str, Member] = {}
    found = {}
    for member in members:
        if member.instance and not member.down:
            known = first.setdefault(member.instance, member)
            if known is not member:
                found[member] = known
    return found
