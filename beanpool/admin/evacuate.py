"""Emptying a server: all of its jobs go to the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from beanpool.admin.copies import Copies, KeyOf
from beanpool.admin.lanes import Lane, run_lanes
from beanpool.admin.outcome import STATES, OnProgress, Outcome, State, Stop, check_states
from beanpool.admin.transfer import transfer
from beanpool.admin.walk import PROBE_TUBE, answers, counts_of
from beanpool.config import AnyServer, label
from beanpool.manager import PoolManager


def evacuate(
    pool: PoolManager[Any],
    server: AnyServer,
    *,
    states: State | Iterable[State] = STATES,
    key: KeyOf = None,
    timeout: float | None = None,
    progress: OnProgress = None,
    stop: Stop = None,
) -> dict[str, Outcome]:
    """Move all jobs of one server to the others, tube by tube, as :func:`move` does.

    First its weight is set to 0, and stays so: this pool puts nothing there any more. Other processes do until theirs
    is 0 too, so see to that before, and repeat this until the server is empty. Its tubes may be paused; a pause does
    not go along, so pause them everywhere with :meth:`PoolManager.pause_tube` if they are to be. Jobs that workers have
    in hand are theirs to finish, and remain.

    :param server: its name or address.
    :param states: of the jobs to move.
    :param key: as for :func:`move`: jobs that were put by key find their new server again only if it is given here.
    :returns: for that server, by its address, what came of its jobs. The other parameters are those of :func:`move`.
    :raises ValueError: if it is not one of the pool's, or no other one takes puts.
    """
    wanted = check_states(states)
    with_weight = [status.address for status in pool.servers if status.weight > 0]
    address = _address(pool, server)
    if not set(with_weight) - {address}:
        raise ValueError(f"{address} cannot be emptied: no other server of the pool has a weight above 0")
    pool.set_weight(server, 0)

    def work(lane: Lane) -> None:
        counts = counts_of(lane, [tube for tube in lane.connection.tubes() if tube != PROBE_TUBE], wanted)
        lane.total = sum(sum(count.values()) for count in counts.values())
        copies = Copies(lane.pool, None, key, timeout)
        for tube, count in counts.items():
            if any(count.values()) and not _evacuate(lane, copies, tube, count):
                return

    return run_lanes(pool, [address], None, work, timeout=timeout, progress=progress, stop=stop)


def _evacuate(lane: Lane, copies: Copies, tube: str, counts: dict[str, int]) -> bool:
    with lane.connection.pipeline() as pipeline:
        pipeline.use(tube).watch(tube)
        for watched in lane.connection.watched:
            if watched != tube:
                pipeline.ignore(watched)
    for _ in answers(pipeline.results):
        # Nothing is taken from a tube that was not meant.
        pass
    return all(not lane.stopped() and transfer(lane, copies, tube, state, count) for state, count in counts.items())


def _address(pool: PoolManager[Any], server: AnyServer) -> str:
    called = label(server)
    for status in pool.servers:
        if called in (status.name, status.address):
            return status.address
    known = ", ".join(status.name for status in pool.servers)
    raise ValueError(f"server must be one of {known}, not {server!r}")
