"""Waiting for a job on all servers at once, shared by all threads that wait for the same tubes.

On each server one connection waits in a reserve, however many threads do here. One of the waiting threads,
the leader, watches all of these connections; the others sleep on a lock of their own. A job goes to the
thread that has waited longest. A leader that has its job makes the next thread the leader. A single waiting
thread is its own leader, so it pays for no thread switch.

When nobody waits any longer, what still waits on the servers is kept for a moment, the grace: most callers come back as
soon as they have finished their job. Who does finds everything in place, and the jobs that have come in meanwhile. Then
a task of another thread cancels what still waits, for each cancellation costs as much as a delivery.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from beanpool.cluster import BackgroundExecutor
from beanpool.errors import PoolClosed, ReentrantCall, no_server
from beanpool.net import Channel
from beanpool.reserve.seat import Seat
from beanpool.reserve.station import Begun, Catch, Post
from beanpool.reserve.tube_order import Demand, TubeOrder
from beanpool.reserve.waiters import LAST_MOMENT, Watch
from beanpool.reserve.waker import Interruption
from beanpool.runtime import Lock, is_mine, refuse_within, within
from beanpool.server import Member

GRACE = 0.02
"""How long connections go on waiting when nobody does any more, and so how long a job that comes in on one of them may
be kept from others (seconds)."""
# Who had its job sooner than this had not to wait for it: servers have more, and the next call need not find
# connections that wait (seconds).
_AT_ONCE = 0.001
# How long a sleeping thread takes it that the leader lives: who would lead next, and the others (seconds).
_PATIENCE_OF_THE_NEXT = 1.0
_PATIENCE_OF_OTHERS = 10.0


class Retired(Exception):
    """The wait takes no more threads: another one was made for the same tubes."""


class Janitor(Protocol):
    """Who does what callers should not wait for, and what need not be done at once."""

    def later(self, call: Callable[[], None]) -> None:
        """Have this done in another thread, within a second."""

    def linger(self, channels: Iterable[Channel]) -> None:
        """Read channels whose reserve was cancelled to their end, then close them."""

    def reconnect(self, members: Iterable[Member]) -> None:
        """See to it that the next call finds a connection to each of these servers."""


class SharedWait:
    """The threads of one pool that wait for one set of tubes.

    :param members: returns the servers to wait on.
    :param janitor: closes what was cancelled.
    :param background: cancels what nobody waits for any more.
    """

    def __init__(
        self,
        key: tuple[str, ...] | Demand,
        *,
        members: Callable[[], Sequence[Member]],
        janitor: Janitor,
        background: BackgroundExecutor,
    ) -> None:
        self.key = key
        """What these threads wait for."""
        demand = key if isinstance(key, Demand) else Demand(key, "any", "")
        self.tubes = demand.tubes
        self.order = TubeOrder(demand.tubes, demand.order)
        self.is_for_all = not demand.server
        """Whether all servers are asked."""
        self.is_plain = len(self.order.groups) == 1
        """Whether they are asked for all tubes at once."""
        self.members = members
        self._janitor = janitor
        self._background = background
        self._lock = Lock()
        self._seats: collections.deque[Seat] = collections.deque()
        self._leader: Seat | None = None
        self._closed = False
        self._retired = False
        self.watch_ref: weakref.ref[Watch] | None = None
        """Returns :attr:`watch`. A weak reference: the watch belongs to the threads that wait, and to the task that
        ends it, so whatever interrupts have left behind goes, connections and all, with the last of them."""
        # Whether the janitor has been told of it already; it is not worth telling it a thousand times.
        self._cleaning_is_due = False

    @property
    def watch(self) -> Watch | None:
        """The connections that wait; None while none does, and nobody."""
        ref = self.watch_ref
        return None if ref is None else ref()

    def waits_on(self, post: Post, *, for_sure: bool = False) -> bool:
        """Whether a connection waits there already: then there is no job, or the server is about to say so.

        :param for_sure: whether it must have said so.
        """
        watch = self.watch
        return watch is not None and post in watch.stations and (not for_sure or post in watch.empty)

    @property
    def kept(self) -> Watch | None:
        """The connections that wait though nobody does here; None while somebody does, or none waits."""
        watch = self.watch
        return watch if watch is not None and self._leader is None and watch.holds_something else None

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return len(self._seats)

    def held(self, most: int = 1, among: Sequence[int] | None = None) -> list[Catch]:
        """Take jobs, up to `most`, that came in while nobody waited.

        :param among: the groups of tubes that they may be of, in their order; None for all.
        """
        # A signal handler may have interrupted who decides about them.
        if self.kept is None or is_mine(self._lock):
            return []
        try:
            return self._wait(Seat(0.0, most, self.poke, only_looks=True, among=among), [], []).catches
        except (PoolClosed, Retired, ReentrantCall):
            return []

    def wait(self, deadline: float, begun: Begun, missed: list[Member], interruption: Interruption) -> Catch | None:
        """Wait for a job until `deadline` (monotonic seconds, may be infinite); None if none came.

        :param begun: connections on which this caller has a reserve under way; they are taken over: who
            takes an entry out of the list has it.
        :param missed: the servers that this caller could not ask, for want of a connection; afterwards, those of them
            that were not asked meanwhile.
        :param interruption: what may end the wait early.
        :raises PoolClosed: if the pool is closed meanwhile.
        :raises Retired: if another wait was made for these tubes; nothing was taken over.
        """
        seat = Seat(deadline, 1, self.poke)
        interruption.attach(seat)
        try:
            return self._wait(seat, begun, missed).catch
        finally:
            interruption.detach(seat)

    def wait_many(
        self, deadline: float, begun: Begun, missed: list[Member], interruption: Interruption, most: int
    ) -> list[Catch]:
        """As :meth:`wait`, and with what came in on other servers at the same time and nobody else waits for."""
        seat = Seat(deadline, most, self.poke)
        interruption.attach(seat)
        try:
            return self._wait(seat, begun, missed).catches
        finally:
            interruption.detach(seat)

    def _wait(self, seat: Seat, begun: Begun, missed: list[Member]) -> Seat:
        refuse_within(self._lock, "a reserve")
        try:
            with seat.presence:
                self._take_part(seat, begun, missed)
        except BaseException:
            # It must not end the wait of others. If there is another interrupt here, who comes next does the same.
            self.mend()
            leader = self._leader
            if leader is not None:
                # This thread may have made it that, and not told it.
                leader.wake()
            self.end()
            self._give_back(seat)
            raise
        if seat.catch is None and seat.error is not None:
            raise seat.error
        return seat

    def _take_part(self, seat: Seat, begun: Begun, missed: list[Member]) -> None:
        started = time.monotonic()
        with self._lock:
            if self._closed:
                raise PoolClosed("the pool is closed")
            if self._retired:
                raise Retired
            # Else it might wait for a job that only the wait that it has interrupted can take in.
            if any(other.thread == seat.thread and other.present for other in self._seats):
                raise within("a reserve of the same tubes")
            self._seats.append(seat)
            if self._leader is None:
                self._leader = seat
            leader = self._leader
            watch = self._watch_now()
            watch.adopt(begun)
            watch.missed.extend(missed)
        if leader is not seat and not seat.only_looks:
            if leader.present:
                leader.wake()
            else:
                self.mend()
            watch.poke()
            self._sleep(seat)
        if self._leader is seat and seat.open:
            self._lead(seat)
        if missed and seat.open:
            watch = self.watch or watch
            asked = watch.asked()
            missed[:] = [m for m in missed if m not in asked and watch.heard.get(m, 0.0) < started]
        self._leave(seat)

    def _watch_now(self) -> Watch:
        watch = self.watch
        if watch is None:
            members = self.members()
            try:
                watch = Watch(self.order, self.evict)
            except OSError as error:
                # This process has no descriptor left to wait with.
                raise no_server(dict.fromkeys([m.address for m in members], error), "can be waited for") from error
            self.watch_ref = weakref.ref(watch)
            if len(members) > 1:
                # Now, not when a job has come.
                self._background.start()
        return watch

    def _sleep(self, seat: Seat) -> None:
        """Wait, at most until the deadline, until there is a job, or an error, or this thread leads."""
        while seat.open and self._leader is not seat:
            now = time.monotonic()
            if now >= seat.deadline:
                return
            seat.signal.acquire(timeout=min(seat.deadline - now, self._patience(seat)))
            self.mend()

    def _patience(self, seat: Seat) -> float:
        """How long this thread sleeps before it sees whether the leader was interrupted and could not say so."""
        with self._lock:
            is_next = seat in itertools.islice(self._seats, 2)
        return _PATIENCE_OF_THE_NEXT if is_next else _PATIENCE_OF_OTHERS

    # The leader.

    def _lead(self, seat: Seat) -> None:
        with self._lock:
            watch = self._watch_now()
        started = now = time.monotonic()
        if watch.kept_until:
            # What has come in while nobody waited.
            watch.glance()
            self._hand_out(watch, seat)
        while seat.open and not seat.only_looks:
            if now >= seat.deadline + (LAST_MOMENT if watch.ends_by(seat.deadline + LAST_MOMENT) else 0):
                break
            longest, waiting = self._who_waits(now)
            watch.attend(self.members(), now, longest, waiting)
            if self.order.is_strict:
                watch.give_back_late(now)
            watch.look(seat.deadline)
            self._hand_out(watch, seat)
            now = time.monotonic()
        if seat.most > 1 and seat.takes_more:
            watch.glance()
            self._hand_out(watch, seat)
        if now - started > _AT_ONCE:
            watch.kept_until = 0.0
        if (watch.answered or watch.tickets or watch.adopted) and len(self._seats) == 1:
            watch.rest()

    def _who_waits(self, now: float) -> tuple[float, int]:
        """How long the most patient thread will (seconds), and how many do."""
        with self._lock:
            return max((seat.deadline for seat in self._seats), default=now) - now, len(self._seats)

    def _hand_out(self, watch: Watch, seat: Seat) -> None:
        """Give the jobs that came in to who leads, which has waited longest, then to the others."""
        caught = watch.caught
        if caught and seat.open:
            catch = caught[0] if self.is_plain else watch.choice.best(seat.among)
            if catch is not None:
                # The job is its own before it is not among the caught any more: an interrupt in between finds it twice.
                seat.catch = catch
                caught.remove(catch)
                if not self.is_plain:
                    self.order.served(self.order.number(catch[1].watched))
        while caught and self._deliver(watch, seat.among):
            pass

    def _deliver(self, watch: Watch, among: Sequence[int] | None) -> bool:
        """Give a job to who has waited longest for one; false if nobody waits, or none may be given out: it is kept."""
        catch = watch.choice.best(among)
        if catch is None:
            return False
        with self._lock:
            taker = self._first_open()
            if taker is not None:
                # One step, as far as interrupts go: the job is either the taker's or still among the caught.
                taker.catch = catch
                watch.caught.remove(catch)
            else:
                collector = next((seat for seat in self._seats if seat.takes_more and seat.present), None)
                if collector is None:
                    return False
                collector.extra.append(catch)
                watch.caught.remove(catch)
        self.order.served(self.order.number(catch[1].watched))
        if taker is not None:
            taker.wake()
        return True

    def _first_open(self) -> Seat | None:
        return next((seat for seat in self._seats if seat.open and seat.present), None)

    def _leave(self, seat: Seat) -> None:
        heir = None
        with self._lock:
            closed = self._closed
            if self._seats and self._seats[0] is seat:
                self._seats.popleft()
            elif seat in self._seats:
                self._seats.remove(seat)
            if self._leader is not seat:
                return
            if self._seats:
                heir = self._first_open()
            # Last: until then an interrupt finds this thread responsible for what waits.
            self._leader = heir
        if heir is not None:
            heir.wake()
            return
        if closed:
            self.end()
        else:
            self._keep()

    def _keep(self) -> None:
        """Nobody waits any more: have what still waits on the servers cancelled after the grace."""
        watch = self.watch
        if watch is not None and (watch.stations or watch.holds_something):
            if not watch.kept_until:
                watch.kept_until = time.monotonic() + GRACE
            watch.left = True
            if not watch.end_is_due:
                watch.end_is_due = True
                self._background.start()
                self._end_grace_at(watch.kept_until, watch)
        elif not self._cleaning_is_due:
            # With the only server's job in hand nothing waits any more, and nobody need be woken for it.
            self._cleaning_is_due = True
            self._janitor.later(functools.partial(self._clean, watch))

    def _end_grace_at(self, moment: float, watch: Watch) -> None:
        if not self._background.submit_at(moment, functools.partial(self._end_grace, watch)):
            watch.end_is_due = False
            self.end()

    def _end_grace(self, watch: Watch) -> None:
        """The grace has ended, unless somebody has come meanwhile, or come and gone: then another one has begun."""
        self.mend()
        now = time.monotonic()
        with self._lock:
            watch.end_is_due = False
            if self.watch is not watch:
                return
            if self._leader is None:
                look_again = watch.kept_until if watch.kept_until > now else 0.0
            else:
                # Where jobs come one after the other it looks again by itself: to be woken would cost the callers more.
                look_again = now + GRACE / 2 if watch.left else 0.0
            watch.left = False
            watch.end_is_due = look_again > 0
            ends = self._leader is None and not look_again
        if look_again:
            self._end_grace_at(look_again, watch)
        elif ends:
            self._janitor.reconnect(self.end())

    def _clean(self, _: Watch | None) -> None:
        """Close what there is to wait with, if nobody does.

        :param _: what shall be there until this is called.
        """
        self._cleaning_is_due = False
        if self.kept is None:
            self.end()

    # After an interrupt.

    def mend(self) -> None:
        """Tidy up after threads that were interrupted, if there are any.

        Done by them, and by whoever comes by: an interrupt may come while another one is dealt with, and then the
        thread has gone without a word. Each step leaves what the next one to try can go on from.
        """
        leader = self._leader
        if (leader is None or leader.present) and all(seat.present for seat in _snapshot(self._seats)):
            return
        broken = None
        with self._lock:
            gone = [seat for seat in self._seats if not seat.present]
            for seat in gone:
                # A signal handler may have done so in between.
                with contextlib.suppress(ValueError):
                    self._seats.remove(seat)
            if self._leader is not None and not self._leader.present:
                # Nobody knows what its connections wait for, or whether they hold a job.
                broken, self.watch_ref = self.watch, None
                self._leader = self._first_open()
            heir = self._leader
            served = [seat for seat in self._seats if not seat.open]
        for seat in served:
            # Its job may have been on the way.
            seat.wake()
        if heir is not None:
            heir.wake()
        if broken is not None:
            broken.scrap(spared={connection for seat in served for _, connection, _ in seat.catches})
        for seat in gone:
            self._give_back(seat)

    def _give_back(self, seat: Seat) -> None:
        # Nobody will ever see these jobs: the server takes them back.
        for member, connection, _ in seat.catches:
            member.pool.discard(connection, "the caller was interrupted")

    # From other threads.

    def poke(self) -> None:
        """Let the leader look at the servers anew: one came up, was added, or has a connection free."""
        watch = self.watch
        if watch is not None:
            watch.poke()

    def give_up(self, member: Member) -> None:
        """Free what nobody waits for on this server any more: a caller needs it."""
        leader = self._leader
        if (leader is None or not leader.present) and self.watch is not None:
            self.end()

    def evict(self, post: Post) -> None:
        """End the reserve that waits on this server: a caller needs its connection more."""
        watch = self.watch
        if watch is not None:
            watch.evictions.append(post)
            self.end()
            watch.poke()

    def end(self) -> list[Member]:
        """Cancel what waits on the servers, if nobody waits here any more; returns those where something did."""
        if self.watch is None:
            return []
        self.mend()
        if self._leader is not None:
            return []
        with self._lock:
            if self._leader is not None:
                return []
            ended, self.watch_ref = self.watch, None
        cancelled = ended.end() if ended is not None else []
        channels = [channel for _, channel in cancelled if channel is not None]
        if channels:
            self._janitor.linger(channels)
        return [member for member, _ in cancelled]

    def retire(self) -> bool:
        """Take no more threads, unless some wait here; returns whether that is so. What it holds goes with it."""
        with self._lock:
            self._retired = not self._seats
            return self._retired

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


def _snapshot(seats: collections.deque[Seat]) -> list[Seat]:
    while True:
        try:
            return list(seats)
        except RuntimeError:
            # Another thread came or went meanwhile, on a Python without a global lock.
            continue
