"""Looking at jobs without taking them."""

from __future__ import annotations

import collections
import itertools
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
    """Look at the jobs of a tube on all servers, those put first first, server by server in turns, and take none.

    beanstalkd has no list of jobs. So each server is asked for its ids, from the newest down, until as many jobs were
    found as it counts; to know its newest one, a job is put into a tube of its own and deleted at once. Bodies are read
    in small portions: memory stays bounded, however many jobs there are.

    :param tube: its name; None for all tubes.
    :param states: of the jobs to look at: ``"ready"``, ``"delayed"``, ``"buried"``, and ``"reserved"``, too.
    :param limit: how many at most: the ones that were put last on each server, and as many of them; None for all.
    :param depth: how many ids to ask each server for at most (a million takes seconds). Jobs that are older are
        counted as skipped.
    :param timeout: the longest that a server may be silent (seconds); None for the pool's. All are tried at once
        before.
    :returns: an iterator over :class:`StoredJob`, whose ``outcomes`` tell what servers lacked. The other parameters are
        those of :func:`move`. Connections are held until it ends, or is closed.
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

    lanes = [Lane(pool, server, timeout, stop_test(stop), report) for server in addresses(pool)]
    # Those that need not be looked at for what they hold are not.
    most = None if matches is not None else limit
    look = [_look(pool, lane, tube, states, most, matches, depth) for lane in lanes]
    return Listing(pool, lanes, _in_turns(pool, lanes, look, limit, timeout))


def _in_turns(
    pool: PoolManager[Any],
    lanes: list[Lane],
    look: list[Generator[list[StoredJob], None, None]],
    limit: int | None,
    timeout: float | None,
) -> Generator[StoredJob, None, None]:
    try:
        # All at once: those that are silent cost one timeout together.
        silent = pool.ping_by_server(timeout=timeout) if limit != 0 else {}
        turns = collections.deque[tuple[Lane, Generator[list[StoredJob], None, None]]]()
        for lane, found in zip(lanes, look, strict=True):
            answer = silent.get(lane.server)
            if isinstance(answer, BaseException):
                lane.tally.fail(answer if isinstance(answer, Exception) else BeanpoolError(str(answer)))
            elif limit != 0:
                turns.append((lane, found))
        left = itertools.count() if limit is None else iter(range(limit))
        while turns:
            lane, found = turns.popleft()
            portion = next(found, None)
            if portion is None:
                continue
            turns.append((lane, found))
            for job in portion:
                if next(left, None) is None:
                    return
                lane.tally.done += 1
                yield job
            lane.report()
    finally:
        for found in look:
            found.close()


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
