"""Finding the jobs of a tube by their ids, and one by one where ids are far between.

beanstalkd lists no jobs. It gives ids one after the other, so whoever asks for all of them, from the newest down, sees
every job; and may stop when as many were seen as the statistics count.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from beanpool.admin.lanes import Lane
from beanpool.admin.stored_job import StoredJob, stored_job
from beanpool.connection import Connection, Job
from beanpool.errors import Buried, CommandFailed, NotFound

PROBE_TUBE = "beanpool.admin.newest-id"
_PROBE_DELAY = 365 * 86400
# So many ids are asked for at once at first, and in the end: a far server is asked for many in few round trips.
_FEW_IDS, _MANY_IDS = 500, 4000
_IDS_IN_ANY_CASE = 1000
_IDS_PER_JOB = 20
# What an id takes beside the round trip (seconds).
_EACH_ID = 40e-6

Statistics = Mapping[str, Any]


def answers(outcomes: Sequence[Any]) -> Iterator[Any]:
    """The results of a pipeline, with None for what was not found.

    :raises BeanpoolError: the first of any other failure.
    """
    for outcome in outcomes:
        if isinstance(outcome, NotFound):
            yield None
        elif isinstance(outcome, Exception):
            raise outcome
        else:
            yield outcome


def count_of(lane: Lane, tube: str | None, states: Sequence[str]) -> dict[str, int]:
    """How many jobs the lane's server has, by state; in one tube, or in all."""
    try:
        statistics = lane.connection.stats() if tube is None else lane.connection.stats_tube(tube)
    except NotFound:
        return dict.fromkeys(states, 0)
    return _counts(statistics, states)


def counts_of(lane: Lane, tubes: Sequence[str], states: Sequence[str]) -> dict[str, dict[str, int]]:
    """As :func:`count_of`, of several tubes at once."""
    with lane.connection.pipeline() as pipeline:
        for tube in tubes:
            pipeline.stats_tube(tube)
    found = zip(tubes, answers(pipeline.results), strict=True)
    return {tube: _counts({} if statistics is None else statistics, states) for tube, statistics in found}


def _counts(statistics: Statistics, states: Sequence[str]) -> dict[str, int]:
    return {state: int(statistics.get(f"current-jobs-{state}", 0)) for state in states}


def is_paused(lane: Lane, tube: str) -> bool:
    """Whether nothing can be reserved from `tube` for now."""
    try:
        return int(lane.connection.stats_tube(tube).get("pause-time-left", 0)) > 0
    except NotFound:
        return False


def newest_id(lane: Lane) -> int:
    """The highest id that the lane's server has given to a job.

    Only a put tells for certain. So a job without a body is put into a tube of its own, where nobody gets it, and
    deleted. A server that takes no puts is asked for what it has counted.
    """
    if lane.newest is None:
        lane.newest = _ask_newest(lane.connection)
    return lane.newest


def _ask_newest(connection: Connection[Any]) -> int:
    used = connection.used
    with connection.pipeline() as pipeline:
        pipeline.use(PROBE_TUBE).put(b"", delay=_PROBE_DELAY).use(used)
    in_use, newest, back = pipeline.results
    if isinstance(newest, Buried):
        newest = newest.id or 0
    if isinstance(newest, int):
        _delete_probes(connection, newest, used)
    # Whatever else went wrong is raised.
    for _ in answers([in_use, back] if isinstance(newest, int | CommandFailed) else [in_use, newest, back]):
        pass
    return newest if isinstance(newest, int) else _newest_by_counters(connection)


def _delete_probes(connection: Connection[Any], jid: int | None, used: str) -> None:
    """Delete a probe, and those that were left when a connection broke; somebody else may do so, too."""
    while jid is not None:
        with connection.pipeline() as pipeline:
            pipeline.use(PROBE_TUBE).delete(jid).peek_delayed().use(used)
        # What was seen is a probe only if the tube was used, which is the first answer.
        _, _, left, _ = answers(pipeline.results)
        jid = None if left is None else int(left.id)


def _newest_by_counters(connection: Connection[Any]) -> int:
    # Ids go on from the highest one in a log; each put since then took one.
    seen = max((int(job.id) for job in heads(connection)), default=0)
    return seen + int(connection.stats().get("cmd-put", 0))


def heads(connection: Connection[Any]) -> list[Job[Any]]:
    """The jobs of the used tube that come first: of each state one."""
    with connection.pipeline() as pipeline:
        pipeline.peek_ready().peek_delayed().peek_buried()
    return [job for job in answers(pipeline.results) if job is not None]


def walk(
    lane: Lane, newest: int, wanted: Callable[[Statistics], bool], expected: int, deepest: int
) -> Iterator[list[Statistics]]:
    """The statistics of jobs that are `wanted`, in portions, from the newest one down.

    It ends when `expected` jobs were seen, or `deepest` ids were asked for, or the lane is stopped.
    """
    connection = lane.connection
    last = max(1, newest - deepest + 1)
    high, at_once = newest, _FEW_IDS
    while high >= last and expected > 0 and not lane.stopped():
        low = max(last, high - at_once + 1)
        at_once = min(_MANY_IDS, 2 * at_once)
        with connection.pipeline() as pipeline:
            for jid in range(high, low - 1, -1):
                pipeline.stats_job(jid)
        found = [
            statistics for statistics in answers(pipeline.results) if statistics is not None and wanted(statistics)
        ]
        found = found[:expected]
        expected -= len(found)
        if found:
            yield found
        high = low - 1


def is_dense_down_to(lane: Lane, expected: int) -> int:
    """How many ids it is sensible to ask for, to find so many jobs; those beyond are taken one at a time.

    That takes two round trips for each job. As long as they take, ids may as well be asked for.
    """
    meanwhile = 2 * lane.round_trip / (lane.round_trip / _MANY_IDS + _EACH_ID)
    return _IDS_IN_ANY_CASE + int(_IDS_PER_JOB + meanwhile) * expected


def find_ids(lane: Lane, wanted: Callable[[Statistics], bool], expected: int, deepest: int) -> array.array[int]:
    """The ids of jobs that are wanted, the oldest first: 8 bytes each, however large the jobs are."""
    ids = array.array("Q")
    if expected > 0:
        for found in walk(lane, newest_id(lane), wanted, expected, deepest):
            ids.extend(int(statistics["id"]) for statistics in found)
    ids.reverse()
    return ids


def look_at(lane: Lane, ids: Sequence[int], wanted: Callable[[Statistics], bool]) -> list[StoredJob]:
    """Those of these jobs that are still wanted, with their bodies."""
    with lane.connection.pipeline() as pipeline:
        for jid in ids:
            pipeline.stats_job(jid)
            pipeline.peek(jid)
    found = list(answers(pipeline.results))
    return [
        stored_job(lane.origin, job.data, statistics)
        for statistics, job in zip(found[::2], found[1::2], strict=True)
        if statistics is not None and job is not None and wanted(statistics)
    ]


def peek_first(connection: Connection[Any], state: str) -> Job[Any] | None:
    """The job of the used tube that comes first among those in this state."""
    if state == "ready":
        return connection.peek_ready()
    return connection.peek_delayed() if state == "delayed" else connection.peek_buried()


def in_states(tube: str | None, states: Sequence[str]) -> Callable[[Statistics], bool]:
    """Whether statistics are those of a job of `tube` (None for any) in one of these states."""

    def wanted(statistics: Statistics) -> bool:
        if tube is None:
            return statistics["state"] in states and statistics["tube"] != PROBE_TUBE
        return statistics["tube"] == tube and statistics["state"] in states

    return wanted
