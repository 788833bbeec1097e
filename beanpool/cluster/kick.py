"""A kick of one tube over all servers, with one bound for all of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from beanpool.cluster.fan_out import Answers, ask_all, ask_each
from beanpool.cluster.questions import about_tube, to_kick
from beanpool.errors import NotFound
from beanpool.server import Member

# A server answers nobody else while it kicks: 100,000 jobs took it 0.41 s.
PORTION = 1000

Kickable = TypeVar("Kickable")


def kick_all(members: Sequence[Member], deadline: float, bound: int, tube: str) -> Answers:
    """Kick up to `bound` jobs of a tube over all servers; returns each one's count, or its error.

    A server kicks delayed jobs where none is buried. Of a cluster that must be said of all servers: as long as one has
    buried jobs, no other one may take its place with delayed ones. So all are asked first, with half of the time.

    :param deadline: monotonic seconds.
    """
    if not bound:
        return {member.address: 0 for member in members}
    now = time.monotonic()
    answers = ask_all(members, now + (deadline - now) / 2, about_tube(tube))
    counts: dict[Member, Mapping[str, Any]] = {}
    for member in members:
        answer = answers[member.address]
        if isinstance(answer, NotFound):
            answers[member.address] = 0
        elif not isinstance(answer, BaseException):
            answers[member.address] = 0
            counts[member] = answer
    kicked = ask_each(
        {
            member: [to_kick(portion, tube) for portion in portions(count)]
            for member, count in shares(counts, bound).items()
        },
        deadline,
    )
    for member, done in kicked.items():
        errors = [outcome for outcome in done if isinstance(outcome, BaseException)]
        answers[member.address] = errors[0] if errors else sum(done)
    return answers


def shares(counts: Mapping[Kickable, Mapping[str, Any]], bound: int) -> dict[Kickable, int]:
    """How many jobs each server is to kick, by the statistics of the tube there; those with none are left out."""
    for state in ("current-jobs-buried", "current-jobs-delayed"):
        found, left = {}, bound
        for server, statistics in counts.items():
            count = min(left, int(statistics.get(state, 0)))
            left -= count
            if count:
                found[server] = count
        if found:
            return found
    return {}


def portions(count: int) -> Iterable[int]:
    """`count` in pieces, so that others get their turns between."""
    whole, rest = divmod(count, PORTION)
    return [PORTION] * whole + [rest] * bool(rest)
