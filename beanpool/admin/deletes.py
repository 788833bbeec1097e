"""Deleting jobs, and what is known afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from beanpool.admin.lanes import Lane
from beanpool.admin.outcome import Tally
from beanpool.errors import ConnectionFailed, NotFound, UnexpectedResponse


def delete_each(lane: Lane, ids: Sequence[int]) -> list[Exception | None]:
    """Delete jobs over the lane's connection; returns the outcome of each.

    A failure of the connection is among the outcomes, and not raised.
    """
    with lane.connection.pipeline() as pipeline:
        for jid in ids:
            pipeline.delete(jid)
    return list(pipeline.results)


def settle_delete(tally: Tally, outcome: Exception | None) -> bool:
    """Count a delete; returns whether it certainly did not happen."""
    if outcome is None:
        tally.done += 1
        return False
    if isinstance(outcome, ConnectionFailed | UnexpectedResponse):
        tally.fail(outcome)
        if outcome.may_have_taken_effect:
            tally.unsure += 1
            return False
    elif not isinstance(outcome, NotFound):
        # Whatever else a server says in answer to a delete, nobody knows what it has done.
        tally.fail(outcome)
        tally.unsure += 1
        return False
    tally.skipped += 1
    return True
