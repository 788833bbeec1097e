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
import types
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Protocol

from beanpool.errors import BeanpoolError, CommandTimeout, Phase
from beanpool.runtime import within

# A command that began before, and whose time ends with that of who waits for it, says how it ended (seconds).
_GRACE = 0.1
# How long somebody who was told that it is his turn, and does not stand and wait for it, may take to come (seconds).
_TO_COME = 0.1
# These are C, in which no interrupt is noticed.
_try_to_acquire = operator.methodcaller("acquire", False)
_release = operator.methodcaller("release")
_call = operator.methodcaller("__call__")

# In the place of a guard that is not to be had: bool(False) is false.
_TAKEN = types.SimpleNamespace(acquire=bool)


class Wish:
    """A place in the line of a connection.

    It owns nothing: who is told that it is his turn takes the guard by himself. One who has other things to do than to
    stand and wait is told by a call (:func:`try_turn`); if he does not come soon, others go first.

    :param tell: is called, in whatever thread, when he is the first, and nobody has the guard.
    :param stands: whether he waits for the guard as soon as he is the first.
    """

    __slots__ = ("passed_over", "stands", "tell")

    def __init__(self, tell: Callable[[], object], *, stands: bool = False) -> None:
        self.tell = tell
        self.stands = stands
        self.passed_over = False


Line = dict[Wish, None]
"""Who waits, in order. To leave it is one step, whether one is in it or not."""


class Guarded(Protocol):
    """A connection that one thread uses at a time."""

    server: str
    _guard: threading.Lock
    """Who has it may use the connection while jobs are reserved on it; :func:`turn` waits for it."""
    _reserving: bool
    """Whether who has it waits for a job: for how long, nobody knows."""
    _line: Line
    """Those who wait for it, in order. Who comes while there are any stands behind them: who uses the connection again
    and again would else always be there first."""


def in_use(connection: Guarded) -> BeanpoolError:
    """The error of a thread that must not wait until another one has done with its connection."""
    return BeanpoolError(
        f"{connection!r} is in use by another thread; give each thread its own Connection, or share a PoolManager"
    )


@contextlib.contextmanager
def turn(connection: Guarded, deadline: float) -> Iterator[None]:
    """Have the guard for a block, as soon as those who came before have let go of it.

    :raises CommandTimeout: if they have not before `deadline` (monotonic seconds); nothing was sent.
    :raises BeanpoolError: if another thread waits in a reserve on this connection.
    """
    guard = connection._guard
    try:
        # Whoever takes it between this look and the block began no later, and ends in time.
        with guard if not (guard.locked() or connection._line) else queue_up(connection, deadline):
            yield
    finally:
        offer(connection)


@contextlib.contextmanager
def queue_up(connection: Guarded, deadline: float) -> Iterator[None]:
    """As :func:`turn`, where the guard is taken, or others wait for it.

    :raises ReentrantCall: if a signal handler calls it that has interrupted this thread's own turn.
    """
    if connection._reserving:
        raise in_use(connection)
    if has_interrupted(connection):
        raise within(f"a command on {connection!r}")
    guard, line = connection._guard, connection._line
    until = deadline + _GRACE
    signal = threading.Lock()
    signal.acquire()
    mine = Wish(signal.release, stands=True)
    taken: list[bool] = []
    # In one step, after an interrupt, too: what is left in line, or taken, would be so for good.
    let_go: Callable[[], object] = functools.partial(
        collections.deque, map(_release, itertools.compress([guard], taken)), 0
    )
    end: Callable[[], object] = functools.partial(
        collections.deque, map(_call, (let_go, functools.partial(line.pop, mine, None))), 0
    )
    try:
        line[mine] = None
        while (first := _first(line)) not in (mine, None) and time.monotonic() < until:
            if not signal.acquire(timeout=min(_seconds_until(until), 1.0 if first.stands else _TO_COME)):
                _go_past(connection)
        if first is mine:
            # In one step: nothing comes between taking it and noting that.
            taken.extend(map(guard.acquire, (True,), (_seconds_until(until),)))
        if taken != [True]:
            raise CommandTimeout(
                f"{connection.server}: the time ran out while commands of other threads on the same connection were "
                "under way; nothing was sent",
                server=connection.server,
                phase=Phase.SENDING,
            )
        leave_line(connection, mine)
        yield
    finally:
        end()
        offer(connection)


def _seconds_until(moment: float) -> float:
    return min(max(0.0, moment - time.monotonic()), threading.TIMEOUT_MAX)


def try_turn(connection: Guarded, wish: Wish) -> bool:
    """Have the guard, unless others have it, or wait for it: then stand in line, and be told.

    Let go of it by :func:`let_go`.
    """
    line = connection._line
    if _first(line) in (wish, None) and connection._guard.acquire(blocking=False):
        leave_line(connection, wish)
        return True
    line.setdefault(wish)
    # It may have become free before this stood in line.
    offer(connection)
    return False


def let_go(connection: Guarded) -> None:
    """Let others have the guard."""
    connection._guard.release()
    offer(connection)


def leave_line(connection: Guarded, wish: Wish) -> None:
    """Wait no longer, or have one's turn."""
    connection._line.pop(wish, None)
    offer(connection)


def offer(connection: Guarded) -> None:
    """Tell the first in line that it is his turn, if it is."""
    first = _first(connection._line)
    if first is None:
        return
    if first.stands:
        with contextlib.suppress(RuntimeError):
            first.tell()
    elif not connection._guard.locked():
        first.tell()


def _first(line: Line) -> Wish | None:
    while True:
        try:
            return next(iter(line), None)
        except RuntimeError:
            # Another thread has changed it meanwhile.
            continue


def _go_past(connection: Guarded) -> None:
    """Wait no longer for one who was told that it is his turn, and does not come: he will ask again."""
    first = _first(connection._line)
    if first is not None and not first.stands and not connection._guard.locked():
        if first.passed_over:
            connection._line.pop(first, None)
        first.passed_over = not first.passed_over
    offer(connection)


class Turns:
    """The guards of several connections, as far as nobody else had them."""

    __slots__ = ("_connections", "had")

    def __init__(self, connections: Sequence[Guarded]) -> None:
        self._connections = connections
        self.had: list[bool] = []
        """For each connection, whether it is had."""

    def let_go(self, number: int) -> None:
        """Let go of one before the others; it must be had."""
        connection = self._connections[number]
        steps = (functools.partial(self.had.__setitem__, number, False), connection._guard.release)
        # In one step: an interrupt in between would leave it taken, or let another thread's turn go.
        collections.deque(map(_call, steps), 0)
        offer(connection)

    def try_again(self, number: int, wish: Wish) -> bool:
        """Have one that was not had at first, as :func:`try_turn` does."""
        connection = self._connections[number]
        line = connection._line
        if _first(line) in (wish, None):
            # In one step, too.
            self.had[number : number + 1] = map(connection._guard.acquire, (False,))
        if self.had[number]:
            leave_line(connection, wish)
            return True
        line.setdefault(wish)
        offer(connection)
        return False


@contextlib.contextmanager
def take_turns(connections: Sequence[Guarded]) -> Iterator[Turns]:
    """Have the guards that nobody has, or waits for, for a block, without waiting for any.

    :raises ReentrantCall: if a signal handler calls it that has interrupted this thread's own turn on one of them.
    """
    for connection in connections:
        if connection._guard.locked() and has_interrupted(connection):
            raise within(f"a command on {connection!r}")
    guards = [connection._guard for connection in connections]
    free = [_TAKEN if connection._line else connection._guard for connection in connections]
    some = Turns(connections)
    # All of them in one step, and so is their end.
    let_go: Callable[[], object] = functools.partial(
        collections.deque, map(_release, itertools.compress(guards, some.had)), 0
    )
    try:
        some.had.extend(map(_try_to_acquire, free))
        yield some
    finally:
        let_go()
        for connection in connections:
            offer(connection)


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
