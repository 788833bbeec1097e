"""What a monitor has under way with servers: what is ready goes on, and what is late is given up."""

from __future__ import annotations

import contextlib
import selectors
from collections.abc import Callable
from typing import Protocol

from beanpool.errors import BeanpoolError
from beanpool.policy import Schedule
from beanpool.telemetry import ErrorLog


class Activity(Protocol):
    """Something that waits for a server one or more times. It is ended once, by :meth:`end` or by :meth:`abort`."""

    @property
    def doing(self) -> str:
        """What it does, as the subject of a sentence."""

    @property
    def late_at(self) -> float:
        """When the server has been silent for too long (monotonic seconds)."""

    @property
    def wants_write(self) -> bool:
        """Whether to wait until the descriptor is writable, too."""

    def descriptor(self) -> int:
        """What to wait on.

        :raises ConnectionFailed: if another thread has closed the connection.
        """

    def begin(self) -> bool:
        """Send the first request; returns and raises as :meth:`ready` does."""

    def ready(self) -> bool:
        """Go as far as is possible without waiting; returns whether all is done.

        :raises BeanpoolError: if the connection broke.
        """

    def late(self) -> bool:
        """The server is late: find another way, or fail; returns and raises as :meth:`ready` does."""

    def end(self, error: BeanpoolError | None) -> None:
        """Clean up: all is done, or the connection broke by `error`."""

    def abort(self, because: str) -> None:
        """Clean up in mid-way, for a reason that says nothing of the server."""


class Activities:
    """Those that are under way. Used by one thread at a time.

    An unexpected error is logged, and aborts the activity that it came up in and no other.
    """

    def __init__(self, selector: selectors.BaseSelector, error_log: ErrorLog) -> None:
        self._selector = selector
        self._error_log = error_log
        # Where each is registered.
        self._descriptors: dict[Activity, int] = {}
        self._limits: Schedule[Activity] = Schedule()

    @property
    def next_moment(self) -> float:
        """When the next one may be late (monotonic seconds)."""
        return self._limits.next_moment

    def begin(self, activity: Activity) -> None:
        """Begin one, and see to it until it has ended."""
        self._go_on(activity, activity.begin)

    def ready(self, activity: Activity) -> None:
        """The selector has found the descriptor of one ready."""
        self._go_on(activity, activity.ready)

    def give_up_late(self, now: float) -> None:
        """See to those whose server is late."""
        for activity in self._limits.take(now):
            if activity.late_at > now:
                # It has got on meanwhile.
                self._limits.plan(activity, activity.late_at)
            else:
                self._go_on(activity, activity.late)

    def abort_all(self, because: str) -> None:
        """Abort whatever is under way."""
        for activity in list(self._descriptors):
            with self._error_log.catching(activity.doing):
                self._forget(activity)
                activity.abort(because)

    def _go_on(self, activity: Activity, step: Callable[[], bool]) -> None:
        with self._error_log.catching(activity.doing):
            try:
                if not step():
                    self._watch(activity)
                    return
            except BeanpoolError as error:
                self._forget(activity)
                activity.end(error)
            except BaseException as error:
                self._forget(activity)
                activity.abort(f"{activity.doing} failed: {type(error).__name__}")
                raise
            else:
                # First: from its end on, the connection is the pool's again.
                self._forget(activity)
                activity.end(None)

    def _watch(self, activity: Activity) -> None:
        # It may have another descriptor than before, or wait for something else on it.
        self._forget(activity)
        descriptor = activity.descriptor()
        events = selectors.EVENT_READ | selectors.EVENT_WRITE if activity.wants_write else selectors.EVENT_READ
        # Another thread may have closed what had this number before: the selector has not been told.
        with contextlib.suppress(KeyError):
            self._selector.unregister(descriptor)
        try:
            self._selector.register(descriptor, events, activity)
        except OSError:
            # Closed by another thread just now? That raises what is known of it.
            activity.descriptor()
            raise
        self._descriptors[activity] = descriptor
        self._limits.plan(activity, activity.late_at)

    def _forget(self, activity: Activity) -> None:
        self._limits.drop(activity)
        descriptor = self._descriptors.pop(activity, None)
        if descriptor is None:
            return
        key = self._selector.get_map().get(descriptor)
        # If another thread has closed it, the number may be another one's by now.
        if key is not None and key.data is activity:
            self._selector.unregister(descriptor)
