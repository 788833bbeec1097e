"""Many puts of which a server does not take its share: they go to the others within the batch."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from concurrent.futures import Future
from typing import TYPE_CHECKING

import pytest
from support.batches import key_for, stored_in
from support.inside import inside
from support.pools import pool_of
from support.putting import key_of, state_of
from support.scripted import Answer, ScriptedConnection, answering, stats_reply
from support.servers import BeanstalkdServer, ServerFactory
from support.threads import background
from support.waiting import wait_until, within

from beanpool import BeanpoolError, JobId, JobTooBig, PoolManager, Put, PutAmbiguous
from beanpool.errors import CommandTimeout, NoServerForPut, Phase

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine, StartScripted

MANY = 3000
# A batch takes a connection of each server; whoever puts one by one takes one for each job.
FEW_CALLS = 40


def take_away(how: str, pool: PoolManager, server: BeanstalkdServer) -> None:
    """Let a server take no puts."""
    if how == "weightless":
        pool.set_weight(server.address, 0)
    elif how == "draining":
        server.drain()
    else:
        server.kill()
        wait_until(lambda: state_of(pool, server.address) == "down", "the death to be noticed")


@pytest.mark.parametrize("how", ["dead", "draining", "weightless"])
@pytest.mark.parametrize("keyed", [True, False], ids=["keys", "no keys"])
def test_it_stays_a_batch(cluster: StartCluster, how: str, keyed: bool) -> None:
    servers = cluster(3)
    # That one drains is to be learned from its refusals, not from a check in between.
    with pool_of(*servers, health_interval=60 if how == "draining" else 0.3) as pool:
        pool.wait(3)
        puts = [Put("x" * 200, key=f"user {number}" if keyed else None) for number in range(MANY)]
        take_away(how, pool, servers[0])
        before = pool.get_stats()["requests_num"]
        stored = stored_in(pool.put_many(puts))
        assert pool.get_stats()["requests_num"] - before < FEW_CALLS
        assert not any(jid.maybe_duplicate for jid in stored)
        assert {jid.server for jid in stored} == {server.address for server in servers[1:]}
        if how == "draining":
            refused = servers[0].control.counter("cmd-put")
            assert 0 < refused < MANY / 6, "what was on its way, and no more"
        if keyed:
            order = [[address for address in pool.route(str(put.key)) if address != servers[0].address] for put in puts]
            assert [jid.server for jid in stored] == [addresses[0] for addresses in order]


@pytest.mark.parametrize("how", ["dead", "draining"])
def test_it_stays_batches_of_a_producer(cluster: StartCluster, how: str) -> None:
    servers = cluster(3)
    with pool_of(*servers) as pool, pool.producer() as producer:
        pool.wait(3)
        take_away(how, pool, servers[0])
        before = pool.get_stats()["requests_num"]
        futures = [producer.put(f"{number}", key=f"user {number}") for number in range(MANY)]
        stored = stored_in([future.result(20) for future in futures])
        assert pool.get_stats()["requests_num"] - before < MANY / 10
        assert {jid.server for jid in stored} == {server.address for server in servers[1:]}


def test_of_servers_that_are_far_none_is_asked_one_by_one(cluster: StartCluster, delay_line: StartDelayLine) -> None:
    """One of them says only in its replies that it drains, to all that was on its way by then."""
    servers = cluster(2)
    lines = [delay_line(server, 0.1) for server in servers]
    with PoolManager([line.address for line in lines], timeout=2) as pool:
        pool.wait(2)
        servers[0].drain()
        with within(2, "the batch"):
            stored = stored_in(pool.put_many(Put("x" * 50, key=f"{number}") for number in range(800)))
        assert {jid.server for jid in stored} == {lines[1].address}


def test_what_a_silent_server_had_goes_to_the_next_in_one_piece(
    cluster: StartCluster, delay_line: StartDelayLine
) -> None:
    servers = cluster(2)
    line = delay_line(servers[1], 0.1)
    # One by one they would take ten times the time that is left for them.
    with PoolManager([servers[0].address, line.address], timeout=2.4) as pool:
        pool.wait(2)
        servers[0].freeze()
        try:
            with within(2.4, "the batch", slack=0.6):
                stored = stored_in(pool.put_many(Put("x", key=f"{number}") for number in range(500)))
        finally:
            servers[0].thaw()
        assert {jid.server for jid in stored} == {line.address}


def test_a_body_that_is_too_big_for_some(beanstalkd_factory: ServerFactory) -> None:
    small, large = beanstalkd_factory(max_job_size=100), beanstalkd_factory(max_job_size=5000)
    with pool_of(small, large, health_interval=60) as pool:
        home = key_of(pool, small.address)
        outcomes = pool.put_many(["s", *["x" * 4000] * 4, Put("x" * 4000, key=home), "x" * 6000, "s"])
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds == [JobId] * 5 + [JobTooBig, JobTooBig, JobId]
        assert {jid.server for jid in stored_in(outcomes[1:5])} == {large.address}


class TestSuspects:
    def test_one_that_may_be_silent_gets_a_single_put_first(self, cluster: StartCluster) -> None:
        """What is sent to a server that is silent may be stored twice: it must not be a whole window."""
        servers = cluster(2)
        with pool_of(*servers, timeout=1, connect_timeout=20, health_interval=60) as pool:
            pool.wait(2)
            key = key_of(pool, servers[0].address)
            with contextlib.ExitStack() as stack:
                # One connection for the check of a suspect server, and another one for the batch.
                for _ in range(3):
                    stack.enter_context(inside(pool).connections_of(0).lend(time.monotonic() + 5))
            servers[0].freeze()
            inside(pool).members[0].report(
                CommandTimeout("silent once", server=servers[0].address, phase=Phase.WAITING), 0, time.monotonic()
            )
            try:
                with within(1, "the batch"):
                    stored = stored_in(pool.put_many(Put("x", key=key) for _ in range(500)))
            finally:
                servers[0].thaw()
        assert {jid.server for jid in stored} == {servers[1].address}
        assert sum(jid.maybe_duplicate for jid in stored) <= 1

    def test_one_that_is_healthy_after_all_gets_the_rest(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers, health_interval=60) as pool:
            pool.wait(2)
            key = key_of(pool, servers[0].address)
            inside(pool).members[0].report(
                CommandTimeout("silent once", server=servers[0].address, phase=Phase.WAITING), 0, time.monotonic()
            )
            stored = stored_in(pool.put_many(Put("x", key=key) for _ in range(500)))
            assert {jid.server for jid in stored} == {servers[0].address}
            assert state_of(pool, servers[0].address) == "up"


class TestAmbiguous:
    @pytest.mark.parametrize("later", ["JOB_TOO_BIG", "BAD_FORMAT", "DRAINING"])
    def test_a_later_refusal_takes_nothing_back(self, scripted_server: StartScripted, later: str) -> None:
        servers = [
            scripted_server(default=answering({"stats": stats_reply({"id": name}), "put": answer}))
            for name, answer in (("first", closing()), ("second", f"{later}\r\n".encode()))
        ]
        with PoolManager([server.address for server in servers], timeout=0.4, health_interval=60) as pool:
            key = key_of(pool, servers[0].address)
            with within(0.8, "the batch"):
                outcomes = pool.put_many([Put("body", key=key)] * 3)
        assert {type(outcome) for outcome in outcomes} == {PutAmbiguous}
        for outcome in outcomes:
            assert isinstance(outcome, PutAmbiguous)
            assert outcome.server == servers[0].address
            assert any(later in str(error) for error in outcome.attempts)
            assert "body" not in str(outcome)

    @pytest.mark.parametrize("way", ["put_many", "producer"])
    def test_closing_takes_nothing_back(self, scripted_server: StartScripted, way: str) -> None:
        server = scripted_server(default=answering({"stats": stats_reply(), "put": lambda *_: None}))
        pool = PoolManager([server.address], timeout=30, health_interval=60)
        if way == "put_many":
            call = background(lambda: pool.put_many(["x"] * 5))
        else:
            producer = pool.producer()
            futures = [producer.put("x") for _ in range(5)]
            call = background(lambda: [outcome_of(future) for future in futures])
        wait_until(lambda: server.accepts and server.received().count(b"put ") == 5, "the puts to be sent")
        pool.close(0)
        outcomes = call.result()
        assert {type(outcome) for outcome in outcomes} == {PutAmbiguous}
        if way == "producer":
            producer.close()


class TestComebacks:
    def test_what_no_server_takes_waits_for_one_and_goes_in_one_piece(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            server.kill()
        with pool_of(*servers, timeout=20) as pool:
            call = background(lambda: pool.put_many(Put("x", key=f"{number}") for number in range(200)))
            wait_until(lambda: pool.get_stats()["retries_num"], "the pause")
            servers[1].start()
            stored = stored_in(call.result(20))
            assert {jid.server for jid in stored} == {servers[1].address}
            assert not any(jid.maybe_duplicate for jid in stored)
            assert pool.get_stats()["requests_num"] < FEW_CALLS

    def test_one_that_failed_may_be_asked_again_when_it_goes_on(self, scripted_server: StartScripted) -> None:
        """The only server loses a batch, and is there again: all of it is put once more, one first."""
        puts = itertools.count()

        def fail_first(connection: ScriptedConnection, line: bytes, body: bytes) -> bytes | None:
            number = next(puts)
            return b"INTERNAL_ERROR\r\n" if number == 0 else b"INSERTED %d\r\n" % number

        server = scripted_server(default=answering({"stats": stats_reply(), "put": fail_first}))
        with PoolManager([server.address], timeout=10, health_interval=60) as pool:
            stored = stored_in(pool.put_many(["x"] * 50))
        assert all(jid.maybe_duplicate for jid in stored)

    def test_where_all_drain_nothing_is_waited_for(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers, health_interval=60) as pool:
            for server in servers:
                server.drain()
            with within(1, "the batch"):
                outcomes = pool.put_many(f"{number}" for number in range(1000))
            assert {type(outcome) for outcome in outcomes} == {NoServerForPut}
            servers[1].restart()
            assert {jid.server for jid in stored_in(pool.put_many(["x"] * 20))} == {servers[1].address}

    def test_every_server_is_named_with_its_reason(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        servers[0].kill()
        servers[1].drain()
        with pool_of(*servers, timeout=0.3) as pool:
            outcomes = pool.put_many([Put("x", key=key_for(number)) for number in range(4)])
        for outcome in outcomes:
            assert isinstance(outcome, NoServerForPut)
            reasons = {address: str(error).lower() for address, error in outcome.errors.items()}
            assert "refused" in reasons[servers[0].address]
            assert "draining" in reasons[servers[1].address]
        assert len({id(outcome) for outcome in outcomes}) == 4, "an exception belongs to one who raises it"


def test_events_and_counters_tell_of_each_put(cluster: StartCluster) -> None:
    servers = cluster(2)
    with pool_of(*servers) as pool:
        pool.wait(2)
        key = key_of(pool, servers[0].address)
        servers[0].drain()
        events: Counter[str] = Counter()
        pool.add_listener(lambda event: events.update([type(event).__name__]))
        stored_in(pool.put_many([Put("x", key=key)] * 10))
        assert events["PutRerouted"] == pool.get_stats()["puts_rerouted"] == 10


def outcome_of(future: Future[JobId]) -> JobId | Exception:
    try:
        return future.result(20)
    except BeanpoolError as error:
        return error


def closing() -> Answer:
    """Closes the connection instead of a reply."""

    def close(connection: ScriptedConnection, line: bytes, body: bytes) -> bytes | None:
        connection.close()
        return None

    return close
