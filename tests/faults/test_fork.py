"""A fork: the child starts afresh, and nothing that it does or is reaches the parent's connections."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest
from support.locks import globals_of, locks_of
from support.scripted import ScriptedServer, answering, stats_reply, with_data
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until

from beanpool import Connection, Job, JobId, PoolManager, PutAmbiguous
from beanpool.errors import BeanpoolError, JobLost
from beanpool.events import Event
from beanpool.net import sockets

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    # Python warns of every fork with threads, which is what these tests are about.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


def in_child(work: Callable[[], object], timeout: int = 10) -> None:
    """Fork, do `work` in the child, and fail if it raises or does not end (SIGALRM ends it)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(timeout)
            work()
            status = 0
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-8000:])
        finally:
            # Neither pytest nor the parent's other finalizers may run here.
            os._exit(status)
    os.close(writer)
    try:
        with open(reader, "rb") as told:
            text = told.read().decode()
    finally:
        _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with {os.waitstatus_to_exitcode(status)}:\n{text}"


class StartPool(Protocol):
    def __call__(self, **options: object) -> PoolManager: ...


@pytest.fixture
def pool(beanstalkd: BeanstalkdServer) -> Iterator[PoolManager]:
    with PoolManager(beanstalkd.url, timeout=2, health_interval=0.3, max_connections=8) as pool:
        yield pool


def check_works(pool: PoolManager, tube: str) -> None:
    """The pool carries out commands, and each reply is its own."""
    for number in range(5):
        jid = pool.put(f"{tube} {number}", tube=tube)
        job = pool.reserve(2, tubes=tube)
        assert job is not None
        assert (job.id, job.body) == (jid, f"{tube} {number}")
        job.touch()
        job.delete()


def test_idle_and_borrowed_connections(beanstalkd: BeanstalkdServer, pool: PoolManager) -> None:
    control = beanstalkd.control.open()
    pool.put("in hand")
    job = pool.reserve(0)
    assert job is not None
    pool.put("idle", tube="other")
    before = control.other_connections()

    def child() -> None:
        for use in (job.delete, job.touch, job.release, job.bury, job.stats, job.reacquire):
            with pytest.raises(JobLost, match="parent process"):
                use()
        assert job.lost
        assert not job.reserved
        check_works(pool, "child")
        pool.close(0.1)

    in_child(child)
    # Nothing was shut down, nothing was given back, and the parent goes on on the very same connections.
    wait_until(lambda: control.other_connections() == before, "the child's own connections to be gone")
    assert control.state(job.id) == "reserved"
    check_works(pool, "parent")
    assert int(job.stats()["id"]) == job.id
    job.touch()
    job.delete()
    assert control.state(job.id) is None


def test_jobs_that_are_kept_alive(beanstalkd: BeanstalkdServer, pool: PoolManager) -> None:
    """Those of the parent are kept by the parent; the child has a thread of its own, for its own."""
    control = beanstalkd.control.open()
    pool.put("in hand")
    job = pool.reserve(0)
    assert job is not None
    with pool.keep(job) as kept:
        wait_until(lambda: control.counter("cmd-touch") == 1, "the parent's thread to be at work")
        pool.put("the child's")

        def child() -> None:
            own = pool.reserve(2)
            assert own is not None
            with pool.keep([own, job]) as in_child:
                wait_until(lambda: in_child.lost == (job,), "the parent's job not to be kept here")
                wait_until(lambda: own.stats()["reserves"] == 1 and pool.get_stats()["touched"], "its own to be")
                own.delete()
            kept.__exit__(None, None, None)
            pool.close(0.1)

        in_child(child)
        kept.add(job)
        assert kept.lost == ()
    assert control.state(job.id) == "reserved"
    assert control.counter("cmd-touch") == 2
    job.touch()
    job.delete()


def test_a_child_that_ends_without_a_word_gives_nothing_back(beanstalkd: BeanstalkdServer, pool: PoolManager) -> None:
    pool.put("in hand")
    job = pool.reserve(0)
    assert job is not None
    in_child(lambda: None)
    # As a child ends that drops everything it has inherited.
    in_child(lambda: job.__class__)
    assert beanstalkd.control.state(job.id) == "reserved"
    job.delete()


def test_a_plain_connection_and_its_job(beanstalkd: BeanstalkdServer) -> None:
    with Connection(beanstalkd.host, beanstalkd.port, timeout=2) as connection:
        connection.put("in hand")
        job = connection.reserve(0)
        assert job is not None

        def child() -> None:
            with pytest.raises(BeanpoolError, match="parent process"):
                connection.using()
            with pytest.raises(JobLost, match="parent process"):
                job.delete()
            connection.close()
            connection.reconnect()
            assert connection.using() == "default"

        in_child(child)
        assert connection.using() == "default"
        job.delete()


def test_mid_reserve_and_with_every_lock_held_by_other_threads(beanstalkd: BeanstalkdServer, pool: PoolManager) -> None:
    control = beanstalkd.control.open()
    events: list[Event] = []
    pool.add_listener(events.append)
    for number in range(3):
        control.put(b"%d" % number, "batch")
    batch = pool.reserve_many(3, 0, tubes="batch")
    waiter = background(lambda: pool.reserve(30, tubes="awaited"), "waiter")
    wait_until(lambda: control.counter("current-waiting") == 1, "the waiter to wait")
    producer = pool.producer()
    producer.put("x", tube="produced").result(5)
    # All that there are, whoever adds one; also those of the modules.
    locks = locks_of(pool, producer, globals_of("beanpool"))
    # A fork waits for this one, so that no socket is just being made.
    locks.pop(id(sockets._making))
    paths = " ".join(path for path, _ in locks.values())
    for owner in (
        "PoolManager",
        "ConnectionPool",
        "Member",
        "SharedWait",
        "Counters",
        "Listeners",
        "Monitor",
        "Producer",
    ):
        assert owner in paths
    held = threading.Event()
    release = threading.Event()

    def hold() -> None:
        mine = [lock for _, lock in locks.values() if lock.acquire(blocking=False)]
        held.set()
        assert release.wait(20)
        for lock in mine:
            lock.release()

    def child() -> None:
        taken = [path for path, lock in locks_of(pool, globals_of("beanpool")).values() if not _free(lock)]
        assert not taken
        check_works(pool, "child")
        assert pool.get_stats()["outages_num"] == 0
        assert pool.put_many(["a", "b"], tube="many")
        assert pool.stats()
        before = len(events)
        pool.put("x", tube="child")
        pool.add_server("127.0.0.1:1")
        pool.remove_server("127.0.0.1:1")
        pool.remove_listener(events.append)
        assert len(events) >= before > 0
        pool.close(0.1)

    holder = background(hold, "holder")
    assert held.wait(5)
    try:
        in_child(child)
    finally:
        release.set()
        holder.result()
    assert control.counter("current-waiting") == 1
    control.put(b"for the parent", "awaited")
    job = waiter.result(2)
    assert job is not None
    assert job.data == b"for the parent"
    job.delete()
    assert pool.delete_many(batch) == [None] * 3
    producer.put("y", tube="produced").result(5)
    producer.close()


def _free(lock: Any) -> bool:
    if not lock.acquire(blocking=False):
        return False
    lock.release()
    return True


def test_a_producer_starts_afresh_and_what_the_parent_has_put_is_the_parents(
    beanstalkd: BeanstalkdServer, pool: PoolManager
) -> None:
    with pool.producer(linger=60) as producer:
        future = producer.put("parent")

        def child() -> None:
            with pytest.raises(PutAmbiguous, match="parent process"):
                future.result(2)
            mine = producer.put("child")
            producer.flush(5)
            assert isinstance(mine.result(0), JobId)
            pool.producer().put("dropped").result(5)
            producer.put("at the end")
            producer.close()

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            in_child(child)
        assert not future.done()
    assert isinstance(future.result(0), JobId)
    bodies = sorted(job.body for job in beanstalkd.control.drain_all())
    assert bodies == [b"at the end", b"child", b"dropped", b"parent"]


def test_a_producer_while_threads_put_and_flush(beanstalkd: BeanstalkdServer, pool: PoolManager) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            producer.put("parent")
            producer.flush()

    def child() -> None:
        for _ in range(3):
            producer.put("child")
        producer.close()

    with pool.producer(linger=0) as producer:
        threads = [background(work) for _ in range(3)]
        for _ in range(10):
            in_child(child)
        stop.set()
        for thread in threads:
            thread.result()
    assert sum(job.body == b"child" for job in beanstalkd.control.drain_all()) == 30


def test_a_child_of_multiprocessing_that_ends_loses_nothing(beanstalkd: BeanstalkdServer, pool: PoolManager) -> None:
    with pool.producer(linger=60) as producer:
        process = multiprocessing.get_context("fork").Process(target=producer.put, args=("child",))
        process.start()
        process.join(10)
        assert process.exitcode == 0
        assert beanstalkd.control.counter("current-jobs-ready", "default") == 1


def test_nothing_is_written_to_or_shut_down_on_an_inherited_socket() -> None:
    # A scripted server sees every byte, and the end of every stream.
    serve = answering(
        {
            "stats": stats_reply(),
            "use": lambda connection, line, body: b"USING " + line.split()[1] + b"\r\n",
            "put": b"INSERTED 1\r\n",
            "reserve-with-timeout": with_data(b"RESERVED 1", b"job"),
            "delete": b"DELETED\r\n",
        }
    )
    with ScriptedServer(default=serve) as server, PoolManager(server.url, timeout=2, health_interval=60) as pool:
        job = pool.reserve(0)
        assert job is not None
        pool.put("idle")
        parents = [server.received(number) for number in range(2)]
        assert server.accepts == 2

        def child() -> None:
            pool.put("from the child")
            with contextlib.suppress(JobLost):
                job.delete()
            pool.close(0.1)

        in_child(child)
        assert server.accepts == 3
        assert b"from the child" in server.received(2)
        assert [server.received(number) for number in range(2)] == parents
        assert not any(connection.closed.is_set() for connection in server.connections[:2])
        job.delete()
        assert server.accepts == 3


def test_a_closed_pool_is_closed_in_the_child_too(beanstalkd: BeanstalkdServer) -> None:
    pool = PoolManager(beanstalkd.url)
    pool.put("x")
    pool.close()

    def child() -> None:
        with pytest.raises(BeanpoolError, match="closed"):
            pool.put("y")

    in_child(child)


def test_membership_and_weights_survive(cluster: Callable[..., list[BeanstalkdServer]]) -> None:
    servers = cluster(3)
    addresses = [server.address for server in servers]
    with PoolManager(addresses[:2]) as pool:
        pool.add_server(addresses[2])
        pool.remove_server(addresses[0])
        pool.set_servers([addresses[1], addresses[2], addresses[0]])
        pool.set_servers(addresses[1:])
        pool.set_weight(addresses[1], 0)

        def child() -> None:
            shown = [(status.address, status.leaving) for status in pool.servers]
            assert shown == [(addresses[1], False), (addresses[2], False), (addresses[0], True)]
            assert {pool.put("x").server for _ in range(10)} == {addresses[2]}
            pool.close(0.1)

        in_child(child)


def test_thirty_forks_under_load(beanstalkd: BeanstalkdServer, pool: PoolManager) -> None:
    stop = threading.Event()
    done: list[int] = []

    def work(number: int) -> None:
        count = 0
        while not stop.is_set():
            tube = f"load-{number}"
            jid = pool.put(tube, tube=tube)
            job: Job | None = pool.reserve(2, tubes=tube)
            assert job is not None
            assert (job.id, job.body) == (jid, tube)
            job.delete()
            # Keeps the machine free for the forks.
            stop.wait(0.002)
            count += 1
        done.append(count)

    threads = [background(lambda number=number: work(number), f"load {number}") for number in range(4)]  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
    try:
        started = time.monotonic()
        for number in range(30):
            # The alarm ends a child that hangs, and the test fails.
            in_child(lambda number=number: check_works(pool, f"child-{number}"), 5)  # type: ignore[misc]  # As above.
        print(f"30 forks under load: {time.monotonic() - started:.2f} s")
    finally:
        stop.set()
        for thread in threads:
            thread.result()
    assert min(done) > 0
    wait_until(lambda: not beanstalkd.control.counter("current-jobs-reserved"), "nothing to be reserved", 1)


def test_a_socket_that_is_being_connected_by_another_thread() -> None:
    """The child would keep the connection open, and the parent's job reserved, for as long as it lives."""
    # A queue that is full: the connect of the other thread is under way until the queue is emptied.
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        where = listening.getsockname()
        stack.enter_context(socket.create_connection(where))
        before = len(sockets._made)
        connecting = background(lambda: Connection(where[0], where[1], connect_timeout=8))
        wait_until(lambda: len(sockets._made) > before, "a socket that is being connected")

        hold_reader, hold_writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(hold_writer)
            # Lives until its parent is done.
            os.read(hold_reader, 1)
            os._exit(0)
        try:
            os.close(hold_reader)
            listening.settimeout(5)
            accepted: dict[tuple[str, int], socket.socket] = {}

            def emptied() -> bool:
                with contextlib.suppress(TimeoutError):
                    listening.settimeout(0.05)
                    sock, peer = listening.accept()
                    accepted[peer] = stack.enter_context(sock)
                return connecting.done

            wait_until(emptied, "the connect to come through", 8)
            connection = connecting.result()
            mine = connection._open_channel()._socket.getsockname()
            wait_until(lambda: emptied() and mine in accepted, "the connection to be accepted", 8)
            connection.close()
            accepted[mine].settimeout(3)
            assert accepted[mine].recv(1) == b""
        finally:
            os.close(hold_writer)
            os.waitpid(pid, 0)


def test_a_socket_that_is_just_being_made_by_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    made, go_on = threading.Event(), threading.Event()
    numbers: list[int] = []

    class Slow(sockets.Socket):
        __slots__ = ()

        def __init__(self, *args: int) -> None:
            super().__init__(*args)
            # The system has made it, and nobody knows of it yet.
            numbers.append(self.fileno())
            made.set()
            go_on.wait(5)

    monkeypatch.setattr(sockets, "Socket", Slow)
    making = background(lambda: sockets.new_socket(socket.AF_INET))
    assert made.wait(5)
    threading.Timer(0.1, go_on.set).start()

    def look() -> None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(numbers[0])
        # And the child can make its own.
        sockets.new_socket(socket.AF_INET).close()

    in_child(look)
    making.result().close()
