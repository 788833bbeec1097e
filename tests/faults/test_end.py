"""How a pool ends: closed, forgotten, or with its interpreter. Everybody wakes up, and nothing is left."""

from __future__ import annotations

import gc
import re
import threading
import time
from collections.abc import Callable

import pytest
from support.forgetting import forget
from support.inside import inside
from support.processes import assert_baseline, run_python, thread_names
from support.scripted import ScriptedConnection, ScriptedServer, answering, stats_reply
from support.server_pools import all_in_use
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until, within

from beanpool import Connection, PoolManager
from beanpool.errors import BeanpoolError, JobLost, NoServerAvailable, PoolClosed
from beanpool.server.pooled_connection import PooledConnection

WOKEN_WITHIN = 0.5


def close_while(
    pool: PoolManager, call: Callable[[], object], ready: Callable[[], object], timeout: float = 5
) -> float:
    """Close the pool while another thread is in `call`; returns how long that thread took to wake up."""
    caller = background(call, "the caller")
    wait_until(ready, "the caller to be in it")
    assert not caller.done
    started = time.monotonic()
    closer = background(lambda: pool.close(timeout), "the closer")
    error = caller.error(WOKEN_WITHIN + 1)
    took = time.monotonic() - started
    closer.result()
    assert isinstance(error, PoolClosed), repr(error)
    return took


def test_close_wakes_a_reserve(beanstalkd: BeanstalkdServer) -> None:
    pool = PoolManager(beanstalkd.url)
    control = beanstalkd.control.open()
    took = close_while(pool, lambda: pool.reserve(None), lambda: control.counter("current-waiting"))
    assert took < WOKEN_WITHIN
    wait_until(lambda: not control.counter("current-waiting"), "nobody to wait at the server", 1)
    wait_until(lambda: not control.other_connections(), "no connection to be left", 1)


def test_close_wakes_many_reserves_of_many_tubes(beanstalkd: BeanstalkdServer) -> None:
    pool = PoolManager(beanstalkd.url)
    control = beanstalkd.control.open()
    callers = [
        background(lambda tube=tube: pool.reserve(60, tubes=tube), f"caller {number}")  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
        for number, tube in enumerate(["a", "a", "a", "b", "c"])
    ]
    wait_until(lambda: control.counter("current-waiting") == 3, "one connection per tube to wait")
    with within(WOKEN_WITHIN, slack=0):
        pool.close()
        assert all(isinstance(caller.error(WOKEN_WITHIN), PoolClosed) for caller in callers)


def test_close_wakes_a_put_to_a_silent_server(black_hole: str) -> None:
    pool = PoolManager([black_hole], timeout=20, connect_timeout=20)
    took = close_while(pool, lambda: pool.put("x"), lambda: pool.servers[0].leased)
    assert took < WOKEN_WITHIN + 0.25


def test_close_wakes_who_waits_for_a_connection(beanstalkd: BeanstalkdServer) -> None:
    pool = PoolManager(beanstalkd.url, max_connections=1, timeout=20)
    with all_in_use(pool):
        took = close_while(pool, lambda: pool.put("y"), lambda: pool.get_stats()["requests_waiting"], timeout=0.2)
    assert took < WOKEN_WITHIN


def test_close_wakes_a_back_off(refused: str) -> None:
    retrying = threading.Event()
    pool = PoolManager([refused], timeout=20)
    pool.add_listener(lambda event: retrying.set() if type(event).__name__ == "RetryScheduled" else None)
    took = close_while(pool, lambda: pool.put("x"), retrying.is_set)
    assert took < WOKEN_WITHIN


def test_close_wakes_a_wait_for_servers(refused: str) -> None:
    pool = PoolManager([refused])
    took = close_while(pool, lambda: pool.wait(1, 20), lambda: pool.servers[0].state == "down")
    assert took < WOKEN_WITHIN


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_that_leaves_the_block_gives_jobs_back_at_once(
    beanstalkd: BeanstalkdServer, error: type[BaseException]
) -> None:
    jid = beanstalkd.control.put(b"x")
    with within(0.5, "leaving"), pytest.raises(error) as raised, PoolManager(beanstalkd.url) as pool:
        job = pool.reserve(0)
        assert job is not None
        raise error
    assert job
    assert job.lost
    wait_until(lambda: beanstalkd.control.state(jid) == "ready", "the job to be given back", 1)
    del raised


def test_a_job_can_be_finished_within_the_timeout_of_close(beanstalkd: BeanstalkdServer) -> None:
    pool = PoolManager(beanstalkd.url)
    jid = pool.put("x")
    job = pool.reserve(0)
    assert job is not None
    closer = background(lambda: pool.close(10), "the closer")
    wait_until(lambda: "(closed)" in repr(pool), "the pool to be closing")
    job.touch()
    job.delete()
    # It waits for nothing else.
    closer.result(WOKEN_WITHIN)
    assert beanstalkd.control.state(jid) is None


def test_a_job_that_outlives_the_timeout_of_close_is_given_back(beanstalkd: BeanstalkdServer) -> None:
    pool = PoolManager(beanstalkd.url)
    jid = pool.put("x")
    job = pool.reserve(0)
    assert job is not None
    with within(0.3, slack=0.25):
        pool.close(0.3)
    wait_until(lambda: beanstalkd.control.state(jid) == "ready", "the job to be given back", 1)
    assert job.lost
    with pytest.raises((JobLost, PoolClosed)):
        job.delete()
    assert beanstalkd.control.state(jid) == "ready"


def test_close_is_idempotent_from_any_thread_and_final(beanstalkd: BeanstalkdServer) -> None:
    with assert_baseline():
        pool = PoolManager(beanstalkd.url)
        PoolManager(beanstalkd.url).close()
        pool.put("x")
        closers = [background(lambda: pool.close(1), f"closer {number}") for number in range(4)]
        for closer in closers:
            closer.result(2)
        pool.close()
        for call in (lambda: pool.put("x"), lambda: pool.reserve(0), pool.stats, pool.tubes, lambda: pool.wait(1, 1)):
            with pytest.raises(PoolClosed):
                call()


def test_a_pool_that_was_never_closed_ends_its_thread_and_warns(beanstalkd: BeanstalkdServer) -> None:
    control = beanstalkd.control.open()
    with assert_baseline():
        held: list[object] = [pool := PoolManager(beanstalkd.url, name="forgotten", health_interval=0.2)]
        pool.put("x")
        assert thread_names("beanpool-monitor-forgotten")
        del pool
        with pytest.warns(ResourceWarning, match="forgotten was never closed"):
            forget(held)
        wait_until(lambda: not thread_names("beanpool-monitor-forgotten"), "its thread to end", 2)
    wait_until(lambda: not control.other_connections(), "no connection to be left", 1)


def test_a_job_that_is_dropped_unfinished_is_given_back(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager(beanstalkd.url, max_connections=1) as pool:
        jid = pool.put("x")
        job = pool.reserve(0)
        assert job is not None
        circle = [job]
        circle.append(circle)  # type: ignore[arg-type]  # A circle of references.
        del job, circle
        gc.collect()
        wait_until(lambda: beanstalkd.control.state(jid) == "ready", "the job to be given back", 1)
        assert pool.put("capacity is back", timeout=1)


def test_a_job_that_is_collected_under_every_lock_blocks_nobody(beanstalkd: BeanstalkdServer) -> None:
    # A finalizer runs wherever the collector pleases: also in a thread that holds the pool's locks.
    with PoolManager(beanstalkd.url) as pool:
        member = inside(pool).members[0]
        for lock in (
            inside(pool).cluster._lock,
            member._lock,
            member.pool._lock,
            inside(pool).cluster.monitor._lock,
            pool._reserver._lock,
        ):
            jid = pool.put("x")
            job = pool.reserve(0)
            assert job is not None

            def drop(lock: threading.RLock = lock) -> None:
                nonlocal job
                with lock:
                    job = None
                    gc.collect()

            background(drop, "collector").result(2)
            wait_until(lambda jid=jid: beanstalkd.control.state(jid) == "ready", "the job to be given back", 1)  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
            pool.delete(jid)


_EXIT = """
import contextlib, sys, threading, time
from beanpool import PoolManager
from beanpool.errors import BeanpoolError

def until_closed(call):
    def run():
        with contextlib.suppress(BeanpoolError):
            call()
    return threading.Thread(target=run, daemon=True)

pool = PoolManager([sys.argv[1], sys.argv[2]], timeout=30, connect_timeout=30, health_interval=0.05)
threads = [
    until_closed(lambda: pool.reserve(None)),
    until_closed(lambda: pool.reserve(60, tubes="other")),
    until_closed(lambda: [pool.put("y", key=str(n)) for n in range(100)]),
]
for thread in threads:
    thread.start()
job = pool.put("held", tube="held", timeout=0.5) and pool.reserve(1, tubes="held")
while not pool.get_stats()["pool_size"] >= 3:
    time.sleep(0.01)
{end}
"""


@pytest.mark.parametrize("end", ["", "pool.close(0.1)", "del pool", "sys.exit(0)"])
def test_the_interpreter_ends_promptly_and_silently(beanstalkd: BeanstalkdServer, black_hole: str, end: str) -> None:
    source = _EXIT.replace("{end}", end + "\nsys.stdout.write(str(time.monotonic()))")
    if end == "sys.exit(0)":
        source = _EXIT.replace("{end}", "sys.stdout.write(str(time.monotonic())); sys.exit(0)")
    # A pool that was never closed is a ResourceWarning, as it should be; here only the rest is looked at.
    source = "import warnings; warnings.simplefilter('ignore', ResourceWarning)\n" + source
    done = run_python(source, beanstalkd.address, black_hole)
    ended = time.monotonic()
    assert (done.returncode, done.stderr) == (0, "")
    took = ended - float(done.stdout)
    print(f"{end or 'end of the program'}: {took:.2f} s")
    assert took < 2.0
    wait_until(lambda: not beanstalkd.control.other_connections(), "no connection to be left", 1)


def test_a_program_with_a_closed_pool_says_nothing_at_all(beanstalkd: BeanstalkdServer) -> None:
    source = """
import sys
from beanpool import PoolManager
with PoolManager(sys.argv[1]) as pool:
    pool.delete(pool.put("x"))
    assert pool.reserve(0.01) is None
"""
    done = run_python(source, beanstalkd.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_import_opens_nothing_and_starts_nothing() -> None:
    source = """
import logging, os, threading
before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
import beanpool
assert threading.active_count() == 1
assert not logging.getLogger().handlers
after = os.listdir("/proc/self/fd") if before else []
assert len(after) == len(before), (before, after)
beanpool.PoolManager("beanstalk://127.0.0.1:1")
assert threading.active_count() == 1
"""
    done = run_python(source)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_pool_with_no_server_at_all_says_which_and_why(refused: str, black_hole: str) -> None:
    with PoolManager([refused, black_hole], timeout=0.5, connect_timeout=0.2) as pool:
        with within(0.5), pytest.raises(NoServerAvailable) as caught:
            pool.put("secret body")
        text = str(caught.value)
        assert refused in text
        assert black_hole in text
        assert "secret" not in text
        assert set(caught.value.errors) == {refused, black_hole}
        assert all(str(error) for error in caught.value.errors.values())
        with within(0.3), pytest.raises(NoServerAvailable):
            pool.reserve(0.3)


def test_connection_errors_carry_no_reason_that_is_empty(refused: str) -> None:
    host, port = refused.split(":")
    with pytest.raises(BeanpoolError) as caught:
        Connection(host, int(port))
    assert re.search(r"refused", str(caught.value))

    def reset(connection: ScriptedConnection, line: bytes, body: bytes) -> None:
        connection.reset()

    with (
        ScriptedServer(default=answering({"stats": stats_reply()}, otherwise=reset)) as server,
        PoolManager(server.url, timeout=0.5) as pool,
        pytest.raises(BeanpoolError) as caught,
    ):
        pool.put("x")
    assert not re.search(r"\(\s*\)|: *$|None", str(caught.value))


def test_a_connection_that_is_closed_under_a_check_does_not_end_the_monitor(
    beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``close()`` does in another thread: what the monitor's thread then raised would fail the test."""
    begin, closed = PooledConnection.begin_probe, threading.Event()

    def begin_and_lose(connection: PooledConnection, patience: float) -> None:
        begin(connection, patience)
        connection.drop("another thread has closed it")
        closed.set()

    with PoolManager(beanstalkd.url, health_interval=0.01) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(PooledConnection, "begin_probe", begin_and_lose)
            assert closed.wait(10)
            wait_until(lambda: pool.servers[0].state == "down", "the check to fail")
        wait_until(lambda: pool.servers[0].state == "up", "checks to go on")
        pool.delete(pool.put("works"))
