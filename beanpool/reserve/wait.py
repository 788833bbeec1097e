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
from beanpool.reserve.caller import Caller
from beanpool.reserve.server_waiter import Begun, Delivery, Post
from beanpool.reserve.tube_order import Demand, TubeOrder, all_at_once
from beanpool.reserve.waiters import LAST_MOMENT, LONGEST_BEYOND, WaiterSet
from beanpool.reserve.waker import Interruption
from beanpool.runtime import Lock, is_mine, refuse_within, within
from beanpool.server import Member, PooledConnection

GRACE = 0.02
"""How long connections go on waiting when nobody does any more, and so how long a job that comes in on one of them may
be kept from others (seconds); those to far servers about a round trip longer."""
LONGEST_GRACE = GRACE + LONGEST_BEYOND
"""The longest that may be (seconds)."""
# Who had its job sooner than this had not to wait for it: servers have more, and the next call need not find
# connections that wait (seconds).
_AT_ONCE = 0.001
# How long a sleeping thread takes it that the leader lives: who would lead next, and the others (seconds).
_PATIENCE_OF_THE_NEXT = 1.0
_PATIENCE_OF_OTHERS = 10.0


class Retired(Exception):
    """The wait takes no more threads: another one was made for the same tubes."""


class Reaper(Protocol):
    """Who does what callers should not wait for, and what need not be done at once."""

    def later(self, call: Callable[[], None]) -> None:
        """Have this done in another thread, within a second."""

    def close_half_closed(self, channels: Iterable[Channel]) -> None:
        """Read channels whose reserve was cancelled to their end, then close them."""

    def reconnect(self, members: Iterable[Member]) -> None:
        """See to it that the next call finds a connection to each of these servers."""


class SharedWait:
    """The threads of one pool that wait for one set of tubes.

    :param members: returns the servers to wait on.
    :param reaper: closes what was cancelled.
    :param background: cancels what nobody waits for any more.
    """

    def __init__(
        self,
        key: tuple[str, ...] | Demand,
        *,
        members: Callable[[], Sequence[Member]],
        reaper: Reaper,
        background: BackgroundExecutor,
    ) -> None:
        self.key = key
        """What these threads wait for."""
        demand = key if isinstance(key, Demand) else Demand(key, "any", "")
        self.all_at_once = all_at_once(demand)
        """What to wait for if there are too many tubes to wait for each of them."""
        self.tubes = demand.tubes
        self.order = TubeOrder(demand.tubes, demand.order)
        self.is_for_all = not demand.server
        """Whether all servers are asked."""
        self.is_plain = len(self.order.groups) == 1
        """Whether they are asked for all tubes at once."""
        self.members = members
        self._reaper = reaper
        self._background = background
        self._lock = Lock()
        self._callers: collections.deque[Caller] = collections.deque()
        self._leader: Caller | None = None
        self._closed = False
        self._retired = False
        self.waiters_ref: weakref.ref[WaiterSet] | None = None
        """Returns :attr:`waiters`. A weak reference: the set belongs to the threads that wait, and to the task that
        ends it, so whatever interrupts have left behind goes, connections and all, with the last of them."""
        # Whether the reaper has been told of it already; it is not worth telling it a thousand times.
        self._cleaning_is_due = False

    @property
    def waiters(self) -> WaiterSet | None:
        """The connections that wait; None while none does, and nobody."""
        ref = self.waiters_ref
        return None if ref is None else ref()

    def waits_on(self, post: Post, *, for_sure: bool = False) -> bool:
        """Whether a connection waits there already: then there is no job, or the server is about to say so.

        :param for_sure: whether it must have said so.
        """
        waiters = self.waiters
        return waiters is not None and post in waiters.by_post and (not for_sure or post in waiters.empty)

    @property
    def kept(self) -> WaiterSet | None:
        """The connections that wait though nobody does here; None while somebody does, or none waits."""
        waiters = self.waiters
        return waiters if waiters is not None and self._leader is None and waiters.holds_something else None

    @property
    def crowded(self) -> bool:
        """Whether there are too many tubes for a connection that waits for each: they would have more than half of all
        connections to a server.
        """
        most = min((member.pool.max_connections for member in self.members()), default=0)
        return bool(most) and 2 * len(self.order.groups) > most

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return len(self._callers)

    @property
    def lasts_until(self) -> float:
        """When the last connection that waits is cancelled if nobody comes (monotonic seconds); 0 if none does."""
        waiters = self.waiters
        return 0.0 if waiters is None else waiters.lasts_until

    def held(self, most: int = 1, among: Sequence[int] | None = None) -> list[Delivery]:
        """Take jobs, up to `most`, that came in while nobody waited.

        :param among: the groups of tubes that they may be of, in their order; None for all.
        """
        # A signal handler may have interrupted who decides about them.
        if self.kept is None or is_mine(self._lock):
            return []
        try:
            return self._wait(Caller(0.0, most, self.wake, only_looks=True, among=among), [], []).deliveries
        except (PoolClosed, Retired, ReentrantCall):
            return []

    def wait(self, deadline: float, begun: Begun, missed: list[Member], interruption: Interruption) -> Delivery | None:
        """Wait for a job until `deadline` (monotonic seconds, may be infinite); None if none came.

        :param begun: connections on which this caller has a reserve under way; they are taken over: who
            takes an entry out of the list has it.
        :param missed: the servers that this caller could not ask, for want of a connection; afterwards, those of them
            that were not asked meanwhile.
        :param interruption: what may end the wait early.
        :raises PoolClosed: if the pool is closed meanwhile.
        :raises Retired: if another wait was made for these tubes; nothing was taken over.
        """
        caller = Caller(deadline, 1, self.wake)
        interruption.attach(caller)
        try:
            return self._wait(caller, begun, missed).delivery
        finally:
            interruption.detach(caller)

    def wait_many(
        self, deadline: float, begun: Begun, missed: list[Member], interruption: Interruption, most: int
    ) -> list[Delivery]:
        """As :meth:`wait`, and with what came in on other servers at the same time and nobody else waits for."""
        caller = Caller(deadline, most, self.wake)
        interruption.attach(caller)
        try:
            return self._wait(caller, begun, missed).deliveries
        finally:
            interruption.detach(caller)

    def _wait(self, caller: Caller, begun: Begun, missed: list[Member]) -> Caller:
        refuse_within(self._lock, "a reserve")
        try:
            with caller.presence:
                self._take_part(caller, begun, missed)
        except BaseException:
            # It must not end the wait of others. If there is another interrupt here, who comes next does the same.
            self.mend()
            leader = self._leader
            if leader is not None:
                # This thread may have made it that, and not told it.
                leader.wake()
            self.end()
            self._give_back(caller)
            raise
        if caller.delivery is None and caller.error is not None:
            raise caller.error
        return caller

    def _take_part(self, caller: Caller, begun: Begun, missed: list[Member]) -> None:
        started = time.monotonic()
        with self._lock:
            if self._closed:
                raise PoolClosed("the pool is closed")
            if self._retired:
                raise Retired
            # Else it might wait for a job that only the wait that it has interrupted can take in.
            if any(other.thread == caller.thread and other.present for other in self._callers):
                raise within("a reserve of the same tubes")
            self._callers.append(caller)
            if self._leader is None:
                self._leader = caller
            leader = self._leader
            waiters = self._waiters_now()
            waiters.adopt(begun)
            waiters.missed.extend(missed)
        if leader is not caller and not caller.only_looks:
            if leader.present:
                leader.wake()
            else:
                self.mend()
            waiters.wake()
            # After an interrupt at the very end of its call it has a job, which goes back with the last who knows it.
            del leader
            self._sleep(caller)
        if self._leader is caller and caller.open:
            self._lead(caller)
        if missed and caller.open:
            waiters = self.waiters or waiters
            asked = waiters.asked()
            missed[:] = [m for m in missed if m not in asked and waiters.heard.get(m, 0.0) < started]
        self._leave(caller)

    def _waiters_now(self) -> WaiterSet:
        waiters = self.waiters
        if waiters is None:
            members = self.members()
            try:
                waiters = WaiterSet(self.order, self.evict)
            except OSError as error:
                # This process has no descriptor left to wait with.
                raise no_server(dict.fromkeys([m.address for m in members], error), "can be waited for") from error
            self.waiters_ref = weakref.ref(waiters)
            if len(members) > 1:
                # Now, not when a job has come.
                self._background.start()
        return waiters

    def _sleep(self, caller: Caller) -> None:
        """Wait, at most until the deadline, until there is a job, or an error, or this thread leads."""
        while caller.open and self._leader is not caller:
            now = time.monotonic()
            if now >= caller.deadline:
                return
            caller.signal.acquire(timeout=min(caller.deadline - now, self._patience(caller)))
            self.mend()

    def _patience(self, caller: Caller) -> float:
        """How long this thread sleeps before it sees whether the leader was interrupted and could not say so."""
        with self._lock:
            is_next = caller in itertools.islice(self._callers, 2)
        return _PATIENCE_OF_THE_NEXT if is_next else _PATIENCE_OF_OTHERS

    # The leader.

    def _lead(self, caller: Caller) -> None:
        with self._lock:
            waiters = self._waiters_now()
        started = now = time.monotonic()
        if waiters.kept_until:
            # What has come in while nobody waited.
            waiters.poll_now()
            self._hand_out(waiters, caller)
        while caller.open and not caller.only_looks:
            if now >= caller.deadline + (LAST_MOMENT if waiters.ends_by(caller.deadline + LAST_MOMENT) else 0):
                break
            longest, waiting = self._who_waits(now)
            waiters.reconcile(self.members(), now, longest, waiting)
            if self.order.is_strict:
                waiters.give_back_late(now)
            waiters.poll(caller.deadline)
            self._hand_out(waiters, caller)
            now = time.monotonic()
        if caller.most > 1 and caller.takes_more:
            waiters.poll_now()
            self._hand_out(waiters, caller)
        if now - started > _AT_ONCE:
            waiters.kept_until = 0.0
        if (waiters.answered or waiters.tickets or waiters.adopted) and len(self._callers) == 1:
            waiters.rest()

    def _who_waits(self, now: float) -> tuple[float, int]:
        """How long the most patient thread will (seconds), and how many do."""
        with self._lock:
            return max((caller.deadline for caller in self._callers), default=now) - now, len(self._callers)

    def _hand_out(self, waiters: WaiterSet, caller: Caller) -> None:
        """Give the jobs that came in to who leads, which has waited longest, then to the others."""
        deliveries = waiters.deliveries
        if deliveries and caller.open:
            delivery = deliveries[0] if self.is_plain else waiters.choice.best(caller.among)
            if delivery is not None:
                # First taken, then removed: after an interrupt in between, the job is there twice.
                caller.delivery = delivery
                deliveries.remove(delivery)
                if not self.is_plain:
                    self.order.served(self.order.number(delivery[1].watched))
        while deliveries and self._deliver(waiters, caller.among):
            pass

    def _deliver(self, waiters: WaiterSet, among: Sequence[int] | None) -> bool:
        """Give a job to who has waited longest for one; false if nobody waits, or none may be given out: it is kept."""
        delivery = waiters.choice.best(among)
        if delivery is None:
            return False
        with self._lock:
            taker = self._first_open()
            if taker is not None:
                # An interrupt leaves the job either with its taker or among the deliveries.
                taker.delivery = delivery
                waiters.deliveries.remove(delivery)
            else:
                collector = next((caller for caller in self._callers if caller.takes_more and caller.present), None)
                if collector is None:
                    return False
                collector.extra.append(delivery)
                waiters.deliveries.remove(delivery)
        self.order.served(self.order.number(delivery[1].watched))
        if taker is not None:
            taker.wake()
        return True

    def _first_open(self) -> Caller | None:
        return next((caller for caller in self._callers if caller.open and caller.present), None)

    def _leave(self, caller: Caller) -> None:
        successor = None
        with self._lock:
            closed = self._closed
            if self._callers and self._callers[0] is caller:
                self._callers.popleft()
            elif caller in self._callers:
                self._callers.remove(caller)
            if self._leader is not caller:
                return
            if self._callers:
                successor = self._first_open()
            # Last: until then an interrupt finds this thread responsible for what waits.
            self._leader = successor
        if successor is not None:
            successor.wake()
            return
        if closed:
            self.end()
        else:
            self._keep()

    def _keep(self) -> None:
        """Nobody waits any more: have what still waits on the servers cancelled after the grace."""
        waiters = self.waiters
        if waiters is not None and (waiters.by_post or waiters.holds_something):
            if not waiters.kept_until:
                waiters.kept_until = time.monotonic() + GRACE
            waiters.left = True
            if not waiters.end_is_due:
                waiters.end_is_due = True
                self._background.start()
                self._end_grace_at(waiters.kept_until, waiters)
        elif not self._cleaning_is_due:
            # With the only server's job in hand nothing waits any more, and nobody need be woken for it.
            self._cleaning_is_due = True
            self._reaper.later(functools.partial(self._clean, waiters))

    def _end_grace_at(self, moment: float, waiters: WaiterSet) -> None:
        if not self._background.submit_at(moment, functools.partial(self._end_grace, waiters)):
            waiters.end_is_due = False
            self.end()

    def _end_grace(self, waiters: WaiterSet) -> None:
        """The grace has ended, unless somebody has come meanwhile, or come and gone: then another one has begun."""
        self.mend()
        now = time.monotonic()
        with self._lock:
            waiters.end_is_due = False
            if self.waiters is not waiters:
                return
            expired: list[tuple[Member, PooledConnection]] = []
            if self._leader is None:
                look_again = waiters.kept_until
                if look_again <= now:
                    expired, look_again = waiters.take_expired(now)
            else:
                # Where jobs come one after the other it looks again by itself: to be woken would cost the callers more.
                look_again = now + GRACE / 2 if waiters.left else 0.0
            waiters.left = False
            waiters.end_is_due = look_again > 0
            ends = self._leader is None and not look_again
        if expired:
            self._cancel(expired)
            self._reaper.reconnect(member for member, _ in expired)
        if look_again:
            self._end_grace_at(look_again, waiters)
        elif ends:
            self._reaper.reconnect(self.end())

    def _cancel(self, connections: Iterable[tuple[Member, PooledConnection]]) -> None:
        cancelled = [member.pool.cancel_reserve(connection) for member, connection in connections]
        channels = [channel for channel in cancelled if channel is not None]
        if channels:
            self._reaper.close_half_closed(channels)

    def _clean(self, _: WaiterSet | None) -> None:
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
        if (leader is None or leader.present) and all(caller.present for caller in _snapshot(self._callers)):
            return
        broken = None
        with self._lock:
            gone = [caller for caller in self._callers if not caller.present]
            for caller in gone:
                # A signal handler may have done so in between.
                with contextlib.suppress(ValueError):
                    self._callers.remove(caller)
            if self._leader is not None and not self._leader.present:
                # Nobody knows what its connections wait for, or whether they hold a job.
                broken, self.waiters_ref = self.waiters, None
                self._leader = self._first_open()
            successor = self._leader
            served = [caller for caller in self._callers if not caller.open]
        for caller in served:
            # Its job may have been on the way.
            caller.wake()
        if successor is not None:
            successor.wake()
        if broken is not None:
            broken.discard_all(spared={connection for caller in served for _, connection, _ in caller.deliveries})
        for caller in gone:
            self._give_back(caller)

    def _give_back(self, caller: Caller) -> None:
        # Nobody will ever see these jobs: the server takes them back.
        for member, connection, _ in caller.deliveries:
            member.pool.discard(connection, "the caller was interrupted")

    # From other threads.

    def wake(self) -> None:
        """Let the leader look at the servers anew: one came up, was added, or has a connection free."""
        waiters = self.waiters
        if waiters is not None:
            waiters.wake()

    def give_up(self, member: Member) -> None:
        """Free what nobody waits for on this server any more: a caller needs it."""
        leader = self._leader
        if (leader is None or not leader.present) and self.waiters is not None:
            self.end()

    def evict(self, post: Post) -> None:
        """End the reserve that waits on this server: a caller needs its connection more."""
        waiters = self.waiters
        if waiters is not None:
            waiters.evictions.append(post)
            self.end()
            waiters.wake()

    def end(self) -> list[Member]:
        """Cancel what waits on the servers, if nobody waits here any more; returns those where something did."""
        if self.waiters is None:
            return []
        self.mend()
        if self._leader is not None:
            return []
        with self._lock:
            if self._leader is not None:
                return []
            ended, self.waiters_ref = self.waiters, None
        cancelled = ended.end() if ended is not None else []
        channels = [channel for _, channel in cancelled if channel is not None]
        if channels:
            self._reaper.close_half_closed(channels)
        return [member for member, _ in cancelled]

    def retire(self) -> bool:
        """Take no more threads, unless some wait here; returns whether that is so. What it holds goes with it."""
        with self._lock:
            self._retired = not self._callers
            return self._retired

    def close(self) -> None:
        """Wake every waiting thread with :class:`PoolClosed`."""
        with self._lock:
            self._closed = True
            callers = [caller for caller in self._callers if caller.open]
            for caller in callers:
                caller.error = PoolClosed("the pool was closed while this thread waited for a job")
        for caller in callers:
            caller.wake()
        self.end()
        self.wake()


def _snapshot(callers: collections.deque[Caller]) -> list[Caller]:
    while True:
        try:
            return list(callers)
        except RuntimeError:
            # Another thread came or went meanwhile, on a Python without a global lock.
            continue
