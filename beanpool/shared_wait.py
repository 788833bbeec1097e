"""Waiting for a job on all servers at once, shared by all threads that wait for the same tubes.

On each server one connection waits in a reserve, however many threads do here. One of the waiting threads,
the leader, watches all of these connections; the others sleep on a lock of their own. A job goes to the
thread that has waited longest. A leader that has its job makes the next thread the leader. A single waiting
thread is its own leader, so it pays for no thread switch.

When nobody waits any longer, what still waits on the servers is cancelled at once, but as an errand of another thread:
each cancellation costs as much as a delivery, and the caller has its job. A thread that comes back before that
finds everything in place.
"""

from __future__ import annotations

import collections
import contextlib
import math
import operator
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from beanpool.channel import Channel
from beanpool.errands import Errands
from beanpool.errors import BeanpoolError, PoolClosed
from beanpool.locks import Lock, refuse_within, within
from beanpool.member import Member
from beanpool.watch import LAST_MOMENT, Begun, Catch, Watch


class _Seat:
    """A thread that waits."""

    __slots__ = ("catch", "deadline", "error", "extra", "leads", "most", "signal", "thread")

    def __init__(self, deadline: float, most: int) -> None:
        self.deadline = deadline
        self.most = most
        self.extra: list[Catch] = []
        """What came in at the same time, and nobody else waits for."""
        self.signal = threading.Lock()
        self.signal.acquire()
        self.catch: Catch | None = None
        self.error: BeanpoolError | None = None
        self.leads = False
        self.thread = threading.get_ident()

    @property
    def open(self) -> bool:
        """Whether it still waits for its job."""
        return self.catch is None and self.error is None

    @property
    def takes_more(self) -> bool:
        """Whether it would have another one."""
        return self.catch is not None and len(self.extra) + 1 < self.most

    def wake(self) -> None:
        """Let its thread look at what was done to it. Once more does no harm."""
        with contextlib.suppress(RuntimeError):
            self.signal.release()

    def sleep(self) -> None:
        """Wait, at most until the deadline, until it has its job, or an error, or leads."""
        while self.open and not self.leads:
            if not self.signal.acquire(timeout=_lock_timeout(self.deadline)):
                return


_thread_of = operator.attrgetter("thread")


class Janitor(Protocol):
    """Who does what callers should not wait for, and what need not be done at once."""

    def later(self, call: Callable[[], None]) -> None:
        """Have this done in another thread, within a second."""

    def linger(self, channels: Iterable[Channel]) -> None:
        """Read channels whose reserve was cancelled to their end, then close them."""


class SharedWait:
    """The threads of one pool that wait for one set of tubes.

    :param members: returns the servers to wait on.
    :param janitor: closes what was cancelled.
    :param errands: cancels what nobody waits for any more.
    """

    def __init__(
        self,
        tubes: tuple[str, ...],
        *,
        members: Callable[[], Sequence[Member]],
        janitor: Janitor,
        errands: Errands,
    ) -> None:
        self.tubes = tubes
        self._members = members
        self._janitor = janitor
        self._errands = errands
        self._lock = Lock()
        self._seats: collections.deque[_Seat] = collections.deque()
        self._leader: _Seat | None = None
        self._closed = False
        self.watch: Watch | None = None
        """The connections that wait; None while none does, and nobody."""
        # Whether the janitor has been told of it already; it is not worth telling it a thousand times.
        self._end_is_due = False

    def waits_on(self, member: Member) -> bool:
        """Whether a connection waits on this server already: then it is known to have no job."""
        watch = self.watch
        return watch is not None and member in watch.stations

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return len(self._seats)

    def wait(self, deadline: float, begun: Begun) -> Catch | None:
        """Wait for a job until `deadline` (monotonic seconds, may be infinite); None if none came.

        :param begun: connections on which this caller has a reserve under way; they are taken over: who
            takes an entry out of the list has it.
        :raises PoolClosed: if the pool is closed meanwhile.
        """
        return self._wait(_Seat(deadline, 1), begun).catch

    def wait_many(self, deadline: float, begun: Begun, most: int) -> list[Catch]:
        """As :meth:`wait`, and with what came in on other servers at the same time and nobody else waits for."""
        seat = self._wait(_Seat(deadline, most), begun)
        return [] if seat.catch is None else [seat.catch, *seat.extra]

    def _wait(self, seat: _Seat, begun: Begun) -> _Seat:
        refuse_within(self._lock, "a reserve")
        try:
            with self._lock:
                if self._closed:
                    raise PoolClosed("the pool is closed")
                # Else it might wait for a job that only the wait that it has interrupted can take in.
                if seat.thread in map(_thread_of, self._seats):
                    raise within("a reserve of the same tubes")
                self._seats.append(seat)
                if self._leader is None:
                    self._leader = seat
                    seat.leads = True
                watch = self._watch_now()
                watch.adopt(begun)
            if not seat.leads:
                watch.poke()
                seat.sleep()
            if seat.leads and seat.open:
                self._lead(seat, watch)
            self._leave(seat)
        except BaseException:
            self._abort(seat)
            raise
        if seat.catch is None and seat.error is not None:
            raise seat.error
        return seat

    def _watch_now(self) -> Watch:
        if self.watch is None:
            self.watch = Watch(self.tubes)
            if len(self._members()) > 1:
                # Now, not when a job has come.
                self._errands.start()
        return self.watch

    # The leader.

    def _lead(self, seat: _Seat, watch: Watch) -> None:
        caught = watch.caught
        while seat.catch is None and seat.error is None:
            now = time.monotonic()
            if now >= seat.deadline + (LAST_MOMENT if watch.ends_by(seat.deadline + LAST_MOMENT) else 0):
                return
            longest = self._longest_wait(now)
            watch.attend(self._members(), now, longest)
            watch.look(seat.deadline)
            if caught and seat.error is None:
                # Who leads has waited longest. The job is its own before it is not among the caught any more: an
                # interrupt in between finds it twice.
                seat.catch = caught[0]
                caught.popleft()
            while caught:
                self._deliver(caught)
        if seat.most > 1 and seat.takes_more:
            watch.glance()
            while caught:
                self._deliver(caught)

    def _longest_wait(self, now: float) -> float:
        with self._lock:
            return max((seat.deadline for seat in self._seats), default=now) - now

    def _deliver(self, caught: collections.deque[Catch]) -> None:
        member, connection, _ = caught[0]
        with self._lock:
            taker = self._first_open()
            if taker is not None:
                # One step, as far as interrupts go: the job is either the taker's or still among the caught.
                taker.catch = caught[0]
                caught.popleft()
            else:
                collector = next((seat for seat in self._seats if seat.takes_more), None)
                if collector is not None:
                    collector.extra.append(caught[0])
                    caught.popleft()
        if taker is not None:
            taker.wake()
        elif collector is None:
            caught.popleft()
            member.pool.discard(connection, "nobody waits any more")

    def _first_open(self) -> _Seat | None:
        return next((seat for seat in self._seats if seat.open), None)

    def _leave(self, seat: _Seat) -> None:
        heir = None
        with self._lock:
            if self._seats and self._seats[0] is seat:
                self._seats.popleft()
            elif seat in self._seats:
                self._seats.remove(seat)
            if self._leader is not seat:
                return
            if self._seats:
                heir = self._first_open()
                if heir is not None:
                    heir.leads = True
            # Last: until then an interrupt finds this thread responsible for what waits.
            self._leader = heir
        if heir is not None:
            heir.wake()
            return
        watch = self.watch
        if watch is not None and (watch.stations or watch.adopted):
            self._errands.soon(self.end)
        elif not self._end_is_due:
            # With the only server's job in hand nothing waits any more, and nobody need be woken for it.
            self._end_is_due = True
            self._janitor.later(self.end)

    def _abort(self, seat: _Seat) -> None:
        """An exception ends this thread's wait, maybe an interrupt at whatever line; it must not end that of others."""
        watch = self.watch
        if watch is not None and self._leader is seat:
            watch.scrap()
        self._leave(seat)
        self.end()
        with self._lock:
            settled = [other for other in self._seats if other.leads or not other.open]
        for other in settled:
            other.wake()
        for member, connection, _ in [*([seat.catch] if seat.catch is not None else []), *seat.extra]:
            # Nobody will ever see this job: the server takes it back.
            member.pool.discard(connection, "the caller was interrupted")

    # From other threads.

    def poke(self) -> None:
        """Let the leader look at the servers anew: one came up, was added, or has a connection free."""
        watch = self.watch
        if watch is not None:
            watch.poke()

    def give_up(self, member: Member) -> None:
        """Free the connection that waits on this server: a caller needs it more."""
        if self.waits_on(member):
            self.end()
            self.poke()

    def end(self) -> None:
        """Cancel what waits on the servers, if nobody waits here any more."""
        self._end_is_due = False
        if self._leader is not None or self.watch is None:
            return
        with self._lock:
            if self._leader is not None:
                return
            ended, self.watch = self.watch, None
        cancelled = ended.end() if ended is not None else None
        if cancelled:
            self._janitor.linger(cancelled)

    def close(self) -> None:
        """Wake every waiting thread with :class:`PoolClosed`."""
        with self._lock:
            self._closed = True
            seats = [seat for seat in self._seats if seat.open]
            for seat in seats:
                seat.error = PoolClosed("the pool was closed while this thread waited for a job")
        for seat in seats:
            seat.wake()
        self.end()
        self.poke()


def _lock_timeout(deadline: float) -> float:
    if deadline == math.inf:
        return -1
    return min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
