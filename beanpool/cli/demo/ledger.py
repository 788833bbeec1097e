"""The demo's book-keeping: which jobs were acknowledged, and how often each was delivered."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter


@dataclasses.dataclass(frozen=True, slots=True)
class Tally:
    """The state of a :class:`Ledger` at one moment.

    :ivar put: puts that a server acknowledged.
    :ivar done: acknowledged jobs that were delivered, each counted once.
    :ivar gone: acknowledged jobs that a server without a log took with it when it was killed.
    :ivar delivered_twice: jobs that were delivered more than once.
    :ivar refused: puts that raised an error; they promise nothing.
    :ivar maybe_duplicate: acknowledged puts whose answer said that an earlier attempt may be stored too.
    :ivar reservations_lost: jobs that could not be deleted because their reservation was gone.
    :ivar worst_put: the longest acknowledged put, in seconds.
    :ivar put_by_server: acknowledged puts, by server address.
    :ivar done_by_server: deliveries, by server address.
    """

    put: int
    done: int
    gone: int
    delivered_twice: int
    refused: int
    maybe_duplicate: int
    reservations_lost: int
    worst_put: float
    put_by_server: Counter[str]
    done_by_server: Counter[str]

    @property
    def outstanding(self) -> int:
        """Acknowledged jobs that are still to be received; at the end of a run they are lost."""
        return self.put - self.done - self.gone


class Ledger:
    """Counts jobs by their unique tokens, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server_of: dict[str, str] = {}
        self._gone: set[str] = set()
        self._deliveries: Counter[str] = Counter()
        self._put_by_server: Counter[str] = Counter()
        self._done_by_server: Counter[str] = Counter()
        self._done = 0
        self._delivered_twice = 0
        self._refused = 0
        self._maybe_duplicate = 0
        self._reservations_lost = 0
        self._worst_put = 0.0

    def put_acknowledged(self, token: str, server: str, seconds: float, *, maybe_duplicate: bool) -> None:
        """Note a put that returned."""
        with self._lock:
            self._server_of[token] = server
            self._put_by_server[server] += 1
            self._worst_put = max(self._worst_put, seconds)
            self._maybe_duplicate += maybe_duplicate
            # A worker can be faster than the producer's way from the acknowledgement to here.
            self._done += token in self._deliveries

    def put_refused(self) -> None:
        """Note a put that raised."""
        with self._lock:
            self._refused += 1

    def delivered(self, token: str, server: str) -> None:
        """Note a job that a worker received and worked on."""
        with self._lock:
            self._deliveries[token] += 1
            self._gone.discard(token)
            self._done_by_server[server] += 1
            if self._deliveries[token] == 1:
                self._done += token in self._server_of
            elif self._deliveries[token] == 2:
                self._delivered_twice += 1

    def gone_with(self, server: str) -> None:
        """Note that a server is dead and had no log: what was put there and not delivered is gone."""
        with self._lock:
            self._gone.update(
                token for token, where in self._server_of.items() if where == server and token not in self._deliveries
            )

    def reservation_lost(self) -> None:
        """Note a job whose reservation was gone when the worker had finished it."""
        with self._lock:
            self._reservations_lost += 1

    def tally(self) -> Tally:
        """Return the counts of this moment."""
        with self._lock:
            return Tally(
                put=len(self._server_of),
                done=self._done,
                gone=len(self._gone),
                delivered_twice=self._delivered_twice,
                refused=self._refused,
                maybe_duplicate=self._maybe_duplicate,
                reservations_lost=self._reservations_lost,
                worst_put=self._worst_put,
                put_by_server=Counter(self._put_by_server),
                done_by_server=Counter(self._done_by_server),
            )
