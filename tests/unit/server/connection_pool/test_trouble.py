"""What is left of a server's connections after errors, interrupts and the end."""

from __future__ import annotations

import collections
import gc
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from support.inside import inside
from support.interrupts import Rounds, interrupted_when
from support.processes import assert_baseline, open_descriptors
from support.scripted import expect_line, send
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until, within

from beanpool import BeanpoolError, CommandTimeout, ConnectionFailed, PoolClosed, PoolManager, PoolTimeout
from beanpool.errors import Phase
from beanpool.protocol.commands import RESERVE_JOB, encode_job
from beanpool.server.lease import JobRef

if TYPE_CHECKING:
    from conftest import StartScripted
from support.server_pools import ask, connections_of, soon, waiting


class TestTrouble:
    def test_no_lock_is_held_while_a_server_is_silent(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port, 2) as (pool, _):
            idle = pool.acquire(soon())
            pool.checkin(idle)
            beanstalkd.freeze()
            asking = background(lambda: ask(pool.acquire(soon())))
            wait_until(lambda: pool.counts() == (1, 0), "the idle connection to be taken")
            connecting = background(lambda: ask(pool.acquire(soon())))
            wait_until(lambda: pool.counts() == (2, 0), "a second one to be opened")
            with within(0.1, "looking at the pool, and a third caller's time"):
                pool.counts()
                pool.stats()
                pool.full_of_jobs()
                pool.pruning.start_generation(0)
                pool.pruning.trim(60)
                assert pool.try_acquire(("default",)) is None
                with pytest.raises(PoolTimeout):
                    pool.acquire(time.monotonic() + 0.05)
            assert not asking.done
            assert not connecting.done
            beanstalkd.thaw()
            assert (asking.result(), connecting.result()) == ("NOT_FOUND", "NOT_FOUND")

    def test_a_handshake_without_an_answer_ends_in_time(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.freeze()
        with connections_of(beanstalkd.host, beanstalkd.port, connect_timeout=0.2) as (pool, owner):
            with within(0.2), pytest.raises(CommandTimeout, match="accepted, but the server does not answer") as caught:
                pool.acquire(soon())
            assert caught.value.phase is Phase.HANDSHAKE
            assert not caught.value.may_have_taken_effect
            assert owner.reports == [caught.value]
            assert pool.counts() == (0, 0)

    def test_what_is_no_beanstalkd_is_found_out_at_the_handshake(self, scripted_server: StartScripted) -> None:
        server = scripted_server(default=[expect_line(b"stats"), send(b"HTTP/1.1 400 Bad Request\r\n\r\n")])
        with connections_of(server.host, server.port) as (pool, owner):
            with pytest.raises(BeanpoolError, match=server.address):
                pool.acquire(soon())
            assert len(owner.reports) == 1
            assert pool.counts() == (0, 0)

    def test_who_waits_is_told_when_the_server_is_not_worth_waiting_for(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            held = pool.acquire(soon())
            calls = [background(lambda: pool.acquire(soon())) for _ in range(3)]
            wait_until(lambda: waiting(pool) == 3, "the threads to wait")
            with within(0.1):
                pool.queue.fail(lambda: ConnectionFailed("it is down"))
                assert [str(call.error()) for call in calls] == ["it is down"] * 3
            assert waiting(pool) == 0
            pool.checkin(held)
            assert pool.counts() == (1, 1)

    def test_closing_wakes_who_waits(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            pool.acquire(soon())
            held = pool.acquire(soon())
            calls = [background(lambda: pool.acquire(soon())) for _ in range(3)]
            wait_until(lambda: waiting(pool) == 3, "the threads to wait")
            with within(0.1):
                pool.close_to_new()
                assert all(isinstance(call.error(), PoolClosed) for call in calls)
            refusals: list[Callable[[], object]] = [lambda: pool.acquire(soon()), lambda: pool.try_acquire(("a",))]
            for refused in refusals:
                with pytest.raises(PoolClosed, match=beanstalkd.address):
                    refused()
            assert ask(held) == "NOT_FOUND", "who is at work may finish"
            pool.checkin(held)
            assert held.closed

    def test_closing_ends_calls_that_would_go_on_for_long(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port) as (pool, _):
            connection = pool.acquire(soon())
            beanstalkd.freeze()
            call = background(lambda: ask(connection))
            wait_until(
                lambda: connection.channel_state is not None and connection.channel.state.value != "in step", "it"
            )
            now = time.monotonic()
            with within(0.2):
                pool.close(now + 0.1, now + 0.15)
                assert isinstance(call.error(), ConnectionFailed)


class TestInterrupts:
    def test_in_the_queue(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            held = pool.acquire(soon())
            with interrupted_when(lambda: waiting(pool)):
                pool.acquire(soon())
            assert waiting(pool) == 0
            pool.checkin(held)
            with pool.lend(soon()) as connection:
                assert connection is held

    def test_a_place_that_was_lost_goes_to_who_waits(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            held = pool.acquire(soon())
            other = background(lambda: ask(pool.acquire(soon())))
            wait_until(lambda: waiting(pool), "the thread to wait")
            # As an interrupt does at a bad line.
            del held
            gc.collect()
            assert pool.queue.starving
            pool.queue.fill_places()
            assert other.result(2) == "NOT_FOUND"

    def test_notes_of_dropped_jobs_that_come_while_they_are_read(
        self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As they may at any moment on a Python without a global lock."""

        class Busy(collections.deque[JobRef]):
            disturbances = 3

            def __iter__(self) -> Iterator[JobRef]:
                if self.disturbances:
                    self.disturbances -= 1
                    raise RuntimeError("deque mutated during iteration")
                return super().__iter__()

        jid = beanstalkd.control.put(b"work")
        monkeypatch.setattr("beanpool.server.reservations.deque", Busy)
        with PoolManager(beanstalkd.url, health_interval=60) as manager:
            notes = inside(manager).members[0].reservations.abandoned
            assert isinstance(notes, Busy)
            job = manager.reserve(0)
            assert job is not None
            del job
            wait_until(lambda: beanstalkd.control.state(jid) == "ready", "the job to be given back")
            assert not notes.disturbances
            wait_until(lambda: not notes, "its note to be gone")

    def test_in_the_handshake(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.freeze()
        with connections_of(beanstalkd.host, beanstalkd.port) as (pool, owner), assert_baseline():
            before = len(open_descriptors())
            with interrupted_when(lambda: len(open_descriptors()) > before):
                pool.acquire(soon())
            assert pool.counts() == (0, 0)
            assert not owner.reports, "an interrupt says nothing of the server"

    def test_in_mid_command(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port) as (pool, _):
            with pool.lend(soon()) as first:
                pass
            beanstalkd.freeze()
            with (
                interrupted_when(lambda: first.channel.state.value == "in the middle of a command"),
                pool.lend(soon()) as connection,
            ):
                assert connection is first
                ask(connection)
            beanstalkd.thaw()
            assert first.closed
            with pool.lend(soon()) as connection:
                assert ask(connection) == "NOT_FOUND"

    def test_between_two_commands(self, beanstalkd: BeanstalkdServer) -> None:
        """It may have reserved a job for a caller who will never know of it."""
        jid = beanstalkd.control.put(b"work")
        with connections_of(beanstalkd.host, beanstalkd.port) as (pool, _):
            with pytest.raises(KeyboardInterrupt), pool.lend(soon()) as connection:
                reply = connection.channel.exchange(RESERVE_JOB, encode_job(RESERVE_JOB, jid), soon())
                assert reply.status == "RESERVED"
                raise KeyboardInterrupt
            assert pool.counts() == (0, 0)
            wait_until(lambda: beanstalkd.control.state(jid) == "ready", "the job to be given back")

    # A socket that was struck while it was being made is closed when it is collected.
    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
    def test_at_any_line(self, beanstalkd: BeanstalkdServer, rng: random.Random) -> None:
        """Threads are interrupted at random; then all connections can be had again, by whoever wants them."""

        def borrow() -> None:
            with pool.lend(soon(), "default") as connection:
                ask(connection)

        with connections_of(beanstalkd.host, beanstalkd.port, 2) as (pool, owner):
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
            assert [ask(connection) for connection in held] == ["NOT_FOUND"] * 2
