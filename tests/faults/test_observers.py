"""Listeners and log handlers that raise or block, and what a log says of an outage: never a body, never nothing."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator

import pytest
from support.records import Records
from support.scripted import ScriptedServer, answering, stats_reply, with_data
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until

from beanpool import Connection, PoolManager
from beanpool.errors import BeanpoolError, JobLost
from beanpool.events import ConnectionOpened, Event

SECRET = "the-body-that-nobody-may-see"


@pytest.fixture
def log() -> Iterator[Records]:
    with Records("beanpool", lower=True) as records:
        yield records


def outage(server: BeanstalkdServer, pool: PoolManager) -> None:
    """Kill the server, until that is noticed, and start it, until that is noticed."""
    address = server.address

    def state() -> str:
        return next(status.state for status in pool.servers if status.address == address)

    server.kill()
    wait_until(lambda: state() == "down", "the death to be noticed")
    server.start()
    wait_until(lambda: state() == "up", "the return to be noticed")


def test_one_warning_and_one_info_with_its_length_per_outage(
    cluster: Callable[..., list[BeanstalkdServer]], log: Records
) -> None:
    servers = cluster(2)
    with PoolManager([server.address for server in servers], name="p", timeout=2, health_interval=0.2) as pool:
        stop = threading.Event()

        def load() -> None:
            while not stop.wait(0.002):
                pool.put("x")
                job = pool.reserve(0)
                if job is not None:
                    try:
                        job.delete()
                    except JobLost:
                        continue

        threads = [background(load, f"load {number}") for number in range(4)]
        for _ in range(2):
            outage(servers[0], pool)
        stop.set()
        for thread in threads:
            thread.result()
        assert pool.get_stats()["outages_num"] == 2
    found = [(record.levelname, record.getMessage()) for record in log if record.levelno >= logging.INFO]
    assert [level for level, _ in found] == ["WARNING", "INFO"] * 2
    for level, text in found:
        assert f"server {servers[0].address} is" in text
        assert text.endswith(" s") if level == "INFO" else ": " in text.rpartition("is down")[2]
        assert not text.endswith((": ", "None", "()"))


@pytest.mark.parametrize("raised", [RuntimeError, BrokenPipeError])
def test_a_listener_that_raises_harms_nobody_and_is_logged_once(
    beanstalkd: BeanstalkdServer, log: Records, raised: type[Exception]
) -> None:
    seen: list[Event] = []

    def raises(event: Event) -> None:
        raise raised("from the listener")

    with PoolManager(beanstalkd.url, timeout=2, max_connections=1, health_interval=0.2) as pool:
        pool.add_listener(raises)
        pool.add_listener(seen.append)
        pool.put("x")
        job = pool.reserve(0)
        assert job is not None
        job.delete()
        outage(beanstalkd, pool)
        pool.put("y")
        assert pool.servers[0].leased == 0
        assert len(seen) >= 4
    complaints = [record for record in log if "listener" in record.getMessage()]
    assert len(complaints) == 1
    assert complaints[0].exc_info


def test_a_listener_that_blocks_holds_no_lock(beanstalkd: BeanstalkdServer) -> None:
    blocked, release = threading.Event(), threading.Event()

    def block(event: Event) -> None:
        if isinstance(event, ConnectionOpened) and not blocked.is_set():
            blocked.set()
            assert release.wait(20)

    with PoolManager(beanstalkd.url, timeout=2) as pool:
        pool.add_listener(block)
        first = background(lambda: pool.put("blocked"), "the one that is held up")
        assert blocked.wait(5)
        # Everybody else goes on.
        jid = pool.put("x", tube="other", timeout=1)
        job = pool.reserve(1, tubes="other")
        assert job is not None
        assert job.id == jid
        job.delete()
        assert pool.servers[0].state == "up"
        assert pool.get_stats()["pool_size"] >= 1
        release.set()
        first.result()


def test_a_log_handler_that_raises_harms_nobody(beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Raises(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("from the handler")

    handler = Raises()
    logger = logging.getLogger("beanpool")
    logger.addHandler(handler)
    try:
        with PoolManager(beanstalkd.url, timeout=2, health_interval=0.2, max_connections=2) as pool:
            pool.put("x")
            outage(beanstalkd, pool)
            outage(beanstalkd, pool)
            pool.put("y")
            wait_until(lambda: pool.servers[0].leased == 0, "no connection to be leased")
    finally:
        logger.removeHandler(handler)


def test_no_body_in_any_log_record_repr_event_or_exception(
    cluster: Callable[..., list[BeanstalkdServer]], log: Records
) -> None:
    texts: list[str] = []
    bad = answering(
        {
            "stats": stats_reply(),
            "use": lambda connection, line, body: b"USING " + line.split()[1] + b"\r\n",
            "put": lambda connection, line, body: b"INSERTED 1\r\n" + body + b"\r\n",
            "reserve-with-timeout": with_data(b"RESERVED 5", SECRET.encode()) + SECRET.encode() + b"\r\n",
            "delete": SECRET.encode() + b"\r\n",
            "stats-job": with_data(b"OK", SECRET.encode()),
        },
        otherwise=SECRET.encode() + b"\r\n",
    )
    [server] = cluster(1)
    with (
        ScriptedServer(default=bad) as liar,
        PoolManager([server.address, liar.address], timeout=0.5, health_interval=0.1, name="scanned") as pool,
    ):
        pool.add_listener(lambda event: texts.append(repr(event)))
        calls: list[Callable[[], object]] = [
            lambda: pool.put(SECRET),
            lambda: pool.put(SECRET * 10000),
            lambda: pool.put(SECRET, priority=-1),
            lambda: pool.put(SECRET, tube="wrong\r\nname"),
            lambda: pool.put(SECRET, on_ambiguous="raise"),
            lambda: pool.reserve(0),
            pool.tubes,
            pool.stats_by_server,
            lambda: pool.delete(1, server=liar.address),
            lambda: pool.peek(1, server=liar.address),
            lambda: Connection(liar.host, liar.port, timeout=0.5).put(SECRET),
            lambda: Connection(liar.host, liar.port, timeout=0.5).stats_job(1),
        ]
        for _ in range(3):
            for call in calls:
                try:
                    result = call()
                except (BeanpoolError, ValueError) as error:
                    texts += [repr(error), str(error)]
                    # What a log shows: the lines of the source hold no values.
                    texts += traceback.format_exception(error)
                else:
                    texts.append(repr(result))
        server.kill()
        wait_until(lambda: pool.servers[0].state == "down", "the death to be noticed")
        for call in calls:
            try:
                call()
            except (BeanpoolError, ValueError) as error:
                texts += [repr(error), str(error), *traceback.format_exception(error)]
        texts += [repr(pool), repr(pool.servers), repr(pool.get_stats())]
        server.start()
    texts += log.texts()
    assert len(texts) > 50
    assert [text for text in texts if SECRET in text] == []


def test_counters_are_always_all_there(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager(beanstalkd.url, timeout=1, health_interval=0.2) as pool:
        before = pool.get_stats()
        assert set(before.values()) - {32} == {0}
        pool.put("x")
        outage(beanstalkd, pool)
        pool.put("y")
        after = pool.get_stats()
        assert set(after) == set(before)
        assert after["outages_num"] == 1
        assert after["connections_num"] >= 2
