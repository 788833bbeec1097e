"""Which servers are asked, and in which order."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from beanpool.cluster.topology import Topology
from beanpool.config import Server, Settings
from beanpool.errors import CommandTimeout, ConnectionFailed, Phase
from beanpool.policy.health import Health
from beanpool.server.member import Member
from beanpool.telemetry.reporter import Reporter


class Bystander:
    """A cluster that takes no notice."""

    def member_changed(self, member: Member, before: Health, after: Health) -> None: ...

    def member_doubted(self, member: Member) -> None: ...

    def member_starved(self, member: Member) -> None: ...

    def member_emptied(self, member: Member) -> None: ...


def members(*weights: float) -> tuple[Member, ...]:
    return tuple(
        Member(Server(f"q{number}", weight=weight), Settings(), Bystander(), Reporter("p"))
        for number, weight in enumerate(weights)
    )


def take_down(member: Member) -> None:
    member.report(ConnectionFailed("refused", phase=Phase.CONNECTING), member.health.generation, time.monotonic())


def make_suspect(member: Member) -> None:
    member.report(CommandTimeout("silent", phase=Phase.WAITING), member.health.generation, time.monotonic())


@pytest.mark.parametrize("dead", range(5))
def test_a_sweep_starts_at_each_server_equally_often_whoever_is_down(dead: int) -> None:
    cluster = members(1, 1, 1, 1, 1)
    take_down(cluster[dead])
    topology = Topology(cluster)
    first = Counter(next(topology.rotation(start)).name for start in range(400))
    assert first == {member.name: 100 for member in cluster if member is not cluster[dead]}


def test_a_sweep_asks_each_server_once_those_that_are_up_first() -> None:
    cluster = members(1, 1, 1, 1)
    take_down(cluster[0])
    make_suspect(cluster[1])
    topology = Topology(cluster)
    for start in range(10):
        order = list(topology.rotation(start))
        assert order[-1] is cluster[1]
        assert set(order[:-1]) == {cluster[2], cluster[3]}


def test_turns_honour_the_weights() -> None:
    topology = Topology(members(1, 2, 0, 1))
    turns = Counter(taker.name for _ in range(400) if (taker := topology.next_taker()) is not None)
    assert turns == {"q0:11300": 100, "q1:11300": 200, "q3:11300": 100}


def test_puts_without_a_key_prefer_servers_that_are_up() -> None:
    cluster = members(1, 1)
    make_suspect(cluster[0])
    topology = Topology(cluster)
    assert {topology.next_taker() for _ in range(20)} == {cluster[1]}
    take_down(cluster[1])
    assert {topology.refreshed().next_taker() for _ in range(20)} == {cluster[0]}


def test_health_changes_no_key_s_order() -> None:
    cluster = members(1, 1, 1, 1)
    before = [Topology(cluster).order(f"key {number}") for number in range(50)]
    take_down(cluster[2])
    make_suspect(cluster[3])
    assert [Topology(cluster).order(f"key {number}") for number in range(50)] == before


def test_nobody_takes_puts_when_all_weights_are_zero() -> None:
    topology = Topology(members(0, 0))
    assert topology.next_taker() is None
    assert topology.owner("key") is None
    assert topology.order("key") == []
    assert topology.order(None) == []


def test_a_server_is_found_by_name_and_by_address() -> None:
    member = Member(Server("q", 11301, name="first"), Settings(), Bystander(), Reporter("p"))
    topology = Topology((member,))
    assert topology.find("first") is topology.find("q:11301") is topology.single is member
    assert topology.find("second") is None
