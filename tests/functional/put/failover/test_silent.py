"""Puts to servers that are silent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.interrupts import interrupted_when
from support.pools import pool_of
from support.processes import assert_baseline
from support.waiting import wait_until, within

from beanpool import NoServerAvailable, PutAmbiguous

if TYPE_CHECKING:
    from conftest import StartCluster
from support.putting import SECRET, key_of, state_of, told_of


class TestSilence:
    @pytest.mark.parametrize("warm", [False, True])
    def test_a_frozen_server_costs_no_more_than_the_deadline(self, cluster: StartCluster, warm: bool) -> None:
        servers = cluster(1)
        servers[0].control.open()
        with pool_of(*servers, connect_timeout=5) as pool:
            if warm:
                pool.put("job")
            servers[0].freeze()
            with within(0.4), pytest.raises(PutAmbiguous if warm else NoServerAvailable) as caught:
                pool.put(SECRET, timeout=0.4)
            assert servers[0].address in str(caught.value)
            assert not told_of(caught.value)
            servers[0].thaw()
        for job in servers[0].control.drain_all():
            assert warm or job.body != SECRET.encode(), "reported as not stored"

    @pytest.mark.parametrize("warm", [False, True])
    def test_a_frozen_server_leaves_time_for_another_one(self, cluster: StartCluster, warm: bool) -> None:
        servers = cluster(3)
        servers[0].control.open()
        with pool_of(*servers, connect_timeout=5, health_interval=600) as pool:
            key = key_of(pool, servers[0].address)
            if warm:
                pool.put("job", key=key)
            servers[0].freeze()
            with within(1.2):
                jid = pool.put("job", key=key, timeout=1.2)
            assert jid.server == pool.route(key)[1]
            assert jid.maybe_duplicate is warm, "only what was sent may be stored"
            servers[0].thaw()

    def test_two_frozen_servers_leave_time_for_the_third(self, cluster: StartCluster) -> None:
        servers = {server.address: server for server in cluster(3)}
        with pool_of(*servers.values(), health_interval=60, connect_timeout=5) as pool:
            first, second, third = pool.route("key")
            for address in (first, second):
                servers[address].control.open()
                servers[address].freeze()
            with within(1.2):
                assert pool.put("job", key="key", timeout=1.2).server == third
            servers[first].thaw()
            servers[second].thaw()

    def test_puts_without_a_key_soon_avoid_it(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with pool_of(*servers, timeout=0.4, connect_timeout=0.3) as pool:
            for _ in range(6):
                pool.put("job")
            servers[0].freeze()
            wait_until(lambda: state_of(pool, servers[0].address) != "up", "the silence to be noticed")
            for _ in range(30):
                with within(0.1):
                    assert pool.put("job").server != servers[0].address
            servers[0].thaw()
            wait_until(lambda: pool.put("job").server == servers[0].address, "the server to be used again")

    def test_control_c(self, cluster: StartCluster) -> None:
        servers = cluster(1)
        server = servers[0]
        server.control.open()
        with assert_baseline(), pool_of(*servers, health_interval=60) as pool:
            pool.put("job")
            server.freeze()
            with interrupted_when(lambda: pool.servers[0].leased):
                pool.put(SECRET)
            assert (pool.servers[0].open, pool.servers[0].state) == (0, "up")
            server.thaw()
            assert pool.put("job").server == server.address
