"""The callables that a program has registered for the events of a pool."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from beanpool.events import Event
from beanpool.runtime import Lock
from beanpool.telemetry.log import log_safely, logger

Listener = Callable[[Event], Any]


class Listeners:
    """Calls every listener with every event, outside of all locks.

    A listener that raises disturbs neither the pool nor the other listeners; its first error is logged.
    """

    __slots__ = ("_listeners", "_lock", "_logged")

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self._logged: set[int] = set()
        self._lock = Lock()

    def __iter__(self) -> Iterator[Listener]:
        return iter(self._listeners)

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def add(self, listener: Listener) -> None:
        """Call `listener` with every event from now on.

        :raises TypeError: if it cannot be called.
        """
        if not callable(listener):
            raise TypeError(f"a listener must be callable, not {type(listener).__name__}")
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def remove(self, listener: Listener) -> None:
        """Call `listener` no longer.

        :raises ValueError: if it was never added.
        """
        with self._lock:
            if listener not in self._listeners:
                raise ValueError("this listener was never added")
            self._listeners = tuple(known for known in self._listeners if known != listener)

    def publish(self, event: Event) -> None:
        """Call every listener with `event`."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                if id(listener) not in self._logged:
                    self._logged.add(id(listener))
                    text = "pool %s: a listener raised; its further errors are not logged"
                    log_safely(logger("listeners"), logging.ERROR, text, event.pool, exc_info=True)
