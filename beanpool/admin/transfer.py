"""Taking jobs from a tube, and putting them elsewhere: the copy first, then the delete.

Ready jobs are reserved for that, so that no worker gets them meanwhile. Delayed and buried ones are not: if the
connection broke, their server would make them ready. They are looked at, copied and deleted, and so are those of a
paused tube, from which nothing can be reserved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from beanpool.admin.copies import Copies, NotBuried, note_copy, take_back
from beanpool.admin.deletes import delete_each, settle_delete
from beanpool.admin.lanes import Lane
from beanpool.admin.stored_job import StoredJob, stored_job
from beanpool.admin.walk import (
    answers,
    find_ids,
    in_states,
    is_dense_down_to,
    is_paused,
    look_at,
    peek_first,
)
from beanpool.connection import Job, JobId
from beanpool.errors import DeadlineSoon

# Jobs that nobody takes stay reserved to the end, so that they do not come again: not too many of them.
_MOST_LEFT = 1000


def transfer(lane: Lane, copies: Copies, tube: str, state: str, count: int) -> bool:
    """Move up to `count` jobs in `state` from `tube`, which the lane's connection uses and alone watches.

    :returns: whether the lane can go on.
    """
    if not count:
        return True
    if state == "ready":
        done, go_on = _transfer_reserved(lane, copies, count)
        if not go_on or done == count or lane.stopped() or not is_paused(lane, tube):
            return go_on
        count -= done
    return _transfer_peeked(lane, copies, tube, state, count)


def _transfer_reserved(lane: Lane, copies: Copies, count: int) -> tuple[int, bool]:
    """Returns how many jobs were taken up, and whether the lane can go on."""
    connection, taken = lane.connection, 0
    left: list[StoredJob] = []
    go_on = True
    while go_on and taken < count and len(left) < _MOST_LEFT and not lane.stopped():
        jobs = reserve(lane, min(lane.portion, count - taken))
        if not jobs:
            break
        with connection.pipeline() as pipeline:
            for job in jobs:
                pipeline.stats_job(job.id)
        portion = []
        for job, statistics in zip(jobs, answers(pipeline.results), strict=True):
            if statistics is None:
                # Its TTR has ended, and somebody else has done it.
                lane.tally.skipped += 1
            else:
                portion.append(stored_job(lane.origin, job.data, statistics))
        not_copied, go_on = _transfer(lane, copies, portion)
        left += not_copied
        taken += len(jobs)
        lane.report()
    if left and not connection.closed:
        with connection.pipeline() as pipeline:
            for job_left in left:
                pipeline.release(job_left.id, job_left.priority)
        # One that is not released goes back all the same, by its TTR or when the connection is closed.
    return taken, go_on and len(left) < _MOST_LEFT


def reserve(lane: Lane, count: int) -> list[Job[Any]]:
    """Reserve up to so many jobs that are ready."""
    with lane.connection.pipeline() as pipeline:
        for _ in range(count):
            pipeline.reserve(0)
    return reserved(pipeline.results)


def reserved(results: Sequence[Any]) -> list[Job[Any]]:
    """The jobs among the results of reserves.

    :raises BeanpoolError: if one of them has failed.
    """
    # DEADLINE_SOON says that there are none but those in hand.
    outcomes = [outcome for outcome in results if not isinstance(outcome, DeadlineSoon)]
    return [job for job in answers(outcomes) if job is not None]


def _transfer_peeked(lane: Lane, copies: Copies, tube: str, state: str, count: int) -> bool:
    wanted = in_states(tube, (state,))
    ids = find_ids(lane, wanted, count, is_dense_down_to(lane, count))
    for start in range(0, len(ids), lane.portion):
        if lane.stopped():
            return True
        portion = look_at(lane, ids[start : start + lane.portion], wanted)
        _, go_on = _transfer(lane, copies, portion)
        lane.report()
        if not go_on:
            return False
    return _transfer_heads(lane, copies, state, count - len(ids))


def _transfer_heads(lane: Lane, copies: Copies, state: str, count: int) -> bool:
    """Move jobs one at a time, each the first of its state: where ids are far between."""
    connection = lane.connection
    for _ in range(count):
        if lane.stopped():
            return True
        job = peek_first(connection, state)
        if job is None:
            return True
        found = look_at(lane, [job.id], lambda statistics: bool(statistics["state"] == state))
        not_copied, go_on = _transfer(lane, copies, found)
        lane.report()
        if not_copied or not go_on:
            # It would come again.
            return False
    return True


def _transfer(lane: Lane, copies: Copies, jobs: Sequence[StoredJob]) -> tuple[list[StoredJob], bool]:
    """Copy jobs and delete those that were copied.

    :returns: those that could not be copied, and whether the lane can go on.
    """
    tally, go_on = lane.tally, True
    copied: list[tuple[StoredJob, JobId]] = []
    not_copied: list[StoredJob] = []
    in_vain: list[JobId] = []
    for job, copy in zip(jobs, copies.put(jobs), strict=True):
        go_on &= note_copy(copy, tally)
        if isinstance(copy, JobId):
            copied.append((job, copy))
        else:
            not_copied.append(job)
            if isinstance(copy, NotBuried):
                in_vain.append(copy.copy)
    tally.skipped += len(not_copied)
    deleted = delete_each(lane, [job.id for job, _ in copied])
    in_vain += [copy for (_, copy), outcome in zip(copied, deleted, strict=True) if settle_delete(lane.tally, outcome)]
    take_back(lane.pool, in_vain, lane.timeout, tally)
    return not_copied, go_on and not lane.connection.closed
