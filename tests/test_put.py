"""Putting jobs into a cluster: which server gets them, what each kind of failure means, and what the caller is told."""

from __future__ import annotations

import functools
import itertools
import pickle
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import tenacity
from support.interrupts import interrupted_when
from support.ledger import Ledger
from support.processes import assert_baseline
from support.scripted import (
    Script,
    ScriptedConnection,
    Step,
    answering,
    close,
    expect_line,
    reset,
    send,
    stats_reply,
)
from support.servers import BeanstalkdServer, ServerFactory
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import (
    BeanpoolError,
    CommandFailed,
    ConnectionFailed,
    JobId,
    JobLost,
    JobTooBig,
    NoServerAvailable,
    NotFound,
    PoolClosed,
    PoolManager,
    PoolTimeout,
    PutAmbiguous,
    Server,
)

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted

SECRET = "the body, which is nobody else's business"


def manager(servers: list[BeanstalkdServer], **options: Any) -> PoolManager:
    # Health is checked often, so that a test of what a check finds out does not take long.
    return PoolManager([server.address for server in servers], **{"health_interval": 0.3, **options})


def key_of(pool: PoolManager, address: str) -> str:
    """A key that belongs to the server at `address`."""
    return next(key for key in map(str, range(1000)) if pool.route(key)[0] == address)


def state_of(pool: PoolManager, address: str) -> str:
    return next(status.state for status in pool.servers if status.address == address)


def ready(server: BeanstalkdServer, tube: str = "default") -> int:
    return server.control.counter("current-jobs-ready", tube)


class TestRouting:
    def test_puts_without_a_key_are_spread_by_weight(self, cluster: StartCluster) -> None:
        servers = cluster(4)
        weighted = [Server(server.host, server.port, weight=weight) for server, weight in zip(servers, [1, 2, 3, 0])]  # noqa: B905
        with PoolManager(weighted) as pool:
            for _ in range(60):
                pool.put("job")
        assert [ready(server) for server in servers] == [10, 20, 30, 0]

    def test_a_key_stays_with_its_server(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with manager(servers) as pool:
            keys: list[str | bytes] = ["a", b"a", "user:17", "ключ", *map(str, range(20))]
            for key in keys:
                homes = {pool.put("job", key=key).server for _ in range(3)}
                assert homes == {pool.route(key)[0]}
        assert all(ready(server) for server in servers)

    def test_a_key_fails_over_in_its_one_order_and_comes_home(self, cluster: StartCluster) -> None:
        servers = {server.address: server for server in cluster(3)}
        with manager(list(servers.values())) as pool:
            first, second, third = pool.route("key")
            assert pool.put("job", key="key").server == first
            servers[first].kill()
            assert pool.put("job", key="key").server == second
            servers[second].kill()
            assert pool.put("job", key="key").server == third
            servers[second].start()
            wait_until(lambda: state_of(pool, second) == "up", "the server to be seen again")
            assert pool.put("job", key="key").server == second
            servers[first].start()
            wait_until(lambda: state_of(pool, first) == "up", "the server to be seen again")
            assert pool.put("job", key="key").server == first
            assert pool.route("key") == (first, second, third), "health does not change the order"

    def test_keys_of_other_servers_do_not_move(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with manager(servers) as pool:
            keys = [str(number) for number in range(30)]
            before = {key: pool.put("job", key=key).server for key in keys}
            servers[0].kill()
            for key in keys:
                jid = pool.put("job", key=key)
                if before[key] != servers[0].address:
                    assert jid.server == before[key]

    def test_the_tube_is_each_calls_own(self, cluster: StartCluster) -> None:
        """Connections remember a tube, and with one per server everybody gets those of the others."""
        servers = cluster(2)

        def produce(tube: str) -> None:
            for _ in range(50):
                pool.put(tube, tube=tube)

        with manager(servers, max_connections=1, timeout=20) as pool:
            pool.use("of-the-pool")
            run_together(*[functools.partial(produce, tube) for tube in ("a", "b", "c")], timeout=30)
            pool.put("of-the-pool")
        for server in servers:
            for job in server.control.drain_all():
                assert job.body.decode() == job.tube

    def test_what_a_put_says(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager([Server(beanstalkd.host, beanstalkd.port, name="q1")]) as pool:
            jid = pool.put("body", 7, 3600, 99, tube="mails")
            assert isinstance(jid, int)
            assert jid.server == beanstalkd.address
            assert jid.instance == beanstalkd.control.stats()["id"]
            assert not jid.maybe_duplicate
            assert not jid.buried
            copy = pickle.loads(pickle.dumps(jid))
            assert (copy, copy.server, copy.instance) == (jid, jid.server, jid.instance)
            stored = beanstalkd.control.stats_job(jid)
            assert stored is not None
            assert {name: stored[name] for name in ("tube", "state", "pri", "ttr")} == {
                "tube": "mails",
                "state": "delayed",
                "pri": "7",
                "ttr": "99",
            }
            assert beanstalkd.control.peek(jid) == b"body"

    def test_bytes_and_text(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager([beanstalkd.address]) as pool:
            bodies = ["", "тело", b"\x00\xff\r\n", bytearray(b"array"), memoryview(b"view")]
            ids = [pool.put(body) for body in bodies]  # type: ignore[arg-type] # all that is bytes-like
        assert [beanstalkd.control.peek(jid) for jid in ids] == [
            b"",
            "тело".encode(),
            b"\x00\xff\r\n",
            b"array",
            b"view",
        ]

    def test_by_many_threads(self, cluster: StartCluster, ledger: Ledger) -> None:
        servers = cluster(3)

        def produce(bodies: list[bytes]) -> None:
            for body in bodies:
                jid = pool.put(body)
                ledger.acked(body, jid.server, jid)

        with manager(servers) as pool:
            run_together(*[functools.partial(produce, ledger.tokens(200)) for _ in range(6)], timeout=30)
            shares = Counter(status.open for status in pool.servers)
            assert max(shares) <= 6, "no more connections than threads"
        report = ledger.reconcile([server.control for server in servers])
        assert report.acked == report.stored == 1200


class TestServersThatDoNotTakeIt:
    def test_one_that_is_down_from_the_start_is_skipped_until_it_is_up(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        servers[0].kill()
        with manager(servers) as pool:
            key = key_of(pool, servers[0].address)
            for _ in range(3):
                with within(0.3):
                    jid = pool.put("job", key=key)
                assert jid.server == servers[1].address
                assert not jid.maybe_duplicate
                assert pool.put("job").server == servers[1].address
            assert state_of(pool, servers[0].address) == "down"
            servers[0].start()
            wait_until(lambda: pool.put("job", key=key).server == servers[0].address, "the server to be used again")

    def test_one_that_drains_gets_no_puts_and_gives_its_jobs(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with manager(servers) as pool:
            key = key_of(pool, servers[0].address)
            assert pool.put("before", key=key).server == servers[0].address
            servers[0].drain()
            for _ in range(4):
                assert pool.put("meanwhile", key=key).server == servers[1].address
                assert pool.put("meanwhile").server == servers[1].address
            assert servers[0].control.counter("cmd-put") <= 2, "once it has refused it is not asked again"
            assert [status.draining for status in pool.servers] == [True, False]
            assert state_of(pool, servers[0].address) == "up"
            found = []
            while (job := pool.reserve(timeout=0)) is not None:
                found.append(job.body)
                job.delete()
            assert sorted(map(str, found)) == ["before"] + ["meanwhile"] * 8
            servers[0].restart()
            wait_until(lambda: not pool.servers[0].draining, "the new process to be seen")
            assert pool.put("after", key=key).server == servers[0].address

    def test_all_drain(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with manager(servers) as pool:
            for server in servers:
                server.drain()
            with within(0.3), pytest.raises(NoServerAvailable, match=r"(?i)draining") as caught:
                pool.put("job", timeout=0.3)
            assert set(caught.value.errors) == {server.address for server in servers}
            servers[1].restart()
            assert pool.put("job").server == servers[1].address, "the retry finds it"

    def test_one_that_is_out_of_memory_rests(self, beanstalkd_factory: ServerFactory) -> None:
        full = beanstalkd_factory(address_space=8 << 20, max_job_size=1 << 20)
        other = beanstalkd_factory(max_job_size=1 << 20)
        body = "x" * 1_000_000
        while full.control.command("put 0 0 10 1000000", body.encode()).startswith(b"INSERTED"):
            pass
        with manager([full, other]) as pool:
            key = key_of(pool, full.address)
            jid = pool.put(body, key=key)
            assert jid.server == other.address
            assert not jid.maybe_duplicate, "refused is not stored"
            assert state_of(pool, full.address) == "up"
            # It is not asked again at once, though a small body would have its place.
            assert pool.put("small", key=key).server == other.address
            full.control.drain_all()
            wait_until(lambda: pool.put("small", key=key).server == full.address, "the rest to be over")

    @pytest.mark.parametrize("size", [65535, 65536, 10_000_000])
    def test_a_body_that_is_too_big_is_nobodys_fault(self, cluster: StartCluster, size: int) -> None:
        servers = cluster(2)
        with manager(servers, health_interval=60) as pool:
            if size <= 65535:
                assert pool.put(b"x" * size)
                return
            with pytest.raises(JobTooBig) as caught:
                pool.put(b"x" * size)
            assert caught.value.args == ("put", "JOB_TOO_BIG", [])
            assert [status.state for status in pool.servers] == ["up", "up"]
            assert sum(status.open for status in pool.servers) == 1, "no other server was asked"
            pool.put("the connection is as good as before")
            assert pool.get_stats()["returns_bad"] == 0

    def test_too_big_for_a_server_that_did_not_say_so(
        self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted
    ) -> None:
        server = scripted_server(default=answering({"stats": stats_reply({"id": "x"}), "put": b"JOB_TOO_BIG\r\n"}))
        with PoolManager([server.address, beanstalkd.address], health_interval=60) as pool:
            key = key_of(pool, server.address)
            with pytest.raises(JobTooBig):
                pool.put(SECRET, key=key)
            assert state_of(pool, server.address) == "up"
            with pytest.raises(JobTooBig):
                pool.put(SECRET, key=key)
            assert server.accepts == 1, "the connection stays in use"
        assert beanstalkd.control.counter("total-jobs") == 0

    @pytest.mark.parametrize("status", ["BAD_FORMAT", "UNKNOWN_COMMAND", "EXPECTED_CRLF"])
    def test_a_refusal_that_no_other_server_would_mend(
        self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted, status: str
    ) -> None:
        server = scripted_server(default=answering({"stats": stats_reply(), "put": f"{status}\r\n".encode()}))
        with (
            PoolManager([server.address, beanstalkd.address]) as pool,
            pytest.raises(CommandFailed, match=status),
        ):
            pool.put(SECRET, key=key_of(pool, server.address))
        assert beanstalkd.control.counter("total-jobs") == 0

    def test_a_job_that_the_server_could_only_bury(self, scripted_server: StartScripted) -> None:
        server = scripted_server(default=answering({"stats": stats_reply(), "put": b"BURIED 12\r\n"}))
        with PoolManager([server.address]) as pool:
            jid = pool.put("job")
            assert (jid, jid.server, jid.buried, jid.maybe_duplicate) == (12, server.address, True, False)
        assert server.received().count(b"put ") == 1, "it is stored: never again"

    def test_one_that_refuses_the_tube(self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted) -> None:
        server = scripted_server(default=answering({"stats": stats_reply(), "use": b"OUT_OF_MEMORY\r\n"}))
        with PoolManager([server.address, beanstalkd.address]) as pool:
            jid = pool.put("job", tube="mails", key=key_of(pool, server.address))
            assert jid.server == beanstalkd.address
            assert not jid.maybe_duplicate
        assert b"put" not in server.received(), "it would have landed in another tube"

    def test_one_that_dies_over_the_use(self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted) -> None:
        """Whatever became of the use: the put was not sent, so there can be no second copy."""
        server = scripted_server(default=answering({"stats": stats_reply(), "use": lambda c, line, body: c.close()}))
        with PoolManager([server.address, beanstalkd.address]) as pool:
            jid = pool.put("job", tube="mails", key=key_of(pool, server.address))
            assert jid.server == beanstalkd.address
            assert not jid.maybe_duplicate


def instead_of_a_reply(*steps: Step) -> Step:
    """Answer handshakes, read a put to its last byte, and then do this."""

    def go_on(connection: ScriptedConnection, line: bytes, body: bytes) -> None:
        for step in steps:
            step(connection)

    return answering({"stats": stats_reply(), "put": go_on})


AMBIGUOUS = {
    "closed": instead_of_a_reply(close()),
    "reset": instead_of_a_reply(reset()),
    "half a reply": instead_of_a_reply(send(b"INSERT"), close()),
    "nonsense": instead_of_a_reply(send(b"HTTP/1.1 200 OK\r\n")),
    "another command's reply": instead_of_a_reply(send(b"RESERVED 1 1\r\nx\r\n")),
    "no id": instead_of_a_reply(send(b"INSERTED\r\n")),
    "internal error": instead_of_a_reply(send(b"INTERNAL_ERROR\r\n")),
    "silence": instead_of_a_reply(),
}

NOT_SENT: dict[str, Script] = {
    "refused at once": reset(),
    "closed in the handshake": [expect_line(b"stats"), close()],
    "no handshake": expect_line(b"stats"),
    "no beanstalkd": send(b"220 mail.example.com ESMTP\r\n"),
}


class TestAmbiguous:
    @pytest.mark.parametrize("script", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
    def test_resent_and_declared(
        self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted, script: Script
    ) -> None:
        server = scripted_server(default=script)
        with PoolManager([server.address, beanstalkd.address], timeout=0.6) as pool:
            jid = pool.put(SECRET, key=key_of(pool, server.address))
            assert jid.server == beanstalkd.address
            assert jid.maybe_duplicate
            stats = pool.get_stats()
            assert (stats["puts_ambiguous"], stats["puts_rerouted"]) == (1, 1)
            assert not pool.put(SECRET, key=key_of(pool, beanstalkd.address)).maybe_duplicate, "that is another put"

    @pytest.mark.parametrize("script", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
    @pytest.mark.parametrize("whose", ["the pool's", "the call's"])
    def test_raised(
        self,
        beanstalkd: BeanstalkdServer,
        scripted_server: StartScripted,
        script: Script,
        whose: str,
    ) -> None:
        server = scripted_server(default=script)
        options: dict[str, Any] = {"on_ambiguous": "raise"}
        of_pool, of_call = (options, {}) if whose == "the pool's" else ({}, options)
        with PoolManager([server.address, beanstalkd.address], timeout=1, **of_pool) as pool:
            with within(1), pytest.raises(PutAmbiguous, match=f"{server.address}: the put may or may not") as caught:
                pool.put(SECRET, key=key_of(pool, server.address), **of_call)
            assert caught.value.server == server.address
            assert len(caught.value.attempts) == 1
        assert beanstalkd.control.counter("total-jobs") == 0
        assert not told_of(caught.value)

    @pytest.mark.parametrize("script", NOT_SENT.values(), ids=NOT_SENT.keys())
    def test_what_was_not_sent_is_not_ambiguous(
        self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted, script: Script
    ) -> None:
        server = scripted_server(default=script)
        with PoolManager(
            [server.address, beanstalkd.address], connect_timeout=0.2, timeout=0.6, on_ambiguous="raise"
        ) as pool:
            jid = pool.put(SECRET, key=key_of(pool, server.address))
            assert jid.server == beanstalkd.address
            assert not jid.maybe_duplicate
        assert SECRET.encode() not in b"".join(server.received(number) for number in range(server.accepts))

    def test_what_the_kernel_did_not_take_in_full_is_not_ambiguous(
        self, beanstalkd_factory: ServerFactory, scripted_server: StartScripted
    ) -> None:
        """A server that reads half a body and dies has not executed it."""
        other = beanstalkd_factory(max_job_size=50_000_000)

        def read_a_part(connection: ScriptedConnection) -> None:
            while connection.expect_line() == b"stats":
                connection.send(stats_reply({"id": "x"}))
            connection.read(1_000_000)
            connection.reset()

        server = scripted_server(default=read_a_part)
        with PoolManager([server.address, other.address], on_ambiguous="raise") as pool:
            jid = pool.put(b"x" * 30_000_000, key=key_of(pool, server.address))
            assert jid.server == other.address
            assert not jid.maybe_duplicate

    def test_the_only_server_is_asked_again(self, scripted_server: StartScripted) -> None:
        server = scripted_server(
            instead_of_a_reply(close()), default=answering({"stats": stats_reply(), "put": b"INSERTED 8\r\n"})
        )
        with PoolManager([server.address]) as pool:
            jid = pool.put("job")
            assert (jid, jid.maybe_duplicate) == (8, True)

    def test_when_nothing_else_succeeds_it_is_the_ambiguity_that_is_raised(
        self, cluster: StartCluster, scripted_server: StartScripted
    ) -> None:
        down = cluster(1)[0]
        down.kill()
        server = scripted_server(default=instead_of_a_reply(close()))
        with PoolManager([server.address, down.address], timeout=0.4) as pool:
            with within(0.4), pytest.raises(PutAmbiguous) as caught:
                pool.put(SECRET, key=key_of(pool, server.address))
            assert caught.value.server == server.address
            assert len(caught.value.attempts) >= 2, "the errors of all attempts"
        assert not told_of(caught.value)


def told_of(error: BaseException | None) -> list[str]:
    """Where an error, or one that it came from, repeats the body."""
    found: list[str] = []
    todo = [error]
    seen: set[int] = set()
    while todo:
        current = todo.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        texts = [str(current), repr(current), repr(current.args), repr(vars(current))]
        found.extend(text for text in texts if SECRET in text)
        found.extend(line for line in traceback.format_exception_only(current) if SECRET in line)
        todo += [current.__cause__, current.__context__]
        todo += getattr(current, "attempts", ())
        todo += getattr(current, "errors", {}).values()
    return found


class TestSilence:
    @pytest.mark.parametrize("warm", [False, True])
    def test_a_frozen_server_costs_no_more_than_the_deadline(self, cluster: StartCluster, warm: bool) -> None:
        servers = cluster(1)
        servers[0].control.open()
        with manager(servers, connect_timeout=5) as pool:
            if warm:
                pool.put("job")
            servers[0].freeze()
            with within(0.4), pytest.raises(PutAmbiguous if warm else NoServerAvailable) as caught:
                pool.put(SECRET, timeout=0.4)
            assert servers[0].address in str(caught.value)
            assert not told_of(caught.value)
            servers[0].thaw()
        for job in servers[0].control.drain_all():
            assert warm or job.body != SECRET.encode(), "reported as not stored"

    @pytest.mark.parametrize("warm", [False, True])
    def test_a_frozen_server_leaves_time_for_another_one(self, cluster: StartCluster, warm: bool) -> None:
        servers = cluster(3)
        servers[0].control.open()
        with manager(servers, connect_timeout=5, health_interval=600) as pool:
            key = key_of(pool, servers[0].address)
            if warm:
                pool.put("job", key=key)
            servers[0].freeze()
            with within(0.6):
                jid = pool.put("job", key=key, timeout=0.6)
            assert jid.server == pool.route(key)[1]
            assert jid.maybe_duplicate is warm, "only what was sent may be stored"
            servers[0].thaw()

    def test_two_frozen_servers_leave_time_for_the_third(self, cluster: StartCluster) -> None:
        servers = {server.address: server for server in cluster(3)}
        with manager(list(servers.values()), health_interval=60, connect_timeout=5) as pool:
            first, second, third = pool.route("key")
            for address in (first, second):
                servers[address].control.open()
                servers[address].freeze()
            with within(0.6):
                assert pool.put("job", key="key", timeout=0.6).server == third
            servers[first].thaw()
            servers[second].thaw()

    def test_puts_without_a_key_soon_avoid_it(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with manager(servers, timeout=0.4, connect_timeout=0.3) as pool:
            for _ in range(6):
                pool.put("job")
            servers[0].freeze()
            wait_until(lambda: state_of(pool, servers[0].address) != "up", "the silence to be noticed")
            for _ in range(30):
                with within(0.1):
                    assert pool.put("job").server != servers[0].address
            servers[0].thaw()
            wait_until(lambda: pool.put("job").server == servers[0].address, "the server to be used again")

    def test_control_c(self, cluster: StartCluster) -> None:
        servers = cluster(1)
        server = servers[0]
        server.control.open()
        with assert_baseline(), manager(servers, health_interval=60) as pool:
            pool.put("job")
            server.freeze()
            with interrupted_when(lambda: pool.servers[0].leased):
                pool.put(SECRET)
            assert (pool.servers[0].open, pool.servers[0].state) == (0, "up")
            server.thaw()
            assert pool.put("job").server == server.address


class TestNobody:
    def test_every_server_is_named_with_its_reason(self, cluster: StartCluster, scripted_server: StartScripted) -> None:
        down, drains, silent = cluster(3)
        down.kill()
        drains.drain()
        silent.control.open()
        silent.freeze()
        mad = scripted_server(default=[expect_line(b"stats"), send(b"HTTP/1.1 400 Bad Request\r\n\r\n")])
        with PoolManager(
            [down.address, drains.address, silent.address, mad.address], connect_timeout=0.1, timeout=0.7
        ) as pool:
            with within(0.7), pytest.raises(NoServerAvailable) as caught:
                pool.put(SECRET)
            reasons = {address: str(error) for address, error in caught.value.errors.items()}
            assert set(reasons) == {down.address, drains.address, silent.address, mad.address}
            assert "refused" in reasons[down.address]
            assert "draining" in reasons[drains.address].lower()
            assert "in time" in reasons[silent.address] or "ran out" in reasons[silent.address]
            assert all(address in str(caught.value) for address in reasons)
            silent.thaw()
        assert not told_of(caught.value)

    def test_a_server_that_comes_up_in_time_gets_it(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            server.kill()
        with manager(servers) as pool:
            call = background(lambda: pool.put("job"))
            wait_until(lambda: pool.get_stats()["retries_num"], "the first retry")
            servers[1].start()
            jid = call.result()
            assert jid.server == servers[1].address
            assert not jid.maybe_duplicate

    def test_the_callers_own_rule_for_retries(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            server.kill()
        with (
            manager(servers, retry=tenacity.stop_after_attempt(1)) as pool,
            within(0.3),
            pytest.raises(NoServerAvailable),
        ):
            pool.put("job", timeout=5)
        with manager(servers, retry=[tenacity.stop_after_attempt(3), tenacity.wait_fixed(0.01)]) as pool:
            with within(0.3), pytest.raises(NoServerAvailable):
                pool.put("job", timeout=5)
            assert pool.get_stats()["retries_num"] == 2
        with pytest.raises(TypeError, match="retry must be tenacity"):
            manager(servers, retry="often")

    def test_closing_ends_it(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            server.kill()
        pool = manager(servers)
        call = background(lambda: pool.put("job", timeout=30))
        wait_until(lambda: pool.get_stats()["retries_num"], "the first retry")
        with within(0.5):
            pool.close()
            assert isinstance(call.error(), PoolClosed)
        with pytest.raises(PoolClosed):
            pool.put("job")

    def test_all_connections_are_held_by_unfinished_jobs(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager([beanstalkd.address], max_connections=1) as pool:
            pool.put("job")
            job = pool.reserve(timeout=0)
            assert job is not None
            with within(0.2), pytest.raises(PoolTimeout, match=f"{beanstalkd.address}.* 1 of 1 "):
                pool.put("another", timeout=0.2)
            assert pool.servers[0].state == "up"
            job.delete()
            pool.put("another")


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"body": 7}, TypeError),
            ({"body": None}, TypeError),
            ({"body": "\udc80"}, ValueError),
            ({"priority": -1}, ValueError),
            ({"priority": 2**32}, ValueError),
            ({"priority": 1.0}, TypeError),
            ({"priority": True}, TypeError),
            ({"priority": "1"}, TypeError),
            ({"delay": -1}, ValueError),
            ({"delay": 0.5}, TypeError),
            ({"delay": 2**32}, ValueError),
            ({"ttr": 0}, ValueError),
            ({"ttr": "60"}, TypeError),
            ({"tube": ""}, ValueError),
            ({"tube": "-a"}, ValueError),
            ({"tube": "a\r\ndelete 1"}, ValueError),
            ({"tube": "x" * 201}, ValueError),
            ({"tube": b"a"}, TypeError),
            ({"key": 7}, TypeError),
            ({"timeout": 0}, ValueError),
            ({"timeout": -1}, ValueError),
            ({"timeout": float("nan")}, ValueError),
            ({"timeout": "5"}, TypeError),
            ({"on_ambiguous": "ignore"}, ValueError),
            ({"on_ambiguous": True}, TypeError),
        ],
    )
    @pytest.mark.parametrize("servers", [1, 2])
    def test_are_checked_before_a_byte_is_sent(
        self, scripted_server: StartScripted, arguments: dict[str, Any], error: type[Exception], servers: int
    ) -> None:
        scripted = [scripted_server() for _ in range(servers)]
        with PoolManager([server.address for server in scripted], health_interval=60) as pool:
            name = next(iter(arguments))
            with pytest.raises(error, match=None if arguments.get("body") == "\udc80" else name):
                pool.put(**{"body": "job", **arguments})
            if "tube" in arguments:
                for use in (pool.use, pool.watch, pool.ignore, pool.tube):
                    with pytest.raises(error):
                        use(arguments["tube"])
            assert [server.accepts for server in scripted] == [0] * servers

    def test_bytes_only(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager([beanstalkd.address], encoding=None) as pool:
            with pytest.raises(TypeError, match="body"):
                pool.put("text")
            pool.put(b"bytes")
            job = pool.reserve(timeout=0)
            assert job is not None
            assert job.body == b"bytes"
            job.delete()


# The commands on one job, by its id.
BY_ID: dict[str, Callable[..., object]] = {
    "delete": PoolManager.delete,
    "release": PoolManager.release,
    "bury": PoolManager.bury,
    "touch": PoolManager.touch,
    "kick_job": PoolManager.kick_job,
    "stats_job": PoolManager.stats_job,
    "peek": PoolManager.peek,
    "reserve_job": PoolManager.reserve_job,
}


class TestIds:
    @pytest.mark.parametrize("command", BY_ID.values(), ids=BY_ID.keys())
    def test_a_bare_number_says_too_little_where_there_are_several_servers(
        self, cluster: StartCluster, command: Callable[..., object]
    ) -> None:
        servers = cluster(2)
        ids = [server.control.put(b"job") for server in servers]
        with manager(servers) as pool:
            with pytest.raises(ValueError, match=r"names a different job on each of the 2 servers: pass the JobId"):
                command(pool, ids[0])
            with pytest.raises(ValueError, match=f"must be one of .*{servers[1].address}.*, not 'q7:11300'"):
                command(pool, ids[0], server="q7:11300")
            jid = JobId(ids[0], servers[0].address, servers[0].control.stats()["id"])
            with pytest.raises(ValueError, match=f"that of the JobId \\({servers[0].address}\\)"):
                command(pool, jid, server=servers[1].address)
            for wrong in (0, -1, 2**64, True, "1", 1.0, None):
                with pytest.raises((TypeError, ValueError)):
                    command(pool, wrong, server=servers[0].address)
        assert all(server.control.state(1) == "ready" for server in servers)

    def test_commands_on_a_job_by_what_put_returned(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with manager(servers) as pool:
            ids = [pool.put(f"job {number}") for number in range(4)]
            for number, jid in enumerate(ids):
                server = next(server for server in servers if server.address == jid.server)
                seen = pool.peek(jid)
                assert seen is not None
                assert seen.body == f"job {number}"
                assert not seen.reserved
                assert pool.stats_job(jid)["state"] == "ready"
                for refused in (pool.release, pool.bury, pool.touch, pool.kick_job):
                    with pytest.raises(NotFound):
                        refused(jid)
                job = pool.reserve_job(jid)
                pool.touch(jid)
                pool.bury(jid)
                assert not job.reserved
                assert server.control.state(jid) == "buried"
                pool.kick_job(jid)
                assert server.control.state(jid) == "ready"
                job = pool.reserve_job(jid)
                pool.release(jid, delay=60)
                assert not job.reserved
                assert server.control.state(jid) == "delayed"
                pool.delete(jid)
                assert server.control.state(jid) is None
                assert pool.peek(jid) is None
                with pytest.raises(NotFound):
                    pool.delete(jid)

    def test_by_number_and_the_servers_name_or_address(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        named = [Server(server.host, server.port, name=f"q{index}") for index, server in enumerate(servers)]
        with PoolManager(named) as pool:
            for server in servers:
                for _ in range(2):
                    server.control.put(server.address.encode())
            pool.delete(1, server="q0")
            pool.delete(2, server=servers[1].address)
            seen = pool.peek(1, server="q1")
            assert seen is not None
            assert seen.body == servers[1].address
        assert [servers[0].control.state(1), servers[0].control.state(2)] == [None, "ready"]
        assert [servers[1].control.state(1), servers[1].control.state(2)] == ["ready", None]

    def test_by_number_where_there_is_one_server(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager([beanstalkd.address]) as pool:
            pool.put("job")
            assert pool.stats_job(1)["tube"] == "default"
            pool.delete(1)

    @pytest.mark.parametrize("command", BY_ID.values(), ids=BY_ID.keys())
    def test_ids_from_before_a_restart_touch_no_job_of_now(
        self, beanstalkd: BeanstalkdServer, command: Callable[..., object]
    ) -> None:
        with manager([beanstalkd]) as pool:
            old = [pool.put("old") for _ in range(10)]
            beanstalkd.restart()
            witnesses = [beanstalkd.control.put(b"witness") for _ in range(10)]
            assert witnesses == old, "the same numbers"
            before = [beanstalkd.control.stats_job(jid) for jid in witnesses]
            for jid in old:
                with pytest.raises((JobLost, NotFound, ConnectionFailed)) as caught:
                    command(pool, jid)
                assert isinstance(caught.value, BeanpoolError)
            after = [beanstalkd.control.stats_job(jid) for jid in witnesses]
        for was, now in zip(before, after, strict=True):
            assert was is not None
            assert now is not None
            assert {**was, "age": ""} == {**now, "age": ""}


class TestUnderFire:
    def test_kills_and_restarts_lose_nothing_that_was_acknowledged(self, cluster: StartCluster, ledger: Ledger) -> None:
        servers = cluster(3, wal=True)
        end = time.monotonic() + 2.0

        def produce() -> None:
            while time.monotonic() < end:
                body = ledger.token(100)
                try:
                    jid = pool.put(body)
                except PutAmbiguous as error:
                    ledger.ambiguous(body, len(error.attempts))
                except BeanpoolError as error:
                    ledger.refused(body, error)
                else:
                    ledger.acked(body, jid.server, jid, jid.maybe_duplicate)

        def gone_on(before: int) -> bool:
            return ledger.acked_count > before + 50 or time.monotonic() > end

        def attack() -> None:
            for server in itertools.cycle(servers):
                server.kill()
                wait_until(functools.partial(gone_on, ledger.acked_count), "puts to go on")
                server.start()
                if time.monotonic() > end:
                    break

        with manager(servers, timeout=1) as pool:
            run_together(*[produce] * 4, attack, timeout=30)
            outages = pool.get_stats()["outages_num"]
        report = ledger.reconcile([server.control for server in servers])
        assert outages
        assert report.acked > 500
