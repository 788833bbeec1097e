"""Deleting the jobs of a tube."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from beanpool.admin.deletes import delete_each, settle_delete
from beanpool.admin.lanes import Lane, addresses, run_lanes
from beanpool.admin.outcome import STATES, OnProgress, Outcome, State, Stop, check_limit, check_states
from beanpool.admin.quota import Quota
from beanpool.admin.transfer import reserve, reserved
from beanpool.admin.walk import (
    count_of,
    in_states,
    is_dense_down_to,
    is_paused,
    newest_id,
    peek_first,
    walk,
)
from beanpool.manager import PoolManager
from beanpool.protocol import check_tube


def clear(
    pool: PoolManager[Any],
    tube: str,
    states: State | Iterable[State] = STATES,
    *,
    limit: int | None = None,
    timeout: float | None = None,
    progress: OnProgress = None,
    stop: Stop = None,
) -> dict[str, Outcome]:
    """Delete the jobs of a tube, on all servers at once.

    It takes what is in the tube when it begins. Ready jobs are reserved for that, so what is deleted nobody else has;
    delayed and buried ones, and those of a paused tube, are looked at and deleted: one that somebody kicks in between
    is deleted all the same. Jobs that workers have in hand stay.

    :param tube: its name.
    :param states: of the jobs to delete: ``"ready"``, ``"delayed"``, ``"buried"``; one or several.
    :param limit: how many at most, on all servers together; None for all. The other parameters are those of
        :func:`move`.
    :returns: for each server, by its address, what came of its jobs. An error is in there, and not raised.
    :raises ValueError: for a tube, state or limit that cannot be.
    """
    check_tube(tube)
    wanted = check_states(states)
    quota = Quota(check_limit(limit))

    def work(lane: Lane) -> None:
        counts = count_of(lane, tube, wanted)
        granted = lane.total = quota.take(sum(counts.values()))
        for state, count in counts.items():
            count = min(count, granted)
            granted -= count
            if state == "ready":
                count -= _clear_reserved(lane, count)
                if lane.connection.closed or not (count and is_paused(lane, tube)):
                    continue
            if count and not lane.connection.closed:
                _clear_found(lane, tube, state, count)

    return run_lanes(pool, addresses(pool), tube, work, timeout=timeout, progress=progress, stop=stop)


def _clear_reserved(lane: Lane, count: int) -> int:
    """Returns how many jobs were taken up."""
    taken = 0
    jobs = [] if lane.stopped() else reserve(lane, min(lane.portion, count))
    while jobs:
        taken += len(jobs)
        more = 0 if lane.stopped() else min(lane.portion, count - taken)
        # The next ones are reserved on the way.
        with lane.connection.pipeline() as pipeline:
            for job in jobs:
                pipeline.delete(job.id)
            for _ in range(more):
                pipeline.reserve(0)
        _settle(lane, pipeline.results[: len(jobs)])
        if lane.connection.closed:
            break
        jobs = reserved(pipeline.results[len(jobs) :])
    return taken


def _clear_found(lane: Lane, tube: str, state: str, count: int) -> None:
    wanted = in_states(tube, (state,))
    for found in walk(lane, newest_id(lane), wanted, count, is_dense_down_to(lane, count)):
        _delete(lane, [int(statistics["id"]) for statistics in found])
        count -= len(found)
    while count > 0 and not lane.connection.closed and not lane.stopped():
        job = peek_first(lane.connection, state)
        if job is None:
            return
        _delete(lane, [job.id])
        count -= 1


def _delete(lane: Lane, ids: list[int]) -> None:
    _settle(lane, delete_each(lane, ids))


def _settle(lane: Lane, outcomes: Sequence[Exception | None]) -> None:
    for outcome in outcomes:
        settle_delete(lane.tally, outcome)
    lane.report()
