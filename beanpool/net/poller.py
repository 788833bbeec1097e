"""Waiting until one of many descriptors is ready. A descriptor is reported once, and then has to be armed again.

That is what a wait for jobs needs: the connection that has brought a job goes to its caller, and is not waited for any
more. With epoll the kernel disarms it, and a wait costs the same however many descriptors there are.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import sys
from collections.abc import Callable
from typing import Protocol

from beanpool.runtime import Lock


class Poller(Protocol):
    """A set of armed descriptors."""

    def arm(self, descriptor: int, *, write: bool) -> None:
        """Report this descriptor, once, when it is readable (or writable, if `write`), or has failed."""

    def disarm(self, descriptor: int) -> None:
        """Do not report it any more. It may be closed, or never have been armed."""

    def wait(self, timeout: float | None, /) -> list[tuple[int, int]]:
        """Wait until a descriptor is ready, or the time is up; returns those that are ready, each with its flags.

        A descriptor that was closed while it was armed may be reported or not.

        :param timeout: how long to wait (seconds); None for ever.
        """

    def close(self) -> None:
        """Close it."""


class SelectorPoller:
    """A poller for every platform, upon :mod:`selectors`."""

    def __init__(self) -> None:
        # poll() needs no system call to register a descriptor; these sets are small and short-lived.
        self._selector: selectors.BaseSelector = getattr(selectors, "PollSelector", selectors.DefaultSelector)()

    def arm(self, descriptor: int, *, write: bool) -> None:
        """See :class:`Poller`."""
        self.disarm(descriptor)
        events = selectors.EVENT_READ | selectors.EVENT_WRITE if write else selectors.EVENT_READ
        self._selector.register(descriptor, events)

    def disarm(self, descriptor: int) -> None:
        """See :class:`Poller`."""
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._selector.unregister(descriptor)

    def wait(self, timeout: float | None, /) -> list[tuple[int, int]]:
        """See :class:`Poller`."""
        found = [(key.fd, events) for key, events in self._selector.select(timeout)]
        for descriptor, _ in found:
            self.disarm(descriptor)
        return found

    def close(self) -> None:
        """See :class:`Poller`."""
        self._selector.close()


if sys.platform == "linux":

    class EpollPoller:
        """The kernel remembers what is armed, and disarms it."""

        def __init__(self) -> None:
            self._epoll = select.epoll()
            self.wait = self._epoll.poll
            """See :class:`Poller`. A method of C: each line of Python delays a job."""

        def arm(self, descriptor: int, *, write: bool) -> None:
            """See :class:`Poller`."""
            events = select.EPOLLIN | select.EPOLLONESHOT | (select.EPOLLOUT if write else 0)
            try:
                self._epoll.register(descriptor, events)
            except FileExistsError:
                self._epoll.modify(descriptor, events)

        def disarm(self, descriptor: int) -> None:
            """See :class:`Poller`."""
            with contextlib.suppress(OSError):
                self._epoll.unregister(descriptor)

        def close(self) -> None:
            """See :class:`Poller`."""
            self._epoll.close()


class WakeUpPipe:
    """A pipe with which other threads wake the thread that waits with a poller."""

    # Until there are others: an interrupt may come before.
    descriptor = _writer = -1

    def __init__(self) -> None:
        self._lock = Lock()
        self.descriptor, self._writer = os.pipe()
        """The descriptor that is readable after :meth:`wake`."""
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._writer, False)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        for descriptor in (self.descriptor, self._writer):
            if descriptor >= 0:
                close(descriptor)

    def wake(self) -> None:
        """Wake the thread that waits. Does nothing if the pipe is closed."""
        with self._lock:
            if self._writer >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._writer, b"p")

    def drain(self) -> None:
        """Read what was written: the descriptor is readable no longer."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 4096)

    def close(self) -> None:
        """Close the pipe."""
        with self._lock:
            self.leave_to_parent()

    def leave_to_parent(self) -> None:
        """Close the descriptors in a forked child. It takes no lock: a thread of the parent may have had it."""
        # First cleared, then closed: after an interrupt a second close could hit another owner of the number.
        descriptors, self.descriptor, self._writer = (self.descriptor, self._writer), -1, -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)


def new_poller() -> Poller:
    """The best one that this platform has."""
    if sys.platform == "linux":
        return EpollPoller()
    return SelectorPoller()
