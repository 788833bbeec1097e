"""Brokers of a framework for tasks, next to Redis: how fast tasks are sent, and worked on."""

from __future__ import annotations

import abc
import contextlib
import importlib.util
import itertools
import logging
import threading
from collections.abc import Callable, Iterator

from benchmarks.bench import Bench
from benchmarks.measuring import Contender, interleaved
from benchmarks.result import Result, Table, speed_table
from support.redis_server import RedisServer, find_redis

REDIS = "Redis"
ONE, THREE = "beanpool, 1 server", "beanpool, 3 servers"
THREADS = 8
_LONGEST = 120.0


class Application(abc.ABC):
    """One broker with its tasks, and the worker that is started for a slice."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self.expect(0)

    def expect(self, count: int) -> None:
        """So many tasks are to be worked on."""
        self._done.clear()
        self._numbers, self._wanted = itertools.count(1), count

    def one_done(self) -> None:
        """A task was worked on."""
        if next(self._numbers) == self._wanted:
            self._done.set()

    def await_all(self) -> None:
        """Wait until all were."""
        if not self._done.wait(_LONGEST):
            raise RuntimeError("not all was worked on")

    @abc.abstractmethod
    def send(self, count: int) -> None:
        """Send so many tasks."""

    @abc.abstractmethod
    def prepare(self, count: int) -> None:
        """Have so many tasks there to be worked on."""

    @abc.abstractmethod
    def work(self, count: int) -> None:
        """Work on them."""

    @abc.abstractmethod
    def stop(self, count: int) -> None:
        """End the worker."""

    @abc.abstractmethod
    def empty(self, count: int) -> None:
        """Delete what was sent."""

    @abc.abstractmethod
    def close(self) -> None:
        """The end."""


def compare(
    bench: Bench,
    title: str,
    framework: str,
    tasks: str,
    rounds: int,
    count: int,
    make: Callable[[str, str], Application],
) -> Result:
    """Measure a framework with beanstalkd and with Redis.

    :param framework: its package.
    :param tasks: what it calls them.
    :param make: makes an application with a name and the URL of its broker.
    """
    if importlib.util.find_spec(framework) is None:
        return Result(title, [Table(["broker", "why it is not measured"], [["all", f"{framework} is not installed"]])])
    missing: dict[str, str] = {}
    rounds, count = bench.rounds(rounds), bench.operations(count)
    with contextlib.ExitStack() as stack:
        addresses = [server.address for server in bench.servers(3)]
        urls = {ONE: f"beanstalk://{addresses[0]}", THREE: "beanstalk://" + ",".join(addresses)}
        if find_redis() is None or importlib.util.find_spec("redis") is None:
            missing[REDIS] = "not installed"
        else:
            urls[REDIS] = stack.enter_context(RedisServer()).url
        stack.enter_context(_quiet(framework))
        applications = {name: make(name, url) for name, url in urls.items()}
        for each in applications.values():
            stack.callback(each.close)
        sent = interleaved(
            [Contender(name, each.send, clean_up=each.empty) for name, each in applications.items()], rounds, count
        )
        worked = interleaved(
            [Contender(name, each.work, each.prepare, each.stop) for name, each in applications.items()], rounds, count
        )
    of = REDIS if REDIS in urls else ONE
    caption = f"%s, on all cores, {tasks} with one number:"
    return Result(
        title,
        [
            speed_table(sent, of, missing, caption % "One thread sends"),
            speed_table(worked, of, missing, caption % f"{THREADS} threads of one process work"),
        ],
    )


@contextlib.contextmanager
def _quiet(framework: str) -> Iterator[None]:
    """It logs the end of each worker."""
    logger = logging.getLogger(framework)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
