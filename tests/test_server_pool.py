"""The connections of one server: who gets which, who waits for how long, and what is left after trouble."""

from __future__ import annotations

import functools
import gc
import random
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from support.interrupts import Rounds, interrupted_when
from support.processes import assert_baseline, open_descriptors
from support.scripted import answering, expect_line, send, stats_reply, wait_for
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import BeanpoolError, CommandTimeout, ConnectionFailed, PoolClosed, PoolManager, PoolTimeout
from beanpool.address import Address
from beanpool.errors import Phase
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.identity import Identity
from beanpool.server_pool import ServerPool

if TYPE_CHECKING:
    from conftest import StartScripted

LONG = 5.0


class Owner:
    """Stands for the member that a pool belongs to, and writes down what it is told."""

    def __init__(self) -> None:
        self.generation = 0
        self.instances: list[str] = []
        self.reports: list[BeanpoolError] = []
        self.closings: list[str] = []
        self.times_starved = 0
        self.pool: ServerPool | None = None

    def learn(self, identity: Identity, round_trip: float) -> int:
        if self.instances and self.instances[-1] != identity.instance:
            self.generation += 1
            if self.pool is not None:
                self.pool.start_generation(self.generation)
        if identity.instance not in self.instances:
            self.instances.append(identity.instance)
        return self.generation

    def report(self, error: BeanpoolError, generation: int) -> None:
        self.reports.append(error)

    def starved(self) -> None:
        self.times_starved += 1

    def opened(self, connection: PooledConnection) -> None:
        pass

    def closed(self, connection: PooledConnection, because: str) -> None:
        self.closings.append(because)


@contextmanager
def pool_of(
    host: str, port: int, max_connections: int = 3, *, timeout: float = LONG, connect_timeout: float = LONG
) -> Iterator[tuple[ServerPool, Owner]]:
    owner = Owner()
    pool = owner.pool = ServerPool(
        Address(host, port),
        max_connections=max_connections,
        connect_timeout=connect_timeout,
        timeout=timeout,
        encoding="utf-8",
        owner=owner,
    )
    try:
        yield pool, owner
    finally:
        now = time.monotonic()
        pool.close(now, now)


def soon() -> float:
    return time.monotonic() + LONG


def waiting(pool: ServerPool) -> int:
    return pool.stats()["requests_waiting"]


def wait_for_pause(connections: Iterable[PooledConnection]) -> None:
    """Until then a connection passes for alive without a look at it."""
    last = max(connection.channel.used_at for connection in connections)
    wait_until(lambda: time.monotonic() > last + 0.02, "a pause in the traffic")


def readable(connection: PooledConnection) -> bool:
    return bool(select.select([connection], [], [], 0)[0])


class TestCheckOut:
    def test_a_connection_has_one_user_at_a_time_and_there_are_no_more_than_allowed(
        self, beanstalkd: BeanstalkdServer
    ) -> None:
        beanstalkd.control.open()
        in_use: set[int] = set()
        seen: set[int] = set()
        most = 0
        lock = threading.Lock()
        early, all_three = threading.Semaphore(3), threading.Barrier(3)

        def work() -> None:
            nonlocal most
            for _ in range(50):
                with pool.lend(soon()) as connection:
                    key = id(connection)
                    with lock:
                        assert key not in in_use
                        in_use.add(key)
                        seen.add(key)
                        most = max(most, len(in_use))
                    if early.acquire(blocking=False):
                        # The first three meet with a connection each in hand.
                        all_three.wait(10)
                    assert connection.kick(1) == 0
                    with lock:
                        in_use.remove(key)

        with pool_of(beanstalkd.host, beanstalkd.port) as (pool, owner):
            run_together(*[work] * 8)
            assert most == 3
            assert len(seen) == 3, "connections are kept, not made anew"
            assert beanstalkd.control.other_connections() == 3
            assert pool.counts() == (3, 3)
            assert not owner.reports

    def test_what_a_borrower_asks_has_the_rest_of_the_time(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port) as (pool, _):
            with pool.lend(soon()) as connection:
                connection.stats()
            beanstalkd.freeze()
            with (
                within(0.3, "a question to a silent server"),
                pytest.raises(CommandTimeout),
                pool.lend(time.monotonic() + 0.3) as connection,
            ):
                connection.stats()
            beanstalkd.thaw()
            with pool.lend(soon()) as connection:
                assert connection.timeout > 1, "what was left of the loan before is over"

    def test_who_gets_none_in_time_is_told_how_many_there_are(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port, 2) as (pool, owner):
            held = [pool.acquire(soon()), pool.acquire(soon())]
            with within(0.2), pytest.raises(PoolTimeout, match=rf"{beanstalkd.address}: .*2 of 2 are in use"):
                pool.acquire(time.monotonic() + 0.2)
            assert owner.times_starved == 1
            assert not owner.reports, "a full pool says nothing of the server"
            assert waiting(pool) == 0
            for connection in held:
                pool.release(connection)
            assert pool.counts() == (2, 2)

    def test_first_come_first_served(self, beanstalkd: BeanstalkdServer) -> None:
        served: list[int] = []
        with pool_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            held = pool.acquire(soon())

            def wait_in_line(number: int) -> None:
                connection = pool.acquire(soon())
                served.append(number)
                pool.release(connection)

            calls = []
            for number in range(6):
                calls.append(background(functools.partial(wait_in_line, number)))
                wait_until(lambda: waiting(pool) == len(calls), "the thread to wait")
            assert pool.acquire_now(("default",)) is None, "nobody overtakes those who wait"
            pool.release(held)
            for call in calls:
                call.result()
        assert served == [0, 1, 2, 3, 4, 5]

    def test_a_place_that_comes_free_goes_to_who_waits(self, beanstalkd: BeanstalkdServer) -> None:
        """Also when the connection itself is not worth keeping."""
        with pool_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            held = pool.acquire(soon())
            other = background(lambda: pool.acquire(soon()))
            wait_until(lambda: waiting(pool), "the thread to wait")
            pool.discard(held)
            connection = other.result()
            assert connection is not held
            assert connection.kick(1) == 0
            pool.release(connection)

    def test_newest_idle_connection_first(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port) as (pool, _):
            first, second, third = (pool.acquire(soon()) for _ in range(3))
            for connection in (second, third, first):
                pool.release(connection)
            assert [pool.acquire(soon()) for _ in range(3)] == [first, third, second]

    def test_one_that_uses_the_tube_is_preferred(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port) as (pool, _):
            plain, mails, newest = (pool.acquire(soon()) for _ in range(3))
            mails.use_tube("mails", soon())
            for connection in (plain, mails, newest):
                pool.release(connection)
            taken = pool.acquire(soon(), "mails")
            assert taken is mails
            pool.release(taken)
            assert pool.acquire(soon(), "default") is newest
            assert pool.acquire(soon(), "unheard of") is mails, "none fits: the newest"

    def test_one_that_watches_the_tubes_is_preferred(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port) as (pool, _):
            plain, both, one = (pool.acquire(soon()) for _ in range(3))
            both.watch("a")
            both.watch("b")
            both.ignore("default")
            one.watch("a")
            for connection in (plain, both, one):
                pool.release(connection)
            assert pool.acquire_now(("b", "a")) is both
            assert pool.acquire_now(("default",)) is plain
            assert pool.acquire_now(("default",)) is one, "none fits: the newest"
            pool.discard(one)
            unopened = pool.acquire_now(("default",))
            assert unopened is not None
            assert unopened.channel_state is None, "a new one is opened by who uses it"

    def test_a_connection_that_is_forgotten_frees_its_place(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            connection = pool.acquire(soon())
            assert pool.counts() == (1, 0)
            del connection
            gc.collect()
            assert pool.counts() == (0, 0)
            pool.release(pool.acquire(soon()))

    def test_a_call_that_failed_on_the_wire_costs_its_connection(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port) as (pool, owner):
            with pytest.raises(ConnectionFailed), pool.lend(soon()) as connection:
                beanstalkd.kill()
                connection.kick(1)
            assert pool.counts() == (0, 0)
            assert [type(error) for error in owner.reports] == [ConnectionFailed]

    def test_a_refusal_costs_nothing(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port) as (pool, owner):
            with pytest.raises(BeanpoolError, match="NOT_FOUND"), pool.lend(soon()) as connection:
                connection.delete(7)
            assert pool.counts() == (1, 1)
            assert not owner.reports

    def test_who_wants_one_is_called_once_when_one_may_be_free(self, beanstalkd: BeanstalkdServer) -> None:
        calls: list[str] = []
        with pool_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            held = pool.acquire(soon())
            pool.want(lambda: calls.append("released"))
            assert not calls
            pool.release(held)
            pool.release(pool.acquire(soon()))
            assert calls == ["released"]
            held = pool.acquire(soon())
            pool.want(lambda: calls.append("discarded"))
            pool.discard(held)
            assert calls == ["released", "discarded"]


class TestStaleConnections:
    def test_idle_ones_from_before_a_restart_are_replaced_unnoticed(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port) as (pool, owner):
            old = [pool.acquire(soon()) for _ in range(3)]
            for connection in old:
                pool.release(connection)
            wait_for_pause(old)
            beanstalkd.restart()
            with pool.lend(soon()) as connection:
                assert connection not in old
                assert connection.kick(1) == 0
            assert not owner.reports, "nobody failed"
            assert len(owner.instances) == 2
            assert all(connection.closed for connection in old)
            assert pool.counts() == (1, 1)

    def test_puts_after_a_restart_do_not_notice_it(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager([beanstalkd.address], health_interval=60) as manager:
            gate = threading.Barrier(3)

            def put_together() -> None:
                gate.wait(LONG)
                manager.put("before")

            run_together(*[put_together] * 3)
            idle_since = time.monotonic()
            wait_until(lambda: time.monotonic() > idle_since + 0.02, "a pause in the traffic")
            beanstalkd.restart()
            assert not manager.put("after").maybe_duplicate
            stats = manager.get_stats()
            assert stats["puts_ambiguous"] == stats["retries_num"] == 0

    def test_one_that_got_bytes_unasked_is_not_used(self, scripted_server: StartScripted) -> None:
        """A reply goes to the command that asked, so nobody may be given a connection with a reply too many."""

        idle = threading.Event()
        server = scripted_server(
            [expect_line(b"stats"), send(stats_reply()), wait_for(idle), send(b"INSERTED 7\r\n")],
            default=answering({"stats": stats_reply(), "kick": b"KICKED 0\r\n"}),
        )
        with pool_of(server.host, server.port) as (pool, _):
            with pool.lend(soon()) as first:
                pass
            idle.set()
            wait_until(lambda: readable(first), "the bytes to arrive")
            wait_for_pause([first])
            with pool.lend(soon()) as connection:
                assert connection is not first
                assert connection.kick(1) == 0

    def test_a_new_generation_ends_idle_ones_at_once_and_those_in_use_when_they_return(
        self, beanstalkd: BeanstalkdServer
    ) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port) as (pool, owner):
            in_use, idle = pool.acquire(soon()), pool.acquire(soon())
            pool.release(idle)
            owner.generation = 1
            pool.start_generation(1)
            assert idle.closed
            assert in_use.kick(1) == 0, "who is at work is left alone"
            pool.release(in_use)
            assert in_use.closed
            assert pool.counts() == (0, 0)
            with pool.lend(soon()) as fresh:
                assert fresh.generation == 1
            assert pool.counts() == (1, 1)
            pool.start_generation(0)
            assert pool.counts() == (1, 1), "an older generation is no news"

    def test_trim_leaves_the_newest(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port) as (pool, _):
            connections = [pool.acquire(soon()) for _ in range(3)]
            for connection in connections:
                pool.release(connection)
            pool.trim(60)
            assert pool.counts() == (3, 3)
            wait_until(lambda: time.monotonic() > connections[-1].channel.used_at, "the clock to move")
            pool.trim(0)
            assert pool.counts() == (1, 1)
            assert pool.acquire(soon()) is connections[-1]


class TestTrouble:
    def test_no_lock_is_held_while_a_server_is_silent(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port, 2) as (pool, _):
            idle = pool.acquire(soon())
            pool.release(idle)
            beanstalkd.freeze()
            asking = background(lambda: pool.acquire(soon()).kick(1))
            wait_until(lambda: pool.counts() == (1, 0), "the idle connection to be taken")
            connecting = background(lambda: pool.acquire(soon()).kick(1))
            wait_until(lambda: pool.counts() == (2, 0), "a second one to be opened")
            with within(0.1, "looking at the pool, and a third caller's time"):
                pool.counts()
                pool.stats()
                pool.full_of_jobs()
                pool.start_generation(0)
                pool.trim(60)
                assert pool.acquire_now(("default",)) is None
                with pytest.raises(PoolTimeout):
                    pool.acquire(time.monotonic() + 0.05)
            assert not asking.done
            assert not connecting.done
            beanstalkd.thaw()
            assert (asking.result(), connecting.result()) == (0, 0)

    def test_a_handshake_without_an_answer_ends_in_time(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.freeze()
        with pool_of(beanstalkd.host, beanstalkd.port, connect_timeout=0.2) as (pool, owner):
            with within(0.2), pytest.raises(CommandTimeout, match="accepted, but the server does not answer") as caught:
                pool.acquire(soon())
            assert caught.value.phase is Phase.HANDSHAKE
            assert not caught.value.may_have_taken_effect
            assert owner.reports == [caught.value]
            assert pool.counts() == (0, 0)

    def test_what_is_no_beanstalkd_is_found_out_at_the_handshake(self, scripted_server: StartScripted) -> None:
        server = scripted_server(default=[expect_line(b"stats"), send(b"HTTP/1.1 400 Bad Request\r\n\r\n")])
        with pool_of(server.host, server.port) as (pool, owner):
            with pytest.raises(BeanpoolError, match=server.address):
                pool.acquire(soon())
            assert len(owner.reports) == 1
            assert pool.counts() == (0, 0)

    def test_who_waits_is_told_when_the_server_is_not_worth_waiting_for(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            held = pool.acquire(soon())
            calls = [background(lambda: pool.acquire(soon())) for _ in range(3)]
            wait_until(lambda: waiting(pool) == 3, "the threads to wait")
            with within(0.1):
                pool.turn_away(lambda: ConnectionFailed("it is down"))
                assert [str(call.error()) for call in calls] == ["it is down"] * 3
            assert waiting(pool) == 0
            pool.release(held)
            assert pool.counts() == (1, 1)

    def test_closing_wakes_who_waits(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            pool.acquire(soon())
            held = pool.acquire(soon())
            calls = [background(lambda: pool.acquire(soon())) for _ in range(3)]
            wait_until(lambda: waiting(pool) == 3, "the threads to wait")
            with within(0.1):
                pool.retire()
                assert all(isinstance(call.error(), PoolClosed) for call in calls)
            refusals: list[Callable[[], object]] = [lambda: pool.acquire(soon()), lambda: pool.acquire_now(("a",))]
            for refused in refusals:
                with pytest.raises(PoolClosed, match=beanstalkd.address):
                    refused()
            assert held.kick(1) == 0, "who is at work may finish"
            pool.release(held)
            assert held.closed

    def test_closing_ends_calls_that_would_go_on_for_long(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port) as (pool, _):
            connection = pool.acquire(soon())
            beanstalkd.freeze()
            call = background(lambda: connection.kick(1))
            wait_until(
                lambda: connection.channel_state is not None and connection.channel.state.value != "in step", "it"
            )
            now = time.monotonic()
            with within(0.2):
                pool.close(now + 0.1, now + 0.15)
                assert isinstance(call.error(), ConnectionFailed)


class TestInterrupts:
    def test_in_the_queue(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            held = pool.acquire(soon())
            with interrupted_when(lambda: waiting(pool)):
                pool.acquire(soon())
            assert waiting(pool) == 0
            pool.release(held)
            with pool.lend(soon()) as connection:
                assert connection is held

    def test_in_the_handshake(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.freeze()
        with pool_of(beanstalkd.host, beanstalkd.port) as (pool, owner), assert_baseline():
            before = len(open_descriptors())
            with interrupted_when(lambda: len(open_descriptors()) > before):
                pool.acquire(soon())
            assert pool.counts() == (0, 0)
            assert not owner.reports, "an interrupt says nothing of the server"

    def test_in_mid_command(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd.host, beanstalkd.port) as (pool, _):
            with pool.lend(soon()) as first:
                pass
            beanstalkd.freeze()
            with (
                interrupted_when(lambda: first.channel.state.value == "in the middle of a command"),
                pool.lend(soon()) as connection,
            ):
                assert connection is first
                connection.kick(1)
            beanstalkd.thaw()
            assert first.closed
            with pool.lend(soon()) as connection:
                assert connection.kick(1) == 0

    def test_between_two_commands(self, beanstalkd: BeanstalkdServer) -> None:
        """It may have reserved a job for a caller who will never know of it."""
        jid = beanstalkd.control.put(b"work")
        with pool_of(beanstalkd.host, beanstalkd.port) as (pool, _):
            with pytest.raises(KeyboardInterrupt), pool.lend(soon()) as connection:
                assert connection.reserve_job(jid).id == jid
                raise KeyboardInterrupt
            assert pool.counts() == (0, 0)
            wait_until(lambda: beanstalkd.control.state(jid) == "ready", "the job to be given back")

    # A socket that was struck while it was being made is closed when it is collected.
    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
    def test_at_any_line(self, beanstalkd: BeanstalkdServer, rng: random.Random) -> None:
        """Threads are interrupted at random; then all connections can be had again, by whoever wants them."""

        def borrow() -> None:
            with pool.lend(soon(), "default") as connection:
                connection.kick(1)

        with pool_of(beanstalkd.host, beanstalkd.port, 2) as (pool, owner):
            workers = [Rounds(borrow) for _ in range(4)]
            struck = 0
            end = time.monotonic() + 1.0
            while struck < 300 and time.monotonic() < end:
                struck += rng.choice(workers).strike()
                time.sleep(rng.random() * 0.002)
            for worker in workers:
                worker.stop()
            for worker in workers:
                worker.result()
            gc.collect()
            assert sum(worker.interrupted for worker in workers) > 20
            assert all(worker.completed for worker in workers)
            assert not owner.reports
            assert waiting(pool) == 0
            held = [pool.acquire(soon()) for _ in range(2)]
            assert [connection.kick(1) for connection in held] == [0, 0]
