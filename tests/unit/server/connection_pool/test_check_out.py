"""Who gets which connection of a server, and who waits for how long."""

from __future__ import annotations

import functools
import gc
import math
import threading
import time

import pytest
from support.server_pools import ask, connections_of, soon, waiting
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import BeanpoolError, ConnectionFailed, PoolTimeout
from beanpool.connection.job_making import reserved_job
from beanpool.protocol.commands import DELETE, encode_job
from beanpool.server.reservations import Reservations
from beanpool.server.ticket import Ticket


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
                    assert ask(connection) == "NOT_FOUND"
                    with lock:
                        in_use.remove(key)

        with connections_of(beanstalkd.host, beanstalkd.port) as (pool, owner):
            run_together(*[work] * 8)
            assert most == 3
            assert len(seen) == 3, "connections are kept, not made anew"
            assert beanstalkd.control.other_connections() == 3
            assert pool.counts() == (3, 3)
            assert not owner.reports

    def test_who_gets_none_in_time_is_told_how_many_there_are(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port, 2) as (pool, owner):
            held = [pool.acquire(soon()), pool.acquire(soon())]
            with within(0.2), pytest.raises(PoolTimeout, match=rf"{beanstalkd.address}: .*2 of 2 are in use"):
                pool.acquire(time.monotonic() + 0.2)
            assert owner.times_starved == 1
            assert not owner.reports, "a full pool says nothing of the server"
            assert waiting(pool) == 0
            for connection in held:
                pool.checkin(connection)
            assert pool.counts() == (2, 2)

    def test_first_come_first_served(self, beanstalkd: BeanstalkdServer) -> None:
        served: list[int] = []
        with connections_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            held = pool.acquire(soon())

            def wait_in_line(number: int) -> None:
                connection = pool.acquire(soon())
                served.append(number)
                pool.checkin(connection)

            calls = []
            for number in range(6):
                calls.append(background(functools.partial(wait_in_line, number)))
                wait_until(lambda: waiting(pool) == len(calls), "the thread to wait")
            assert pool.try_acquire(("default",)) is None, "nobody overtakes those who wait"
            pool.checkin(held)
            for call in calls:
                call.result()
        assert served == [0, 1, 2, 3, 4, 5]

    def test_a_place_that_comes_free_goes_to_who_waits(self, beanstalkd: BeanstalkdServer) -> None:
        """Also when the connection itself is not worth keeping."""
        with connections_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            held = pool.acquire(soon())
            other = background(lambda: pool.acquire(soon()))
            wait_until(lambda: waiting(pool), "the thread to wait")
            pool.discard(held)
            connection = other.result()
            assert connection is not held
            assert ask(connection) == "NOT_FOUND"
            pool.checkin(connection)

    def test_newest_idle_connection_first(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port) as (pool, _):
            first, second, third = (pool.acquire(soon()) for _ in range(3))
            for connection in (second, third, first):
                pool.checkin(connection)
            assert [pool.acquire(soon()) for _ in range(3)] == [first, third, second]

    def test_one_that_uses_the_tube_is_preferred(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port) as (pool, _):
            plain, mails, newest = (pool.acquire(soon()) for _ in range(3))
            mails.use_tube("mails", soon())
            for connection in (plain, mails, newest):
                pool.checkin(connection)
            taken = pool.acquire(soon(), "mails")
            assert taken is mails
            pool.checkin(taken)
            assert pool.acquire(soon(), "default") is newest
            assert pool.acquire(soon(), "unheard of") is mails, "none fits: the newest"

    def test_one_that_watches_the_tubes_is_preferred(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port) as (pool, _):
            plain, both, one = (pool.acquire(soon()) for _ in range(3))
            for connection, tubes in ((both, ("a", "b")), (one, ("default", "a"))):
                connection.begin_reserve(tubes, 0)
                assert connection.await_reply(soon()) is not None
            for connection in (plain, both, one):
                pool.checkin(connection)
            assert pool.try_acquire(("b", "a")) is both
            assert pool.try_acquire(("default",)) is plain
            assert pool.try_acquire(("default",)) is one, "none fits: the newest"
            pool.discard(one)
            unopened = pool.try_acquire(("default",))
            assert unopened is not None
            assert unopened.channel_state is None, "a new one is opened by who uses it"

    def test_a_connection_that_is_forgotten_frees_its_place(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            connection = pool.acquire(soon())
            assert pool.counts() == (1, 0)
            del connection
            gc.collect()
            assert pool.counts() == (0, 0)
            pool.checkin(pool.acquire(soon()))

    def test_a_call_that_failed_on_the_wire_costs_its_connection(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port) as (pool, owner):
            with pytest.raises(ConnectionFailed), pool.lend(soon()) as connection:
                beanstalkd.kill()
                ask(connection)
            assert pool.counts() == (0, 0)
            assert [type(error) for error in owner.reports] == [ConnectionFailed]

    def test_a_refusal_costs_nothing(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port) as (pool, owner):
            with pytest.raises(BeanpoolError, match="NOT_FOUND"), pool.lend(soon()) as connection:
                reply = connection.channel.exchange(DELETE, encode_job(DELETE, 7), soon())
                raise connection.refuse(DELETE, reply)
            assert pool.counts() == (1, 1)
            assert not owner.reports

    def test_a_reserve_queues_like_everybody_else_and_is_told(self, beanstalkd: BeanstalkdServer) -> None:
        told: list[str] = []

        def ticket(name: str) -> Ticket:
            def notify() -> bool:
                told.append(name)
                return True

            return Ticket(notify)

        with connections_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            held = pool.acquire(soon())
            first, gone, last = ticket("first"), ticket("gone"), ticket("last")
            pool.queue_up(first)
            pool.queue_up(gone)
            command = background(lambda: pool.acquire(soon()))
            wait_until(lambda: waiting(pool) == 3, "the command to wait")
            pool.queue_up(last)
            assert not told
            pool.checkin(held)
            assert told == ["first"]
            assert pool.collect(first) is held
            pool.queue.leave(gone)
            assert not command.done
            pool.checkin(held)
            assert command.result() is held
            # One that is lost makes room, too.
            pool.discard(held)
            assert told == ["first", "last"]
            assert pool.try_acquire(("default",)) is None
            pool.queue.leave(last)
            assert pool.counts() == (0, 0)

    def test_a_reserve_whose_owner_is_gone_gets_nothing(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            held = pool.acquire(soon())
            pool.queue_up(Ticket(lambda: False))
            behind = Ticket(lambda: True)
            pool.queue_up(behind)
            pool.checkin(held)
            assert pool.collect(behind) is held
            pool.checkin(held)
            pool.queue_up(Ticket(lambda: False))
            assert pool.counts() == (1, 1)

    def test_commands_overtake_reserves_while_jobs_hold_all_that_these_may_have(
        self, beanstalkd: BeanstalkdServer
    ) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
            held = pool.try_acquire(("default",))
            assert held is not None
            held.open(soon())
            reserve = Ticket(lambda: True)
            pool.queue_up(reserve)
            command = background(lambda: pool.acquire(soon()))
            wait_until(lambda: waiting(pool) == 2, "the command to wait")
            lease = Reservations(pool).lease(held)
            job = reserved_job(held, 1, b"", None, None, lease, 0.0)
            lease.hold(job)
            pool.queue.fill_places()
            spare = command.result()
            assert spare is not held
            pool.checkin(spare)
            assert not reserve.settled
            lease.end(job.number)
            assert pool.collect(reserve) is held

    def test_a_reserve_that_waits_gives_way_where_calls_have_fewer_connections(
        self, beanstalkd: BeanstalkdServer
    ) -> None:
        evicted: list[int] = []
        with connections_of(beanstalkd.host, beanstalkd.port, 3) as (pool, _):
            connections = [pool.acquire(soon()) for _ in range(3)]
            for number, connection in enumerate(connections[:2]):
                connection.evict = functools.partial(evicted.append, number)
                connection.waits_since = 2.0 - number
            reservations = Reservations(pool)
            assert reservations.evict(1e9) > 1e8, "the longest wait is not long enough"
            assert reservations.evict() == math.inf
            assert evicted == [1]
            # One waits now, and one is in use by a call, which gives it back.
            assert reservations.evict() == math.inf
            assert evicted == [1]
            for connection in connections:
                pool.discard(connection)
