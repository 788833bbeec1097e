"""A change of the servers is one step, as far as puts go."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from support.inside import inside

from beanpool import PoolManager, Server
from beanpool.cluster.cluster import Cluster

KEYS = [f"key {number}" for number in range(60)]
# A key's server moves from one of the first to one of the second.
CHANGES = [
    ("abc", "abcd"),
    ("abcd", "abc"),
    ("abc", "de"),
    ("ab", "cd"),
    ("abc", "ab0"),
    ("ab0", "abc"),
    ("ab0cd", "a0bce"),
]


def servers(letters: str) -> list[Server]:
    """A server for each letter; the one before a 0 has weight 0."""
    return [
        Server(letter, weight=0 if letters[place + 1 : place + 2] == "0" else 1)
        for place, letter in enumerate(letters)
        if letter != "0"
    ]


def takers(cluster: Cluster) -> list[str | None]:
    """Where a put with each key would go now."""
    topology = cluster.topology
    return [next((m.name for m in topology.order(key) if m.accepting), None) for key in KEYS]


@pytest.mark.parametrize("drain", [True, False])
@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_no_put_goes_by_way_of_a_third_server(before: str, after: str, drain: bool) -> None:
    # Never started, so that nobody finds out that there are no such servers.
    pool, other = PoolManager(servers(before)), PoolManager(servers(after))
    cluster = inside(pool).cluster
    old, new = takers(cluster), takers(inside(other).cluster)
    seen = looks_while(cluster, lambda: pool.set_servers(servers(after), drain=drain))
    assert seen[0] == old
    assert seen[-1] == takers(cluster) == new
    for look in seen:
        assert all(taker in (a, b) for taker, a, b in zip(look, old, new, strict=True))
    assert len(seen) > 20


def looks_while(cluster: Cluster, change: Any) -> list[list[str | None]]:
    """Where puts would go, at every line of the change."""
    looks: list[list[str | None]] = []

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename.endswith(("cluster/cluster.py", "server/member.py")):
            sys.settrace(None)
            looks.append(takers(cluster))
            sys.settrace(trace)
            return trace
        return None

    tracing = sys.gettrace()
    sys.settrace(trace)
    try:
        change()
    finally:
        sys.settrace(tracing)
    return looks
