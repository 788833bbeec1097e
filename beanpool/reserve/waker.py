"""Ending reserves early, from other threads and from signal handlers."""

from __future__ import annotations

import itertools
import weakref
from typing import Protocol

from beanpool.errors import NotPicklable

_times = itertools.count(1)


class Interruptible(Protocol):
    """A thread that waits."""

    def interrupt(self) -> None:
        """Let it wait no longer. A signal handler may call this, so it waits for nothing."""


class Waker(NotPicklable):
    """Ends the reserves that it was given to: each returns at once, without a job.

    Any number of calls in any number of threads may have the same one, also calls to several pools. While it is set,
    reserves return at once. All of its methods may be called from any thread and from signal handlers; none of them
    waits for anything.
    """

    __slots__ = ("_is_set", "_set_at", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        # A number that is never the same: a call that has not come to its wait yet finds that it was set, also when
        # somebody else has cleared it by then.
        self._set_at = 0
        # Weakly: an interrupt may come before one that has waited is taken out.
        self._waiting: dict[int, weakref.ref[Interruptible]] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, {'set' if self._is_set else 'not set'}>"

    def set(self) -> None:
        """End all reserves that have it, and those that follow, until :meth:`clear`."""
        self._is_set = True
        self._set_at = next(_times)
        # After that: who comes to wait meanwhile looks at it afterwards.
        for ref in self._waiting.copy().values():
            waiting = ref()
            if waiting is not None:
                waiting.interrupt()

    def clear(self) -> None:
        """Let reserves wait again. Those that :meth:`set` has ended do not go on."""
        self._is_set = False

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set


def check_waker(waker: object) -> None:
    """Check the argument of a call.

    :raises TypeError: if it is no waker.
    """
    if not isinstance(waker, Waker):
        raise TypeError(f"waker must be a beanpool.Waker, not {type(waker).__name__}")


class Interruption:
    """What may end one call early: some wakers. One that is set, or was since the call began, has ended it."""

    __slots__ = ("_wakers",)

    def __init__(self, *wakers: Waker) -> None:
        self._wakers = [(waker, waker._set_at) for waker in wakers]

    @property
    def came(self) -> bool:
        """Whether the call is to end."""
        return any(waker._is_set or waker._set_at != set_at for waker, set_at in self._wakers)

    def attach(self, waiting: Interruptible) -> None:
        """Have this thread interrupted when it comes, or now, if it has come. Then :meth:`detach` it."""
        for waker, _ in self._wakers:
            waker._waiting[id(waiting)] = weakref.ref(waiting)
        if self.came:
            waiting.interrupt()

    def detach(self, waiting: Interruptible) -> None:
        """It waits no longer."""
        for waker, _ in self._wakers:
            waker._waiting.pop(id(waiting), None)
