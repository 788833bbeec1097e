"""What a program has registered to be told of a pool: kept in order, and none of it disturbs a call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from beanpool.runtime import Lock
from beanpool.telemetry.log import log_safely, logger

Registered = TypeVar("Registered")


class Registry(Generic[Registered]):
    """Tells everything that is registered, outside of all locks, in the thread in which it happens.

    What raises disturbs neither the pool nor the others; its first error is logged.

    :param noun: what is registered, as the log and errors call it.
    """

    __slots__ = ("_lock", "_logged", "_noun", "active")

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self.active: tuple[Registered, ...] = ()
        """All that is registered: empty, and so false, where there is nobody to be told. Swapped as a whole."""
        self._logged: set[int] = set()
        self._lock = Lock()

    def add(self, one: Registered) -> None:
        """Tell this one, too, from now on."""
        with self._lock:
            self.active = (*self.active, one)

    def remove(self, one: Registered) -> None:
        """Tell this one no longer.

        :raises ValueError: if it was never added.
        """
        with self._lock:
            if one not in self.active:
                raise ValueError(f"this {self._noun} was never added")
            self.active = tuple(known for known in self.active if known != one)

    def reset_after_fork(self) -> None:
        """In a forked child: keep what is registered, and have no lock that another thread may have held."""
        self._lock = Lock()

    def tell(self, pool: str, call: Callable[[Registered], Any]) -> None:
        """Call `call` with each.

        :param pool: the pool's name, for the log.
        """
        for one in self.active:
            try:
                call(one)
            except Exception:
                if id(one) not in self._logged:
                    self._logged.add(id(one))
                    article = "an" if self._noun[0] in "aeiou" else "a"
                    text = f"pool %s: {article} {self._noun} raised; its further errors are not logged"
                    log_safely(logger(f"{self._noun}s"), logging.ERROR, text, pool, exc_info=True)
