"""Looking at jobs without taking them."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Self

from beanpool.admin.lanes import Lane, addresses
from beanpool.admin.outcome import (
    STATES,
    AnyState,
    OnProgress,
    Outcome,
    Progress,
    Stop,
    check_limit,
    check_states,
    stop_test,
)
from beanpool.admin.stored_job import StoredJob
from beanpool.admin.walk import count_of, find_ids, in_states, look_at
from beanpool.errors import BeanpoolError
from beanpool.manager import PoolManager
from beanpool.protocol import check_int, check_tube

DEPTH = 1_000_000
"""How many ids each server is asked for at most, when not told otherwise."""

_MOST = 2**63


class Listing(Iterator[StoredJob]):
    """The jobs that :func:`jobs` or :func:`find` sees, one after the other, and what came of it by server.

    :ivar outcomes: for each server, by its address, what was seen there so far: `done` are the jobs that were given,
        `skipped` those that its statistics count and that were not found. They are whole when the iteration has ended.
    """

    def __init__(self, pool: PoolManager[Any], lanes: list[Lane], found: Generator[StoredJob, None, None]) -> None:
        self._lanes = lanes
        self._found = found

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """What was seen of each server so far."""
        return {lane.server: lane.tally.outcome() for lane in self._lanes}

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StoredJob:
        return next(self._found)

    def close(self) -> None:
        """Look at no more, and give the connections back. It is done by itself at the end."""
        self._found.close()


def jobs(
    pool: PoolManager[Any],
    tube: str | None = None,
    states: AnyState | Iterable[AnyState] = STATES,
    limit: int | None = None,
    *,
    depth: int = DEPTH,
    timeout: float | None = None,
    progress: OnProgress = None,
    stop: Stop = None,
) -> Listing:
    """Look at the jobs of a tube on all servers, those put first of each server first, and take none.

    beanstalkd has no list of jobs. So each server is asked for its ids, from the newest down, until as many jobs were
    found as it counts; to know its newest one, a job is put into a tube of its own and deleted at once. Bodies are read
    in small portions, a portion of each server at a time: memory stays bounded, however many jobs there are. Each
    server has a thread of its own, and its jobs come when it has answered: one that is far or silent holds up no other.

    :param tube: its name; None for all tubes.
    :param states: of the jobs to look at: ``"ready"``, ``"delayed"``, ``"buried"``, and ``"reserved"``, too.
    :param limit: how many at most: the ones that were put last on each server, and as many of them; None for all.
    :param depth: how many ids to ask each server for at most (a million takes seconds). Jobs that are older are
        counted as skipped.
    :param timeout: the longest that a server may be silent (seconds); None for the pool's.
    :returns: an iterator over :class:`StoredJob`, whose ``outcomes`` tell what servers lacked. The other parameters are
        those of :func:`move`. Connections are held until it ends, or is closed: then that to a server whose answer is
        still out is given back when it has come.
    :raises ValueError: for a tube, state or limit that cannot be.
    """
    return listing(
        pool, tube, check_states(states, reserved=True), check_limit(limit), None, depth, timeout, progress, stop
    )


def listing(
    pool: PoolManager[Any],
    tube: str | None,
    states: tuple[str, ...],
    limit: int | None,
    matches: Callable[[StoredJob], bool] | None,
    depth: int,
    timeout: float | None,
    progress: OnProgress,
    stop: Stop,
) -> Listing:
    """As :func:`jobs`, of those that match."""
    if tube is not None:
        check_tube(tube)
    check_int("depth", depth, 1, _MOST)

    def report(news: Progress) -> None:
        if progress is not None:
            progress(news)

    told_to_stop, ending = stop_test(stop), threading.Event()
    lanes = [
        Lane(pool, server, timeout, lambda: ending.is_set() or told_to_stop(), report) for server in addresses(pool)
    ]
    # Those that need not be looked at for what they hold are not.
    most = None if matches is not None else limit
    looks = [] if limit == 0 else [_Look(lane, _look(pool, lane, tube, states, most, matches, depth)) for lane in lanes]
    return Listing(pool, lanes, _as_they_come(looks, limit, ending))


class _Look:
    """A look at one server, in a thread of its own: a portion is there before it is asked for."""

    def __init__(self, lane: Lane, found: Generator[list[StoredJob], None, None]) -> None:
        self.lane = lane
        self._found = found
        self._turn = threading.Semaphore(0)
        self._waits = False
        self._ended = False
        self._thread: threading.Thread | None = None

    def start(self, news: queue.SimpleQueue[News]) -> None:
        """Look, and tell each portion; then None, or what went wrong beyond the server."""
        args = (news,)
        self._thread = threading.Thread(
            target=self._run, args=args, name=f"beanpool-admin-{self.lane.server}", daemon=True
        )
        self._thread.start()

    def go_on(self) -> None:
        """Its last portion has been taken."""
        self._waits = False
        self._turn.release()

    def end(self) -> None:
        """Look at no more. What waits for no server has given its connection back then."""
        idle, self._ended = self._waits, True
        self._turn.release()
        if idle and self._thread is not None:
            self._thread.join()

    def _run(self, news: queue.SimpleQueue[News]) -> None:
        outcome: BaseException | None = None
        try:
            for portion in self._found:
                self._waits = True
                news.put((self, portion))
                self._turn.acquire()
                if self._ended:
                    break
            self._found.close()
        except BaseException as error:
            outcome = error
        news.put((self, outcome))


News = tuple[_Look, list[StoredJob] | BaseException | None]


def _as_they_come(looks: list[_Look], limit: int | None, ending: threading.Event) -> Generator[StoredJob, None, None]:
    news: queue.SimpleQueue[News] = queue.SimpleQueue()
    running = 0
    try:
        for look in looks:
            look.start(news)
            running += 1
        left = itertools.count() if limit is None else iter(range(limit))
        while running:
            look, portion = news.get()
            if isinstance(portion, BaseException):
                raise portion
            if portion is None:
                running -= 1
                continue
            for job in portion:
                if next(left, None) is None:
                    return
                look.lane.tally.done += 1
                yield job
            look.lane.report()
            look.go_on()
    finally:
        ending.set()
        for look in looks:
            look.end()


def _look(
    pool: PoolManager[Any],
    lane: Lane,
    tube: str | None,
    states: tuple[str, ...],
    most: int | None,
    matches: Callable[[StoredJob], bool] | None,
    depth: int,
) -> Generator[list[StoredJob], None, None]:
    """The jobs of one server, in portions."""
    wanted = in_states(tube, states)
    try:
        with pool.connection(lane.server, tube=tube, timeout=lane.timeout) as connection:
            lane.begin(connection)
            lane.total = sum(count_of(lane, tube, states).values())
            expected = lane.total if most is None else min(lane.total, most)
            ids = find_ids(lane, wanted, expected, depth)
            for start in range(0, len(ids), lane.portion):
                if lane.stopped():
                    return
                found = look_at(lane, ids[start : start + lane.portion], wanted)
                yield found if matches is None else list(filter(matches, found))
            if len(ids) < expected and not lane.stopped():
                there = sum(count_of(lane, tube, states).values())
                lane.tally.skipped += max(0, min(expected, there) - len(ids))
    except BeanpoolError as error:
        lane.tally.fail(error)
