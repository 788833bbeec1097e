"""The transport, used through kombu on real servers."""

from __future__ import annotations

import contextlib
import datetime
import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import StartCluster, StartDelayLine
from kombu import Connection, Consumer, Exchange, Queue
from kombu.exceptions import ChannelError, OperationalError
from support.delay_line import DelayLine
from support.processes import thread_names
from support.servers import BeanstalkdServer
from support.waiting import wait_until, within

from beanpool import DEFAULT_PRIORITY, JobTooBig, NoServerAvailable, PoolManager
from beanpool.contrib.kombu import register
from beanpool.contrib.kombu.envelope import encode

register()

MAIL = Queue("mail", Exchange("mail"), routing_key="mail")
BULK = Queue("bulk", Exchange("bulk"), routing_key="bulk")


@contextlib.contextmanager
def connected(*servers: BeanstalkdServer | DelayLine, **options: Any) -> Iterator[Any]:
    url = "beanstalk://" + ",".join(server.address for server in servers)
    with Connection(url, transport_options=options) as connection:
        yield connection


def publish(connection: Any, body: Any, queue: Any = MAIL, **options: Any) -> None:
    connection.Producer(serializer="json").publish(
        body, exchange=queue.exchange, routing_key=queue.routing_key, declare=[queue], **options
    )


@contextlib.contextmanager
def consuming(connection: Any, *queues: Any, prefetch: int = 0, **options: Any) -> Iterator[list[Any]]:
    """The messages that were delivered, none of them acknowledged."""
    messages: list[Any] = []
    consumer = Consumer(connection, queues or (MAIL,), on_message=messages.append, prefetch_count=prefetch, **options)
    with consumer:
        yield messages


def receive(connection: Any, messages: list[Any], count: int = 1, timeout: float = 10) -> list[Any]:
    while len(messages) < count:
        connection.drain_events(timeout=timeout)
    return messages


def states(server: BeanstalkdServer, tube: str = "mail") -> dict[str, int]:
    with PoolManager(server.address) as pool:
        stats = pool.stats_tube(tube)
    return {
        state: stats[f"current-jobs-{state}"]
        for state in ("ready", "reserved", "delayed", "buried")
        if stats[f"current-jobs-{state}"]
    }


def test_an_acknowledged_message_is_deleted(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd) as connection, consuming(connection) as messages:
        publish(connection, {"to": "ä"})
        (message,) = receive(connection, messages)
        held = states(beanstalkd)
        message.ack()

        assert message.payload == {"to": "ä"}
        assert message.delivery_tag == f"{beanstalkd.address}/1"
        assert held == {"reserved": 1}
        wait_until(lambda: states(beanstalkd) == {}, "it to be finished")


def test_a_rejected_message_is_buried_and_one_that_is_requeued_is_ready(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd) as connection, consuming(connection) as messages:
        publish(connection, "a", priority=9)
        receive(connection, messages)[0].requeue()
        again = receive(connection, messages, 2)[1]
        again.reject()

        assert again.delivery_tag == f"{beanstalkd.address}/1"
        wait_until(lambda: states(beanstalkd) == {"buried": 1}, "it to be finished")


def test_bytes_travel_unchanged(beanstalkd: BeanstalkdServer) -> None:
    body = bytes(range(256))
    with connected(beanstalkd) as connection, consuming(connection, accept=["application/data"]) as messages:
        connection.Producer().publish(
            body,
            exchange="",
            routing_key="mail",
            content_type="application/data",
            content_encoding="binary",
        )

        assert receive(connection, messages)[0].payload == body


def test_the_most_urgent_comes_first(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd) as connection:
        for priority in (None, 3, 9, 0):
            publish(connection, priority, priority=priority)
        with PoolManager(beanstalkd.address) as pool:
            (job,) = pool.reserve_many(1, 0, tubes="mail")
            most = pool.stats_job(job)["pri"]
            job.release()
        with consuming(connection) as messages:
            receive(connection, messages, 4)

            assert [message.payload for message in messages] == [9, 3, None, 0]
            assert 0 < most < DEFAULT_PRIORITY


def test_no_more_are_held_than_may_be_prefetched(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd) as connection:
        for number in range(5):
            publish(connection, number)
        with consuming(connection, prefetch=2) as messages:
            receive(connection, messages, 2)
            # It does not wait for long: Celery before 5.7 acknowledges between two calls.
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=60)

            assert states(beanstalkd) == {"ready": 3, "reserved": 2}

            threading.Timer(0.2, messages[0].ack).start()
            while len(messages) < 3:
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=60)

            wait_until(lambda: states(beanstalkd) == {"ready": 2, "reserved": 2}, "it to be finished")


def test_a_channel_that_was_full_joins_a_wait_that_goes_on(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd) as connection:
        publish(connection, 1)
        publish(connection, 2)
        other = connection.channel()
        with consuming(connection, prefetch=1) as messages, Consumer(other, [BULK], on_message=messages.append):
            receive(connection, messages)
            threading.Timer(0.2, messages[0].ack).start()
            # Not until the end of the wait for the other queue.
            connection.drain_events(timeout=60)

            assert [message.payload for message in messages] == [1, 2]


def test_a_queue_that_is_full_keeps_no_other_waiting(cluster: StartCluster) -> None:
    with connected(*cluster(2)) as connection:
        for number in range(20):
            publish(connection, number)
        publish(connection, "bulk", BULK)
        with consuming(connection, MAIL, BULK) as messages:
            receive(connection, messages, 4)

            assert "bulk" in [message.payload for message in messages]


def test_messages_of_all_servers_come_in_one_wait(cluster: StartCluster) -> None:
    servers = cluster(3)
    with connected(*servers) as connection, consuming(connection, MAIL, BULK) as messages:
        for number in range(12):
            publish(connection, number, (MAIL, BULK)[number % 2])
        receive(connection, messages, 12)

        assert {message.delivery_tag.partition("/")[0] for message in messages} == {s.address for s in servers}
        assert {message.delivery_info["routing_key"] for message in messages} == {"mail", "bulk"}


def test_without_an_order_the_server_is_asked_where_a_message_comes_from(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd, order="any") as connection, consuming(connection, MAIL, BULK) as messages:
        publish(connection, "a", BULK)
        publish(connection, "b", MAIL)

        assert sorted(message.payload for message in receive(connection, messages, 2)) == ["a", "b"]


def eta(seconds: float) -> dict[str, str]:
    return {"eta": (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)).isoformat()}


def test_a_message_waits_for_its_eta_on_the_server(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd) as connection, consuming(connection) as messages:
        publish(connection, "late", headers=eta(100))
        assert states(beanstalkd) == {"delayed": 1}
        publish(connection, "now")
        publish(connection, "over", headers=eta(-100))
        publish(connection, "the worker knows", headers={"eta": "2999-01-01T00:00:00"})

        assert [message.payload for message in receive(connection, messages, 3)] == ["now", "over", "the worker knows"]
        # It has waited: the worker need not look at its clock.
        assert [message.headers.get("eta") for message in messages] == [None, None, "2999-01-01T00:00:00"]
        assert states(beanstalkd) == {"delayed": 1, "reserved": 3}


def test_a_message_that_comes_before_its_eta_is_put_off_and_not_held(beanstalkd: BeanstalkdServer) -> None:
    with (
        connected(beanstalkd) as connection,
        consuming(connection) as messages,
        PoolManager(beanstalkd.address) as pool,
    ):
        publish(connection, "late", headers=eta(100), priority=5)
        before = pool.stats_job(1, server=beanstalkd.address)
        pool.kick(tube="mail")
        publish(connection, "now")
        receive(connection, messages)
        wait_until(lambda: states(beanstalkd).get("delayed"), "it to be put off")
        after = pool.stats_job(1, server=beanstalkd.address)

        assert [message.payload for message in messages] == ["now"]
        assert (after["state"], after["pri"], after["reserves"]) == ("delayed", before["pri"], 1)
        assert 90 < after["delay"] <= 100


@pytest.mark.parametrize("body", [b"\xff\xfe", b"{}", b'{"body": "abc", "properties": {"body_encoding": "base64"}}'])
def test_what_cannot_be_read_is_buried(
    beanstalkd: BeanstalkdServer, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        connected(beanstalkd) as connection,
        consuming(connection) as messages,
        PoolManager(beanstalkd.address, encoding=None) as pool,
    ):
        pool.put(body, 1, tube="mail")
        publish(connection, "next")

        assert receive(connection, messages)[0].payload == "next"
        wait_until(lambda: states(beanstalkd) == {"buried": 1, "reserved": 1}, "it to be finished")
        assert "cannot be read" in caplog.text


def test_the_ack_of_a_lost_message_is_quiet(cluster: StartCluster) -> None:
    lost, other = cluster(2, wal=True)
    with connected(lost, other) as connection, consuming(connection) as messages:
        for number in range(10):
            publish(connection, number)
        receive(connection, messages, 10)
        lost.kill()
        for message in messages:
            message.ack()

        wait_until(lambda: states(other) == {}, "it to be finished")
        lost.start()
        assert states(lost)["ready"] > 0


def test_a_silent_server_keeps_the_acks_of_others_waiting_for_a_moment(cluster: StartCluster) -> None:
    here, away = cluster(2)
    with connected(here, away) as connection, consuming(connection) as messages:
        for server in (away, away, away, here):
            server.control.put(encode({"body": "", "properties": {}}), "mail")
        receive(connection, messages, 4)
        away.freeze()
        with within(2):
            for message in sorted(messages, key=lambda message: here.address in message.delivery_tag):
                message.ack()
        wait_until(lambda: states(here) == {}, "the message of the other to be deleted")
        away.thaw()
    assert states(away) == {}


def test_what_is_acknowledged_far_away_is_deleted_when_the_connection_ends(
    beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
) -> None:
    for _ in range(6):
        beanstalkd.control.put(encode({"body": "", "properties": {}}), "mail")
    with connected(delay_line(beanstalkd)) as connection, consuming(connection) as messages:
        receive(connection, messages, 6)
        # One after the other they would take 1.8 s.
        with within(1):
            for message in messages:
                message.ack()
    assert states(beanstalkd) == {}


def test_a_message_of_a_restarted_server_is_not_taken_for_one_before(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd) as connection, consuming(connection) as messages:
        publish(connection, "before")
        receive(connection, messages)
        beanstalkd.kill()
        beanstalkd.start()
        wait_until(lambda: _published(connection, "after"), "the server to be found again")
        before, after = receive(connection, messages, 2)

        assert before.delivery_tag == f"{beanstalkd.address}/1"
        assert after.delivery_tag == f"{beanstalkd.address}/1/1"
        before.ack()
        assert states(beanstalkd) == {"reserved": 1}
        after.ack()
        wait_until(lambda: states(beanstalkd) == {}, "it to be finished")


def _published(connection: Any, body: Any) -> bool:
    try:
        publish(connection, body)
    except NoServerAvailable:
        return False
    return True


def test_what_is_held_is_kept_alive(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd, ttr=1) as connection, consuming(connection) as messages:
        publish(connection, "slow")
        (message,) = receive(connection, messages)
        pool = connection.transport.shared.pool
        wait_until(lambda: pool.get_stats()["touched"] >= 4, "the fourth touch")

        assert states(beanstalkd) == {"reserved": 1}
        message.ack()
        wait_until(lambda: states(beanstalkd) == {}, "it to be finished")


def test_the_end_of_a_connection_gives_back_what_it_holds(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd) as other:
        with connected(beanstalkd) as connection, consuming(connection) as messages:
            publish(other, "a", priority=7)
            receive(connection, messages)
            pool = connection.transport.shared.pool
            assert pool is other.connection.shared.pool
        # The pool lives on, so no server has done it.
        assert states(beanstalkd) == {"ready": 1}
        messages[0].ack()
        assert states(beanstalkd) == {"ready": 1}


def test_connections_of_a_process_share_a_pool_by_url_and_options(cluster: StartCluster) -> None:
    one, two = cluster(2)
    with connected(one) as a, connected(one) as b, connected(two) as c, connected(one, timeout=3) as d:
        pools = [connection.connection.shared.pool for connection in (a, b, c, d)]

        assert pools[0] is pools[1]
        assert len({id(pool) for pool in pools}) == 3
    with connected(one) as again:
        assert again.connection.shared.pool not in pools


def test_a_connection_that_is_dropped_takes_its_pool_along(beanstalkd: BeanstalkdServer) -> None:
    connection = Connection(f"beanstalk://{beanstalkd.address}")
    connection.connect()
    name = connection.transport.shared.pool.name
    assert thread_names(f"beanpool-monitor-{name}")
    del connection

    def gone() -> bool:
        gc.collect()
        return not thread_names(f"beanpool-monitor-{name}")

    with pytest.warns(ResourceWarning, match="never closed"):
        wait_until(gone, "the end of the pool's monitor")


# Python warns of every fork with threads, which is what this is about.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_has_a_pool_of_its_own(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd) as connection, consuming(connection) as messages:
        publish(connection, "parent")
        (message,) = receive(connection, messages)
        pid = os.fork()
        if not pid:
            status = 1
            try:
                # What it inherited is the parent's, and closing it is no business of the server's.
                message.ack()
                with connected(beanstalkd) as own:
                    publish(own, "child")
                    if own.connection.shared.pool is not connection.connection.shared.pool:
                        connection.close()
                        status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)

        assert os.waitstatus_to_exitcode(status) == 0
        assert states(beanstalkd) == {"ready": 1, "reserved": 1}
        assert receive(connection, messages, 2)[1].payload == "child"
        message.ack()
        wait_until(lambda: states(beanstalkd) == {"reserved": 1}, "it to be finished")


def test_who_waits_outlives_an_outage_of_all_servers(cluster: StartCluster) -> None:
    (server,) = cluster(1, wal=True)
    with connected(server, health_interval=0.2) as connection, consuming(connection) as messages:
        publish(connection, "kept")
        with consuming(connection, BULK):
            receive(connection, messages)
            server.kill()
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.3)
            server.start()
            messages.clear()

            assert [message.payload for message in receive(connection, messages)] == ["kept"]


def test_nobody_to_connect_to_is_an_error_that_celery_repeats(beanstalkd: BeanstalkdServer) -> None:
    beanstalkd.kill()
    connection = Connection(f"beanstalk://{beanstalkd.address}", connect_timeout=0.3)
    with connection, pytest.raises(NoServerAvailable) as raised:
        connection.connect()

    assert isinstance(raised.value, connection.recoverable_connection_errors)
    with connection, pytest.raises(OperationalError):
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=0.3)


def test_a_message_that_is_too_big_is_no_reason_to_connect_again(cluster: StartCluster) -> None:
    (server,) = cluster(1, max_job_size=500)
    with connected(server) as connection:
        with pytest.raises(JobTooBig) as raised:
            publish(connection, "x" * 500, retry=True)

        assert isinstance(raised.value, connection.channel_errors)
        assert not isinstance(raised.value, connection.recoverable_connection_errors)


def test_fanout_is_refused_with_the_reason(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd) as connection:
        assert not connection.supports_exchange_type("fanout")
        with pytest.raises(ChannelError, match=r"no exchange of type fanout \(news\)"):
            Exchange("news", type="fanout")(connection.default_channel).declare()


def test_a_message_that_no_queue_gets_is_refused(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd) as connection, pytest.raises(ChannelError, match=r"declare=\[queue\]"):
        connection.Producer().publish("lost?", exchange="elsewhere", routing_key="nobody")


def test_topics_go_to_the_queues_that_the_publisher_has_declared(beanstalkd: BeanstalkdServer) -> None:
    news = Exchange("news", type="topic")
    queues = [Queue("sport", news, "news.sport"), Queue("all", news, "news.#")]
    with connected(beanstalkd) as connection, consuming(connection, *queues) as messages:
        connection.Producer().publish("goal", exchange=news, routing_key="news.sport", declare=queues)

        assert [message.payload for message in receive(connection, messages, 2)] == ["goal", "goal"]
        assert {states(beanstalkd, "sport")["reserved"], states(beanstalkd, "all")["reserved"]} == {1}


def test_a_purge_deletes_what_is_ready_or_delayed(cluster: StartCluster) -> None:
    servers = cluster(2)
    with connected(*servers) as connection, consuming(connection, prefetch=1) as messages:
        for number in range(12):
            publish(connection, number, headers=eta(100) if number % 3 == 2 else {})
        receive(connection, messages)
        channel = connection.default_channel

        assert MAIL(channel).queue_declare(passive=True).message_count == 7
        assert MAIL(channel).purge() == 11
        assert MAIL(channel).purge() == 0
        assert Queue("new")(channel).purge() == 0
        messages[0].ack()


def test_simple_queues_work(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd) as connection, contextlib.closing(connection.SimpleQueue("simple")) as queue:
        queue.put({"a": 1})
        queue.put({"a": 2})
        first = queue.get(timeout=10)
        first.ack()

        assert first.payload == {"a": 1}
        with pytest.raises(queue.Empty):
            queue.get_nowait()
            queue.get_nowait()


def test_a_consumer_that_acknowledges_nothing_gets_each_once(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd) as connection, consuming(connection, no_ack=True) as messages:
        publish(connection, "a")

        assert receive(connection, messages)[0].payload == "a"
        assert states(beanstalkd) == {}
        publish(connection, "b")
        assert MAIL(connection.default_channel).get(no_ack=True).payload == "b"
        assert states(beanstalkd) == {}


def test_whether_it_was_delivered_before_is_asked_if_wanted(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd, ask_redelivered=True) as connection, consuming(connection) as messages:
        publish(connection, "a")
        receive(connection, messages)[0].requeue()
        receive(connection, messages, 2)

        assert [message.delivery_info["redelivered"] for message in messages] == [False, True]


def test_queues_have_a_namespace_if_wanted(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd, namespace="shop.") as connection, consuming(connection, Queue("a:b")) as messages:
        publish(connection, 1, Queue("a:b", Exchange("x"), "y"))

        assert receive(connection, messages)[0].payload == 1
        assert states(beanstalkd, "shop.a$3ab") == {"reserved": 1}


def test_there_are_connections_for_all_that_may_be_prefetched(beanstalkd: BeanstalkdServer) -> None:
    with connected(beanstalkd) as connection:
        pool = connection.connection.shared.pool
        with consuming(connection, prefetch=200):
            assert pool.get_stats()["pool_max"] > 200
    with connected(beanstalkd, max_connections=20) as connection:
        pool = connection.connection.shared.pool
        with consuming(connection, prefetch=200):
            assert pool.get_stats()["pool_max"] == 20


def test_a_unix_socket_and_several_urls_are_one_cluster(cluster: StartCluster) -> None:
    unix, tcp = *cluster(1, unix=True), *cluster(1)
    urls = [f"beanstalk+unix://{unix.address.removeprefix('unix:')}", f"beanstalk://{tcp.address};weight=2"]
    for url in (urls, ";".join(urls)):
        with Connection(url) as connection:
            connection.connect()
            clone = connection.clone()

            assert connection.as_uri() == clone.as_uri() == ";".join(urls)
            assert {server.address for server in connection.connection.shared.pool.servers} == {
                unix.address,
                tcp.address,
            }
    with Connection(urls[0]) as connection, consuming(connection) as messages:
        publish(connection, "a")
        assert connection.as_uri() == connection.clone().as_uri() == urls[0]
        assert receive(connection, messages)[0].payload == "a"


def test_another_scheme_can_be_registered(beanstalkd: BeanstalkdServer) -> None:
    with pytest.raises(KeyError):
        Connection("bean-queue://q1").connect()
    register("bean-queue")
    with Connection(f"bean-queue://{beanstalkd.address}") as connection:
        connection.connect()

        assert connection.as_uri() == f"beanstalk://{beanstalkd.address}"
    for scheme in ("beanpool.contrib", "a:b", "a+b", "", "Bean"):
        with pytest.raises(ValueError, match="scheme"):
            register(scheme)
