"""Letting go of what ends when nobody has it any more."""

from __future__ import annotations

import gc
import weakref

from beanpool import PoolManager
from support.inside import inside
from support.waiting import wait_until


def forget(held: list[object]) -> None:
    """Empty a list, and wait until the pool that is its first object is gone, with its cluster.

    A thread of its own may be looking at that just now, and be the last that lets go of it; what that leaves is found
    when garbage is collected next.
    """
    pool = held[0]
    assert isinstance(pool, PoolManager)
    reference = weakref.ref(inside(pool).cluster)
    del pool
    held.clear()

    def gone() -> bool:
        gc.collect()
        return reference() is None

    wait_until(gone, "a pool to be gone")
