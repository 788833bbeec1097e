"""dramatiq on real servers: its own workers, and what becomes of their messages."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq.broker import Broker, MessageProxy
from dramatiq.errors import ConnectionClosed, QueueJoinTimeout, QueueNotFound
from dramatiq.middleware import CurrentMessage, Middleware
from support.processes import run_python
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import JobTooBig, NoServerForPut, PoolManager, PutFailed
from beanpool.contrib.dramatiq import BeanpoolBroker, EnqueueFailed

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine

TUBE = "dramatiq.default"
# More than a busy machine needs (milliseconds).
LONG = 30_000


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A failure of an actor is logged with its traceback."""
    logging.getLogger("dramatiq").setLevel(logging.WARNING)


@contextlib.contextmanager
def opened(broker: BeanpoolBroker) -> Iterator[BeanpoolBroker]:
    dramatiq.set_broker(broker)
    try:
        yield broker
    finally:
        broker.close()


@contextlib.contextmanager
def working(broker: BeanpoolBroker, threads: int = 2) -> Iterator[dramatiq.Worker]:
    worker = dramatiq.Worker(broker, worker_timeout=50, worker_threads=threads)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


@pytest.fixture
def broker(beanstalkd: BeanstalkdServer) -> Iterator[BeanpoolBroker]:
    with opened(BeanpoolBroker(beanstalkd.url, enqueue_timeout=0.4)) as broker:
        yield broker


def counts(server: BeanstalkdServer, tube: str = TUBE) -> dict[str, int]:
    return {
        state: server.control.counter(f"current-jobs-{state}", tube)
        for state in ("ready", "delayed", "reserved", "buried")
    }


def job_numbers(server: BeanstalkdServer, field: str) -> list[int]:
    """What the server says of its jobs, in the order of their puts."""
    found = (server.control.stats_job(number) for number in range(1, 10))
    return [int(statistics[field]) for statistics in found if statistics is not None]


def message_to(actor: str, number: int) -> bytes:
    return dramatiq.Message("default", actor, (number,), {}, {}).encode()


def only(**states: int) -> dict[str, int]:
    return {"ready": 0, "delayed": 0, "reserved": 0, "buried": 0, **states}


def test_messages_of_all_servers_are_worked_on_and_deleted(cluster: StartCluster) -> None:
    servers = cluster(3)
    done: list[int] = []
    with opened(BeanpoolBroker([server.address for server in servers])) as broker:

        @dramatiq.actor
        def work(number: int) -> None:
            done.append(number)

        for number in range(60):
            work.send(number)
        assert all(server.control.counter("current-jobs-ready", TUBE) for server in servers)
        with working(broker, threads=4):
            broker.join("default", timeout=LONG)
    assert sorted(done) == list(range(60))
    assert all(server.control.counter("current-jobs-buried") == 0 for server in servers)


def test_a_message_is_retried_and_in_the_end_a_dead_letter(
    broker: BeanpoolBroker, beanstalkd: BeanstalkdServer
) -> None:
    tries: list[int] = []
    broken = True

    @dramatiq.actor(max_retries=1, min_backoff=1, max_backoff=1)
    def work(number: int) -> None:
        tries.append(number)
        if broken:
            raise RuntimeError("on purpose")

    work.send(7)
    with working(broker):
        broker.join("default", timeout=LONG)
        assert tries == [7, 7]
        assert counts(beanstalkd) == only(buried=1)
        broken = False
        assert broker.pool.kick(tube=TUBE) == 1
        broker.join("default", timeout=LONG)
    assert tries == [7, 7, 7]
    assert counts(beanstalkd) == only()


def test_a_delay_is_the_servers_and_the_worker_never_sees_it(
    broker: BeanpoolBroker, beanstalkd: BeanstalkdServer
) -> None:
    options: list[dict[str, Any]] = []
    broker.add_middleware(CurrentMessage())

    @dramatiq.actor
    def work() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        options.append(message.options)

    sent = work.send_with_options(delay=90_500)
    work.send_with_options(eta=sent.options["eta"])
    assert counts(beanstalkd) == only(delayed=2)
    assert job_numbers(beanstalkd, "delay") == [91, 91]
    with working(broker) as worker:
        # None of them is held by the worker.
        assert list(worker.consumers) == ["default"]
        broker.pool.kick(2, tube=TUBE)
        broker.join("default", timeout=LONG)
    assert options == [{}, {}]


class NaiveBroker(BeanpoolBroker):
    """Known bad: takes no notice of what a middleware could not send, as dramatiq does not."""

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        Broker.emit_after(self, signal, *args, **kwargs)


def retries_into_an_outage(broker: BeanpoolBroker, server: BeanstalkdServer) -> tuple[int, int]:
    """How often a message was worked on whose first retry could not be sent, and how many messages are left."""
    tries = 0
    again = threading.Event()

    @dramatiq.actor(max_retries=5, min_backoff=1, max_backoff=1)
    def work() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            # It takes no jobs any more, and the old ones go on.
            server.drain()
            wait_until(lambda: server.control.stats()["draining"] == "true", "the drain")
            raise RuntimeError("on purpose")
        again.set()

    work.send()
    with working(broker):
        broker.join("default", timeout=LONG)
    return tries, sum(counts(server).values())


def test_a_retry_that_cannot_be_sent_gives_the_message_back(
    broker: BeanpoolBroker, beanstalkd: BeanstalkdServer, caplog: pytest.LogCaptureFixture
) -> None:
    assert retries_into_an_outage(broker, beanstalkd) == (2, 0)
    assert "is worked on again in 1 s" in caplog.text


def test_the_naive_broker_loses_that_message(beanstalkd: BeanstalkdServer) -> None:
    with opened(NaiveBroker(beanstalkd.url, enqueue_timeout=0.4)) as broker:
        assert retries_into_an_outage(broker, beanstalkd) == (1, 0)


def test_the_next_step_of_a_pipeline_that_cannot_be_sent_gives_the_message_back(
    broker: BeanpoolBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beanpool.contrib.dramatiq.consumer._AGAIN_IN", 1)
    done: list[str] = []
    put = broker.pool.put

    @dramatiq.actor
    def first() -> None:
        done.append("first")

    @dramatiq.actor
    def second(*results: object) -> None:
        done.append("second")

    def failing(*args: Any, **kwargs: Any) -> Any:
        if "first" in done and done.count("first") < 2:
            raise NoServerForPut("no server took it", {})
        return put(*args, **kwargs)

    monkeypatch.setattr(broker.pool, "put", failing)
    dramatiq.pipeline([first.message(), second.message()]).run()
    with working(broker):
        broker.join("default", timeout=LONG)
    assert done == ["first", "first", "second"]


@pytest.mark.parametrize(("spare", "tries", "buried"), [(700, 2, 0), (5, 1, 1)])
def test_a_retry_is_cut_to_what_a_server_takes(
    beanstalkd_factory: Callable[..., BeanstalkdServer], spare: int, tries: int, buried: int
) -> None:
    server = beanstalkd_factory(max_job_size=3000)
    done: list[str] = []
    with opened(BeanpoolBroker(server.url)) as broker:

        @dramatiq.actor(max_retries=3, min_backoff=1, max_backoff=1)
        def work(text: str) -> None:
            done.append(text)
            if len(done) == 1:
                raise RuntimeError("y" * 4000)

        size = len(work.message("").encode())
        work.send("x" * (3000 - size - spare))
        with working(broker):
            broker.join("default", timeout=LONG)
        assert len(done) == tries
        # One whose retry cannot be written down at all is not lost either.
        assert counts(server) == only(buried=buried)


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\x00",
        b"{}",
        b'{"queue_name": "default", "actor_name": "work", "args": [], "kwargs": {}, "options": null}',
        b'{"queue_name": "default", "actor_name": "nobody", "args": [], "kwargs": {}, "options": {}}',
    ],
)
def test_what_cannot_be_worked_on_is_buried(broker: BeanpoolBroker, beanstalkd: BeanstalkdServer, body: bytes) -> None:
    done = []

    @dramatiq.actor
    def work() -> None:
        done.append(1)

    number = beanstalkd.control.put(body, TUBE, priority=0)
    work.send()
    with working(broker, threads=1):
        broker.join("default", timeout=LONG)
    assert done == [1]
    assert beanstalkd.control.state(number) == "buried"
    assert beanstalkd.control.peek(number) == body


def test_a_message_is_of_the_queue_that_it_is_taken_from(broker: BeanpoolBroker, beanstalkd: BeanstalkdServer) -> None:
    # Somebody has moved it there. dramatiq looks for the consumer of the queue that it names.
    done = []

    @dramatiq.actor
    def work() -> None:
        done.append(1)

    beanstalkd.control.put(work.message().copy(queue_name="elsewhere").encode(), TUBE)
    with working(broker):
        broker.join("default", timeout=LONG)
    assert done == [1]


def test_messages_are_kept_alive_also_those_that_wait_for_a_thread(beanstalkd: BeanstalkdServer) -> None:
    done: list[int] = []
    with opened(BeanpoolBroker(beanstalkd.url, ttr=1)) as broker:

        @dramatiq.actor
        def work(number: int) -> None:
            # Longer than the TTR.
            wait_until(lambda: broker.pool.get_stats()["touched"] >= 4 or number, "touches")
            done.append(number)

        work.send(0)
        work.send(1)
        with working(broker, threads=1):
            broker.join("default", timeout=LONG)
        assert sorted(done) == [0, 1]
        assert beanstalkd.control.counter("job-timeouts") == 0


def test_a_message_that_was_lost_while_it_waited_is_skipped_and_its_end_is_quiet(
    beanstalkd_factory: Callable[..., BeanstalkdServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = beanstalkd_factory(wal=True)
    done: list[int] = []
    go_on = threading.Event()
    with opened(BeanpoolBroker(server.url, health_interval=0.2)) as broker:

        @dramatiq.actor
        def work(number: int) -> None:
            done.append(number)
            assert go_on.wait(30)

        for number in range(2):
            work.send(number)
        with working(broker, threads=1):
            wait_until(lambda: counts(server) == only(reserved=2), "both to be fetched")
            server.restart()
            go_on.set()
            broker.join("default", timeout=LONG)
    # The first one was being worked on when its server went.
    assert done.count(1 - done[0]) == 1
    assert "You've found a bug" not in caplog.text


def test_a_worker_that_stops_gives_back_what_it_has_fetched(
    broker: BeanpoolBroker, beanstalkd: BeanstalkdServer
) -> None:
    busy, go_on = threading.Event(), threading.Event()

    @dramatiq.actor
    def work() -> None:
        busy.set()
        assert go_on.wait(30)

    for _ in range(4):
        work.send()
    with working(broker, threads=1) as worker:
        assert busy.wait(30)
        # Two for each thread.
        wait_until(lambda: counts(beanstalkd) == only(ready=2, reserved=2), "a prefetch")
        for thread in worker.workers:
            thread.stop()
        go_on.set()
    wait_until(lambda: counts(beanstalkd) == only(ready=3), "the rest to be given back")


def test_closing_gives_back_what_no_worker_has_seen(broker: BeanpoolBroker, beanstalkd: BeanstalkdServer) -> None:
    @dramatiq.actor
    def work() -> None: ...

    for _ in range(3):
        work.send()
    consumer = broker.consume("default", prefetch=10, timeout=5000)
    message = next(consumer)
    assert message is not None
    assert counts(beanstalkd) == only(reserved=3)
    consumer.requeue([message])
    consumer.close()
    wait_until(lambda: counts(beanstalkd) == only(ready=3), "all to be given back")
    with pytest.raises(ConnectionClosed):
        next(consumer)


def test_closing_ends_a_wait_at_once(broker: BeanpoolBroker, beanstalkd: BeanstalkdServer) -> None:
    broker.declare_queue("default")
    consumer = broker.consume("default", prefetch=1, timeout=10 * LONG)
    waiting = background(lambda: next(consumer), "a consumer")
    wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the wait")
    consumer.close()
    with pytest.raises(ConnectionClosed, match="closed"):
        waiting.result(20)


def test_what_dramatiq_drops_is_given_back_and_leaves_a_place(
    broker: BeanpoolBroker, beanstalkd: BeanstalkdServer
) -> None:
    @dramatiq.actor
    def work() -> None: ...

    work.send()
    consumer = broker.consume("default", prefetch=1, timeout=5000)
    message: MessageProxy | None = next(consumer)
    assert message is not None
    assert next(broker.consume("default", timeout=0)) is None
    del message
    assert next(consumer) is not None


def test_an_acknowledged_message_makes_room_at_once(broker: BeanpoolBroker) -> None:
    @dramatiq.actor
    def work() -> None: ...

    work.send()
    work.send()
    consumer = broker.consume("default", prefetch=1, timeout=LONG)
    first = next(consumer)
    assert first is not None
    threading.Timer(0.1, consumer.ack, (first,)).start()
    second = next(consumer)
    assert second is not None
    assert second.message_id != first.message_id


def test_messages_of_a_far_server_are_acknowledged_by_many_threads_at_once(
    beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
) -> None:
    for number in range(1, 17):
        beanstalkd.control.put(message_to("work", number), TUBE)
    # One after the other they would take 3.2 s.
    with opened(BeanpoolBroker(delay_line(beanstalkd, 0.2).address, timeout=2)) as broker:
        broker.declare_queue("default")
        consumer = broker.consume("default", prefetch=16, timeout=LONG)
        messages: list[MessageProxy] = [message for message in (next(consumer) for _ in range(16)) if message]
        assert len(messages) == 16
        ends = [consumer.nack, *[consumer.ack] * 15]
        run_together(*[partial(end, message) for end, message in zip(ends, messages, strict=True)])
    assert counts(beanstalkd) == only(buried=1)


def test_messages_come_from_a_server_that_is_farther_than_a_worker_waits(
    cluster: StartCluster, delay_line: StartDelayLine
) -> None:
    near, far = cluster(2)
    for number in range(1, 11):
        far.control.put(message_to("work", number), TUBE)
    with opened(BeanpoolBroker([near.address, delay_line(far, 0.15).address])) as broker:
        broker.declare_queue("default")
        broker.pool.wait(2)
        consumer = broker.consume("default", prefetch=10, timeout=50)
        messages: list[MessageProxy] = []
        in_vain = 0
        while len(messages) < 10 and in_vain < 5:
            message = next(consumer)
            messages += [message] if message else []
            in_vain += message is None
        consumer.requeue(messages)
        assert len(messages) == 10


def test_a_join_ends_in_time_though_a_server_is_silent(cluster: StartCluster) -> None:
    here, away = cluster(2)
    with opened(BeanpoolBroker([here.address, away.address], timeout=60)) as broker:
        broker.declare_queue("default")
        broker.join("default")
        away.freeze()
        with within(0.3), pytest.raises(QueueJoinTimeout, match=away.address):
            broker.join("default", timeout=300)
        away.thaw()


def test_a_server_that_is_missing_is_not_an_empty_one(cluster: StartCluster) -> None:
    here, away = cluster(2)
    with opened(
        BeanpoolBroker([here.address, away.address], timeout=0.3, connect_timeout=0.3, health_interval=0.1)
    ) as broker:
        broker.declare_queue("default")
        broker.join("default", timeout=LONG)
        away.kill()
        with pytest.raises(QueueJoinTimeout, match=away.address):
            broker.join("default", timeout=100)
        with pytest.raises(ConnectionClosed, match=away.address):
            broker.flush("default")
        away.start()
        broker.join("default", timeout=LONG)
        broker.flush_all()


def test_a_retry_that_moves_while_the_servers_answer_is_not_overlooked(
    broker: BeanpoolBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(total: int, delayed: int = 0) -> dict[str, int]:
        return {
            **{f"current-jobs-{state}": 0 for state in ("ready", "reserved")},
            "current-jobs-delayed": delayed,
            "total-jobs": total,
        }

    # The message was on a when b answered, and on b when a did.
    looks = [
        {"a": answer(4), "b": answer(7)},
        {"a": answer(4), "b": answer(8, delayed=1)},
        {"a": answer(4), "b": answer(8)},
        {"a": answer(4), "b": answer(8)},
    ]
    monkeypatch.setattr(broker.pool, "stats_tube_by_server", lambda tube, timeout: looks.pop(0))
    broker.declare_queue("default")
    broker.join("default", interval=1)
    assert not looks


def test_flush_deletes_all_but_what_is_worked_on(broker: BeanpoolBroker, beanstalkd: BeanstalkdServer) -> None:
    @dramatiq.actor
    def work() -> None: ...

    consumer = broker.consume("default", prefetch=1, timeout=5000)
    work.send()
    dead = next(consumer)
    assert dead is not None
    consumer.nack(dead)
    work.send()
    message = next(consumer)
    assert message is not None
    for delay in (None, 60_000):
        work.send_with_options(delay=delay)
    assert counts(beanstalkd) == only(ready=1, delayed=1, reserved=1, buried=1)
    broker.flush_all()
    assert counts(beanstalkd) == only(reserved=1)
    consumer.ack(message)
    with pytest.raises(QueueNotFound):
        broker.flush("nothing")


def test_what_cannot_be_sent_is_an_error_of_both_kinds(beanstalkd: BeanstalkdServer) -> None:
    beanstalkd.kill()
    with opened(BeanpoolBroker(beanstalkd.url, enqueue_timeout=0.1)):

        @dramatiq.actor
        def work() -> None: ...

        with pytest.raises(EnqueueFailed, match=beanstalkd.address) as caught:
            work.send()
    assert isinstance(caught.value, PutFailed)
    assert isinstance(caught.value, ConnectionClosed)
    assert not caught.value.may_be_stored


def test_a_message_that_is_too_big_says_so(broker: BeanpoolBroker) -> None:
    @dramatiq.actor
    def work(text: str) -> None: ...

    with pytest.raises(JobTooBig):
        work.send("x" * 70_000)


def test_urgent_ones_come_first_on_every_worker(broker: BeanpoolBroker, beanstalkd: BeanstalkdServer) -> None:
    @dramatiq.actor(priority=-10)
    def work() -> None: ...

    work.send()
    work.send_with_options(priority=20)
    work.send_with_options(priority=-(2**40))
    assert job_numbers(beanstalkd, "pri") == [2**31 - 10, 2**31 + 20, 0]


class Shouting(Middleware):
    def before_enqueue(self, broker: Broker, message: Any, delay: int | None) -> None:
        message.options["shout"] = True


def test_middleware_may_change_what_is_sent(broker: BeanpoolBroker, beanstalkd: BeanstalkdServer) -> None:
    broker.add_middleware(Shouting())

    @dramatiq.actor
    def work() -> None: ...

    assert work.send().options == {"shout": True}
    assert b'"shout":true' in (beanstalkd.control.peek(1) or b"").replace(b" ", b"")


def test_a_pool_of_the_users_stays_open(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager(beanstalkd.url, max_connections=5) as pool:
        with opened(BeanpoolBroker(pool=pool, namespace="")) as broker:
            dramatiq.actor(queue_name="mails", broker=broker)(print).send()
            broker.consume("mails", prefetch=100, timeout=0)
        assert pool.stats_tube("mails")["current-jobs-ready"] == 1
        assert pool.get_stats()["pool_max"] == 5
        with pytest.raises(TypeError, match="leave out"):
            BeanpoolBroker(beanstalkd.url, pool=pool)
        with pytest.raises(TypeError, match="leave out"):
            BeanpoolBroker(pool=pool, timeout=3)


@pytest.mark.parametrize(("options", "connections"), [({}, 204), ({"max_connections": 40}, 40)])
def test_there_are_connections_for_all_that_is_prefetched(
    beanstalkd: BeanstalkdServer, options: Any, connections: int
) -> None:
    with opened(BeanpoolBroker(beanstalkd.url, **options)) as broker:
        for queue in ("a", "b"):
            broker.declare_queue(queue)
        consumers = [broker.consume(queue, prefetch=100, timeout=0) for queue in ("a", "b")]
        assert broker.pool.get_stats()["pool_max"] == connections
        assert [next(consumer) for consumer in consumers] == [None, None]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttr": 0}, ValueError),
        ({"priority": -1}, ValueError),
        ({"priority": "high"}, TypeError),
        ({"enqueue_timeout": -1}, ValueError),
        ({"namespace": "two words"}, ValueError),
        ({"max_connections": 0}, ValueError),
        ({"colour": "red"}, TypeError),
    ],
)
def test_wrong_options_are_refused_when_they_are_given(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        BeanpoolBroker("127.0.0.1:1", **options)


def test_servers_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("BEANPOOL_URL", "BEANSTALKD_URL", "BEANSTALK_URL"):
        monkeypatch.delenv(variable, raising=False)
    assert [status.address for status in BeanpoolBroker().pool.servers] == ["localhost:11300"]
    monkeypatch.setenv("BEANPOOL_URL", "beanstalk://q1,q2")
    assert [status.address for status in BeanpoolBroker().pool.servers] == ["q1:11300", "q2:11300"]


def test_a_broker_may_be_made_before_a_fork(beanstalkd: BeanstalkdServer) -> None:
    ended = run_python(
        """if True:
        import os, sys, warnings
        import dramatiq
        from beanpool.contrib.dramatiq import BeanpoolBroker

        # What Python says of threads does not hold for a pool's.
        warnings.simplefilter("ignore", DeprecationWarning)
        broker = BeanpoolBroker(sys.argv[1])
        dramatiq.set_broker(broker)
        done = []

        @dramatiq.actor
        def work(who):
            print(who, flush=True)

        def run():
            worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=50)
            worker.start()
            broker.join("default", timeout=30_000)
            worker.stop()

        work.send("parent")
        child = os.fork()
        if not child:
            work.send("child")
            run()
            broker.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        work.send("parent again")
        run()
        broker.close()
        """,
        beanstalkd.url,
    )
    assert (sorted(ended.stdout.splitlines()), ended.stderr) == (["child", "parent", "parent again"], "")


def test_the_core_does_not_load_it_and_it_says_what_it_needs() -> None:
    ended = run_python(
        """if True:
        import sys
        import beanpool
        assert not {"dramatiq", "beanpool.contrib"} & set(sys.modules)
        sys.modules["dramatiq"] = None
        try:
            import beanpool.contrib.dramatiq
        except ModuleNotFoundError as error:
            print(error)
        """
    )
    assert ended.stdout == "beanpool.contrib.dramatiq needs dramatiq: pip install 'beanpool[dramatiq]'\n", ended.stderr
