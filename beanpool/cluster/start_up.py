"""Waiting until enough servers answer."""

from __future__ import annotations

import time
from collections.abc import Iterable

from beanpool.cluster.cluster import Cluster
from beanpool.cluster.fan_out import Answers, ask_each
from beanpool.cluster.questions import WHO_IS_IT
from beanpool.errors import CommandTimeout, PoolClosed, no_server
from beanpool.server import Member

# Servers are asked again when something has changed, or after this (seconds).
_STEP = 0.2


def wait_for_servers(cluster: Cluster, min_servers: int, deadline: float) -> None:
    """Wait until so many servers answer; see :meth:`beanpool.PoolManager.wait`.

    :param deadline: monotonic seconds.
    """
    said: Answers = {}
    while True:
        members = [member for member in cluster.members() if not member.leaving]
        answers = _ask(cluster, members, deadline, min_servers)
        # From here on: asking has changed it too.
        version = cluster.availability.version
        # Only now it is known who is who.
        answers |= {member.address: member.unusable("does not count") for member in members if member.duplicate_of}
        if sum(not isinstance(answer, BaseException) for answer in answers.values()) >= min_servers:
            return
        # That the last round had no time left for a server says nothing of one that had answered before.
        said |= {
            address: answer
            for address, answer in answers.items()
            if not isinstance(answer, CommandTimeout) or isinstance(said.get(address, answer), BaseException)
        }
        cluster.availability.wait_for_change(version, min(max(0.0, deadline - time.monotonic()), _STEP))
        if cluster.closing.is_set():
            raise PoolClosed(f"{cluster.name} is closed")
        if time.monotonic() >= deadline:
            silent = {address: error for address, error in said.items() if isinstance(error, BaseException)}
            # Unless all of them have answered, but never at the same time.
            silent = silent or {a: error for a, error in answers.items() if isinstance(error, BaseException)}
            raise no_server(silent, f"answered, or fewer than {min_servers} did")


def _ask(cluster: Cluster, members: Iterable[Member], deadline: float, min_servers: int) -> Answers:
    """Ask all of them who they are; one that is silent is not waited for once so many have answered."""
    everyone = list(members)
    left: list[Member] = []
    asked = ask_each(
        {member: [WHO_IS_IT] for member in everyone if member.duplicate_of is None},
        deadline,
        enough=lambda said: (
            sum(not (m.duplicate_of or isinstance(answer, BaseException)) for m, (answer,) in said.items())
            >= min_servers
        ),
        left=left,
    )
    # Who has the time finds out how they are.
    cluster.monitor.reconnect(left)
    return {
        member.address: asked[member][0] if member in asked else member.unusable("not asked") for member in everyone
    }
