"""Letting go of what ends when nobody has it any more."""

from __future__ import annotations

import gc
import weakref

from support.waiting import wait_until


def forget(held: list[object]) -> None:
    """Empty a list, and wait until the first of its objects is gone.

    A thread of its own may be looking at it just now, and be the last that lets go of it; what that leaves is found
    when garbage is collected next.
    """
    reference = weakref.ref(held[0])
    held.clear()

    def gone() -> bool:
        gc.collect()
        return reference() is None

    wait_until(gone, "an object to be gone")
