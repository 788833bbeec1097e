"""The locks of a pool: re-entrant, and they know which thread has them.

A signal handler or a finalizer runs at whatever line of a thread, also within a block under a lock. A call from there
would wait for the frame that it has interrupted, for ever, if the lock did not know its owner. With these it goes on.
The block that it has interrupted is of one of two kinds:

- A block that only reads, or that is whole at each of its lines: it sets a flag, swaps a list, appends to a deque.
  Going on does no harm.
- A block that decides something in several steps. Whatever changes the state that it decides on calls
  :func:`refuse_within` first, which raises if it has interrupted such a block. A block that must not fail compares the
  state when it is about to write: if that has changed since it was read, it decides again.

A warm call takes its lock like any other lock, without a check.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from beanpool.errors import ReentrantCall

Lock = threading.RLock
"""Makes a lock."""


# What threading.Condition asks of its locks. Looked up once, it costs no call of Python.
is_mine: Callable[[threading.RLock], bool] = type(Lock())._is_owned  # type: ignore[attr-defined, unused-ignore]  # Not in the type stubs.
"""Whether the calling thread has the lock: as its owner, or as a handler that has interrupted the owner."""


def refuse_within(lock: threading.RLock, what: str) -> None:
    """Raise if the calling thread has `lock` already, as it does where a signal handler has interrupted its owner.

    :param what: what cannot be done here, as the subject of a sentence.
    :raises ReentrantCall: if it has.
    """
    if is_mine(lock):
        raise within(what)


def within(what: str) -> ReentrantCall:
    """Build the error of something that a signal handler cannot do, because of the call that it has interrupted."""
    return ReentrantCall(
        f"{what} is not possible here: this signal handler (or finalizer) has interrupted its own thread in the middle "
        "of another call to the pool. Let it set a flag, and look at that in the thread's own loop"
    )


class ReentrantEvent(threading.Event):
    """As ``threading.Event``, but a signal handler may set it that has interrupted its own thread in ``set()``."""

    def __init__(self) -> None:
        super().__init__()
        self._cond = threading.Condition(Lock())
