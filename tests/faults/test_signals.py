"""A signal every millisecond, which a handler takes and which raises nothing, pushes no deadline away."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from support.servers import BeanstalkdServer
from support.signals import pelted, pelted_elsewhere
from support.threads import background
from support.waiting import within

from beanpool import BeanpoolError, CommandTimeout, Connection, PoolManager, PoolTimeout
from beanpool.errors import Phase

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")

TIMEOUT = 0.25
EVERY = 0.001


@pytest.fixture
def pool(beanstalkd: BeanstalkdServer) -> Iterator[PoolManager]:
    with PoolManager([beanstalkd.address], timeout=TIMEOUT, connect_timeout=TIMEOUT, health_interval=30) as pool:
        yield pool
        beanstalkd.thaw()


@pytest.mark.parametrize("every", [0.001, 0.05])
def test_a_put_to_a_silent_server(beanstalkd: BeanstalkdServer, pool: PoolManager, every: float) -> None:
    pool.put("warm")
    beanstalkd.freeze()
    with within(2 * TIMEOUT), pelted(every), pytest.raises(BeanpoolError):
        pool.put("x")


def test_a_put_in_another_thread(beanstalkd: BeanstalkdServer, pool: PoolManager) -> None:
    pool.put("warm")
    beanstalkd.freeze()
    with within(2 * TIMEOUT):
        assert isinstance(pelted_elsewhere(lambda: pool.put("x"), EVERY), BeanpoolError)


def test_batches(beanstalkd: BeanstalkdServer, pool: PoolManager) -> None:
    pool.put_many(["warm"] * 3)
    jobs = pool.reserve_many(2, timeout=1)
    beanstalkd.freeze()
    with within(4 * TIMEOUT, "put_many"), pelted(EVERY):
        assert all(isinstance(outcome, BeanpoolError) for outcome in pool.put_many(["x"] * 10))
    with within(4 * TIMEOUT, "delete_many"), pelted(EVERY):
        assert all(isinstance(outcome, BeanpoolError) for outcome in pool.delete_many(jobs))


def test_commands_of_a_job(beanstalkd: BeanstalkdServer, pool: PoolManager) -> None:
    for command in ("touch", "delete", "release"):
        pool.put("x")
        job = pool.reserve(1)
        assert job is not None
        beanstalkd.freeze()
        with within(3 * TIMEOUT, command), pelted(EVERY), pytest.raises(BeanpoolError):
            getattr(job, command)()
        beanstalkd.thaw()


def test_a_reserve_that_waits_in_vain(pool: PoolManager) -> None:
    with within(TIMEOUT, slack=0.4), pelted(EVERY):
        assert pool.reserve(TIMEOUT) is None


def test_waiting_for_a_connection(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager([beanstalkd.address], timeout=TIMEOUT, max_connections=1) as pool:
        pool.put("x")
        job = pool.reserve(1)
        assert job is not None
        with within(TIMEOUT, slack=0.4), pelted(EVERY), pytest.raises(PoolTimeout):
            pool.reserve(TIMEOUT)
        # The same of the turn on the job's own connection, which another thread has.
        in_use, done = threading.Event(), threading.Event()

        def use() -> None:
            with job.connection.guard:
                in_use.set()
                done.wait(5)

        other = background(use)
        assert in_use.wait(5)
        with within(TIMEOUT, slack=0.4), pelted(EVERY), pytest.raises(CommandTimeout):
            job.touch()
        done.set()
        other.result()
        job.delete()


def test_a_connection(beanstalkd: BeanstalkdServer) -> None:
    def put(connection: Connection) -> None:
        connection.put("x")

    def put_much(connection: Connection) -> None:
        with connection.pipeline() as pipeline:
            for _ in range(3):
                pipeline.put("x")
        raise pipeline.results[0]

    for use in (put, put_much):
        with Connection(beanstalkd.host, beanstalkd.port, timeout=TIMEOUT) as connection:
            beanstalkd.freeze()
            with within(TIMEOUT), pelted(EVERY), pytest.raises(CommandTimeout) as caught:
                use(connection)
            beanstalkd.thaw()
            assert caught.value.phase is Phase.WAITING


def test_a_connection_that_is_not_read_from() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with Connection("127.0.0.1", port, timeout=TIMEOUT) as connection:
            with within(TIMEOUT), pelted(EVERY), pytest.raises(CommandTimeout) as caught:
                connection.put("x" * 24_000_000)
            assert caught.value.phase is Phase.SENDING


def test_a_connect_that_nobody_answers() -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        with within(TIMEOUT), pelted(EVERY), pytest.raises(CommandTimeout) as caught:
            Connection("127.0.0.1", full.getsockname()[1], connect_timeout=TIMEOUT)
        assert caught.value.phase is Phase.CONNECTING


def test_a_name_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    ask, answer = socket.getaddrinfo, threading.Event()

    def slow(host: str, *args: object, **options: int) -> object:
        if host == "slow.test" and not options.get("flags"):
            answer.wait(10)
        return real(host, *args, **options)

    real: Callable[..., object] = ask
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        with within(TIMEOUT), pelted(EVERY), pytest.raises(CommandTimeout) as caught:
            Connection("slow.test", 11300, connect_timeout=TIMEOUT)
        assert caught.value.phase is Phase.RESOLVING
    finally:
        answer.set()
