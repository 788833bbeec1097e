"""Servers at their limits: no descriptors left, and a start that takes its time."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.ledger import Ledger
from support.processes import run_python
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


WITHOUT_DESCRIPTORS = """
import os, resource, sys
from beanpool import BeanpoolError, Connection, NoServerAvailable, PoolManager

resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
address = sys.argv[1]
host, _, port = address.rpartition(":")


def fill():
    held = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        return held


def calls(pool):
    yield lambda: pool.put("x")
    yield lambda: pool.put_many(["x"] * 3)
    yield lambda: pool.reserve(0)
    yield lambda: pool.reserve(0.2)
    yield lambda: pool.reserve_many(2, timeout=0.2)
    yield lambda: pool.delete_many([1, 2])
    yield pool.stats
    yield pool.tubes
    yield lambda: pool.servers
    yield pool.get_stats
    yield lambda: pool.producer().close()
    yield lambda: Connection(host, int(port))
    yield lambda: Connection("localhost", int(port))
    yield lambda: Connection("a.name.invalid", int(port))


raised = 0
for warm in (False, True):
    with PoolManager([address], timeout=0.5, connect_timeout=0.5, health_interval=0.1) as pool:
        if warm:
            pool.put("y")
            pool.reserve(0).release()
        held = fill()
        if not warm:
            # A server that was not asked is not empty.
            try:
                pool.reserve(0)
            except NoServerAvailable:
                pass
            else:
                raise AssertionError("it says that there is no job")
        for call in calls(pool):
            try:
                call()
            except BeanpoolError:
                raised += 1
        # It says nothing of the server.
        assert [status.state for status in pool.servers] == ["up"], pool.servers
        for descriptor in held:
            os.close(descriptor)
        pool.put("z")
        job = pool.reserve(1)
        assert job is not None
        job.delete()
        with pool.producer() as producer:
            assert producer.put("z").result(5)
assert raised > 10, raised
print("done")
"""


def test_a_program_without_descriptors_gets_errors_of_ours(beanstalkd: BeanstalkdServer) -> None:
    """Every verb, of a pool that has a connection and of one that has none; afterwards all is well."""
    ended = run_python(WITHOUT_DESCRIPTORS, beanstalkd.address)
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "done\n")
