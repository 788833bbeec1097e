"""A thread that waits for a job."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence

from beanpool.errors import BeanpoolError
from beanpool.reserve.server_waiter import Delivery


class Caller:
    """A thread that waits."""

    __slots__ = (
        "__weakref__",
        "_wake_leader",
        "among",
        "deadline",
        "delivery",
        "error",
        "extra",
        "most",
        "only_looks",
        "presence",
        "signal",
        "thread",
        "woken",
    )

    def __init__(
        self,
        deadline: float,
        most: int,
        wake_leader: Callable[[], None],
        *,
        only_looks: bool = False,
        among: Sequence[int] | None = None,
    ) -> None:
        self.deadline = deadline
        self.most = most
        self._wake_leader = wake_leader
        self.only_looks = only_looks
        """Whether it takes what has come in, and does not wait for more."""
        self.among = among
        """Of which groups of tubes, in their order; None for all."""
        self.extra: list[Delivery] = []
        """What came in at the same time, and nobody else waits for."""
        self.presence = threading.Lock()
        """Held by its thread while that is here. However many interrupts end its wait, and at whatever lines, a lock's
        own ``__exit__`` is not written in Python, and lets go."""
        self.signal = threading.Lock()
        self.signal.acquire()
        self.delivery: Delivery | None = None
        self.error: BeanpoolError | None = None
        self.woken = False
        """Whether it waits no longer, because somebody says so."""
        self.thread = threading.get_ident()

    @property
    def present(self) -> bool:
        """Whether its thread is here; what one has left behind that was interrupted is anybody's to tidy up."""
        return self.presence.locked()

    @property
    def open(self) -> bool:
        """Whether it still waits for its job."""
        return self.delivery is None and self.error is None and not self.woken

    @property
    def takes_more(self) -> bool:
        """Whether it would have another one."""
        return self.delivery is not None and len(self.extra) + 1 < self.most

    @property
    def deliveries(self) -> list[Delivery]:
        """All that came in for it."""
        return [] if self.delivery is None else [self.delivery, *self.extra]

    def wake(self) -> None:
        """Let its thread look at what was done to it. Once more does no harm."""
        if self.signal.locked():
            with contextlib.suppress(RuntimeError):
                self.signal.release()

    def interrupt(self) -> None:
        """Let its thread wait no longer. Takes no lock but that of a pipe, which nobody holds who waits."""
        self.woken = True
        self.wake()
        # It may be the one that leads.
        self._wake_leader()
