"""The buffered producer: single puts at the speed of batches, with the promises of single puts."""

from __future__ import annotations

import contextlib
import gc
import itertools
import re
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING

import pytest
from support.processes import run_python, thread_names
from support.scripted import ScriptedConnection, answering, stats_reply
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import JobId, NoServerForPut, PoolClosed, PoolManager, PoolTimeout, PoolTimeoutForPut, PutAmbiguous
from beanpool.put.producer import Producer

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted


@pytest.fixture
def pool(cluster: StartCluster) -> Iterator[PoolManager]:
    with PoolManager([server.address for server in cluster(2)]) as made:
        yield made


@pytest.fixture
def refused() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def test_a_future_of_the_job_id(pool: PoolManager) -> None:
    with pool.producer() as producer:
        jid = producer.put("body", priority=7, ttr=9, tube="mine", key="k").result(5)
    assert isinstance(jid, JobId)
    assert jid.server == pool.route("k")[0]
    stats = pool.stats_job(jid)
    assert (stats["pri"], stats["ttr"], stats["tube"]) == (7, 9, "mine")


def test_many_threads_and_every_job_once(pool: PoolManager) -> None:
    with pool.producer(max_batch=50) as producer:

        def produce(thread: int) -> list[JobId]:
            futures = [producer.put(f"{thread}/{number}") for number in range(500)]
            return [future.result(10) for future in futures]

        stored = run_together(*(lambda thread=thread: produce(thread) for thread in range(8)))
    names = [(jid.server, int(jid)) for ids in stored for jid in ids]
    assert len(set(names)) == len(names) == 4000
    bodies = Counter[str]()
    while (job := pool.reserve(timeout=0)) is not None:
        bodies[str(job.body)] += 1
        job.delete()
    assert bodies == Counter(f"{thread}/{number}" for thread in range(8) for number in range(500))


def test_closing_while_threads_put(pool: PoolManager) -> None:
    """Each put is either refused or stored, whenever it comes."""
    total = 0
    for _ in range(20):
        producer = pool.producer(linger=0, max_batch=7)
        started = threading.Barrier(5)

        def produce(producer: Producer = producer, started: threading.Barrier = started) -> list[Future[JobId]]:
            futures: list[Future[JobId]] = []
            started.wait(5)
            with contextlib.suppress(PoolClosed):
                while True:
                    futures.append(producer.put("x"))
            return futures

        threads = [background(produce) for _ in range(4)]
        started.wait(5)
        producer.close()
        futures = [future for thread in threads for future in thread.result(10)]
        assert all(isinstance(future.result(0), JobId) for future in futures)
        total += len(futures)
        assert pool.stats_tube("default")["current-jobs-ready"] == total


def test_a_thread_that_is_late_to_wake_the_sender_does_no_harm(pool: PoolManager) -> None:
    with pool.producer(linger=60, max_batch=3) as producer:
        for waiting in range(3):
            futures = [producer.put("x") for _ in range(waiting)]
            producer._sender.wake()
            wait_until(lambda producer=producer: producer._sender.wake_at in (1, 3), "the sender to wait")  # type: ignore[misc]
            futures += [producer.put("x") for _ in range(3 - waiting)]
            assert all(isinstance(future.result(5), JobId) for future in futures)


def test_batches_follow_each_other_on_one_connection_and_in_order(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager([beanstalkd.address]) as pool, pool.producer(max_batch=10) as producer:
        futures = [producer.put(f"{number}") for number in range(2000)]
        ids = [int(future.result(10)) for future in futures]
        assert [status.open for status in pool.servers] == [1]
    assert ids == sorted(ids)


def test_a_rare_tube_does_not_wait_for_the_end_of_the_rush(pool: PoolManager) -> None:
    stop = threading.Event()

    def rush() -> None:
        while not stop.is_set():
            producer.put("x", tube="common")

    with pool.producer(max_batch=5) as producer:
        rushing = [background(rush) for _ in range(3)]
        try:
            for _ in range(20):
                assert isinstance(producer.put("x", tube="rare").result(5), JobId)
        finally:
            stop.set()
        for thread in rushing:
            thread.result(10)


def test_close_loses_nothing(pool: PoolManager) -> None:
    producer = pool.producer(linger=60)
    futures = [producer.put("x") for _ in range(100)]
    producer.close()
    assert all(future.done() for future in futures)
    assert pool.stats_tube("default")["current-jobs-ready"] == 100
    producer.close()
    with pytest.raises(PoolClosed):
        producer.put("x")


def test_flush_does_not_wait_for_the_linger(pool: PoolManager) -> None:
    with pool.producer(linger=60) as producer:
        futures = [producer.put("x") for _ in range(10)]
        with within(2, "flush"):
            producer.flush()
        assert all(future.done() for future in futures)


def test_a_full_batch_does_not_wait_for_the_linger(pool: PoolManager) -> None:
    with pool.producer(linger=60, max_batch=10) as producer:
        futures = [producer.put("x") for _ in range(10)]
        with within(2, "the batch"):
            assert all(isinstance(future.result(5), JobId) for future in futures)


NEVER = 600.0


class TestWhoWaits:
    """A put that somebody waits for does not wait for others; one that nobody waits for does."""

    def test_pays_no_linger(self, pool: PoolManager) -> None:
        with pool.producer(linger=NEVER) as producer:
            assert isinstance(producer.put("a").result(10), JobId)
            assert producer.put("b").exception(10) is None
            futures = [producer.put(f"{number}") for number in range(3)]
            assert len(wait(futures, 10).done) == 3

    def test_takes_along_what_was_put_before_and_in_order(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager([beanstalkd.address]) as pool, pool.producer(linger=NEVER) as producer:
            unasked = [producer.put(f"{number}") for number in range(3)]
            jid = producer.put("asked").result(10)
            assert [int(future.result(0)) for future in unasked] == [jid - 3, jid - 2, jid - 1]

    def test_a_callback_is_no_wait(self, pool: PoolManager) -> None:
        told: list[JobId] = []
        with pool.producer(linger=NEVER) as producer:
            future = producer.put("a")
            future.add_done_callback(lambda done: told.append(done.result()))
            assert pool.put("meanwhile")
            assert (future.done(), repr(producer)) == (False, "<Producer: 1 waiting, 0 on their way>")
        assert told == [future.result(0)]

    def test_one_that_does_not_come_back_is_not_waited_for(self, pool: PoolManager) -> None:
        """The threads of the last batch may put again at once; one alone gets its turn all the same."""
        with pool.producer(linger=NEVER) as producer:
            run_together(*[lambda: producer.put("together").result(10) for _ in range(4)])
            assert producer.put("alone").result(10)
            assert producer.put("alone").result(10)

    def test_whoever_waits_in_whatever_order(self, beanstalkd: BeanstalkdServer) -> None:
        """Some wait, some do not, some give up: every put is stored once, and every wait ends."""
        with PoolManager([beanstalkd.address]) as pool, pool.producer(linger=NEVER, max_batch=7) as producer:

            def produce(thread: int) -> int:
                futures = []
                for number in range(60):
                    futures.append(producer.put(f"{thread}/{number}"))
                    if (number + thread) % 3 == 0:
                        futures[number // 2].result(20)
                    elif (number + thread) % 3 == 1:
                        with contextlib.suppress(TimeoutError):
                            futures[-1].result(0.0001)
                futures[-1].result(20)
                return sum(isinstance(future.result(20), JobId) for future in futures)

            assert run_together(*[lambda thread=thread: produce(thread) for thread in range(6)], timeout=60) == [60] * 6
        assert beanstalkd.control.counter("current-jobs-ready") == 360


def test_bad_arguments_are_raised_at_once(pool: PoolManager) -> None:
    with pool.producer() as producer:
        with pytest.raises(ValueError, match="ttr"):
            producer.put("x", ttr=-1)
        with pytest.raises(ValueError, match="tube"):
            producer.put("x", tube="a b")
        with pytest.raises(TypeError, match="body"):
            producer.put(5)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ValueError, match="max_batch"):
        pool.producer(max_batch=0)
    for wrong in (None, "1"):
        with pytest.raises(TypeError, match="linger must be a number of seconds"):
            pool.producer(linger=wrong)  # type: ignore[arg-type]  # what is tested
    for linger in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="linger must be from 0"):
            pool.producer(linger=linger)


def test_a_full_buffer_holds_the_threads_back(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager([beanstalkd.address], timeout=2) as pool, pool.producer(linger=0, max_batch=1) as producer:
        producer.put("first").result(5)
        beanstalkd.freeze()
        try:
            taken = 0
            with pytest.raises(PoolTimeout, match="buffer"):
                for _ in range(100):
                    producer.put("x", timeout=0.05)
                    taken += 1
            # What the buffer holds, and what is on its way.
            assert 8 < taken <= 8 + 3
        finally:
            beanstalkd.thaw()


def test_one_that_was_cancelled_is_not_put(pool: PoolManager) -> None:
    with pool.producer(linger=60) as producer:
        kept, cancelled = producer.put("kept"), producer.put("cancelled")
        assert cancelled.cancel()
        producer.flush()
        assert kept.done()
    assert pool.stats_tube("default")["current-jobs-ready"] == 1


def test_a_pool_that_is_closed_fails_the_futures(cluster: StartCluster) -> None:
    pool = PoolManager([cluster(1)[0].address])
    producer = pool.producer(linger=60)
    futures = [producer.put("x") for _ in range(5)]
    pool.close()
    with pytest.raises(PoolClosed, match="5 are not stored"):
        producer.close()
    for future in futures:
        with pytest.raises(PoolClosed):
            future.result(5)


def test_a_waiting_put_ends_when_the_producer_closes(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager([beanstalkd.address], timeout=1) as pool:
        producer = pool.producer(linger=0, max_batch=1)
        producer.put("first").result(5)
        beanstalkd.freeze()
        try:
            for _ in range(8):
                producer.put("x", timeout=5)
            waiting = background(lambda: [producer.put("late", timeout=5) for _ in range(8)])
            wait_until(lambda: "waiting" in repr(producer), "the buffer to fill")
            closing = background(producer.close)
            assert isinstance(waiting.error(5), PoolClosed)
        finally:
            beanstalkd.thaw()
        closing.result(20)


def test_a_program_that_ends_without_close_loses_nothing(beanstalkd: BeanstalkdServer) -> None:
    ended = run_python(
        "import atexit, sys\n"
        "from beanpool import PoolManager\n"
        "pool = PoolManager(sys.argv[1])\n"
        "atexit.register(pool.close)\n"
        "producer = pool.producer(linger=60)\n"
        "for _ in range(20):\n"
        "    producer.put('x')\n",
        beanstalkd.url,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert beanstalkd.control.counter("current-jobs-ready", "default") == 20


def test_flush_waits_for_what_was_put_before_it_and_for_nothing_else(pool: PoolManager) -> None:
    stop = threading.Event()

    def rush() -> None:
        while not stop.is_set():
            producer.put("x")

    with pool.producer() as producer:
        rushing = [background(rush) for _ in range(2)]
        try:
            wait_until(lambda: producer._sender.counts()[0] > 1000, "the buffer to fill")
            for _ in range(3):
                before = [producer.put("mine") for _ in range(10)]
                producer.flush(10)
                assert all(future.done() for future in before)
        finally:
            stop.set()
        for thread in rushing:
            thread.result()


class TestWhatIsLost:
    def test_is_said_once_by_the_error_and_on_the_log(self, refused: str, caplog: pytest.LogCaptureFixture) -> None:
        told_to: list[BaseException | None] = []
        with PoolManager(refused, timeout=0.3) as pool:
            producer = pool.producer(linger=60)
            for _ in range(3):
                producer.put("x")
            asked = producer.put("x")
            producer.put("x").add_done_callback(lambda future: told_to.append(future.exception()))
            waiting = background(lambda: asked.result(5))
            wait_until(lambda: asked._asked, "somebody to wait for it")  # type: ignore[attr-defined]  # It is a LazyFuture.
            with pytest.raises(NoServerForPut, match=r"3 are not stored, 0 may or may not be.*first error") as told:
                producer.flush()
            assert set(told.value.errors) == {refused}
            assert isinstance(waiting.error(), NoServerForPut), "who asks its future is told there"
            assert [type(error) for error in told_to] == [NoServerForPut]
            producer.flush()
            producer.close()
        assert [record.levelname for record in caplog.records if record.name == "beanpool.producer"] == ["WARNING"]
        assert "3 are not stored" in caplog.text

    def test_the_end_of_a_block_says_it_unless_something_else_went_wrong_there(self, refused: str) -> None:
        with PoolManager(refused, timeout=0.5) as pool:
            with pytest.raises(NoServerForPut, match="1 are not stored"), pool.producer() as producer:
                producer.put("x")
            with pytest.raises(ZeroDivisionError), pool.producer() as producer:
                producer.put("x")
                raise ZeroDivisionError

    def test_close_gives_up_in_time_and_every_future_ends(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager(beanstalkd.url, timeout=2) as pool:
            producer = pool.producer(linger=0, max_batch=2)
            producer.put("first").result(5)
            beanstalkd.freeze()
            try:
                futures = {str(n): producer.put(str(n), timeout=0.1) for n in range(12)}
                with (
                    within(0.3),
                    pytest.raises(PoolTimeout, match=r"(\d+) are not stored, (\d+) may or may not") as told,
                ):
                    producer.close(0.3)
            finally:
                beanstalkd.thaw()
            lost, unsure = map(int, re.findall(r"(\d+) (?:are|may)", str(told.value)))
            assert lost + unsure == 12
            assert lost
            errors = {body: future.exception(10) for body, future in futures.items()}
            # What was unsure when the producer was closed may have been stored since, or was lost on its way.
            not_stored = {
                body: error for body, error in errors.items() if error and not isinstance(error, PutAmbiguous)
            }
            assert lost <= len(not_stored) <= lost + unsure
            assert PoolTimeoutForPut in map(type, not_stored.values())
            stored = {job.body for job in pool.reserve_many(20, timeout=0)}
            assert "first" in stored
            assert stored.isdisjoint(not_stored)

    def test_a_slow_server_is_given_its_time(self, scripted_server: StartScripted) -> None:
        replies = itertools.count(1)

        def slowly(connection: ScriptedConnection, line: bytes, body: bytes) -> bytes:
            # Each is in time, all of them together are not.
            time.sleep(0.1)
            return b"INSERTED %d\r\n" % next(replies)

        server = scripted_server(default=answering({"stats": stats_reply(), "put": slowly}))
        with PoolManager(server.url, timeout=0.4, health_interval=60) as pool:
            with pool.producer(max_batch=1) as producer:
                futures = [producer.put("x") for _ in range(8)]
            assert all(future.done() for future in futures)
            assert [int(future.result()) for future in futures] == list(range(1, 9))

    @pytest.mark.parametrize("frozen", [False, True])
    def test_a_program_that_ends_says_so_and_takes_one_timeout(
        self, beanstalkd: BeanstalkdServer, frozen: bool
    ) -> None:
        program = (
            "import sys\n"
            "from beanpool import PoolManager\n"
            "pool = PoolManager(sys.argv[1], timeout=1, connect_timeout=0.5)\n"
            "producers = [pool.producer(linger=60, max_batch=5) for _ in range(2)]\n"
            "for producer in producers:\n"
            "    for _ in range(20):\n"
            "        producer.put('x')\n"
        )
        if frozen:
            beanstalkd.freeze()
        else:
            beanstalkd.kill()
        # One for all of them, and the start of an interpreter.
        with within(1, "the program", slack=2.5):
            ended = run_python(program, beanstalkd.url)
        if frozen:
            beanstalkd.thaw()
        assert ended.returncode == 0
        lost = [tuple(map(int, found)) for found in re.findall(r"(\d+) are not stored, (\d+) may", ended.stderr)]
        assert len(lost) == 2, ended.stderr
        assert sum(map(sum, lost)) == 40


class TestDropped:
    def test_it_keeps_neither_thread_nor_pool_and_what_was_put_goes_out(self, beanstalkd: BeanstalkdServer) -> None:
        pool = PoolManager(beanstalkd.url)
        gone = weakref.ref(pool)
        held: list[object] = [producer := pool.producer(linger=60)]
        future = producer.put("x")
        pool.put("y")
        del producer
        with pytest.warns(ResourceWarning, match="never closed"):
            # The warning has it in hand as long as it is kept.
            held.clear()
        wait_until(lambda: not thread_names("beanpool-producer"), "its thread to end")
        assert isinstance(future.result(5), JobId)
        pool.close()
        del pool
        gc.collect()
        assert gone() is None

    def test_what_is_lost_then_is_in_the_log(self, refused: str, caplog: pytest.LogCaptureFixture) -> None:
        with PoolManager(refused, timeout=0.2) as pool:
            with pytest.warns(ResourceWarning):
                pool.producer().put("x")
            wait_until(lambda: "1 are not stored" in caplog.text, "the log")
