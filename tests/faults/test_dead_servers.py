"""What a dead server costs: once noticed nothing, before that one deadline, and the other servers never anything."""

from __future__ import annotations

import contextlib
import itertools
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.delay_line import DelayLine
from support.processes import thread_names
from support.putting import key_of
from support.scripted import ScriptedServer, answering, stats_reply, with_data
from support.server_pools import all_in_use
from support.servers import BeanstalkdServer
from support.threads import run_together
from support.waiting import wait_until, within

from beanpool import PoolManager
from beanpool.errors import BeanpoolError, JobLost, JobTooBig, NoServerAvailable, NotFound, PoolTimeout, PutAmbiguous
from beanpool.events import Event, ServerStateChanged


def states(pool: PoolManager) -> dict[str, str]:
    """What the pool believes of its servers, by address."""
    return {status.address: status.state for status in pool.servers}


def test_two_of_three_dead_cost_a_put_nothing_once_noticed(
    beanstalkd: BeanstalkdServer, refused: str, black_hole: str, record_property: Callable[[str, object], None]
) -> None:
    options: dict[str, Any] = {"timeout": 1, "connect_timeout": 0.5, "health_interval": 0.5}
    with (
        PoolManager([beanstalkd.address], **options) as alone,
        PoolManager([refused, beanstalkd.address, black_hole], **options) as among_dead,
    ):
        for number in range(6):
            among_dead.put(f"find out {number}")
        wait_until(lambda: sorted(states(among_dead).values()) == ["down", "down", "up"], "both to be noticed")
        # In turns, so that whatever else the machine does concerns both alike.
        times: dict[PoolManager, list[float]] = {alone: [], among_dead: []}
        for _ in range(100):
            for pool, found in times.items():
                for _ in range(20):
                    started = time.perf_counter()
                    pool.put("x")
                    found.append(time.perf_counter() - started)
        p50, p99 = ({pool: statistics.quantiles(found, n=100)[at] for pool, found in times.items()} for at in (49, 98))
    line = (
        f"p50 {p50[alone] * 1e6:.0f} -> {p50[among_dead] * 1e6:.0f} µs ({p50[among_dead] / p50[alone]:.2f}x), "
        f"p99 {p99[alone] * 1e6:.0f} -> {p99[among_dead] * 1e6:.0f} µs ({p99[among_dead] / p99[alone]:.2f}x)"
    )
    record_property("figures", line)
    print(f"\na put on one healthy server, and with two dead ones beside it: {line}")
    # 1.5 is the aim; a p99 of some hundred µs also holds what the machine does, so the test says no before 3.
    assert p50[among_dead] < 1.5 * p50[alone]
    assert p99[among_dead] < 3 * p99[alone]


@pytest.mark.parametrize("key", [None, "pinned"])
def test_a_frozen_server_costs_one_deadline_at_most_before_it_is_suspected(
    beanstalkd: BeanstalkdServer, black_hole: str, key: str | None
) -> None:
    with PoolManager([black_hole, beanstalkd.address], timeout=1, connect_timeout=1, health_interval=30) as pool:
        pinned = next(f"{n}" for n in itertools.count() if pool.route(f"{n}")[0] == black_hole) if key else None
        took = []
        while states(pool)[black_hole] == "up":
            started = time.monotonic()
            with within(1.0):
                pool.put("x", key=pinned)
            took.append(time.monotonic() - started)
        assert max(took) < 0.8
        wait_until(lambda: states(pool)[black_hole] == "down", "it to be known as dead")
        for _ in range(50):
            started = time.monotonic()
            assert pool.put("x", key=pinned).server == beanstalkd.address
            assert time.monotonic() - started < 0.25


def test_many_threads_pay_for_a_frozen_server_at_once_not_one_after_the_other(
    beanstalkd: BeanstalkdServer, black_hole: str
) -> None:
    with PoolManager([black_hole, beanstalkd.address], timeout=1, connect_timeout=0.6, health_interval=30) as pool:

        def put() -> float:
            started = time.monotonic()
            pool.put("x")
            pool.put("y")
            return time.monotonic() - started

        assert max(run_together(*[put] * 12)) < 1.25


def test_pool_timeouts_and_refusals_say_nothing_of_the_servers_health(beanstalkd_factory: Callable[..., Any]) -> None:
    server = beanstalkd_factory(max_job_size=100)
    events: list[Event] = []
    with PoolManager(server.url, max_connections=1, timeout=0.3, health_interval=30) as pool:
        pool.add_listener(lambda event: events.append(event) if isinstance(event, ServerStateChanged) else None)
        with pytest.raises(JobTooBig):
            pool.put("x" * 101)
        with pytest.raises(NotFound):
            pool.delete(4711)
        with pytest.raises(NotFound):
            pool.stats_tube("missing")
        pool.put("x")
        job = pool.reserve(0)
        assert job is not None
        with all_in_use(pool), within(0.3), pytest.raises(PoolTimeout):
            pool.put("y")
        with pytest.raises(PoolTimeout):
            pool.reserve(0)
        job.delete()
        assert states(pool) == {server.address: "up"}
        pool.put("z")
    assert events == []


def test_a_ttr_that_ran_out_says_nothing_of_the_servers_health(scripted_server: Callable[..., ScriptedServer]) -> None:
    server = scripted_server(
        default=answering(
            {
                "stats": stats_reply(),
                "reserve-with-timeout": with_data(b"RESERVED 1", b"x"),
                "delete": b"NOT_FOUND\r\n",
                "touch": b"NOT_FOUND\r\n",
            }
        )
    )
    with PoolManager(server.url, max_connections=1, health_interval=30) as pool:
        for _ in range(5):
            job = pool.reserve(0)
            assert job is not None
            with pytest.raises(JobLost, match="TTR"):
                job.touch()
            assert job.lost
            with pytest.raises(JobLost):
                job.delete()
            assert states(pool) == {server.address: "up"}
        # Not tried anywhere else: the server has said that it is not ours.
        assert server.received(0).count(b"delete") == 0
        assert server.accepts == 1


def test_a_silent_server_delays_nobody_elses_check(beanstalkd: BeanstalkdServer, black_hole: str) -> None:
    # Its own check takes 20 s. The control connection's questions count too.
    with PoolManager([black_hole, beanstalkd.address], connect_timeout=20, health_interval=0.1) as pool:
        asked = 1
        first = beanstalkd.control.counter("cmd-stats")

        def checks() -> int:
            nonlocal asked
            asked += 1
            return beanstalkd.control.counter("cmd-stats") - first - asked + 1

        wait_until(lambda: checks() >= 5, "checks of the other server", 3)
        beanstalkd.kill()
        killed_at = time.monotonic()
        wait_until(lambda: states(pool)[beanstalkd.address] == "down", "its death to be noticed without a call", 3)
        print(f"noticed by the monitor alone after {time.monotonic() - killed_at:.3f} s, every 0.1 s")
        assert states(pool)[black_hole] == "up"


def test_a_busy_server_is_not_probed(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager(beanstalkd.url, health_interval=0.1) as pool:
        pool.put("x")
        stop_at = time.monotonic() + 1.0
        before = beanstalkd.control.counter("cmd-stats")
        while time.monotonic() < stop_at:
            pool.put("x")
        # One is this question itself. An idle server would have been asked ten times.
        assert beanstalkd.control.counter("cmd-stats") - before - 1 <= 1


def test_the_monitor_finds_a_server_that_returns_and_gives_it_its_own_keys_back(
    cluster: Callable[..., list[BeanstalkdServer]],
) -> None:
    servers = cluster(3)
    with PoolManager([server.address for server in servers], timeout=2, health_interval=0.5) as pool:
        keys = [f"key {number}" for number in range(60)]
        placed = {key: pool.put("x", key=key).server for key in keys}
        servers[0].kill()
        moved = {key: pool.put("x", key=key).server for key in keys}
        assert {key for key in keys if moved[key] != placed[key]} == {
            key for key in keys if placed[key] == servers[0].address
        }
        assert all(moved[key] == pool.route(key)[1] for key in keys if moved[key] != placed[key])
        servers[0].start()
        started_at = time.monotonic()
        wait_until(lambda: states(pool)[servers[0].address] == "up", "its return to be noticed", 3)
        print(f"return noticed after {time.monotonic() - started_at:.3f} s")
        assert {key: pool.put("x", key=key).server for key in keys} == placed


def test_all_servers_down_and_back(cluster: Callable[..., list[BeanstalkdServer]]) -> None:
    servers = cluster(2)
    with PoolManager([server.address for server in servers], timeout=0.5, health_interval=0.3) as pool:
        pool.put("x")
        for server in servers:
            server.kill()
        # A connection that was in use a moment ago is trusted: what was sent on it may have been stored.
        with within(0.5), pytest.raises((NoServerAvailable, PutAmbiguous)):
            pool.put("y")
        for _ in range(2):
            with within(0.5), pytest.raises(NoServerAvailable) as caught:
                pool.put("y")
            assert set(caught.value.errors) == {server.address for server in servers}
        with within(0.4), pytest.raises(NoServerAvailable):
            pool.reserve(0.4)
        for server in servers:
            server.start()
        started_at = time.monotonic()
        pool.wait(2, timeout=3)
        print(f"both back after {time.monotonic() - started_at:.3f} s")
        pool.put("z")


class Names:
    """A name server for the tests: what it says, and how long it takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.places: dict[str, tuple[str, int]] = {}
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self.released = threading.Event()
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._resolve)

    def _resolve(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if not str(host).endswith(".test"):
            return self._real(host, port, *args, **options)
        if options.get("flags", 0) & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        self.asked.append(host)
        if host in self.silent:
            self.released.wait(10)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", self.places[host])]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names(monkeypatch)
    yield names
    names.released.set()
    wait_until(lambda: not thread_names("beanpool-lookup"), "the look-ups to end")


def test_a_name_server_that_is_silent_holds_nobody_up(beanstalkd: BeanstalkdServer, names: Names) -> None:
    names.silent.add("slow.test")
    with PoolManager(
        ["slow.test:11300", beanstalkd.address], timeout=1, connect_timeout=0.5, health_interval=0.1
    ) as pool:
        for _ in range(4):
            with within(1.0):
                assert pool.put("x").server == beanstalkd.address
        with within(0.3):
            assert pool.reserve(0.3) is not None
        first = beanstalkd.control.counter("cmd-stats")
        wait_until(lambda: beanstalkd.control.counter("cmd-stats") > first + 20, "checks of the other server", 5)
        wait_until(lambda: states(pool)["slow.test:11300"] == "down", "the name to be given up", 3)
        # However often it is tried, one question is under way at most.
        assert len(names.asked) == 1
        assert thread_names("beanpool-lookup") == ["beanpool-lookup-slow.test"]
        with within(0.5):
            pool.close(0.5)


@pytest.mark.parametrize("silent", [True, False])
def test_a_name_that_is_not_found_takes_no_server_from_the_connections_to_it(
    cluster: Callable[..., list[BeanstalkdServer]], names: Names, silent: bool
) -> None:
    """What needs one more goes elsewhere meanwhile; all else stays where it is."""
    home, other = cluster(2)
    names.places["queue.test"] = (home.host, home.port)
    if not silent:
        names.released.set()
    with PoolManager(
        [f"queue.test:{home.port}", other.address], timeout=1, connect_timeout=0.5, health_interval=60
    ) as pool:
        pool.wait(2)
        key = key_of(pool, f"queue.test:{home.port}")
        instance = pool.put("x", key=key).instance
        names.silent.add("queue.test")
        with pool.connection(f"queue.test:{home.port}"):
            for _ in range(2):
                assert pool.put("x", key=key).server == other.address
        assert pool.get_stats()["puts_rerouted"] == 2
        assert states(pool)[f"queue.test:{home.port}"] == "up"
        assert [pool.put("x", key=key).instance for _ in range(20)] == [instance] * 20
        # No connection is left now: what is not found is down.
        home.kill()
        wait_until(lambda: pool.put("x", key=key).server == other.address, "the death to be noticed")
        wait_until(lambda: states(pool)[f"queue.test:{home.port}"] == "down", "the name to be given up")


def test_a_name_that_moves_is_followed(cluster: Callable[..., list[BeanstalkdServer]], names: Names) -> None:
    old, new = cluster(2)
    names.places["queue.test"] = (old.host, old.port)
    with PoolManager(["queue.test:11300"], timeout=2, health_interval=0.2) as pool:
        first = pool.put("x")
        names.places["queue.test"] = (new.host, new.port)
        # Nobody is sent away from a connection that works.
        assert pool.put("x").instance == first.instance
        old.kill()
        second = pool.put("x")
        assert second.instance == new.control.stats()["id"] != first.instance
        # And the job that has the same id there is another one.
        with pytest.raises(Exception, match="restarted"):
            pool.delete(first)


def test_a_black_hole_among_the_addresses_of_a_name_does_not_take_all_the_time(
    beanstalkd: BeanstalkdServer, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A listening socket with a full queue neither accepts nor refuses.
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        real = names._resolve

        def two(host: Any, port: Any, *args: Any, **options: Any) -> Any:
            found = real(host, port, *args, **options)
            if host == "two.test":
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", full.getsockname()), *found]
            return found

        monkeypatch.setattr(socket, "getaddrinfo", two)
        names.places["two.test"] = (beanstalkd.host, beanstalkd.port)
        with PoolManager(["two.test:11300"], timeout=2, connect_timeout=1, health_interval=30) as pool, within(2.0):
            assert pool.put("x")


class TestImpatientCallers:
    """A timeout that is shorter than a round trip says nothing of the server."""

    def test_one_over_a_slow_network_makes_nobody_suspect(self, beanstalkd: BeanstalkdServer) -> None:
        with DelayLine(beanstalkd.host, beanstalkd.port, 0.2) as line, PoolManager(line.address, timeout=10) as pool:
            pool.wait(1)
            events: list[ServerStateChanged] = []
            pool.add_listener(lambda event: events.append(event) if isinstance(event, ServerStateChanged) else None)
            for seconds in (0.001, 0.05, 0.15):
                for _ in range(3):
                    with contextlib.suppress(BeanpoolError):
                        pool.put("x", timeout=seconds)
                    pool.put_many(["x"], timeout=seconds)
            assert pool.put("y")
            assert not events

    def test_callers_who_all_have_no_patience_are_told_by_the_monitor(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager(beanstalkd.url, timeout=5, connect_timeout=0.5, health_interval=60) as pool:
            pool.put("x")
            beanstalkd.freeze()

            def suspected() -> bool:
                with contextlib.suppress(BeanpoolError):
                    pool.put("x", timeout=0.02)
                return pool.servers[0].state != "up"

            wait_until(suspected, "the silence to be noticed")
            beanstalkd.thaw()
            wait_until(lambda: pool.servers[0].state == "up", "its return to be noticed")
