"""Finding jobs by what is in their bodies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from beanpool.admin.listing import DEPTH, Listing, listing
from beanpool.admin.outcome import STATES, AnyState, OnProgress, Stop, check_limit, check_states
from beanpool.admin.stored_job import StoredJob
from beanpool.manager import PoolManager


def find(
    pool: PoolManager[Any],
    pattern: str | bytes | re.Pattern[str] | re.Pattern[bytes],
    tube: str | None = None,
    states: AnyState | Iterable[AnyState] = STATES,
    limit: int | None = None,
    *,
    depth: int = DEPTH,
    timeout: float | None = None,
    progress: OnProgress = None,
    stop: Stop = None,
) -> Listing:
    """Look for jobs whose body matches a pattern, anywhere in it, on all servers; take none.

    Every body has to be read for that, so it takes its time where there are many. `pool.delete(job.id)` and the like do
    with what is found whatever one likes.

    :param pattern: a regular expression; a compiled one has its own flags. One of ``str`` is matched with the body as
        UTF-8, where what is none is replaced.
    :param tube: where to look; None for all tubes.
    :param limit: how many to find at most; None for all. The other parameters are those of :func:`jobs`.
    :returns: an iterator over :class:`StoredJob`, whose ``outcomes`` tell what servers lacked.
    :raises ValueError: for a pattern, tube, state or limit that cannot be.
    """
    states_wanted, most = check_states(states, reserved=True), check_limit(limit)
    return listing(pool, tube, states_wanted, most, _matcher(pattern), depth, timeout, progress, stop)


def _matcher(pattern: str | bytes | re.Pattern[str] | re.Pattern[bytes]) -> Callable[[StoredJob], bool]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern is no regular expression: {error}") from None
    if isinstance(compiled.pattern, bytes):
        search_bytes: Callable[[bytes], object] = compiled.search
        return lambda job: search_bytes(job.data) is not None
    search: Callable[[str], object] = compiled.search
    return lambda job: search(job.data.decode("utf-8", "replace")) is not None
