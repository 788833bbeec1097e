"""The observers that a program has registered with a pool, and what is measured for them."""

from __future__ import annotations

import time
from collections.abc import Iterable

from beanpool.telemetry.observer import CALLS, AttemptOutcome, JobEnd, Observer
from beanpool.telemetry.registry import Registry

_ENDS: dict[str, JobEnd] = {"DELETED": "deleted", "RELEASED": "released", "BURIED": "buried"}


class Observers(Registry[Observer]):
    """Tells every observer of what was measured.

    Whoever carries out commands looks at :attr:`active` first, and measures nothing while it is empty.

    :param pool: the pool's name, for the log.
    """

    __slots__ = ("_pool",)

    def __init__(self, pool: str) -> None:
        super().__init__("observer")
        self._pool = pool

    def add(self, one: Observer) -> None:
        """Tell `one` from now on.

        :raises TypeError: if it lacks a method of an :class:`Observer`.
        """
        missing = [name for name in CALLS if not callable(getattr(one, name, None))]
        if missing:
            raise TypeError(f"an observer must have the methods of beanpool.Observer; it lacks {', '.join(missing)}")
        super().add(one)

    def put(self, server: str, tube: str, count: int, size: int, seconds: float, outcome: AttemptOutcome) -> None:
        """See :meth:`Observer.put`."""
        self.tell(self._pool, lambda observer: observer.put(server, tube, count, size, seconds, outcome))

    def reserved(self, server: str, tube: str | None, count: int, waited: float) -> None:
        """See :meth:`Observer.reserved`."""
        self.tell(self._pool, lambda observer: observer.reserved(server, tube, count, waited))

    def finished(self, server: str, tube: str | None, how: JobEnd, count: int, held: float, seconds: float) -> None:
        """See :meth:`Observer.finished`."""
        self.tell(self._pool, lambda observer: observer.finished(server, tube, how, count, held, seconds))

    def touched(self, server: str, count: int, seconds: float, ok: bool) -> None:
        """See :meth:`Observer.touched`."""
        self.tell(self._pool, lambda observer: observer.touched(server, count, seconds, ok))

    def connected(self, server: str, seconds: float, error: Exception | None) -> None:
        """See :meth:`Observer.connected`."""
        self.tell(self._pool, lambda observer: observer.connected(server, seconds, error))


class JobTiming:
    """One command on one job in hand, from now on until :meth:`ended`.

    :param since: since when the job was held (monotonic seconds).
    """

    __slots__ = ("_began", "_observers", "_server", "_since", "_tube")

    def __init__(self, observers: Observers, server: str, tube: str | None, since: float) -> None:
        self._observers = observers
        self._server = server
        self._tube = tube
        self._since = since
        self._began = time.monotonic()

    def ended(self, command: str, status: str) -> None:
        """Tell how it ended.

        :param command: its name in the protocol.
        :param status: the reply's first word; empty if there was none.
        """
        now = time.monotonic()
        if command == "touch":
            self._observers.touched(self._server, 1, now - self._began, status == "TOUCHED")
        elif status in _ENDS:
            held = now - self._since
            self._observers.finished(self._server, self._tube, _ENDS[status], 1, held, now - self._began)


class FinishedBatch:
    """The jobs in hand that one batch finishes, from now on until :meth:`tell`.

    :param how: what becomes of them.
    """

    __slots__ = ("_began", "_how", "_observers", "_servers")

    def __init__(self, observers: Observers, how: JobEnd) -> None:
        self._observers = observers
        self._how: JobEnd = how
        self._began = time.monotonic()
        # Of each server: how many jobs, since when they were held (their sum), and their tubes.
        self._servers: dict[str, tuple[int, float, frozenset[str | None]]] = {}

    def add(self, server: str, jobs: Iterable[tuple[str | None, float]]) -> None:
        """These jobs of a server are finished: the tube of each, and since when it was held (monotonic seconds)."""
        count, since, tubes = self._servers.get(server, (0, 0.0, frozenset()))
        for tube, reserved_at in jobs:
            count, since = count + 1, since + reserved_at
            if tube not in tubes:
                tubes |= {tube}
        self._servers[server] = count, since, tubes

    def tell(self) -> None:
        """Tell of each server what was finished there."""
        servers, self._servers = self._servers, {}
        now = time.monotonic()
        for server, (count, since, tubes) in servers.items():
            tube = next(iter(tubes)) if len(tubes) == 1 else None
            if count:
                self._observers.finished(server, tube, self._how, count, now - since / count, now - self._began)


class TouchedBatch:
    """The jobs that one batch touches, from now on until :meth:`tell`."""

    __slots__ = ("_began", "_counts", "_observers")

    def __init__(self, observers: Observers) -> None:
        self._observers = observers
        self._began = time.monotonic()
        self._counts: dict[tuple[str, bool], int] = {}

    def add(self, server: str, count: int, *, ok: bool) -> None:
        """So many of a server were touched, or could not be."""
        if count:
            self._counts[server, ok] = self._counts.get((server, ok), 0) + count

    def tell(self) -> None:
        """Tell of each server what was touched there."""
        counts, self._counts = self._counts, {}
        now = time.monotonic()
        for (server, ok), count in counts.items():
            self._observers.touched(server, count, now - self._began, ok)
