"""Servers that join, leave, and come back while the pool is at work."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from faults.changing_servers import KeyedLoad, owners_of
from support.inside import inside
from support.ledger import Ledger
from support.putting import key_of
from support.server_pools import all_in_use
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until, within

from beanpool import JobId, PoolManager, Server
from beanpool.errors import ConnectionFailed, NoServerAvailable

# More by hand.
PUTS_PER_PHASE = 400

Cluster = Callable[..., list[BeanstalkdServer]]
Put = Callable[[PoolManager, str], list[JobId]]


def _put_one(pool: PoolManager, key: str) -> list[JobId]:
    return [pool.put("x", key=key)]


def _put_two_together(pool: PoolManager, key: str) -> list[JobId]:
    stored = [outcome for outcome in pool.put_many(["x", "y"], key=key) if isinstance(outcome, JobId)]
    assert len(stored) == 2
    return stored


def test_a_server_that_is_added_joins_a_reserve_that_waits(cluster: Cluster) -> None:
    first, second = cluster(2)
    with PoolManager([first.address]) as pool:
        waiter = background(lambda: pool.reserve(10), "the waiter")
        wait_until(lambda: first.control.counter("current-waiting") == 1, "the reserve to wait")
        pool.add_server(second.address)
        added_at = time.monotonic()
        wait_until(lambda: second.control.counter("current-waiting") == 1, "it to wait on the new server", 1)
        print(f"joined after {time.monotonic() - added_at:.3f} s")
        second.control.put(b"from the new one")
        job = waiter.result(1)
        assert job is not None
        assert (job.server, job.data) == (second.address, b"from the new one")
        job.delete()


@pytest.mark.parametrize("down_first", [False, True])
def test_a_server_that_comes_back_joins_a_reserve_that_waits(cluster: Cluster, down_first: bool) -> None:
    servers = cluster(2)
    with PoolManager([server.address for server in servers], health_interval=0.5) as pool:
        if down_first:
            servers[0].kill()
        waiter = background(lambda: pool.reserve(None), "the waiter")
        wait_until(lambda: servers[1].control.counter("current-waiting") == 1, "the reserve to wait")
        if not down_first:
            servers[0].kill()
        wait_until(lambda: pool.servers[0].state == "down", "its death to be noticed", 2)
        servers[0].start()
        started_at = time.monotonic()
        wait_until(lambda: servers[0].control.counter("current-waiting") == 1, "it to be waited on again", 3)
        print(f"waited on again after {time.monotonic() - started_at:.3f} s")
        servers[0].control.put(b"from the one that came back")
        job = waiter.result(1)
        assert job is not None
        job.delete()


def test_a_removed_server_gets_and_gives_no_more_and_its_jobs_can_be_finished(cluster: Cluster) -> None:
    servers = cluster(2)
    with PoolManager([server.address for server in servers]) as pool:
        jid = servers[0].control.put(b"in hand")
        job = pool.reserve(1)
        assert job is not None
        waiter = background(lambda: pool.reserve(10, tubes="awaited"), "the waiter")
        wait_until(lambda: servers[0].control.counter("current-waiting") == 1, "the reserve to wait")
        pool.remove_server(servers[0].address)
        assert [status.address for status in pool.servers] == [servers[1].address]
        wait_until(lambda: servers[0].control.counter("current-waiting") == 0, "nobody to wait there", 1)
        servers[0].control.put(b"not for us", "awaited")
        assert {pool.put("x").server for _ in range(10)} == {servers[1].address}
        job.touch()
        job.delete()
        assert servers[0].control.state(jid) is None
        wait_until(lambda: servers[0].control.other_connections() == 0, "no connection to it", 2)
        servers[1].control.put(b"for us", "awaited")
        found = waiter.result(1)
        assert found is not None
        assert found.data == b"for us"
        found.delete()
        with pytest.raises(ValueError, match="last one"):
            pool.remove_server(servers[1].address)


@pytest.mark.parametrize("put", [_put_one, _put_two_together])
def test_a_put_that_waits_for_a_server_that_is_removed_goes_to_another(cluster: Cluster, put: Put) -> None:
    servers = cluster(2)
    with PoolManager([server.address for server in servers], max_connections=1, timeout=10) as pool:
        key = key_of(pool, servers[0].address)
        member = inside(pool).members[0]
        with all_in_use(pool):
            waiting = background(lambda: put(pool, key))
            wait_until(lambda: pool.get_stats()["requests_waiting"], "the put to wait")
            pool.remove_server(servers[0].address)
            with within(1):
                assert {jid.server for jid in waiting.result()} == {servers[1].address}
        # One that comes a moment later, with the topology from before.
        with pytest.raises(ConnectionFailed, match="was removed") as caught:
            member.pool.acquire(time.monotonic() + 1)
        assert not caught.value.may_have_taken_effect
        assert member.pool.try_acquire(("default",)) is None


def test_a_job_of_a_removed_server_can_be_finished_until_the_pool_closes(cluster: Cluster) -> None:
    servers = cluster(2)
    pool = PoolManager([server.address for server in servers])
    jid = servers[0].control.put(b"in hand")
    job = pool.reserve(1)
    assert job is not None
    pool.remove_server(servers[0].address)
    pool.close(0.1)
    wait_until(lambda: servers[0].control.state(jid) == "ready", "the job to be given back", 1)
    assert job.lost


def test_weight_0_means_no_puts_and_still_reserves(cluster: Cluster) -> None:
    servers = cluster(3)
    with PoolManager([server.address for server in servers]) as pool:
        keys = [f"key {number}" for number in range(40)]
        before = {key: pool.put("x", key=key, tube="keys").server for key in keys}
        pool.set_weight(servers[0].address, 0)
        after = {key: pool.put("x", key=key, tube="keys").server for key in keys}
        assert {key for key in keys if after[key] != before[key]} == {
            key for key in keys if before[key] == servers[0].address
        }
        assert servers[0].address not in {pool.put("x", tube="keys").server for _ in range(12)}
        servers[0].control.put(b"still reserved from")
        job = pool.reserve(1)
        assert job is not None
        assert job.server == servers[0].address
        job.delete()
        pool.set_weight(servers[0].address, 1)
        assert {key: pool.put("x", key=key, tube="keys").server for key in keys} == before


def test_wait_for_servers(cluster: Cluster) -> None:
    servers = cluster(2)
    servers[0].kill()
    with PoolManager([server.address for server in servers], health_interval=0.5) as pool:
        with within(0.5):
            pool.wait(1, timeout=0.5)
        with within(0.4), pytest.raises(NoServerAvailable) as caught:
            pool.wait(2, timeout=0.4)
        assert set(caught.value.errors) == {servers[0].address}
        waiter = background(lambda: pool.wait(2, timeout=5), "the waiter")
        servers[0].start()
        waiter.result(3)
        for wrong in (0, 3):
            with pytest.raises(ValueError):
                pool.wait(wrong)


def test_servers_that_come_and_go_under_load_lose_nothing(cluster: Cluster) -> None:
    servers = cluster(3)
    addresses = [server.address for server in servers]
    with PoolManager(addresses[:1], timeout=2) as pool:
        producer = background(lambda: [pool.put(f"{number}") for number in range(300)], "the producer")
        for _ in range(10):
            pool.add_server(addresses[1])
            pool.add_server(addresses[2])
            pool.remove_server(addresses[1])
            pool.remove_server(addresses[2])
        producer.result()
        bodies = [job.body for server in servers for job in server.control.drain_all()]
        assert sorted(bodies) == sorted(str(number).encode() for number in range(300))


def test_a_change_in_one_step_under_load_sends_no_put_by_way_of_a_third_server(
    cluster: Cluster, ledger: Ledger
) -> None:
    servers = cluster(5)
    a, b, c, d, e = (server.address for server in servers)
    # One joins; then two leave, which are drained, and another one joins.
    phases = [[a, b, c], [a, b, c, d], [a, b, e]]
    keys = [f"key {number}" for number in range(400)]
    owners = [owners_of(phase, keys) for phase in phases]
    with PoolManager(phases[0], timeout=1, health_interval=0.1) as pool:
        load = KeyedLoad(pool, ledger, keys)
        with load.running(producers=3, workers=2):
            load.await_puts(PUTS_PER_PHASE)
            for phase in phases[1:]:
                with load.changing():
                    pool.set_servers(phase)
                load.await_puts(PUTS_PER_PHASE)
        assert [status.address for status in pool.servers] == phases[-1]
    astray = load.astray(owners)
    report = ledger.reconcile([server.control for server in servers], exactly_once=True)
    moved = {key for key in keys if owners[1][key] != owners[0][key]}
    print(f"{len(moved)} of {len(keys)} keys moved, {len(astray)} of {len(load.placed)} puts went astray; {report}")
    assert {owners[1][key] for key in moved} == {d}
    assert not astray


class TestOneProcessUnderTwoNames:
    def test_is_used_as_one(self, cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
        first, other = cluster(2)
        again = f"localhost:{first.port}"
        with PoolManager([first.address, again, other.address], health_interval=600) as pool:
            with pytest.raises(NoServerAvailable, match=f"{again}: .*same server process as {first.address}"):
                pool.wait(3, timeout=1)
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            assert "the same process as" in caplog.text
            ids = [pool.put(f"job {number}") for number in range(60)]
            assert Counter(jid.server for jid in ids) == {first.address: 30, other.address: 30}
            assert {pool.put("job", key=str(key)).server for key in range(60)} == {first.address, other.address}
            assert pool.stats()["current-jobs-ready"] == 120
            assert isinstance(pool.stats_by_server()[again], ConnectionFailed)
            assert pool.kick(10) == 0
            waiting = background(lambda: pool.reserve(10, tubes="elsewhere"))
            wait_until(lambda: first.control.counter("current-waiting"), "a waiter")
            assert first.control.counter("current-waiting") == 1
            first.control.put(b"job", "elsewhere")
            job = waiting.result()
            assert job is not None
            job.delete()

    def test_stays_in_use_by_the_name_that_is_left(self, cluster: Cluster) -> None:
        server, other = cluster(2)
        again = f"localhost:{server.port}"
        with PoolManager([server.address, again, other.address], health_interval=600) as pool:
            with pytest.raises(NoServerAvailable):
                pool.wait(3, timeout=1)
            pool.remove_server(server.address)
            pool.wait(2)
            assert {pool.put("job").server for _ in range(4)} == {again, other.address}

    def test_is_two_again_once_they_are(self, cluster: Cluster) -> None:
        first, second = cluster(2)
        moving = Server("moves.example", first.port)
        addresses = {"moves.example": first.port}

        def resolve(host: str, port: int, *rest: object, **named: object) -> Any:
            return getaddrinfo("127.0.0.1", addresses.get(host, port), *rest, **named)  # type: ignore[arg-type]  # as it came

        getaddrinfo = socket.getaddrinfo
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", resolve)
            with PoolManager([first.address, moving], health_interval=0.1) as pool:
                with pytest.raises(NoServerAvailable, match="same server process"):
                    pool.wait(2, timeout=1)
                addresses["moves.example"] = second.port
                first.kill()
                wait_until(lambda: pool.servers[0].state == "down", "the outage to be noticed")
                pool.wait(1)
                first.start()
                pool.wait(2, timeout=10)
                assert len({pool.put("job").server for _ in range(4)}) == 2
