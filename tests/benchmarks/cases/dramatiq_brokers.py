"""dramatiq with beanstalkd as its broker, next to Redis."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.bench import Bench
from benchmarks.measuring import Contender, Timings, interleaved
from benchmarks.result import Result, Table, speed_table
from support.redis_server import RedisServer, find_redis

TITLE = "dramatiq: messages sent, and worked on"
REDIS = "Redis"
ONE, THREE = "beanpool, 1 server", "beanpool, 3 servers"
THREADS = 8
MESSAGES = 2000
ROUNDS = 8

MakeBroker = Callable[[], Any]


def messages(bench: Bench) -> Result:
    """Empty actors, 8 threads in one process: all of the time is dramatiq's, the broker's and the servers'."""
    if importlib.util.find_spec("dramatiq") is None:
        return Result(TITLE, [Table(["broker", "why it is not measured"], [["all", "dramatiq is not installed"]])])
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        brokers = _brokers(bench)
        if find_redis() is None or importlib.util.find_spec("redis") is None:
            missing[REDIS] = "not installed"
        else:
            brokers[REDIS] = _redis(stack.enter_context(RedisServer()))
        # It logs the end of each worker.
        stack.enter_context(_quiet())
        sent, worked = _measure(bench, brokers)
    of = REDIS if REDIS in brokers else ONE
    caption = "%s, on all cores, messages with one number:"
    return Result(
        TITLE,
        [
            speed_table(sent, of, missing, caption % "One thread sends"),
            speed_table(worked, of, missing, caption % f"{THREADS} threads of one process work"),
        ],
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("dramatiq")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _brokers(bench: Bench) -> dict[str, MakeBroker]:
    from beanpool.contrib.dramatiq import BeanpoolBroker

    addresses = [server.address for server in bench.servers(3)]
    return {ONE: lambda: BeanpoolBroker(addresses[0]), THREE: lambda: BeanpoolBroker(addresses)}


def _redis(server: RedisServer) -> MakeBroker:
    from dramatiq.brokers.redis import RedisBroker

    return lambda: RedisBroker(url=server.url)


class _Application:
    """One broker with its actor, and the worker that is started for a slice."""

    def __init__(self, make: MakeBroker) -> None:
        self._make = make
        self._worker: Any = None
        self._done = threading.Event()
        self._open()

    def _open(self) -> None:
        import dramatiq

        # A new one for each worker: a worker adds a middleware that nothing takes away.
        self.broker = self._make()
        self._numbers = itertools.count(1)
        self._wanted = 0
        self._actor = dramatiq.actor(broker=self.broker, actor_name="work")(self._work)

    def _work(self, number: int) -> None:
        if next(self._numbers) == self._wanted:
            self._done.set()

    def send(self, count: int) -> None:
        for number in range(count):
            self._actor.send(number)

    def work(self, count: int) -> None:
        import dramatiq

        self._done.clear()
        self._wanted = count
        self._worker = dramatiq.Worker(self.broker, worker_threads=THREADS, worker_timeout=50)
        self._worker.start()
        if not self._done.wait(120):
            raise RuntimeError("not all messages were worked on")

    def stop(self, count: int) -> None:
        self._worker.stop()
        self.close(count)
        self._open()

    def flush(self, count: int) -> None:
        self.broker.flush_all()

    def close(self, count: int = 0) -> None:
        self.broker.flush_all()
        self.broker.close()


def _measure(bench: Bench, brokers: dict[str, MakeBroker]) -> tuple[Timings, Timings]:
    applications = {name: _Application(make) for name, make in brokers.items()}
    rounds, count = bench.rounds(ROUNDS), bench.operations(MESSAGES)
    try:
        sent = interleaved(
            [Contender(name, each.send, clean_up=each.flush) for name, each in applications.items()], rounds, count
        )
        worked = interleaved(
            [Contender(name, each.work, each.send, each.stop) for name, each in applications.items()], rounds, count
        )
    finally:
        for each in applications.values():
            each.close()
    return sent, worked
