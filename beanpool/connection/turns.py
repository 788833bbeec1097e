"""Whose turn it is on a connection: one thread's at a time."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import operator
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, Protocol

from beanpool.errors import BeanpoolError, CommandTimeout, Phase
from beanpool.runtime import within

# A command that began before, and whose time ends with that of who waits for it, says how it ended (seconds).
_GRACE = 0.1
# These are C, in which no interrupt is noticed.
_try_to_acquire = operator.methodcaller("acquire", False)
_release = operator.methodcaller("release")
_call = operator.methodcaller("__call__")


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
    if has_interrupted(connection):
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


class Turns:
    """The guards of several connections, as far as nobody else had them."""

    __slots__ = ("_guards", "had")

    def __init__(self, guards: Sequence[threading.Lock]) -> None:
        self._guards = guards
        self.had: list[bool] = []
        """For each connection, whether it is had."""

    def let_go(self, number: int) -> None:
        """Let go of one before the others; it must be had."""
        steps = (functools.partial(self.had.__setitem__, number, False), self._guards[number].release)
        # In one step: an interrupt in between would leave it taken, or let another thread's turn go.
        collections.deque(map(_call, steps), 0)


@contextlib.contextmanager
def take_turns(connections: Sequence[Guarded]) -> Iterator[Turns]:
    """Have the guards that nobody has for a block, without waiting for any.

    Who waits for none while it holds others can never wait in a circle.

    :raises ReentrantCall: if a signal handler calls it that has interrupted this thread's own turn on one of them.
    """
    for connection in connections:
        if connection._guard.locked() and has_interrupted(connection):
            raise within(f"a command on {connection!r}")
    guards = [connection._guard for connection in connections]
    some = Turns(guards)
    # All of them in one step, and so is their end.
    let_go: Callable[[], object] = functools.partial(
        collections.deque, map(_release, itertools.compress(guards, some.had)), 0
    )
    try:
        some.had.extend(map(_try_to_acquire, guards))
        yield some
    finally:
        let_go()


def has_interrupted(connection: Guarded) -> bool:
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
            if any(one is connection for one in known.get("connections_in_turn", ())):
                return True
        frame = frame.f_back
    return False


def _is_ours(frame: FrameType) -> bool:
    name: str = frame.f_globals.get("__name__", "")
    # Generators of context managers are entered by way of contextlib.
    return name.startswith("beanpool.") or name == "contextlib"
