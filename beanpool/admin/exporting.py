"""Writing jobs as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol

from beanpool.admin.listing import DEPTH, jobs
from beanpool.admin.outcome import STATES, AnyState, OnProgress, Outcome, Stop
from beanpool.manager import PoolManager


class Writable(Protocol):
    """What text can be written to."""

    def write(self, text: str, /) -> object:
        """Write it."""


def export_jobs(
    pool: PoolManager[Any],
    to: Writable,
    tube: str | None = None,
    states: AnyState | Iterable[AnyState] = STATES,
    limit: int | None = None,
    *,
    depth: int = DEPTH,
    timeout: float | None = None,
    progress: OnProgress = None,
    stop: Stop = None,
) -> dict[str, Outcome]:
    """Write the jobs of a tube as lines of JSON, one each, and take none: they stay where they are.

    A line has ``server``, ``id``, ``tube``, ``state``, ``priority``, ``ttr``, ``delay`` (what is left of it, seconds),
    ``age`` and ``body``; or, for one that is no UTF-8, ``body_base64``. :func:`import_jobs` reads them, and those that
    ``beanpool take --json`` writes.

    :param to: a text file, or whatever else has ``write``.
    :param tube: its name; None for all tubes. The other parameters are those of :func:`jobs`.
    :returns: for each server, by its address, what came of its jobs. An error of a server is in there, and not raised.
    :raises OSError: and whatever else `to` raises; what was done until then is in its ``outcomes``.
    """
    listing = jobs(pool, tube, states, limit, depth=depth, timeout=timeout, progress=progress, stop=stop)
    try:
        for job in listing:
            to.write(json.dumps(job.as_record(), ensure_ascii=False) + "\n")
    except BaseException as error:
        error.outcomes = listing.outcomes  # type: ignore[attr-defined]  # As put_many() has it.
        raise
    finally:
        listing.close()
    return listing.outcomes
