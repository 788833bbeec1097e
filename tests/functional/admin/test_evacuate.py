"""Emptying a server before it is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.servers import BeanstalkdServer
from support.tubes import count_in, fill, jobs_in
from support.waiting import within

from beanpool import PoolManager
from beanpool.admin import evacuate

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine

TUBES = ("a", "b", "default")


@pytest.mark.parametrize("draining", [False, True], ids=["", "draining"])
def test_all_tubes_go_to_the_other_servers_as_they_were(cluster: StartCluster, draining: bool) -> None:
    servers = cluster(3)
    for tube in TUBES:
        fill(servers[0], tube, ready=6, delayed=4, buried=3)
        fill(servers[1], tube, ready=1)
    servers[0].control.command("pause-tube b 1000")
    before = {tube: jobs_in(servers, tube) for tube in TUBES}
    if draining:
        servers[0].drain()
    with PoolManager([server.url for server in servers]) as pool:
        outcomes = evacuate(pool, servers[0].address)
        assert list(outcomes) == [servers[0].address]
        [outcome] = outcomes.values()
        assert (outcome.done, outcome.duplicates, outcome.skipped, outcome.unsure) == (39, 0, 0, 0)
        assert outcome.error is None
        assert [status.weight for status in pool.servers] == [0, 1, 1]
    assert {tube: jobs_in(servers[1:], tube) for tube in TUBES} == before
    assert [name for name in servers[0].control.tubes() if count_in(servers[:1], name)] == []


def test_a_server_is_named_by_its_name_too_and_jobs_in_hand_stay(cluster: StartCluster) -> None:
    servers = cluster(2)
    url = ",".join(f"{server.address};name=q{number}" for number, server in enumerate(servers))
    with PoolManager(f"beanstalk://{url}") as pool:
        servers[0].control.put(b"in hand", "a")
        job = pool.reserve(1, tubes="a")
        assert job is not None
        fill(servers[0], "a", ready=2)
        assert evacuate(pool, "q0", key=lambda job: job.data)[servers[0].address].done == 2
        assert count_in(servers[:1], "a") == 1
        job.delete()


def test_the_last_server_is_not_emptied(cluster: StartCluster) -> None:
    servers = cluster(2)
    with PoolManager([server.url for server in servers]) as pool:
        pool.set_weight(servers[0].address, 0)
        with pytest.raises(ValueError, match="no other server"):
            evacuate(pool, servers[1].address)
        with pytest.raises(ValueError, match="server must be one of"):
            evacuate(pool, "other:1")
        assert [status.weight for status in pool.servers] == [0, 1]


def test_what_cannot_go_anywhere_stays(cluster: StartCluster, beanstalkd: BeanstalkdServer) -> None:
    [other] = cluster(1)
    fill(beanstalkd, "a", ready=3, delayed=2)
    before = jobs_in([beanstalkd], "a")
    other.kill()
    with PoolManager([beanstalkd.url, other.url], connect_timeout=0.5) as pool:
        outcome = evacuate(pool, beanstalkd.address, timeout=1)[beanstalkd.address]
    assert (outcome.done, outcome.duplicates, outcome.unsure) == (0, 0, 0)
    assert other.address in str(outcome.error)
    assert jobs_in([beanstalkd], "a") == before


def test_the_tubes_of_a_far_server_are_looked_at_in_few_round_trips(
    cluster: StartCluster, delay_line: StartDelayLine
) -> None:
    far, near = cluster(2)
    for number in range(60):
        fill(far, f"tube-{number}", ready=1)
    fill(far, "tube-1", buried=1)
    with PoolManager([delay_line(far, 0.1).address, near.address]) as pool:
        # One by one that would be six seconds.
        with within(3, "an evacuation"):
            [outcome] = evacuate(pool, pool.servers[0].address, states="buried").values()
        assert (outcome.done, outcome.error) == (1, None)
