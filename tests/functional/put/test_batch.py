"""Many puts at once: one outcome per item, whatever becomes of its neighbours."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from support.inside import inside
from support.ledger import Ledger
from support.pools import pool_of
from support.processes import assert_baseline
from support.scripted import ScriptedConnection, answering, close, expect_line, send, stall, stats_reply, with_data
from support.servers import BeanstalkdServer, ServerFactory
from support.threads import background
from support.waiting import within

from beanpool import JobId, JobTooBig, NoServerForPut, OnAmbiguous, PoolManager, Put, PutAmbiguous
from beanpool.net.readiness import wait_for_any
from beanpool.put.item import encode

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted


def ids(outcomes: list[JobId | Exception]) -> list[JobId]:
    errors = [outcome for outcome in outcomes if not isinstance(outcome, JobId)]
    assert errors == []
    return [outcome for outcome in outcomes if isinstance(outcome, JobId)]


class TestOutcomes:
    def test_in_the_order_of_the_items(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        bodies = [f"job {number}" for number in range(1000)]
        with pool_of(*servers) as pool:
            stored = ids(pool.put_many(iter(bodies)))
        truth = {
            (server.address, job.id): job.body for server in servers for job in server.control.drain_jobs("default")
        }
        assert [truth[jid.server, int(jid)].decode() for jid in stored] == bodies

    def test_spread_over_all_servers(self, cluster: StartCluster) -> None:
        with pool_of(*cluster(3)) as pool:
            shares = Counter(jid.server for jid in ids(pool.put_many(["x"] * 900)))
        assert sorted(shares.values()) == [300, 300, 300]

    def test_nothing_of_nothing(self, cluster: StartCluster) -> None:
        with pool_of(*cluster(1)) as pool:
            assert pool.put_many([]) == []

    def test_keys_go_where_single_puts_go(self, cluster: StartCluster) -> None:
        with pool_of(*cluster(3)) as pool:
            keys = [f"customer {number}" for number in range(200)]
            stored = ids(pool.put_many(Put("x", key=key) for key in keys))
            assert [jid.server for jid in stored] == [pool.route(key)[0] for key in keys]

    def test_items_of_their_own_mind(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd) as pool:
            stored = ids(
                pool.put_many(
                    ["usual", Put(b"own", tube="other", priority=7, delay=60, ttr=9)], tube="mine", priority=5, ttr=33
                )
            )
        usual, own = (beanstalkd.control.stats_job(int(jid)) for jid in stored)
        assert usual is not None
        assert own is not None
        assert (usual["tube"], usual["pri"], usual["ttr"], usual["state"]) == ("mine", "5", "33", "ready")
        assert (own["tube"], own["pri"], own["ttr"], own["state"]) == ("other", "7", "9", "delayed")

    def test_more_tubes_than_connections(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd, max_connections=100) as pool:
            tubes = [f"tube-{number % 150}" for number in range(600)]
            stored = ids(pool.put_many(Put("x", tube=tube) for tube in tubes))
        assert len(stored) == 600
        assert all(beanstalkd.control.counter("current-jobs-ready", tube) == 4 for tube in set(tubes))

    @pytest.mark.parametrize(
        ("bad", "kind"),
        [
            (Put("x", ttr=-1), ValueError),
            (Put("x", priority=2**32), ValueError),
            (Put("x", tube="no space"), ValueError),
            (Put("x", key=5), TypeError),  # type: ignore[arg-type]  # what is tested
            (5, TypeError),
        ],
    )
    def test_a_bad_item_disturbs_no_other(self, beanstalkd: BeanstalkdServer, bad: Any, kind: type[Exception]) -> None:
        with pool_of(beanstalkd) as pool:
            before, wrong, after = pool.put_many(["before", bad, "after"])
        assert isinstance(before, JobId)
        assert isinstance(wrong, kind)
        assert isinstance(after, JobId)
        assert [job.body for job in beanstalkd.control.drain_all()] == [b"before", b"after"]

    def test_a_job_that_is_too_big_disturbs_no_other(self, beanstalkd_factory: ServerFactory) -> None:
        server = beanstalkd_factory(max_job_size=100)
        with pool_of(server) as pool:
            outcomes = pool.put_many(["a" * 100, "b" * 101, "c"])
        assert [type(outcome) for outcome in outcomes] == [JobId, JobTooBig, JobId]

    @pytest.mark.parametrize(
        ("options", "kind"),
        [({"tube": "no space"}, ValueError), ({"ttr": -1}, ValueError), ({"priority": "5"}, TypeError)],
    )
    def test_bad_arguments_of_the_batch_are_raised(
        self, beanstalkd: BeanstalkdServer, options: dict[str, Any], kind: type[Exception]
    ) -> None:
        with pool_of(beanstalkd) as pool, pytest.raises(kind):
            pool.put_many(["x"], **options)


class TestAmounts:
    def test_a_stream_that_nobody_could_hold(self, cluster: StartCluster) -> None:
        with pool_of(*cluster(2)) as pool:
            assert len(ids(pool.put_many("x" * 100 for _ in range(60_000)))) == 60_000

    def test_large_bodies_among_small_ones(self, beanstalkd_factory: ServerFactory) -> None:
        server = beanstalkd_factory(max_job_size=2_000_000)
        sizes = itertools.cycle([10, 60_000, 0, 1_500_000, 300])
        with pool_of(server) as pool, within(20, "the batch"):
            stored = ids(pool.put_many((b"x" * next(sizes) for _ in range(200)), timeout=20))
        assert len(stored) == 200


class TestFaults:
    def test_a_server_that_is_down_from_the_start(self, cluster: StartCluster, ledger: Ledger) -> None:
        servers = cluster(3)
        servers[0].kill()
        with pool_of(*servers) as pool:
            bodies = ledger.tokens(300)
            for body, jid in zip(bodies, ids(pool.put_many(bodies)), strict=True):
                ledger.acked(body, jid.server, int(jid), maybe_duplicate=jid.maybe_duplicate)
            assert {status.state for status in pool.servers if status.address == servers[0].address} == {"down"}
        servers[0].start()
        ledger_is_right(ledger, servers)

    def test_a_server_that_dies_in_the_middle(self, cluster: StartCluster, ledger: Ledger) -> None:
        servers = cluster(3, wal=True)
        bodies = ledger.tokens(6_000)
        half = threading.Event()

        def stream() -> Iterator[bytes]:
            for number, body in enumerate(bodies):
                if number == 3_000:
                    half.set()
                    killed.result()
                yield body

        def kill() -> None:
            assert half.wait(10)
            servers[1].kill()

        with pool_of(*servers) as pool:
            killed = background(kill)
            for body, jid in zip(bodies, ids(pool.put_many(stream())), strict=True):
                ledger.acked(body, jid.server, int(jid), maybe_duplicate=jid.maybe_duplicate)
        servers[1].start()
        ledger_is_right(ledger, servers)

    def test_a_draining_server(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            pool.wait(2)
            servers[0].drain()
            stored = ids(pool.put_many(["x"] * 500))
        assert {jid.server for jid in stored} == {servers[1].address}
        assert not any(jid.maybe_duplicate for jid in stored)

    def test_all_servers_down_ends_in_time(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            server.kill()
        with pool_of(*servers) as pool, within(1.0, "the batch", slack=1.0):
            outcomes = pool.put_many(["x"] * 2000, timeout=0.5)
        assert len(outcomes) == 2000
        assert {type(outcome) for outcome in outcomes} == {NoServerForPut}

    @pytest.mark.parametrize("policy", ["resend", "raise"])
    def test_only_what_was_sent_is_ambiguous(
        self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted, policy: OnAmbiguous
    ) -> None:
        taken = 3

        def take_some(connection: ScriptedConnection) -> None:
            for number in range(10):
                connection.read_line()
                connection.read(len(b"body\r\n"))
                if number < taken:
                    connection.send(b"INSERTED %d\r\n" % (number + 1))
            connection.close()

        greeting = [expect_line(b"stats"), send(stats_reply())]
        fake = scripted_server([*greeting, take_some], default=close())
        with PoolManager([fake.address, beanstalkd.address], health_interval=30) as pool:
            outcomes = pool.put_many(["body"] * 20, on_ambiguous=policy)
        stored = [outcome for outcome in outcomes if isinstance(outcome, JobId)]
        at_fake = [jid for jid in stored if jid.server == fake.address]
        assert len(at_fake) == taken
        assert not any(jid.maybe_duplicate for jid in at_fake)
        # All ten of the fake server's share went out in one piece: seven of them have no reply.
        if policy == "resend":
            assert len(stored) == 20
            assert sum(jid.maybe_duplicate for jid in stored) == 10 - taken
        else:
            ambiguous = [outcome for outcome in outcomes if not isinstance(outcome, JobId)]
            assert {type(outcome) for outcome in ambiguous} == {PutAmbiguous}
            assert len(ambiguous) == 10 - taken
            assert not any("body" in str(outcome) for outcome in ambiguous)

    def test_a_silent_server_takes_half_of_the_time_at_most(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers, timeout=1.0) as pool:
            pool.wait(2)
            servers[0].freeze()
            try:
                with within(1.0, "the batch", slack=0.5):
                    stored = ids(pool.put_many(["x"] * 100))
            finally:
                servers[0].thaw()
            assert sum(jid.maybe_duplicate for jid in stored) == 50
            assert {jid.server for jid in stored} == {servers[1].address}

    def test_replies_that_trickle_in_are_no_silence(self, scripted_server: StartScripted) -> None:
        """A server that answers one put in a while has as much time as one that answers many at once."""

        def take_slowly(connection: ScriptedConnection) -> None:
            for number in range(8):
                connection.read_line()
                connection.read(len(b"body\r\n"))
                connection.send_bytewise(b"INSERTED %d\r\n" % (number + 1), 0.015)

        fake = scripted_server([expect_line(b"stats"), send(stats_reply()), take_slowly, stall()], default=close())
        with PoolManager([fake.address], timeout=1.2, health_interval=30) as pool:
            assert [int(jid) for jid in ids(pool.put_many(["body"] * 8))] == list(range(1, 9))

    def test_a_server_that_trickles_beside_one_that_does_not(
        self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted
    ) -> None:
        """It is waited for although what it has sent is too little to be woken for."""
        body = "x" * 4_100
        half, rest = threading.Event(), threading.Event()

        def take_slowly(connection: ScriptedConnection) -> None:
            for number in range(4):
                connection.wait(half if number < 2 else rest)
                connection.read_line()
                connection.read(len(body) + 2)
                connection.send(b"INSERTED %d\r\n" % (number + 1))
            connection.stall()

        def bodies() -> Iterator[Put]:
            for _ in range(4):
                yield Put(body, key=keys[fake.address])
            started = time.monotonic()
            while time.monotonic() < started + 1.0:
                yield Put(body * 5, key=keys[beanstalkd.address])
                if time.monotonic() > started + 0.5:
                    half.set()
            # By then it has been at it for longer than a silent server would be waited for.
            threading.Timer(0.4, rest.set).start()

        # A check of the server is answered.
        default = answering({"stats": stats_reply()})
        fake = scripted_server([expect_line(b"stats"), send(stats_reply()), take_slowly], default=default)
        with PoolManager([fake.address, beanstalkd.address], timeout=2.4, health_interval=30) as pool:
            keys = {pool.route(f"{number}")[0]: f"{number}" for number in range(100)}
            outcomes = ids(pool.put_many(bodies()))
        assert sum(jid.server == fake.address for jid in outcomes) == 4
        assert not any(jid.maybe_duplicate for jid in outcomes)

    def test_a_silent_server_is_not_polled(self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch) -> None:
        looks: list[float] = []

        def counting(waiters: Any, seconds: float) -> Any:
            looks.append(seconds)
            return wait_for_any(waiters, seconds)

        with pool_of(beanstalkd, timeout=0.5, health_interval=60) as pool:
            ids(pool.put_many(["x"] * 10))
            monkeypatch.setattr("beanpool.net.exchange.wait_for_any", counting)
            beanstalkd.freeze()
            try:
                pool.put_many(["x"] * 10)
            finally:
                beanstalkd.thaw()
        assert 0 < len(looks) < 10

    def test_no_more_is_fed_when_something_is_left_over(self, cluster: StartCluster) -> None:
        (server,) = cluster(1)
        server.kill()
        settled: list[tuple[str, JobId | Exception]] = []
        with pool_of(server, timeout=20) as pool:
            with pool._batch(settled.extend) as batch:
                batch.feed([("late", encode("x", None, "default", 0, 0, 1, "utf-8"))])
                while batch.busy:
                    batch.wait()
                assert not batch.feed([])
                server.start()
                batch.finish()
            [(place, outcome)] = settled
            assert (place, ids([outcome])[0].server) == ("late", server.address)

    def test_a_connection_is_as_before_when_all_replies_are_there(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd, max_connections=1, health_interval=60) as pool:
            ids(pool.put_many(["x"] * 500))
            connection = inside(pool).connections_of(0).acquire(time.monotonic() + 1)
            lowest = connection.channel._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
            inside(pool).connections_of(0).checkin(connection)
            assert lowest == 1
            with within(1, "a put"):
                pool.put("y")

    def test_a_reply_that_no_put_may_have(self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted) -> None:
        odd = answering({"stats": stats_reply(), "put": with_data(b"RESERVED 1", b"what")})
        fake = scripted_server(odd, default=close())
        with PoolManager([fake.address, beanstalkd.address], health_interval=30) as pool:
            stored = ids(pool.put_many(["body"] * 20))
        assert {jid.server for jid in stored} == {beanstalkd.address}
        assert sum(jid.maybe_duplicate for jid in stored) == 10

    def test_items_that_raise_leave_nothing_behind(self, cluster: StartCluster) -> None:
        servers = cluster(2)

        def stream() -> Iterator[str]:
            for _ in range(500):
                yield "x" * 200
            raise KeyboardInterrupt

        with pool_of(*servers) as pool:
            pool.put_many(["warm"] * 10)
            with pytest.raises(KeyboardInterrupt):
                pool.put_many(stream())
            assert sum(status.leased for status in pool.servers) == 0
            assert len(ids(pool.put_many(["next"] * 10))) == 10

    def test_no_descriptor_is_left(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with assert_baseline(), pool_of(*servers) as pool:
            pool.put_many(["x"] * 1000)


def ledger_is_right(ledger: Ledger, servers: list[BeanstalkdServer]) -> None:
    ledger.reconcile([server.control for server in servers])
