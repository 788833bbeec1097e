"""KeyboardInterrupt, or anything else, at whatever line: no cross-talk, nothing leaked, nothing left reserved."""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from faults.interrupting import Interrupt, at_every_place
from support.batches import cut
from support.inside import inside
from support.processes import assert_baseline, run_python
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until

from beanpool import Connection, Job, PoolManager, Server
from beanpool.errors import BeanpoolError, CommandTimeout, JobLost, PoolTimeout

# Loaded by the first need: an import that is interrupted leaves a module that nobody can load again.
importlib.import_module("tenacity")
importlib.import_module("yaml")


class Cancelled(BaseException):
    """Another exception that is no Exception: a framework's way to stop a thread."""


class Stage:
    """A pool with one connection to its server: whoever leaks it stops everybody."""

    def __init__(self, server: BeanstalkdServer) -> None:
        self.server = server
        self.control = server.control.open()
        self.pool = PoolManager(server.url, max_connections=1, timeout=10, connect_timeout=10, health_interval=60)
        self.turn = 0
        self._jobs = iter(range(10**9))

    def token(self) -> str:
        self.turn += 1
        return f"token {self.turn}"

    def check(self, where: str) -> None:
        """Whatever happened: the next calls work, and get replies of their own."""
        pool, control = self.pool, self.control
        body = self.token()
        tube = f"canary-{self.turn}"
        jid = pool.put(body, tube=tube)
        job = pool.reserve(10, tubes=tube)
        assert job is not None, where
        assert (job.body, job.id) == (body, jid), where
        assert int(job.stats()["id"]) == jid, where
        job.delete()
        del job
        [status] = pool.servers
        assert (status.open, status.leased) == (1, 0), where
        assert status.state == "up", where
        if control.counter("current-jobs-reserved") or control.counter("current-waiting"):
            wait_until(lambda: not control.counter("current-jobs-reserved"), f"nothing to be reserved, {where}")
            wait_until(lambda: not control.counter("current-waiting"), f"nobody to wait, {where}")

    def end(self) -> None:
        self.pool.close()


@pytest.fixture
def stage(beanstalkd: BeanstalkdServer) -> Iterator[Stage]:
    stage = Stage(beanstalkd)
    yield stage
    stage.end()


@pytest.fixture(autouse=True)
def quiet_finalizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised in a finalizer is reported, not propagated: here that is no news."""
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Cancelled])
def test_put(stage: Stage, kind: type[BaseException]) -> None:
    def prepare() -> Callable[[], object]:
        body = stage.token()
        return lambda: stage.pool.put(body, tube=f"tube-{stage.turn % 2}")

    assert at_every_place(prepare, stage.check, kind) > 30


def test_put_on_a_new_connection(stage: Stage) -> None:
    def prepare() -> Callable[[], object]:
        connections = inside(stage.pool).connections_of(0)
        idle = connections.try_acquire(())
        assert idle is not None
        connections.discard(idle)
        body = stage.token()
        return lambda: stage.pool.put(body)

    assert at_every_place(prepare, stage.check, KeyboardInterrupt) > 80


@pytest.mark.parametrize("lazy", [False, True])
def test_put_many(stage: Stage, lazy: bool) -> None:
    stage.pool.put("warm")

    def prepare() -> Callable[[], object]:
        bodies = [stage.token() for _ in range(3)]
        return lambda: stage.pool.put_many(iter(bodies) if lazy else bodies, tube=f"tube-{stage.turn % 2}")

    assert at_every_place(prepare, stage.check, KeyboardInterrupt, step=2) > 50


def test_a_connection_that_is_collected(stage: Stage) -> None:
    """As one is that an interrupt takes from the call that has just got it: what is raised meanwhile is swallowed."""
    connections = inside(stage.pool).connections_of(0)

    def take_and_drop() -> None:
        connections.acquire(time.monotonic() + 10)

    assert (
        at_every_place(
            lambda: take_and_drop,
            stage.check,
            KeyboardInterrupt,
        )
        > 15
    )


def test_reserve_of_a_ready_job(stage: Stage) -> None:
    def prepare() -> Callable[[], object]:
        stage.control.drain_all()
        stage.control.put(b"ready")
        return lambda: stage.pool.reserve(0, tubes="default")

    assert at_every_place(prepare, stage.check, KeyboardInterrupt) > 40


def test_reserve_that_waits_in_vain(stage: Stage) -> None:
    def prepare() -> Callable[[], object]:
        stage.control.drain_all()
        return lambda: stage.pool.reserve(0.002)

    assert at_every_place(prepare, stage.check, KeyboardInterrupt) > 100


def test_reserve_that_waits_for_a_job(stage: Stage) -> None:
    control = stage.server.raw()
    done = threading.Event()

    def deliver(ended: threading.Event) -> None:
        while not ended.is_set():
            if control.counter("current-waiting"):
                control.put(b"for the one that waits")
                return

    def prepare() -> Callable[[], object]:
        nonlocal done
        stage.control.drain_all()
        done = threading.Event()
        ended = done
        helper = background(lambda: deliver(ended), "deliverer")

        def tidy_up() -> None:
            ended.set()
            helper.result()

        stage.tidy = tidy_up  # type: ignore[attr-defined]  # Kept where the next step finds it.
        return lambda: stage.pool.reserve(30)

    def tidy() -> None:
        stage.tidy()  # type: ignore[attr-defined]  # See above.

    assert at_every_place(prepare, stage.check, KeyboardInterrupt, tidy=tidy) > 100
    tidy()


def test_interrupts_while_others_are_dealt_with(stage: Stage, rng: random.Random) -> None:
    """Whoever presses Control-C twice, or twelve times: the next reserve of the same tubes delivers, and so does one
    that waited all the while."""
    control = stage.control
    with PoolManager(stage.server.url, max_connections=4, timeout=10, connect_timeout=10, health_interval=60) as pool:
        deepest = 0
        for turn in range(200):
            # Sometimes somebody waits already, and is led or leads.
            beside = background(lambda: pool.reserve(20, tubes="awaited"), "beside") if turn % 3 == 0 else None
            if beside is not None:
                wait_until(lambda: control.counter("current-waiting") == 1, "the other one to wait")
            again = [rng.randrange(1 + turn % 40) for _ in range(rng.choice((1, 1, 2, 11)))]
            interrupt = Interrupt(rng.randrange(250), KeyboardInterrupt("at some line"), again)
            try:
                interrupt.run(lambda: pool.reserve(0.002, tubes="awaited"))
            except KeyboardInterrupt:
                deepest = max(deepest, len(interrupt.where.split(")")) - 1)
            where = f"in turn {turn}: interrupted at {interrupt.where}"
            for _ in range(1 if beside is None else 2):
                control.put(b"canary", "awaited")
            job = pool.reserve(5, tubes="awaited")
            assert job is not None, where
            job.delete()
            if beside is not None:
                job = beside.result(5)
                assert job is not None, where
                job.delete()
            del job
            wait_until(lambda: not any(status.leased for status in pool.servers), f"no lease {where}")
        assert deepest > 1


def test_a_follower_that_is_interrupted_ends_nobody_elses_wait(stage: Stage) -> None:
    leader = background(lambda: stage.pool.reserve(60, tubes="awaited"), "leader")
    wait_until(lambda: stage.control.counter("current-waiting") == 1, "the leader to wait")

    def check(where: str) -> None:
        assert not leader.done, where
        wait_until(lambda: stage.control.counter("current-waiting") == 1, f"the leader to wait, {where}")

    assert at_every_place(lambda: lambda: stage.pool.reserve(0.002, tubes="awaited"), check, KeyboardInterrupt) > 20
    stage.control.put(b"at last", "awaited")
    job = leader.result(2)
    assert job is not None
    assert job.data == b"at last"
    job.delete()


@pytest.mark.parametrize("command", ["delete", "touch", "release", "bury"])
def test_commands_of_a_job(stage: Stage, command: str) -> None:
    def prepare() -> Callable[[], object]:
        stage.control.drain_all()
        stage.control.put(b"in hand")
        job = stage.pool.reserve(0)
        assert job is not None
        return getattr(job, command)  # type: ignore[no-any-return]  # One of the Job's methods.

    assert at_every_place(prepare, stage.check, KeyboardInterrupt) > 20


def test_deletes_of_jobs_that_lost_their_connection(stage: Stage) -> None:
    def prepare() -> Callable[[], object]:
        stage.control.drain_all()
        for _ in range(2):
            stage.control.put(b"in hand")
        jobs = stage.pool.reserve_many(2, 0)
        cut(jobs[0].connection)
        wait_until(lambda: stage.control.counter("current-jobs-ready") == 2, "the server to take them back")
        return lambda: stage.pool.delete_many(jobs)

    assert at_every_place(prepare, stage.check, KeyboardInterrupt, step=7) > 200


@pytest.mark.parametrize("command", ["delete", "touch", "stats"])
def test_commands_of_a_job_that_wait_for_their_turn_in_vain(beanstalkd: BeanstalkdServer, command: str) -> None:
    with PoolManager(beanstalkd.url, max_connections=1, timeout=0.001, connect_timeout=10, health_interval=60) as pool:
        beanstalkd.control.put(b"in hand")
        job = pool.reserve(2)
        assert job is not None
        connection = job.connection

        def in_vain() -> None:
            with connection.guard, contextlib.suppress(CommandTimeout):
                getattr(job, command)()

        def check(where: str) -> None:
            assert not connection.guard.locked(), where
            assert not connection._line, where
            assert job.reserved, where

        assert at_every_place(lambda: in_vain, check, KeyboardInterrupt) > 10
        connection.timeout = 5
        job.delete()


def test_reserve_many_of_ready_jobs(stage: Stage) -> None:
    def prepare() -> Callable[[], object]:
        stage.control.drain_all()
        for _ in range(3):
            stage.control.put(b"ready")
        return lambda: stage.pool.reserve_many(4, 0, tubes="default")

    assert at_every_place(prepare, stage.check, KeyboardInterrupt) > 100


def test_reserve_many_that_waits_in_vain(stage: Stage) -> None:
    def prepare() -> Callable[[], object]:
        stage.control.drain_all()
        return lambda: stage.pool.reserve_many(3, 0.002)

    assert at_every_place(prepare, stage.check, KeyboardInterrupt, step=2) > 150


def test_reserve_many_that_waits_for_jobs(stage: Stage) -> None:
    control = stage.server.raw()
    deliveries: list[tuple[threading.Event, Callable[[], object]]] = []

    def deliver(ended: threading.Event) -> None:
        while not ended.is_set():
            if control.counter("current-waiting"):
                control.put(b"for the one that waits")
                control.put(b"and one more")
                return

    def prepare() -> Callable[[], object]:
        stage.control.drain_all()
        ended = threading.Event()
        deliveries.append((ended, background(lambda: deliver(ended), "deliverer").result))
        return lambda: stage.pool.reserve_many(3, 3)

    def tidy() -> None:
        while deliveries:
            ended, result = deliveries.pop()
            ended.set()
            result()

    assert at_every_place(prepare, stage.check, KeyboardInterrupt, step=2, tidy=tidy) > 150


def test_delete_many(stage: Stage) -> None:
    def prepare() -> Callable[[], object]:
        stage.control.drain_all()
        for _ in range(3):
            stage.control.put(b"in hand")
        jobs = stage.pool.reserve_many(3, 0)
        assert len(jobs) == 3
        return lambda: stage.pool.delete_many([*jobs, jobs[0]])

    assert at_every_place(prepare, stage.check, KeyboardInterrupt) > 100


@pytest.mark.parametrize("verb", [PoolManager.touch_many, PoolManager.release_many])
def test_others_of_many_jobs(stage: Stage, verb: Callable[..., object]) -> None:
    def prepare() -> Callable[[], object]:
        stage.control.drain_all()
        for _ in range(3):
            stage.control.put(b"in hand")
        jobs = stage.pool.reserve_many(3, 0)
        assert len(jobs) == 3
        return lambda: verb(stage.pool, [*jobs, jobs[0]])

    assert at_every_place(prepare, stage.check, KeyboardInterrupt, step=2) > 100


def test_keeping_a_job(stage: Stage) -> None:
    """However its beginning or its end is interrupted, it is kept no longer than the block lasts."""

    def prepare() -> Callable[[], object]:
        stage.control.drain_all()
        stage.control.put(b"in hand")
        jobs = stage.pool.reserve_many(1, 0)

        def call() -> None:
            with stage.pool.keep(jobs) as kept:
                kept.add(jobs[0])
            jobs.pop().delete()

        return call

    assert at_every_place(prepare, stage.check, KeyboardInterrupt, step=2) > 40


def test_delete_many_of_some_of_the_jobs_of_a_connection(stage: Stage) -> None:
    """Whatever becomes of the call, those that it was not about are in hand, or lost, and do not hang."""

    def prepare() -> Callable[[], object]:
        stage.control.drain_all()
        for _ in range(3):
            stage.control.put(b"in hand")
        jobs = stage.pool.reserve_many(3, 0)

        def call() -> None:
            try:
                stage.pool.delete_many(jobs[:2])
            finally:
                kept.append(jobs.pop())

        return call

    def check(where: str) -> None:
        with contextlib.suppress(JobLost):
            kept.pop().touch()
        stage.check(where)

    kept: list[Job] = []
    assert at_every_place(prepare, check, KeyboardInterrupt) > 100


def test_delete_many_by_ids(stage: Stage) -> None:
    def prepare() -> Callable[[], object]:
        ids = [stage.pool.put("ready") for _ in range(3)]
        return lambda: stage.pool.delete_many(ids)

    assert at_every_place(prepare, stage.check, KeyboardInterrupt, step=2) > 80


def test_waiting_for_a_connection(stage: Stage) -> None:
    # The one connection is in another call's hands: a put waits for it in vain, and must not be handed it later.
    connections = inside(stage.pool).connections_of(0)
    held = connections.acquire(time.monotonic() + 10)

    def check(where: str) -> None:
        nonlocal held
        connections.checkin(held)
        stage.check(where)
        held = connections.acquire(time.monotonic() + 10)

    def put() -> None:
        with contextlib.suppress(PoolTimeout):
            stage.pool.put("x", timeout=0.005)

    assert at_every_place(lambda: put, check, KeyboardInterrupt, step=2) > 50
    connections.checkin(held)


def test_stats(stage: Stage) -> None:
    assert at_every_place(lambda: stage.pool.stats, stage.check, KeyboardInterrupt) > 30


def test_a_connection_that_is_lent(stage: Stage) -> None:
    address = stage.pool.servers[0].address

    def use_it() -> None:
        with stage.pool.connection(address, tube=f"tube-{stage.turn % 2}") as connection:
            connection.use("elsewhere")
            connection.reserve_job(connection.put("reserved, and not finished"))

    assert at_every_place(lambda: use_it, stage.check, KeyboardInterrupt) > 100


@pytest.mark.parametrize(
    "other",
    [
        [Server("q2"), Server("q3"), Server("q1", name="q4")],
        [Server("q1"), Server("q2"), Server("q3")],
    ],
)
def test_a_change_of_the_servers(other: list[Server]) -> None:
    """Whatever was done of it, the next one does all of it."""
    keys = [f"key {number}" for number in range(20)]
    one = [Server("q1"), Server("q2", weight=0), Server("q3")]
    # Never started, so that nobody finds out that there are no such servers.
    routes = [PoolManager(servers).route for servers in (one, other)]
    pool = PoolManager(one)
    turn = itertools.count()

    def prepare() -> Callable[[], object]:
        drain = next(turn) % 2 == 0
        return lambda: pool.set_servers(other, drain=drain)

    def check(where: str) -> None:
        for servers, route in ((other, routes[1]), (one, routes[0])):
            pool.set_servers(servers, drain=False)
            assert [status.name for status in pool.servers] == [server.key for server in servers], where
            assert [pool.route(key) for key in keys] == [route(key) for key in keys], where
            takers = {member.address for member in inside(pool).members if member.accepting}
            assert takers == {status.address for status in pool.servers if status.weight}, where

    assert at_every_place(prepare, check, KeyboardInterrupt, step=2) > 40


def test_reserve_over_two_servers(cluster: Callable[..., list[BeanstalkdServer]]) -> None:
    servers = cluster(2)
    controls = [server.control.open() for server in servers]
    with PoolManager([server.address for server in servers], max_connections=1, health_interval=60) as pool:

        def check(where: str) -> None:
            jid = pool.put("canary", tube="canary")
            job = pool.reserve(10, tubes="canary")
            assert job is not None, where
            assert (job.id, job.server) == (jid, jid.server), where
            job.delete()
            del job
            for control in controls:
                wait_until(lambda control=control: not control.counter("current-waiting"), f"no waiter, {where}")  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
            wait_until(lambda: not any(status.leased for status in pool.servers), f"no lease, {where}")

        assert at_every_place(lambda: lambda: pool.reserve(0.002), check, KeyboardInterrupt, step=2) > 150


@pytest.mark.long
def test_batches_over_two_servers(cluster: Callable[..., list[BeanstalkdServer]]) -> None:
    servers = cluster(2)
    controls = [server.control.open() for server in servers]
    with PoolManager([server.address for server in servers], max_connections=1, health_interval=60) as pool:

        def prepare() -> Callable[[], object]:
            for control in controls:
                control.drain_all()
                for _ in range(3):
                    control.put(b"ready")
            return lambda: pool.delete_many(pool.reserve_many(5, 0))

        def check(where: str) -> None:
            jid = pool.put("canary", tube="canary")
            [job] = pool.reserve_many(2, 1, tubes="canary")
            assert (job.id, job.server) == (jid, jid.server), where
            assert pool.delete_many([job]) == [None], where
            del job
            for control in controls:
                wait_until(lambda control=control: not control.counter("current-jobs-reserved"), f"none, {where}", 1)  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
            wait_until(lambda: not any(status.leased for status in pool.servers), f"no lease, {where}", 1)

        assert at_every_place(prepare, check, KeyboardInterrupt, step=7) > 300


def test_close(beanstalkd: BeanstalkdServer) -> None:
    control = beanstalkd.control.open()
    pools: list[PoolManager] = []

    def prepare() -> Callable[[], object]:
        pools.append(PoolManager(beanstalkd.url, timeout=1, health_interval=60))
        pools[-1].put("body")
        return lambda: pools[-1].close(0.1)

    def check(where: str) -> None:
        # Idempotent, also after a first one that was interrupted.
        pools.pop().close(0.1)
        wait_until(lambda: control.other_connections() == 0, f"no connection to be left, {where}")

    with assert_baseline():
        assert at_every_place(prepare, check, KeyboardInterrupt) > 30
        pools.pop().close()


@pytest.mark.parametrize("operation", ["put", "reserve", "wait", "using", "stats", "reconnect", "connect", "close"])
def test_a_plain_connection(beanstalkd: BeanstalkdServer, operation: str) -> None:
    control = beanstalkd.control.open()
    connection = Connection(beanstalkd.host, beanstalkd.port, timeout=2)
    operations: dict[str, Callable[[], object]] = {
        "put": lambda: connection.put("body"),
        "reserve": lambda: connection.reserve(0),
        "wait": lambda: connection.reserve(0),
        "using": connection.using,
        "stats": connection.stats,
        "reconnect": connection.reconnect,
        "connect": lambda: Connection(beanstalkd.host, beanstalkd.port).close(),
        "close": connection.close,
    }

    def prepare() -> Callable[[], object]:
        control.drain_all()
        connection.reconnect()
        connection.use("canary")
        connection.watch("other")
        if operation == "reserve":
            control.put(b"ready")
        return operations[operation]

    def check(where: str) -> None:
        try:
            assert connection.using() == "canary", where
        except BeanpoolError:
            # Closed is right, and says why; a reply to another command is not.
            assert connection.closed_because, where
            connection.reconnect()
            assert connection.using() == "canary", where
        assert sorted(connection.watching()) == ["default", "other"], where
        connection.close()
        if control.counter("current-jobs-reserved") or control.other_connections():
            gc.collect()
            wait_until(lambda: not control.counter("current-jobs-reserved"), f"nothing to be reserved, {where}")
            wait_until(lambda: not control.other_connections(), f"no connection to be left, {where}")

    at_every_place(prepare, check, KeyboardInterrupt)
    connection.close()


_LOOP = """
import json, os, random, signal, sys, time, warnings
from beanpool import PoolManager
from beanpool.errors import BeanpoolError

url, rounds = sys.argv[1], int(sys.argv[2])
rng = random.Random(int(sys.argv[3]))
signal.signal(signal.SIGINT, signal.default_int_handler)
# The timer makes the moment a random one; the signal that arrives is SIGINT.
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
# A socket that was made a moment before, and belongs to nobody yet, is closed by its finalizer, which says so.
warnings.simplefilter("ignore", ResourceWarning)
# What is raised in a finalizer is reported here. An interrupt there is an interrupt; anything else is a fault.
unraisable = []
sys.unraisablehook = lambda what: what.exc_type is KeyboardInterrupt or unraisable.append(repr(what.exc_value))
wrong, raised, cycles, interrupts, slowest = [], [], 0, 0, 0.0
known = {}
with PoolManager(url, max_connections=2, timeout=5, health_interval=0.5) as pool:
    pool.delete(pool.put("warm up"))
    # An import that is interrupted half-way is Python's to mend: what is imported at the first need is imported now.
    pool.stats()
    import tenacity
    while interrupts < rounds:
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0001, 0.004), 0.05)
            while True:
                started = time.monotonic()
                cycles += 1
                body = f"body {cycles}"
                jid = pool.put(body)
                known[int(jid)] = body
                job = pool.reserve(rng.choice((0, 0.001)))
                if job is None:
                    continue
                if not job.body.startswith("body ") or known.get(job.id, job.body) != job.body:
                    wrong.append(f"job {job.id} has another body than was put")
                if rng.random() < 0.2 and int(job.stats()["id"]) != job.id:
                    wrong.append("stats of another job")
                if rng.random() < 0.2:
                    job.touch()
                job.delete()
                if rng.random() < 0.2:
                    pool.put_many([body] * 3)
                    jobs = pool.reserve_many(3, 0)
                    for job in jobs:
                        if job.body != known.get(job.id, job.body):
                            wrong.append(f"job {job.id} of a batch has another body than was put")
                    pool.delete_many(jobs[:2])
                    jobs = None
                slowest = max(slowest, time.monotonic() - started)
        except KeyboardInterrupt:
            interrupts += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
        except BeanpoolError as error:
            raised.append(repr(error))
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            job = jobs = None
    # From here on nobody works on a job. What was dropped goes back within a second, on a machine that has the time.
    end = time.monotonic() + 15
    while True:
        reserved = pool.stats()["current-jobs-reserved"]
        # A check of the server has a connection for a moment, too.
        leased = sum(status.leased for status in pool.servers)
        if not reserved and not leased or time.monotonic() > end:
            break
        time.sleep(0.05)
    alive = pool.reserve(0) is not None or bool(pool.put("still works"))
sys.stdout.write(json.dumps({
    "reserved": reserved, "unraisable": unraisable,
    "interrupts": interrupts, "cycles": cycles, "wrong": wrong, "raised": raised, "leased": leased, "alive": alive,
    "slowest": slowest,
}) + "\\n")
"""


@pytest.mark.skipif(
    sys.version_info >= (3, 14),
    reason="there an interrupt between the start of a with and its block leaves a lock taken for ever (gh-148874)",
)
def test_a_thousand_sigints_at_random_moments(beanstalkd: BeanstalkdServer) -> None:
    done = run_python(_LOOP, beanstalkd.url, "1000", "7", timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result = json.loads(done.stdout.splitlines()[-1])
    print(result)
    assert result["interrupts"] == 1000
    assert result["wrong"] == []
    assert result["raised"] == []
    assert result["unraisable"] == []
    assert result["leased"] == 0
    assert result["reserved"] == 0
    assert result["alive"]
    wait_until(lambda: beanstalkd.control.other_connections() == 0, "no connection to be left", 1)
