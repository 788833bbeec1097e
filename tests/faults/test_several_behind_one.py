"""A load balancer, or a name with several addresses: one address, and now one server behind it, now another."""

from __future__ import annotations

import itertools
import logging
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from support.records import Records
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until

from beanpool import PoolManager


class Balancer:
    """Gives each connection the next server in turn."""

    def __init__(self, servers: list[BeanstalkdServer]) -> None:
        self._turns = itertools.cycle(servers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            server = next(self._turns)
            far = socket.create_connection((server.host, server.port))
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=self._copy, args=(source, sink), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(5)
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def balanced(cluster: Callable[..., list[BeanstalkdServer]]) -> Iterator[tuple[str, list[BeanstalkdServer]]]:
    servers = cluster(2)
    balancer = Balancer(servers)
    yield balancer.address, servers
    balancer.close()


def test_a_single_worker_with_a_single_connection_finds_the_jobs_of_both(
    balanced: tuple[str, list[BeanstalkdServer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beanpool.cluster.fresh_checks._EVERY", 0.1)
    address, servers = balanced
    with (
        Records("beanpool.pool", logging.WARNING) as records,
        PoolManager(address, name="p", timeout=5, health_interval=0.1) as pool,
    ):
        waiting = background(lambda: [pool.reserve(20, tubes="starved") for _ in servers], "a worker")
        wait_until(lambda: sum(server.control.counter("current-waiting") for server in servers) > 0, "it to wait")
        wait_until(lambda: bool(records), "it to be noticed", 10)
        for server in servers:
            server.control.put(b"z", "starved")
        for job in waiting.result(20):
            assert job is not None
            job.delete()
    assert len(records.take()) == 1


def test_it_is_said_once_and_no_job_of_either_server_starves(balanced: tuple[str, list[BeanstalkdServer]]) -> None:
    address, _ = balanced
    with (
        Records("beanpool.pool", logging.WARNING) as records,
        PoolManager(address, name="p", timeout=5, health_interval=0.3) as pool,
    ):
        workers = [background(lambda: pool.reserve(20, tubes="busy"), f"worker {n}") for n in range(2)]
        for _ in range(2):
            pool.put("x", tube="busy")
        for worker in workers:
            job = worker.result(20)
            assert job is not None
            job.delete()

        def noticed() -> bool:
            held = pool.reserve(0.05, tubes="none")
            assert held is None
            run = [background(lambda: pool.put("y", tube="other"), f"putter {n}") for n in range(3)]
            return all(call.result(10) for call in run) and bool(records)

        wait_until(noticed, "it to be noticed", 10)
        assert pool.servers[0].state == "up"
    [text] = records.texts()
    records.take()
    assert text.startswith(f"WARNING pool p: the address of server {address} leads to several server processes (")
    assert "List each server by an address of its own" in text
