"""Servers at their limits: no descriptors left, and a start that takes its time."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.ledger import Ledger
from support.servers import BeanstalkdServer, ServerFactory
from support.waiting import wait_until, within

from beanpool import JobId, PoolManager

DESCRIPTORS = 24


def state_of(pool: PoolManager, server: BeanstalkdServer) -> str:
    return next(status.state for status in pool.servers if status.address == server.address)


def key_of(pool: PoolManager, server: BeanstalkdServer) -> str:
    return next(key for key in map(str, range(1000)) if pool.route(key)[0] == server.address)


@pytest.fixture
def crowd() -> Iterator[ExitStack]:
    """Connections that take up a server's descriptors."""
    with ExitStack() as stack:
        yield stack


def test_a_server_without_descriptors(
    beanstalkd: BeanstalkdServer, beanstalkd_factory: ServerFactory, crowd: ExitStack
) -> None:
    crowded = beanstalkd_factory(nofile=DESCRIPTORS)
    with PoolManager([crowded.address, beanstalkd.address], connect_timeout=1, timeout=4, health_interval=0.3) as pool:
        key = key_of(pool, crowded)
        # Its job keeps a connection that was made in time.
        early = pool.put("early", key=key, tube="mine")
        job = pool.reserve(2, tubes="mine")
        assert job is not None
        assert job.server == crowded.address
        for _ in range(2 * DESCRIPTORS):
            # The kernel accepts them all; the server serves as many as it has descriptors for.
            crowd.enter_context(socket.create_connection((crowded.host, crowded.port), timeout=5))
        for number in range(20):
            with within(4, "a put"):
                stored = pool.put(f"late {number}", key=key)
            # A connect that is accepted and never answered proves nothing: the put was not sent, so it is in one place.
            assert not stored.maybe_duplicate
            assert stored.server == beanstalkd.address
        assert state_of(pool, crowded) in ("suspect", "down")
        # Connections that it has keep working, whatever is believed of the server.
        job.touch()
        assert job.id == early
        job.delete()
        crowd.close()
        wait_until(lambda: state_of(pool, crowded) == "up", "the server to be found again", 10)
        assert pool.put("again", key=key).server == crowded.address


def test_a_start_that_takes_its_time(
    beanstalkd: BeanstalkdServer, beanstalkd_factory: ServerFactory, ledger: Ledger
) -> None:
    slow = beanstalkd_factory(wal=True)
    waiting = 60_000
    with PoolManager([slow.address]) as pool:
        assert all(isinstance(outcome, JobId) for outcome in pool.put_many(["x" * 10] * waiting, tube="many"))
    with PoolManager([slow.address, beanstalkd.address], connect_timeout=0.5, timeout=2, health_interval=0.2) as pool:
        key = key_of(pool, slow)
        slow.kill()
        body = ledger.token()
        with within(2, "a put while it is dead"):
            jid = pool.put(body, key=key)
        ledger.acked(body, jid.server, int(jid), maybe_duplicate=jid.maybe_duplicate)
        # It listens before it has read its log: a connect is accepted, and answered much later.
        slow.start(wait=False)
        for _ in range(50):
            body = ledger.token()
            with within(2, "a put while it reads its log"):
                jid = pool.put(body, key=key)
            ledger.acked(body, jid.server, int(jid), maybe_duplicate=jid.maybe_duplicate)
        wait_until(lambda: state_of(pool, slow) == "up", "the server to be found again", 20)
        assert pool.stats_tube("many")["current-jobs-ready"] == waiting
    slow.control.drain_jobs("many")
    ledger.reconcile([slow.control, beanstalkd.control])
