"""Moving jobs from one tube to another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from beanpool.admin.copies import Copies, KeyOf
from beanpool.admin.lanes import Lane, addresses, run_lanes
from beanpool.admin.outcome import STATES, OnProgress, Outcome, State, Stop, check_limit, check_states
from beanpool.admin.quota import Quota
from beanpool.admin.transfer import transfer
from beanpool.admin.walk import count_of
from beanpool.manager import PoolManager
from beanpool.protocol import check_tube


def move(
    pool: PoolManager[Any],
    source: str,
    target: str,
    states: State | Iterable[State] = STATES,
    *,
    limit: int | None = None,
    key: KeyOf = None,
    timeout: float | None = None,
    progress: OnProgress = None,
    stop: Stop = None,
) -> dict[str, Outcome]:
    """Move the jobs of one tube to another, on all servers at once, with their priority, TTR, delay and state.

    Each job stays on its server, so that jobs with the same key stay together, unless `key` says otherwise or that
    server takes no puts. The copy is put before the original is deleted: nothing is lost, whatever fails and whenever,
    and what may be there twice is counted. It takes what is in the tube when it begins. It may be repeated, and moves
    what is left then; but it is not idempotent: what it was unsure of may come to be there twice.

    The copy has a new id, and its statistics begin anew. A delayed job becomes ready when it would have, or up to a
    second later. Buried ones need beanstalkd 1.12 or newer. Jobs that workers have in hand stay where they are.

    :param source: the tube to take from. It may be paused.
    :param target: the tube to put into.
    :param states: of the jobs to move: ``"ready"``, ``"delayed"``, ``"buried"``; one or several.
    :param limit: how many at most, on all servers together; None for all.
    :param key: puts the copies by this key, as :meth:`PoolManager.put` does; or a function that tells each job's.
    :param timeout: the longest that a server may be silent (seconds); None for the pool's. It costs its own jobs only.
    :param progress: called with a :class:`Progress` for each portion, in the caller's thread.
    :param stop: ends it early, with what was done until then: a :class:`Waker`, or a function that returns True. It is
        asked between portions, in the threads of the servers.
    :returns: for each server, by its address, what came of its jobs. An error is in there, and not raised.
    :raises ValueError: for a tube, state or limit that cannot be, or if both tubes are the same.
    """
    check_tube(source, "source")
    check_tube(target, "target")
    if source == target:
        raise ValueError(f"source and target are the same tube, {source!r}")
    wanted = check_states(states)
    quota = Quota(check_limit(limit))

    def work(lane: Lane) -> None:
        counts = count_of(lane, source, wanted)
        granted = quota.take(sum(counts.values()))
        lane.total = granted
        if not granted:
            return
        if key is not None:
            _move(lane, Copies(lane.pool, target, key, timeout), source, counts, granted)
            return
        with lane.pool.connection(lane.server, tube=target, timeout=timeout) as home:
            origin = (lane.server, str(home.stats()["id"]))
            _move(lane, Copies(lane.pool, target, None, timeout, (home, origin)), source, counts, granted)

    return run_lanes(pool, addresses(pool), source, work, timeout=timeout, progress=progress, stop=stop)


def _move(lane: Lane, copies: Copies, source: str, counts: dict[str, int], granted: int) -> None:
    for state, count in counts.items():
        if lane.stopped() or not transfer(lane, copies, source, state, min(count, granted)):
            return
        granted -= min(count, granted)
