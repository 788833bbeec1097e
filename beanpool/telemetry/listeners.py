"""The callables that a program has registered for the events of a pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beanpool.events import Event
from beanpool.telemetry.registry import Registry

Listener = Callable[[Event], Any]


class Listeners(Registry[Listener]):
    """Calls every listener with every event."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("listener")

    def add(self, one: Listener) -> None:
        """Call `one` with every event from now on.

        :raises TypeError: if it cannot be called.
        """
        if not callable(one):
            raise TypeError(f"a listener must be callable, not {type(one).__name__}")
        super().add(one)

    def publish(self, event: Event) -> None:
        """Call every listener with `event`."""
        self.tell(event.pool, lambda listener: listener(event))
