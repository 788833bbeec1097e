"""One operation on all servers at once: a thread each, so that one that is silent holds up no other."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from beanpool.admin.outcome import OnProgress, Outcome, Progress, Stop, Tally, stop_test
from beanpool.connection import Connection
from beanpool.errors import BeanpoolError
from beanpool.manager import PoolManager

_MOST_AT_ONCE = 250
_MOST_BYTES = 16 << 20


class Lane:
    """An operation on one server: its connection, and what came of it.

    :ivar server: the server's address.
    :ivar connection: for this lane alone.
    :ivar origin: the server, and its process: what makes a :class:`JobId` of an id.
    :ivar round_trip: how long the server took to answer at first (seconds).
    :ivar portion: how many jobs to have in memory at once.
    :ivar total: how many jobs there are to do; None while that is not known.
    :ivar newest: the highest id that the server had given when that was asked; None as long as it was not.
    """

    def __init__(
        self,
        pool: PoolManager[Any],
        server: str,
        timeout: float | None,
        stopped: Callable[[], bool],
        report: Callable[[Progress], None],
    ) -> None:
        self.pool = pool
        self.server = server
        self.timeout = timeout
        self.stopped = stopped
        self.tally = Tally()
        self.total: int | None = None
        self.newest: int | None = None
        self._report = report
        self._connection: Connection[Any] | None = None
        self.origin = (server, "")
        self.round_trip = 0.0
        self.portion = _MOST_AT_ONCE

    @property
    def connection(self) -> Connection[Any]:
        """The one that the lane was begun with."""
        assert self._connection is not None
        return self._connection

    def begin(self, connection: Connection[Any]) -> None:
        """Go on over `connection` from now on."""
        self._connection = connection
        began = time.monotonic()
        statistics = connection.stats()
        self.round_trip = time.monotonic() - began
        self.origin = (self.server, str(statistics["id"]))
        largest = statistics.get("max-job-size", 0)
        self.portion = max(1, min(_MOST_AT_ONCE, _MOST_BYTES // max(1, int(largest))))

    def report(self) -> None:
        """Let the caller know how far it is."""
        self._report(Progress(self.server, self.total, self.tally.outcome()))


def run_lanes(
    pool: PoolManager[Any],
    servers: Iterable[str],
    tube: str | None,
    work: Callable[[Lane], None],
    *,
    timeout: float | None,
    progress: OnProgress,
    stop: Stop,
) -> dict[str, Outcome]:
    """Do `work` on each of the servers, and return what came of it, by address.

    A :class:`BeanpoolError` ends the lane of its server alone. Anything else ends all of them, and is raised with what
    was done until then as its ``outcomes``; so does an interrupt. `progress` is called in the caller's thread.

    :param tube: the one that the lanes' connections use and watch; None for those of the pool.
    :param timeout: the longest that a server may be silent (seconds); None for the pool's.
    """
    told_to_stop = stop_test(stop)
    ending = threading.Event()
    # What lanes have to say, and None of each that has ended.
    news: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
    failures: list[BaseException] = []
    say = news.put if progress is not None else lambda _: None

    def run(lane: Lane) -> None:
        try:
            with pool.connection(lane.server, tube=tube, timeout=timeout) as connection:
                lane.begin(connection)
                work(lane)
        except BeanpoolError as error:
            lane.tally.fail(error)
        except BaseException as error:
            failures.append(error)
            ending.set()
        finally:
            lane.report()
            ended[lane.server] = lane.tally.outcome()
            news.put(None)

    lanes = [Lane(pool, server, timeout, lambda: ending.is_set() or told_to_stop(), say) for server in servers]
    ended: dict[str, Outcome] = {}
    threads: list[threading.Thread] = []
    try:
        try:
            for lane in lanes:
                thread = threading.Thread(target=run, args=(lane,), name=f"beanpool-admin-{lane.server}", daemon=True)
                thread.start()
                threads.append(thread)
            running = len(threads)
            while running:
                item = news.get()
                if item is None:
                    running -= 1
                elif progress is not None:
                    progress(item)
        finally:
            ending.set()
            # They end with the jobs that they have in hand, or when their server has been silent for the timeout.
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]
    except BaseException as error:
        error.outcomes = _by_server(lanes, ended)  # type: ignore[attr-defined]  # As put_many() has it.
        raise
    return _by_server(lanes, ended)


def _by_server(lanes: Iterable[Lane], ended: dict[str, Outcome]) -> dict[str, Outcome]:
    return {lane.server: ended.get(lane.server) or lane.tally.outcome() for lane in lanes}


def addresses(pool: PoolManager[Any]) -> list[str]:
    """Of all servers of the pool."""
    return [status.address for status in pool.servers]
