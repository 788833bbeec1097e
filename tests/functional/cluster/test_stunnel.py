"""Servers behind TLS, with the settings of docs/tls.md and a real stunnel."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest
from support.stunnel import LOOPBACK, tunnels
from support.waiting import wait_until

from beanpool import PoolManager, Server

if TYPE_CHECKING:
    from conftest import StartCluster


def test_a_pool_works_through_tunnels(cluster: StartCluster) -> None:
    servers = cluster(2, wal=True)
    with tunnels() as tunnel:
        near = [tunnel.open(server)[0] for server in servers]
        listed = [
            Server(LOOPBACK, int(address.rpartition(":")[2]), name=name)
            for address, name in zip(near, ("q1", "q2"), strict=True)
        ]
        with PoolManager(listed, health_interval=0.2, timeout=10, connect_timeout=5) as pool:
            assert {pool.put(f"job {number}").server for number in range(4)} == set(near)
            bodies = set()
            for _ in range(4):
                job = pool.reserve(timeout=10)
                assert job is not None
                job.touch()
                bodies.add(job.body)
                job.delete()
            assert bodies == {f"job {number}" for number in range(4)}

            # A wait on both, which a put ends; the other server's wait is half-closed through its tunnel.
            def wait() -> None:
                job = pool.reserve(timeout=30)
                assert job is not None
                bodies.add(job.body)

            waiting = threading.Thread(target=wait)
            waiting.start()
            wait_until(lambda: pool.stats()["current-waiting"] == 2, "the wait on both servers")
            pool.put("late")
            waiting.join(30)
            assert "late" in bodies

            # A stunnel whose server is gone still accepts connects.
            home = pool.route("alice")[0]
            lost = servers[near.index(home)]
            lost.kill()
            assert pool.put("welcome", key="alice").server != home
            wait_until(lambda: {status.state for status in pool.servers} == {"up", "down"}, "one to be down")
            lost.start()
            wait_until(lambda: {status.state for status in pool.servers} == {"up"}, "it to be up again", 30)
            assert pool.put("welcome", key="alice").server == home


def test_who_has_no_certificate_gets_nowhere(cluster: StartCluster) -> None:
    (server,) = cluster(1)
    with tunnels() as tunnel:
        _, far = tunnel.open(server)
        before = server.control.counter("cmd-stats")
        stranger = ssl.create_default_context(cafile=str(tunnel.folder / "authority.pem"))
        with socket.create_connection((LOOPBACK, far), 10) as plain, pytest.raises((ssl.SSLError, OSError)):  # noqa: SIM117
            with stranger.wrap_socket(plain, server_hostname=LOOPBACK) as secured:
                secured.sendall(b"stats\r\n")
                if not secured.recv(100):
                    raise ConnectionResetError
        assert server.control.counter("cmd-stats") == before + 1
