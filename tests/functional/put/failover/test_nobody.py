"""Puts that no server takes: what the caller is told, and when."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import pytest
import tenacity
from support.inside import inside
from support.pools import pool_of
from support.scripted import expect_line, send
from support.server_pools import all_in_use
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until, within

from beanpool import NoServerAvailable, PoolClosed, PoolManager, PoolTimeout, Server

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted
from support.putting import SECRET, told_of

NEVER = tenacity.wait_fixed(600)


class TestNobody:
    def test_every_server_is_named_with_its_reason(self, cluster: StartCluster, scripted_server: StartScripted) -> None:
        down, drains, silent = cluster(3)
        down.kill()
        drains.drain()
        silent.control.open()
        silent.freeze()
        mad = scripted_server(default=[expect_line(b"stats"), send(b"HTTP/1.1 400 Bad Request\r\n\r\n")])
        with PoolManager(
            [down.address, drains.address, silent.address, mad.address], connect_timeout=0.1, timeout=0.7
        ) as pool:
            with within(0.7), pytest.raises(NoServerAvailable) as caught:
                pool.put(SECRET)
            reasons = {address: str(error) for address, error in caught.value.errors.items()}
            assert set(reasons) == {down.address, drains.address, silent.address, mad.address}
            assert "refused" in reasons[down.address]
            assert "draining" in reasons[drains.address].lower()
            assert "in time" in reasons[silent.address] or "ran out" in reasons[silent.address]
            assert all(address in str(caught.value) for address in reasons)
            silent.thaw()
        assert not told_of(caught.value)

    def test_a_server_that_comes_up_in_time_gets_it(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            server.kill()
        with pool_of(*servers) as pool:
            call = background(lambda: pool.put("job"))
            wait_until(lambda: pool.get_stats()["retries_num"], "the first retry")
            servers[1].start()
            jid = call.result()
            assert jid.server == servers[1].address
            assert not jid.maybe_duplicate

    def test_a_comeback_ends_the_pause(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            server.kill()
        with pool_of(*servers, retry=NEVER) as pool:
            calls = [background(lambda: pool.put("job", timeout=900)) for _ in range(3)]
            wait_until(lambda: pool.get_stats()["retries_num"] == 3, "three pauses")
            servers[1].start()
            assert [call.result().server for call in calls] == [servers[1].address] * 3

    def test_a_new_server_ends_the_pause(self, cluster: StartCluster) -> None:
        dead, new = cluster(2)
        dead.kill()
        with pool_of(dead, retry=NEVER) as pool:
            call = background(lambda: pool.put("job", timeout=900))
            wait_until(lambda: pool.get_stats()["retries_num"], "the pause")
            pool.add_server(new.address)
            assert call.result().server == new.address

    def test_a_server_that_gets_weight_ends_the_pause(self, cluster: StartCluster) -> None:
        dead, spared = cluster(2)
        dead.kill()
        with PoolManager([dead.address, Server(spared.host, spared.port, weight=0)], retry=NEVER) as pool:
            calls = [background(lambda key=key: pool.put("job", key=key, timeout=900)) for key in (None, "key")]  # type: ignore[misc]
            wait_until(lambda: pool.get_stats()["retries_num"] == 2, "the pauses")
            pool.set_weight(spared.address, 1)
            assert [call.result().server for call in calls] == [spared.address] * 2

    def test_another_name_of_a_server_that_was_removed_ends_the_pause(self, cluster: StartCluster) -> None:
        dead, other = cluster(2)
        dead.kill()
        with PoolManager([dead.address, other.address, f"localhost:{other.port}"], retry=NEVER) as pool:
            pool.wait(1)
            wait_until(
                lambda: any(m.duplicate_of for m in inside(pool).members),
                "the second name to be known",
            )
            pool.set_weight(other.address, 0)
            call = background(lambda: pool.put("job", timeout=900))
            wait_until(lambda: pool.get_stats()["retries_num"], "the pause")
            pool.remove_server(other.address)
            assert call.result().server == f"localhost:{other.port}"

    def test_a_pause_that_would_be_too_long_is_cut_not_the_call(self, cluster: StartCluster) -> None:
        (server,) = cluster(1)
        server.kill()
        with pool_of(server, retry=NEVER) as pool:
            call = background(lambda: pool.put("job", timeout=30))
            wait_until(lambda: pool.get_stats()["retries_num"], "the pause")
            server.start()
            assert call.result(20).server == server.address

    def test_who_waits_has_a_dead_server_checked_before_its_back_off_ends(self, cluster: StartCluster) -> None:
        (server,) = cluster(1)
        server.kill()
        with pool_of(server, health_interval=3600) as pool:
            with pytest.raises(NoServerAvailable):
                pool.put("job", timeout=0.1)
            # As after hours of failures.
            (member,) = inside(pool).members
            member.health = dataclasses.replace(member.health, retry_at=time.monotonic() + 1000)
            server.start()
            assert pool.put("job", timeout=30).server == server.address

    def test_the_callers_own_rule_for_retries(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            server.kill()
        with (
            pool_of(*servers, retry=tenacity.stop_after_attempt(1)) as pool,
            within(0.3),
            pytest.raises(NoServerAvailable),
        ):
            pool.put("job", timeout=5)
        with pool_of(*servers, retry=[tenacity.stop_after_attempt(3), tenacity.wait_fixed(0.01)]) as pool:
            with within(0.3), pytest.raises(NoServerAvailable):
                pool.put("job", timeout=5)
            assert pool.get_stats()["retries_num"] == 2
        with pytest.raises(TypeError, match="retry must be tenacity"):
            pool_of(*servers, retry="often")

    def test_closing_ends_it(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            server.kill()
        pool = pool_of(*servers)
        call = background(lambda: pool.put("job", timeout=30))
        wait_until(lambda: pool.get_stats()["retries_num"], "the first retry")
        with within(0.5):
            pool.close()
            assert isinstance(call.error(), PoolClosed)
        with pytest.raises(PoolClosed):
            pool.put("job")

    def test_all_connections_are_in_use(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager([beanstalkd.address], max_connections=1) as pool:
            pool.put("job")
            job = pool.reserve(timeout=0)
            assert job is not None
            told = (
                f"{beanstalkd.address}.* 1 of 1 are in use, 1 of them by unfinished jobs.*max_connections, which is 1"
            )
            with all_in_use(pool), within(0.2), pytest.raises(PoolTimeout, match=told):
                pool.put("another", timeout=0.2)
            assert pool.servers[0].state == "up"
            job.delete()
            pool.put("another")
