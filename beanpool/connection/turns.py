"""Whose turn it is on a connection: one thread's at a time."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, Protocol

from beanpool.errors import BeanpoolError, CommandTimeout, Phase
from beanpool.runtime import within

# A command that began before, and whose time ends with that of who waits for it, says how it ended (seconds).
_GRACE = 0.1


class Guarded(Protocol):
    """A connection that one thread uses at a time."""

    server: str
    _guard: threading.Lock
    """Who has it may use the connection while jobs are reserved on it; :func:`turn` waits for it."""
    _reserving: bool
    """Whether who has it waits for a job: for how long, nobody knows."""


def in_use(connection: Guarded) -> BeanpoolError:
    """The error of a thread that must not wait until another one has done with its connection."""
    return BeanpoolError(
        f"{connection!r} is in use by another thread; give each thread its own Connection, or share a PoolManager"
    )


def turn(connection: Guarded, deadline: float) -> AbstractContextManager[Any]:
    """Have the guard for a block, as soon as those who came before have let go of it.

    :raises CommandTimeout: if they have not before `deadline` (monotonic seconds); nothing was sent.
    :raises BeanpoolError: if another thread waits in a reserve on this connection.
    """
    # Whoever takes it between this look and the block began no later, and ends in time.
    return connection._guard if not connection._guard.locked() else queue_up(connection, deadline)


@contextlib.contextmanager
def queue_up(connection: Guarded, deadline: float) -> Iterator[None]:
    """As :func:`turn`, where the guard is taken.

    :raises ReentrantCall: if a signal handler calls it that has interrupted this thread's own turn.
    """
    if connection._reserving:
        raise in_use(connection)
    if _has_interrupted(connection):
        raise within(f"a command on {connection!r}")
    guard = connection._guard
    taken: list[bool] = []
    try:
        seconds = min(max(0.0, deadline + _GRACE - time.monotonic()), threading.TIMEOUT_MAX)
        # In one step: an interrupt between taking it and noting that it is taken would leave it so for good.
        taken.extend(map(guard.acquire, (True,), (seconds,)))
        if not taken[0]:
            raise CommandTimeout(
                f"{connection.server}: the time ran out while commands of other threads on the same connection were "
                "under way; nothing was sent",
                server=connection.server,
                phase=Phase.SENDING,
            )
        yield
    finally:
        if taken == [True]:
            guard.release()


def _has_interrupted(connection: Guarded) -> bool:
    """Whether this thread is, further down its stack, in a function of the package that uses this connection.

    Only who has to wait asks that, so that nobody has to note who he is.
    """
    frame: FrameType | None = sys._getframe(1)
    # The call at hand first, up to whoever made it.
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
    while frame is not None:
        if _is_ours(frame):
            known = frame.f_locals
            if known.get("connection") is connection or known.get("self") is connection:
                return True
        frame = frame.f_back
    return False


def _is_ours(frame: FrameType) -> bool:
    name: str = frame.f_globals.get("__name__", "")
    # Generators of context managers are entered by way of contextlib.
    return name.startswith("beanpool.") or name == "contextlib"
