"""Puts that may or may not be stored."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest
from support.scripted import Script, ScriptedConnection, Step, answering, close, expect_line, reset, send, stats_reply
from support.servers import BeanstalkdServer, ServerFactory
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import PoolManager, PutAmbiguous

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted
from support.putting import SECRET, key_of, told_of


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
        with PoolManager([server.address, beanstalkd.address], timeout=1.6) as pool:
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
            [server.address, beanstalkd.address], connect_timeout=0.3, timeout=1.6, on_ambiguous="raise"
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

    @pytest.mark.parametrize("later", ["JOB_TOO_BIG", "BAD_FORMAT", "DRAINING", "OUT_OF_MEMORY"])
    def test_a_later_refusal_takes_nothing_back(self, scripted_server: StartScripted, later: str) -> None:
        """The first server may have stored it, whatever the second says."""
        first = scripted_server(default=instead_of_a_reply(close()))
        second = scripted_server(default=answering({"stats": stats_reply(), "put": f"{later}\r\n".encode()}))
        with PoolManager([first.address, second.address], timeout=0.4) as pool:
            with within(0.4), pytest.raises(PutAmbiguous) as caught:
                pool.put(SECRET, key=key_of(pool, first.address))
            assert caught.value.server == first.address
            assert later in str(caught.value.attempts[1])
        assert not told_of(caught.value)

    def test_closing_takes_nothing_back(self, scripted_server: StartScripted) -> None:
        server = scripted_server(default=instead_of_a_reply())
        pool = PoolManager([server.address], timeout=30, health_interval=60)
        call = background(lambda: pool.put(SECRET))
        wait_until(lambda: server.accepts and b"put " in server.received(), "the put to be sent")
        with within(1):
            pool.close(0)
            assert isinstance(call.error(), PutAmbiguous)

    def test_many_that_failed_at_once_are_all_put_when_the_server_goes_on(self, scripted_server: StartScripted) -> None:
        """What bounds the repeated attempts slows them down; it gives up nobody who has time."""
        many = 40
        waiting = itertools.count(1)
        all_there = threading.Event()

        def fail_all_at_once(connection: ScriptedConnection, line: bytes, body: bytes) -> bytes | None:
            if all_there.is_set():
                return b"INSERTED 8\r\n"
            if next(waiting) == many:
                all_there.set()
            connection.wait(all_there)
            connection.close()
            return None

        server = scripted_server(default=answering({"stats": stats_reply(), "put": fail_all_at_once}))
        with PoolManager([server.address], timeout=20, max_connections=many) as pool:
            stored = run_together(*[lambda: pool.put("job")] * many, timeout=30)
        assert all(jid.maybe_duplicate for jid in stored)

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
