"""Which cores this process and its servers run on."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator

CAN_PIN = sys.platform == "linux"


def all_cores() -> set[int]:
    """The cores that this process may use."""
    return os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))


@contextlib.contextmanager
def one_core(pids: Iterable[int]) -> Iterator[None]:
    """Within the block, this thread, the threads it starts and these processes share one core.

    Else the scheduler decides a comparison: a reply from another core costs a wake-up, which is several times what a
    client costs. Threads and processes that are started within the block inherit its core.
    """
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    others = [(pid, os.sched_getaffinity(pid)) for pid in pids]
    core = {max(before)}
    try:
        for pid in (0, *(pid for pid, _ in others)):
            os.sched_setaffinity(pid, core)
        yield
    finally:
        os.sched_setaffinity(0, before)
        for pid, cores in others:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(pid, cores)
