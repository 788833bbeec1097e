"""Waits, for a limited time, until a socket is readable or writable.

``poll`` computes what is left of its time after each signal; the kernel's own timeouts of a socket would start anew.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterable
from typing import Protocol, TypeVar

Thing = TypeVar("Thing")

# The longest wait that the system takes. After it the deadline is checked, and the wait goes on.
LONGEST_WAIT = 1_000_000.0


class HasDescriptor(Protocol):
    """What a selector can wait for."""

    def fileno(self) -> int:
        """The descriptor."""


class Waiter(HasDescriptor, Protocol):
    """A connection that waits: for the server to accept it, to take what is unsent, or to reply."""

    @property
    def wants_write(self) -> bool:
        """Whether to wait until it is writable, too."""


def wait_for(sock: HasDescriptor, *, seconds: float, write: bool, read: bool = True) -> bool:
    """Wait until `sock` is readable (if `read`) or writable (if `write`), or has failed; false if none came in time."""
    if not hasattr(select, "poll"):
        return any(select.select([sock] if read else [], [sock] if write else [], [sock], _bounded(seconds)))
    poll = select.poll()
    poll.register(sock, (select.POLLIN if read else 0) | (select.POLLOUT if write else 0))
    return bool(poll.poll(_bounded(seconds) * 1000))


def wait_for_any(waiters: Iterable[tuple[Waiter, Thing]], seconds: float) -> list[Thing]:
    """Wait until any connection can go on, or has failed; returns what stands beside those that can."""
    by_descriptor = {waiter.fileno(): (waiter.wants_write, thing) for waiter, thing in waiters}
    if not hasattr(select, "poll"):
        readers = list(by_descriptor)
        writers = [descriptor for descriptor, (write, _) in by_descriptor.items() if write]
        found = select.select(readers, writers, readers, _bounded(seconds))
        ready = {descriptor for some in found for descriptor in some}
        return [by_descriptor[descriptor][1] for descriptor in ready]
    poll = select.poll()
    for descriptor, (write, _) in by_descriptor.items():
        with contextlib.suppress(ValueError):
            poll.register(descriptor, select.POLLIN | select.POLLOUT if write else select.POLLIN)
    return [by_descriptor[descriptor][1] for descriptor, _ in poll.poll(_bounded(seconds) * 1000)]


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), LONGEST_WAIT)
