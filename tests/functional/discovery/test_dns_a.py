"""The addresses of a name as servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.name_server import ZONE, Zone
from support.servers import BeanstalkdServer
from support.waiting import wait_until, within

from beanpool import CommandTimeout, ConnectionFailed, DnsA, PoolManager, Server

if TYPE_CHECKING:
    from conftest import StartCluster


NAME = f"queue.{ZONE}"


def place(zone: Zone, servers: dict[str, BeanstalkdServer]) -> None:
    """Let the name have an address for each server."""
    zone.names.numeric |= {(ip, 11300): (server.host, server.port) for ip, server in servers.items()}
    zone.server.set(hosts={NAME: list(servers)})


def test_each_address_is_a_server(zone: Zone) -> None:
    zone.server.set(hosts={NAME: ["127.0.0.8", "127.0.0.7"]})
    found = DnsA(NAME, 11301)()
    assert (found.servers, found.ttl) == ((Server("127.0.0.7", 11301), Server("127.0.0.8", 11301)), None)


def test_numeric_hosts_need_no_name_server() -> None:
    assert DnsA("::1", 11301)().servers == (Server("::1", 11301),)
    assert DnsA("127.0.0.1")().servers == (Server("127.0.0.1"),)


def test_failures_say_what_happened(zone: Zone) -> None:
    with pytest.raises(ConnectionFailed, match=f"nobody.{ZONE}.*no address"):
        DnsA(f"nobody.{ZONE}")()
    zone.server.freeze()
    with within(0.2), pytest.raises(CommandTimeout, match="name server did not answer"):
        DnsA(NAME, timeout=0.2)()
    zone.server.thaw()


def test_servers_join_and_leave(cluster: StartCluster, zone: Zone) -> None:
    first, second = cluster(2)
    place(zone, {"127.0.0.7": first})
    with PoolManager(discovery=DnsA(NAME), discovery_interval=(0.05, 0.1), drain_for=0, timeout=1) as pool:
        pool.wait()
        assert pool.put("x").server == "127.0.0.7:11300"
        place(zone, {"127.0.0.7": first, "127.0.0.8": second})
        wait_until(lambda: len(pool.servers) == 2, "the second to join")
        pool.wait(2)
        assert {pool.put("x").instance for _ in range(4)} == {s.control.stats()["id"] for s in (first, second)}
        place(zone, {"127.0.0.8": second})
        wait_until(lambda: [s.address for s in pool.servers if not s.leaving] == ["127.0.0.8:11300"], "the first to go")
