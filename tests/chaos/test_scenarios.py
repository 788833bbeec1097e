"""Networks that fail in more than one step: the promise of each, and what the servers say became of it."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from chaos.operations import settle
from chaos.proxies import LinkedServer
from chaos.report import Results
from support.interrupts import interrupted_when
from support.lag import LagProbe
from support.ledger import Ledger
from support.scripted import ScriptedConnection
from support.threads import background, run_together
from support.waiting import wait_until

from beanpool import Connection, JobLost, NoServerAvailable, PoolManager
from beanpool.errors import BeanpoolError, CommandTimeout, ConnectionFailed
from beanpool.events import Event, RetryScheduled, ServerStateChanged

if TYPE_CHECKING:
    from chaos.conftest import StartProxied
    from conftest import StartScripted

PAUSE = threading.Event().wait
"""How long a fault lasts is the fault, not a wait for something."""


@pytest.fixture
def lag() -> Iterator[LagProbe]:
    """Notices when the machine itself stood still."""
    with LagProbe() as probe:
        yield probe


def key_of(pool: PoolManager, server: LinkedServer) -> str:
    """A key that belongs to this server."""
    return next(key for key in map(str, itertools.count()) if pool.route(key)[0] == server.address)


def state_of(pool: PoolManager, server: LinkedServer) -> str:
    """What the pool believes of the server."""
    return next(status.state for status in pool.servers if status.address == server.address)


def jobs_at(server: LinkedServer) -> int:
    """How many jobs the server still has for workers."""
    return server.control.counter("current-jobs-ready") + server.control.counter("current-jobs-reserved")


@contextlib.contextmanager
def ends_within(seconds: float, lag: LagProbe, what: str) -> Iterator[None]:
    """Assert that the block ends in time; what the machine slept does not count."""
    started = time.monotonic()
    yield
    now = time.monotonic()
    took = now - started - lag.stalled(started, now)
    assert took <= seconds, f"{what} took {took:.3f} s, and was to end within {seconds:.3f} s"


def pool_of(
    servers: list[LinkedServer],
    *,
    timeout: float = 1.0,
    connect_timeout: float = 0.4,
    health_interval: float = 0.3,
    max_connections: int = 32,
) -> PoolManager:
    """A pool that notices soon."""
    return PoolManager(
        [server.address for server in servers],
        timeout=timeout,
        connect_timeout=connect_timeout,
        health_interval=health_interval,
        max_connections=max_connections,
    )


# Slow networks


def test_a_body_too_large_for_a_slow_network_is_put_elsewhere_once(
    proxied: StartProxied, ledger: Ledger, lag: LagProbe, results: Results
) -> None:
    """The deadline is one for the whole put, and what the kernel has not taken in full is certainly not stored."""
    servers = proxied(2, max_job_size=2**25)
    with pool_of(servers, timeout=2.0) as pool:
        key = key_of(pool, servers[0])
        pool.put("warm", key=key, tube="warm")
        servers[0].link.add("bandwidth", "upstream", rate=16)
        body = ledger.token(16 * 2**20)
        with ends_within(2.25, lag, "the put"):
            jid = pool.put(body, key=key)
        ledger.acked(body, jid.server, jid, jid.maybe_duplicate)
        assert (jid.server, jid.maybe_duplicate) == (servers[1].address, False)
        servers[0].link.clear()
    settle(ledger, servers)
    results.figures("16 MiB through 16 KB/s", "put elsewhere, not twice, in time", 1)


def test_a_late_reply_is_never_given_to_the_next_command(proxied: StartProxied, ledger: Ledger) -> None:
    """Every put gets its own id, also right after one that timed out."""
    servers = proxied(1)
    (server,) = servers
    with pool_of(servers, connect_timeout=3.0, health_interval=60.0) as pool:
        pool.put("warm", tube="warm")
        for _ in range(5):
            server.link.add("latency", "downstream", latency=300)
            late, next_one = ledger.tokens(2)
            with pytest.raises(BeanpoolError):
                pool.put(late, timeout=0.2)
            ledger.ambiguous(late)
            jid = pool.put(next_one, timeout=5.0)
            ledger.acked(next_one, jid.server, jid, jid.maybe_duplicate)
            server.link.clear()
            assert server.control.peek(jid) == next_one
    settle(ledger, servers)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals that are sent to a thread")
def test_an_interrupt_during_a_slow_reply_costs_that_connection_and_nothing_else(
    proxied: StartProxied, ledger: Ledger
) -> None:
    """Ctrl-C in mid-command: the late reply reaches nobody."""
    servers = proxied(1)
    (server,) = servers
    connection = Connection(server.link.host, server.link.port, timeout=5.0)
    with pool_of(servers, timeout=5.0, connect_timeout=3.0, health_interval=60.0) as pool, connection:
        for client in (pool, connection):
            client.put("warm")
            server.link.add("latency", "downstream", latency=400)
            first, second = ledger.tokens(2)
            puts = server.control.counter("cmd-put")
            with interrupted_when(lambda puts=puts: server.control.counter("cmd-put") > puts):  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
                client.put(first)
            ledger.ambiguous(first)
            if client is connection:
                with pytest.raises(ConnectionFailed):
                    connection.put("not sent")
                connection.reconnect()
            jid = client.put(second)
            ledger.acked(second, server.address, jid)
            server.link.clear()
            assert server.control.peek(jid) == second
    settle(ledger, servers)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals that are sent to a thread")
def test_an_interrupted_reserve_leaves_its_place_to_others(proxied: StartProxied, ledger: Ledger) -> None:
    """Ctrl-C in a wait on all servers: nothing stays reserved, and the next wait is led by somebody."""
    servers = proxied(2)
    with pool_of(servers) as pool:
        for _ in range(3):
            with interrupted_when(lambda: all(server.control.counter("current-waiting") for server in servers)):
                pool.reserve(timeout=20)
            waiting = background(lambda: pool.reserve(timeout=10))
            wait_until(lambda: servers[0].control.counter("current-waiting"), "a waiter", 5)
            body = ledger.token()
            ledger.acked(body, servers[0].address, servers[0].control.put(body))
            job = waiting.result(5.0)
            assert job is not None
            ledger.delivered(job.data, job.server, job.id)
            job.delete()
            ledger.deleted(job.data)
    settle(ledger, servers)


# Silent networks


def test_a_black_hole_is_found_and_stays_found(
    proxied: StartProxied, ledger: Ledger, lag: LagProbe, results: Results
) -> None:
    """Connects go on succeeding, and are no sign of life: down it goes, and down it stays until it answers."""
    servers = proxied(2)
    sick = servers[0]
    events: list[tuple[float, Event]] = []
    with pool_of(servers) as pool:
        pool.add_listener(lambda event: events.append((time.monotonic(), event)))
        pool.wait(2)
        sick.link.add("timeout", "downstream", timeout=0)
        began = time.monotonic()
        wait_until(lambda: state_of(pool, sick) == "down", "the black hole to be found", 10)
        noticed = time.monotonic() - began
        # Idle, it is found by a probe (0.36 s at most), whose 0.4 s run out, and a second one.
        assert noticed <= 3 * (0.36 + 0.4) + lag.stalled(began, began + noticed)
        key = key_of(pool, sick)
        attempts = pool.get_stats()["put_attempts_failed"]
        # One that waited for it would take half of the timeout, 0.5 s.
        with ends_within(5.0, lag, "50 puts past a server that is down"):
            for _ in range(50):
                body = ledger.token()
                jid = pool.put(body, key=key)
                ledger.acked(body, jid.server, jid, jid.maybe_duplicate)
        assert pool.get_stats()["put_attempts_failed"] == attempts
        PAUSE(2.0)
        states = [event.after for _, event in events if isinstance(event, ServerStateChanged)]
        assert states == ["suspect", "down"]
        sick.link.clear()
        healed = time.monotonic()
        wait_until(lambda: state_of(pool, sick) == "up", "its return", 10)
        back = time.monotonic() - healed
    settle(ledger, servers)
    results.figures("black hole, idle pool", f"down after {noticed:.2f} s, up again {back:.2f} s after its end", 50)


def test_a_silent_server_delays_no_connection_to_another(proxied: StartProxied, lag: LagProbe) -> None:
    """While one connect hangs, another server's new connections are made."""
    servers = proxied(2)
    sick, healthy = servers
    with pool_of(servers, timeout=3.0, connect_timeout=2.0, health_interval=60.0) as pool:
        sick_key, key = key_of(pool, sick), key_of(pool, healthy)
        sick.link.add("timeout", "downstream", timeout=0)
        stuck = background(lambda: pool.put("x", key=sick_key))
        wait_until(lambda: sick.control.other_connections(), "the connect that hangs")
        with ends_within(0.5, lag, "a put to the other server, on a new connection"):
            pool.put("y", key=key)
        assert not stuck.done
        stuck.result()
        sick.link.clear()


def test_one_of_four_black_holed_one_way_slows_nobody_down(
    proxied: StartProxied, ledger: Ledger, lag: LagProbe, results: Results
) -> None:
    """What the client sends to one of four is lost: deliveries from the other three are as quick as before."""
    servers = proxied(4)

    def measure(pool: PoolManager, healthy: list[LinkedServer]) -> list[float]:
        took = []
        for number in range(120):
            body = ledger.token()
            call = background(lambda: (pool.reserve(2.0), time.monotonic()))
            wait_until(lambda: all(server.control.counter("current-waiting") for server in healthy), "the waiters")
            server = healthy[number % len(healthy)]
            put_at = time.monotonic()
            ledger.acked(body, server.address, server.control.put(body))
            job, came_at = call.result()
            assert job is not None
            ledger.delivered(job.data, job.server, job.id)
            job.delete()
            ledger.deleted(job.data)
            took.append(came_at - put_at - lag.stalled(put_at, came_at))
        return sorted(took)

    with pool_of(servers, timeout=2.0) as pool:
        before = measure(pool, servers)
        servers[0].link.add("timeout", "upstream", timeout=0)
        during = measure(pool, servers[1:])
        servers[0].link.clear()
        wait_until(lambda: state_of(pool, servers[0]) == "up", "its return", 10)
    p99_before, p99_during = before[-2], during[-2]
    # Twice as long, and what two cores need to wake four processes.
    assert p99_during <= 2 * p99_before + 0.05
    settle(ledger, servers)
    results.figures(
        "one of four black-holed upstream",
        f"put to delivery: median {statistics.median(before) * 1000:.1f} ms, p99 {p99_before * 1000:.1f} ms before; "
        f"median {statistics.median(during) * 1000:.1f} ms, p99 {p99_during * 1000:.1f} ms during",
        240,
    )


def test_a_cancelled_wait_takes_no_job(proxied: StartProxied, ledger: Ledger) -> None:
    """A job came from one server: the wait on the other ends at once, long before the server itself would end it."""
    servers = proxied(2)
    with pool_of(servers, health_interval=60.0) as pool:
        for giver, other in (servers, servers[::-1]) * 3:
            call = background(lambda: pool.reserve(timeout=8))
            wait_until(lambda: all(server.control.counter("current-waiting") for server in servers), "the waiters")
            body = ledger.token()
            ledger.acked(body, giver.address, giver.control.put(body))
            job = call.result()
            assert job is not None
            ledger.delivered(job.data, job.server, job.id)
            wait_until(lambda other=other: not other.control.counter("current-waiting"), "no ghost", 2.0)  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
            body = ledger.token()
            jid = other.control.put(body)
            ledger.acked(body, other.address, jid)
            job.delete()
            ledger.deleted(job.data)
            found = other.control.stats_job(jid)
            assert found is not None
            assert (found["state"], found["reserves"]) == ("ready", "0")
            other.control.delete(jid)
            ledger.delivered(body, other.address, jid)
            ledger.deleted(body)
    settle(ledger, servers)


def test_a_ghost_waiter_is_gone_after_its_slice(
    proxied: StartProxied, ledger: Ledger, lag: LagProbe, results: Results
) -> None:
    """slow_close: the server does not see that the client has gone. The wait that it still holds is a short one."""
    servers = proxied(1)
    (server,) = servers
    with pool_of(servers, health_interval=60.0) as pool:
        pool.wait()
        server.link.add("slow_close", "upstream", delay=20_000)
        assert pool.reserve(timeout=0.3) is None
        began = time.monotonic()
        wait_until(lambda: not server.control.counter("current-waiting"), "the ghost's wait to end", 10)
        ended = time.monotonic()
        # The server waits in whole seconds: one for 0.3.
        assert ended - began - lag.stalled(began, ended) <= 3
        for body in ledger.tokens(5):
            ledger.acked(body, server.address, server.control.put(body))
        for _ in range(5):
            with ends_within(1.0, lag, "a job that no ghost took"):
                _work_off(pool, ledger)
        server.link.clear()
    settle(ledger, servers)
    results.figures(
        "slow_close with a reserve cancelled", f"the wait over {ended - began:.1f} s later, then 5 of 5 delivered", 5
    )


def test_a_ghost_waiter_takes_at_most_one_job(proxied: StartProxied, ledger: Ledger, lag: LagProbe) -> None:
    """Jobs that come while it still waits: one may be gone until the network lets go, and the others are not."""
    servers = proxied(1)
    (server,) = servers
    with pool_of(servers, health_interval=60.0) as pool:
        pool.wait()
        server.link.add("slow_close", "upstream", delay=20_000)
        assert pool.reserve(timeout=0.3) is None
        bodies = ledger.tokens(5)
        ids = [server.control.put(body) for body in bodies]
        for body, jid in zip(bodies, ids, strict=True):
            ledger.acked(body, server.address, jid)
        taken = [jid for jid in ids if server.control.state(jid) != "ready"]
        assert len(taken) <= 1
        for _ in range(5 - len(taken)):
            with ends_within(1.0, lag, "a job that the ghost did not take"):
                _work_off(pool, ledger)
        server.link.clear()
        for _ in taken:
            _work_off(pool, ledger)
        with ends_within(0.5, lag, "close()"):
            pool.close()
    settle(ledger, servers)


def _work_off(pool: PoolManager, ledger: Ledger) -> None:
    job = pool.reserve(timeout=10)
    assert job is not None
    ledger.delivered(job.data, job.server, job.id)
    job.delete()
    ledger.deleted(job.data)


# Networks that come and go


def test_all_down(proxied: StartProxied, ledger: Ledger, lag: LagProbe, results: Results) -> None:
    """Every call ends in time and says why, server by server; a wait without an end goes on when they are back."""
    servers = proxied(3)
    with pool_of(servers) as pool:
        pool.wait(3)
        endless = background(lambda: pool.reserve(timeout=None))
        wait_until(lambda: all(server.control.counter("current-waiting") for server in servers), "the waiters")
        for server in servers:
            server.link.down()
        body = ledger.token()
        with ends_within(1.25, lag, "the put"), pytest.raises(NoServerAvailable) as caught:
            pool.put(body)
        ledger.refused(body, caught.value)
        assert set(caught.value.errors) == {server.address for server in servers}
        assert all(server.address in str(caught.value) for server in servers)
        with ends_within(0.75, lag, "the reserve"), pytest.raises(NoServerAvailable):
            pool.reserve(timeout=0.5)
        with ends_within(1.25, lag, "the statistics"), pytest.raises(NoServerAvailable):
            pool.stats()
        for server in servers:
            server.link.up()
        started = time.monotonic()
        body = ledger.token()
        ledger.acked(body, servers[1].address, servers[1].control.put(body))
        job = endless.result(10)
        back = time.monotonic() - started
        assert job is not None
        ledger.delivered(job.data, job.server, job.id)
        job.delete()
        ledger.deleted(job.data)
    settle(ledger, servers)
    results.figures(
        "all of three down", f"every call in time, with a cause per server; delivery {back:.2f} s after the end", 4
    )


def test_many_threads_fail_fast_and_come_back_without_a_rush(
    proxied: StartProxied, ledger: Ledger, lag: LagProbe, results: Results
) -> None:
    """One server of two is cut off for 2 s under 20 threads: nobody waits for it, nobody storms it on its return."""
    servers = proxied(2)
    sick = servers[0]
    stop = threading.Event()
    worst = []

    with pool_of(servers, max_connections=8) as pool:

        def produce() -> None:
            while not stop.wait(0.01):
                body = ledger.token()
                started = time.monotonic()
                jid = pool.put(body)
                now = time.monotonic()
                worst.append(now - started - lag.stalled(started, now))
                ledger.acked(body, jid.server, jid, jid.maybe_duplicate)

        calls = [background(produce) for _ in range(20)]
        wait_until(lambda: ledger.acked_count > 200, "the load")
        sick.link.down()
        wait_until(lambda: state_of(pool, sick) == "down", "the outage to be noticed")
        connections = sick.control.counter("total-connections")
        PAUSE(2.0)
        sick.link.up()
        wait_until(lambda: state_of(pool, sick) == "up", "its return", 5)
        puts = sick.control.counter("cmd-put")
        wait_until(lambda: sick.control.counter("cmd-put") > puts + 100, "puts to come back", 10)
        stop.set()
        for call in calls:
            call.result()
        fresh = sick.control.counter("total-connections") - connections
    # As many as may be in use at a time, and the probes.
    assert fresh <= 8 + 3
    assert max(worst) <= 1.25
    settle(ledger, servers)
    results.figures(
        "down for 2 s under 20 threads",
        f"{len(worst)} puts, the slowest {max(worst):.2f} s, {fresh} connections made on its return",
        len(worst),
    )


def test_flapping(proxied: StartProxied, ledger: Ledger, lag: LagProbe, rng: random.Random, results: Results) -> None:
    """A link that comes and goes every 0.3 s: no more changes than it makes, keys go home, every job arrives."""
    flaps = 8
    servers = proxied(3)
    sick = servers[0]
    stop, producing = threading.Event(), threading.Event()
    events: list[Event] = []
    with pool_of(servers) as pool:
        pool.add_listener(events.append)
        homes = {key: pool.route(key) for key in map(str, range(30))}

        def produce() -> None:
            while not producing.wait(0.005):
                body = ledger.token()
                key = rng.choice(sorted(homes))
                jid = pool.put(body, key=key)
                ledger.acked(body, jid.server, jid, jid.maybe_duplicate)
                # A server that flaps remaps its own keys only, to the next in each key's order.
                home, second = homes[key][:2]
                assert jid.server == home or (home == sick.address and jid.server == second)

        def work() -> None:
            while not stop.is_set():
                job = pool.reserve(0.3)
                if job is None:
                    continue
                ledger.delivered(job.data, job.server, job.id)
                try:
                    job.delete()
                except JobLost as error:
                    ledger.delete_failed(job.data, error)
                else:
                    ledger.deleted(job.data)

        producers = [background(produce) for _ in range(3)]
        workers = [background(work) for _ in range(3)]
        for _ in range(flaps):
            PAUSE(0.3)
            sick.link.down()
            PAUSE(0.3)
            sick.link.up()
        wait_until(lambda: state_of(pool, sick) == "up", "its return", 10)
        producing.set()
        for call in producers:
            call.result()
        wait_until(lambda: not any(map(jobs_at, servers)), "all jobs to be worked off", 10)
        stop.set()
        for call in workers:
            call.result()
        changes = [
            event.after for event in events if isinstance(event, ServerStateChanged) and event.server == sick.address
        ]
        assert len(changes) <= 3 * flaps
        assert {key: pool.route(key) for key in homes} == homes
        assert not [e for e in events if isinstance(e, ServerStateChanged) and e.server != sick.address]
    settle(ledger, servers)
    results.figures(
        f"flapping, {flaps} times", f"{ledger.acked_count} puts, {len(changes)} changes of state", ledger.acked_count
    )


@pytest.mark.parametrize("finish", ["delete", "touch", "release", "bury"])
def test_a_restarted_server_keeps_jobs_that_look_like_the_old_ones(
    finish: str, proxied: StartProxied, ledger: Ledger
) -> None:
    """The new process has a job of the same id and the same body: an old handle must not touch it."""
    servers = proxied(1)
    (server,) = servers
    with pool_of(servers) as pool:
        assert server.control.put(b"tick") == 1
        job = pool.reserve(1.0)
        assert job is not None
        server.restart()
        assert server.control.put(b"tick") == job.id
        pool.wait(timeout=10)
        with pytest.raises(JobLost):
            getattr(job, finish)()
        assert server.control.state(job.id) == "ready"
        server.control.delete(job.id)
    settle(ledger, servers)


# Jitter


def test_retries_of_puts_are_spread(proxied: StartProxied, ledger: Ledger) -> None:
    """Ten callers who find no server do not ask again in step."""
    servers = proxied(1)
    waits: list[float] = []
    with pool_of(servers) as pool:
        pool.wait()
        pool.add_listener(lambda event: waits.append(event.wait) if isinstance(event, RetryScheduled) else None)
        servers[0].link.down()
        wait_until(lambda: state_of(pool, servers[0]) == "down", "the outage to be noticed", 5)

        def put() -> None:
            body = ledger.token()
            with pytest.raises(NoServerAvailable) as caught:
                pool.put(body)
            ledger.refused(body, caught.value)

        run_together(*[put] * 10)
        servers[0].link.up()
    assert len(set(waits)) > len(waits) // 2
    settle(ledger, servers)


def test_probes_of_a_dead_server_are_spread(scripted_server: StartScripted) -> None:
    """Pools that lose a server at the same moment do not come back at the same moment."""
    pools = 14
    seen: list[list[float]] = [[] for _ in range(pools)]

    def hang_up(moments: list[float]) -> Callable[[ScriptedConnection], None]:
        def note(connection: ScriptedConnection) -> None:
            moments.append(time.monotonic())
            connection.close()

        return note

    with contextlib.ExitStack() as stack:
        for moments in seen:
            server = scripted_server(default=hang_up(moments))
            stack.enter_context(PoolManager([server.address], timeout=0.5, connect_timeout=0.3, health_interval=1.0))
        wait_until(lambda: all(len(moments) >= 3 for moments in seen), "three probes by every pool", 20)
    # The second failure means down, and the third probe comes after 0.5 s times a random number.
    assert min(moments[2] - moments[1] for moments in seen) < 0.25


def test_timeouts_name_the_server_and_the_phase(proxied: StartProxied) -> None:
    (server,) = proxied(1)
    with Connection(server.link.host, server.link.port, timeout=0.3) as connection:
        connection.using()
        with server.link.toxic("timeout", "downstream", timeout=0), pytest.raises(CommandTimeout) as caught:
            connection.put("the body is nobody's business")
    assert server.address in str(caught.value)
    assert "body" not in str(caught.value)
    assert caught.value.may_have_taken_effect
