"""The connections of a pool that wait for a job, one per server, and the poller that watches them."""

from __future__ import annotations

import collections
import functools
import math
import time
from collections.abc import Callable, Iterable, Set

from beanpool.errors import BeanpoolError, CommandFailed
from beanpool.net import Channel, ChannelState, WakeUpPipe, new_poller
from beanpool.protocol import RESERVE_WITH_TIMEOUT
from beanpool.reserve.choice import Choice
from beanpool.reserve.server_waiter import Begun, Delivery, Post, ServerWaiter, taken
from beanpool.reserve.tickets import Tickets
from beanpool.reserve.tube_order import TubeOrder
from beanpool.server import Member, PooledConnection

# A server's TIMED_OUT may come this much after our own deadline, and spares a cancelled connection (seconds).
LAST_MOMENT = 0.05
# How long a server is asked to wait at most (seconds, whole). What is between may forget a connection on which nothing
# moves, and neither side is told: so long, and a little longer, a job may then be kept from those who wait.
RESERVE_SLICE = 4
# How soon to look again whether they were answered (seconds).
_LOOK_AGAIN = 0.2
# How soon to try again to wait on a server that could not be joined (seconds).
_REJOIN_AFTER = 0.2
# Where connections are short: how long a reserve may wait before another one has its turn, and how long it then leaves
# alone a server that has just said that it has no job, at most (seconds).
_LEAST_TURN = 0.25
_LONGEST_PAUSE = 1.0
# A server from which a reply takes that long (seconds) is far: to finish its job and come back takes a worker such a
# round trip, and a little more. What waits there waits so much longer when nobody does.
_FAR = 0.005
_ROUND_TRIPS_TO_COME_BACK = 1.25
LONGEST_BEYOND = 0.6
"""How much longer than elsewhere a connection to a far server waits when nobody does, at most (seconds)."""
# How long a connection waits whose server's address leads to several processes (seconds).
_SHARED_SLICE = 1


class WaiterSet:
    """The connections that wait, and the poller over them. Used by the leader alone, but for what says otherwise.

    A connection that is ready is not watched any more until it is armed again. So nothing needs to be done about one
    that has brought a job before its caller has it, and what is done with it afterwards never wakes anybody here.

    It is known by weak references, so it has no finalizer of its own: another thread could get hold of it while that
    runs. In a forked child nobody ends the wait of a thread that is the parent's; then its parts let go by themselves.
    """

    def __init__(self, order: TubeOrder, evict: Callable[[Post], None]) -> None:
        self._order = order
        self._evict = evict
        self.heard: dict[Member, float] = {}
        """When the servers have last said that they have no job (monotonic seconds)."""
        self.by_post: dict[Post, ServerWaiter] = {}
        self._beside: list[ServerWaiter] = []
        self.tickets = Tickets(self)
        self.empty: dict[Post, float] = {}
        """Where it was said that there is no job, and nothing else since; how long each is left alone, if need be."""
        # Where a reserve was cancelled before it was known to be answered.
        self._cut_off: set[Post] = set()
        self.deliveries: collections.deque[Delivery] = collections.deque()
        """Jobs that came in and that no thread has yet."""
        # Lists that their first owners still hold: who pops an entry has it, whoever else was interrupted.
        self.adopted: collections.deque[Begun] = collections.deque()
        """Connections that wait, or can, beside those of the waiters."""
        self.evictions: collections.deque[Post] = collections.deque()
        """Where somebody needs the connection that waits more."""
        self.missed: collections.deque[Member] = collections.deque()
        """The servers that somebody who has come to wait could not ask."""
        self._not_before: dict[Post, float] = {}
        self._wake_up = WakeUpPipe()
        self._poller = new_poller()
        self._poller.arm(self._wake_up.descriptor, write=False)
        self._by_descriptor: dict[int, ServerWaiter] = {}
        # Whether there is more to do than to ask those servers again whose time is up.
        self._changed = True
        self.answered: list[ServerWaiter] = []
        """Those whose servers have said that they have no job, and that were not asked again yet."""
        self._wake_at = 0.0
        self.choice = Choice(order, self.by_post, self.empty, self.deliveries)
        self.kept_until = 0.0
        """When the grace ends in which nobody waits (monotonic seconds), but for what waits on far servers; 0 if there
        was none since somebody did."""
        self.end_is_due = False
        """Whether somebody was told to end it then."""
        self.left = False
        """Whether the last one who waited has left, since that was looked at."""

    # From any thread.

    def wake(self) -> None:
        """Wake the leader."""
        self._wake_up.wake()

    def adopt(self, begun: Begun) -> None:
        """Take over connections with a reserve under way."""
        self.adopted.append(begun)

    @property
    def holds_something(self) -> bool:
        """Whether something waits, or has brought a job that nobody has yet."""
        return bool(self.by_post or self.deliveries or self.adopted or self.tickets or self._beside)

    def asked(self) -> set[Member]:
        """The servers on which something waits."""
        return {member for member, _ in self.by_post.copy()}

    # Of whoever has seen to it that there is no leader, and will be none meanwhile.

    @property
    def lasts_until(self) -> float:
        """When the last of them is to be cancelled if nobody comes (monotonic seconds)."""
        return self.kept_until + max((_beyond(member) for member, _ in self.by_post.copy()), default=0.0)

    def take_expired(self, now: float) -> tuple[list[tuple[Member, PooledConnection]], float]:
        """The grace has ended: take out what waits on servers that are not far.

        :returns: that, and when to look again (monotonic seconds). If nothing waits for longer, or there is more than
            what waits, all of it stays, to be ended as a whole, and the moment is 0.
        """
        ends = [(self.kept_until + _beyond(waiter.member), waiter) for waiter in self.by_post.values()]
        later = [moment for moment, _ in ends if moment > now]
        if not later or self.deliveries or self.adopted or self.tickets or self._beside:
            return [], 0.0
        expired = [waiter for moment, waiter in ends if moment <= now]
        for waiter in expired:
            self._remove(waiter)
        return [(waiter.member, waiter.connection) for waiter in expired], min(later)

    # The leader's.

    def give_back_late(self, now: float) -> None:
        """Give back the jobs that have to wait for what comes before them, if that takes long."""
        before = len(self.deliveries)
        self._wake_at = min(self._wake_at, self.choice.give_back_late(now))
        self._changed |= len(self.deliveries) < before

    def ends_by(self, moment: float) -> bool:
        """Whether a server's own wait ends until then."""
        return any(waiter.ends_at <= moment and waiter.connection.waiting for waiter in self.by_post.values())

    def reconcile(self, members: Iterable[Member], now: float, longest_wait: float, waiting: int) -> None:
        """See to it that a connection waits on every server that can be asked.

        :param waiting: how many threads wait; where connections are short, they queue for as many as they would alone.
        """
        answered, self.answered = self.answered, []
        if not self._changed and now < self._wake_at and not self.adopted:
            # What there is to do goes with what has come, not with how many servers there are.
            for waiter in answered:
                if longest_wait > 0 and self.by_post.get(waiter.post) is waiter:
                    self._go_on(waiter, now, longest_wait)
            return
        self._changed = longest_wait <= 0
        self._wake_at = math.inf
        # Others append to it at any moment, and take what is in the lists.
        while self.adopted:
            for member, connection, number in taken(self.adopted[0]):
                self._settle_in((member, number), connection)
            self.adopted.popleft()
        while self.missed:
            for number in range(len(self._order.groups)):
                post = self.missed[0], number
                self._not_before.pop(post, None)
                # Where a connection waits it stays true: it would have brought the job.
                if post not in self.by_post:
                    self.empty.pop(post, None)
            self.missed.popleft()
        self._give_way(now)
        if longest_wait <= 0:
            return
        self._collect(now, longest_wait)
        present = set()
        for member in members:
            present.add(member)
            if not member.down:
                self._join_in_order(member, now, longest_wait, waiting)
        for post in [post for post in self.by_post if post[0] not in present or post[0].down]:
            self._vacate(post, now)
        for post in [post for post in self.tickets.posts() if post[0] not in present or post[0].down]:
            self.tickets.leave(post)
        for waiter in list(self.by_post.values()):
            self._go_on(waiter, now, longest_wait)

    def _join_in_order(self, member: Member, now: float, longest_wait: float, waiting: int) -> None:
        for number in range(len(self._order.groups)):
            post = member, number
            if post not in self.by_post:
                not_before = self._not_before.get(post, 0.0)
                if not_before > now:
                    self._wake_at = min(self._wake_at, not_before)
                else:
                    self._join(post, now, longest_wait, waiting)
            if self._order.is_strict and not (post in self.by_post and post in self.empty):
                # What comes after it is asked when it has said that it has no job.
                return

    def _go_on(self, waiter: ServerWaiter, now: float, longest_wait: float) -> None:
        connection, pool = waiter.connection, waiter.member.pool
        # What was closed by somebody else is asked, too, and lost: the poller may say nothing of it.
        if not connection.waiting or connection.channel_state is ChannelState.CLOSED:
            if pool.pruning.keeps_nothing and not connection.closed:
                # The process that it leads to has no job; another connection may lead to another process.
                self._renew(waiter.post, now, longest_wait)
                return
            self.tickets.leave(waiter.post)
            if connection.closed or waiter.member.reservations.may_wait():
                self._ask(waiter, now, longest_wait)
            else:
                self._pause(waiter, now)
        elif connection.instance and connection.generation < waiter.member.health.generation:
            # It should be dead, for another process answers there. If it is not, there are two.
            self._renew(waiter.post, now, longest_wait)

    def _renew(self, post: Post, now: float, longest_wait: float) -> None:
        self._vacate(post, now)
        self._join(post, now, longest_wait, 1)

    # Where connections are short.

    def _give_way(self, now: float) -> None:
        """End the reserves whose connections are needed more. A reserve that only asks ends soon, and is left alone."""
        while self.evictions:
            post = self.evictions.popleft()
            member = post[0]
            waiter = self.by_post.get(post)
            if not member.pool.queue.contended:
                if waiter is not None and waiter.connection.waiting and waiter.ends_at > now:
                    waiter.connection.evict = functools.partial(self._evict, post)
            elif waiter is None or not waiter.connection.waiting:
                # It has brought a job meanwhile: then another one is ended.
                member.reservations.evict()
            else:
                self._cut_off.add(post)
                self._vacate(post, now)

    def _pause(self, waiter: ServerWaiter, now: float) -> None:
        """Leave the connection to others, and the server alone for a while: it has said that it has no job."""
        post = waiter.post
        del self.by_post[post]
        self._disarm(waiter)
        pause = self.empty[post] = min(_LONGEST_PAUSE, 2 * self.empty.get(post, 0.0) or _REJOIN_AFTER)
        self._not_before[post] = now + pause
        self._wake_at = min(self._wake_at, now + pause)
        waiter.member.pool.checkin(waiter.connection)

    def _queue_up(self, post: Post, now: float, waiting: int) -> None:
        """Queue for a connection, behind all others who want one.

        For a server that may have jobs, each thread that waits has its place, and reserves that wait for others give
        way at once. One that is known to have none is asked again in its turn.
        """
        member = post[0]
        empty = post in self.empty
        if self.tickets.queue_up(post, 1 if empty else waiting):
            self._changed = True
            self._wake_at = now
            return
        if not empty:
            member.starved()
        # Who was to give way may have got a job instead, and the next turn comes in any case.
        retry = member.reservations.evict(_LEAST_TURN if empty else 0.0, for_jobs=True)
        self._wake_at = min(self._wake_at, now + min(retry, _LONGEST_PAUSE if empty else _LEAST_TURN))

    def _collect(self, now: float, longest_wait: float) -> None:
        """Ask with the connections that have come."""
        for post, connection in self.tickets.collect():
            if isinstance(connection, BeanpoolError):
                self._not_before[post] = now + _REJOIN_AFTER
            else:
                self._begin(post, connection, now, longest_wait, asks=post[0].pool.queue.contended)

    def _settle_in(self, post: Post, connection: PooledConnection) -> None:
        if post in self.by_post:
            # Somebody else waits there already: one is enough.
            self._cancel(post[0], connection)
            return
        waiter = self.by_post[post] = ServerWaiter(post, connection)
        if not connection.waiting:
            # It was asked, and has answered.
            self.empty.setdefault(post, 0.0)
            self.answered.append(waiter)
        else:
            waiter.asked(time.monotonic())
            waiter.ends_at = connection.give_up_at
            try:
                self._arm(waiter)
            except BeanpoolError as error:
                self._lose(waiter, error)

    def _join(self, post: Post, now: float, longest_wait: float, waiting: int) -> None:
        try:
            connection = None
            if post not in self.tickets:
                connection = post[0].pool.try_acquire(self._order.groups[post[1]])
            if connection is None:
                self._queue_up(post, now, waiting)
        except BeanpoolError:
            self._not_before[post] = now + _REJOIN_AFTER
            self._wake_at = min(self._wake_at, now + _REJOIN_AFTER)
            return
        if connection is not None:
            asks = self._order.is_strict or post in self._cut_off
            self._begin(post, connection, now, longest_wait, asks=asks)

    def _begin(self, post: Post, connection: PooledConnection, now: float, longest_wait: float, *, asks: bool) -> None:
        """Ask with a connection that was checked out; with one that is there already, it is one beside it.

        :param asks: whether only to ask, and not to wait: nobody may cut that short.
        """
        if self._order.is_strict:
            # Until it has said so anew.
            self.empty.pop(post, None)
        waiter = ServerWaiter(post, connection, beside=post in self.by_post)
        if waiter.beside:
            self._beside.append(waiter)
        else:
            self.by_post[post] = waiter
        try:
            if connection.channel_state is None:
                connection.begin_connecting()
        except BeanpoolError as error:
            self._lose(waiter, error)
            return
        self._ask(waiter, now, 0.0 if asks or waiter.beside else longest_wait)

    def _ask(self, waiter: ServerWaiter, now: float, longest_wait: float) -> None:
        """Have the server asked for a job, and wait for one; with a `longest_wait` of 0 it does not wait."""
        longest = _SHARED_SLICE if waiter.member.pool.pruning.keeps_nothing else RESERVE_SLICE
        seconds = max(1, min(longest, math.ceil(min(longest_wait, longest)))) if longest_wait > 0 else 0
        waiter.asked(now + seconds)
        connection = waiter.connection
        try:
            connection.begin_reserve(self._order.groups[waiter.post[1]], seconds)
            if seconds:
                connection.waits_since = now
                connection.evict = functools.partial(self._evict, waiter.post)
            if waiter.connection.connecting:
                waiter.connection.step()
            self._arm(waiter)
        except BeanpoolError as error:
            self._lose(waiter, error)

    def poll(self, deadline: float) -> None:
        """Wait until something happens, or until `deadline`; the jobs that came in are in :attr:`deliveries`."""
        now = time.monotonic()
        until = min(deadline, self._wake_at, self.choice.look_at if self.deliveries else math.inf)
        if self.ends_by(deadline + LAST_MOMENT):
            until += LAST_MOMENT
        for waiter in (*self.by_post.values(), *self._beside):
            until = min(until, waiter.connection.give_up_at)
            if not waiter.connection.connecting:
                until = min(until, waiter.doubted_at if waiter.returns < 0 else now + _LOOK_AGAIN)
        before = len(self.deliveries)
        self._poll(None if until == math.inf else max(0.0, until - now))
        if len(self.deliveries) > before:
            return
        now = time.monotonic()
        for waiter in (*self.by_post.values(), *self._beside):
            if waiter.connection.waiting and waiter.connection.give_up_at <= now:
                if waiter.connection.connecting:
                    self._step(waiter)
                else:
                    self._lose(waiter, waiter.connection.late())
            elif waiter.connection.waiting and waiter.doubted_at <= now and not waiter.connection.connecting:
                self._doubt(waiter)

    def _doubt(self, waiter: ServerWaiter) -> None:
        """Look for evidence on other connections: where a reply is late, the server is slow, or this one forgotten."""
        member = waiter.member
        if waiter.returns < 0:
            waiter.returns = member.pool.returns
            member.doubt()
        elif member.pool.returns != waiter.returns:
            # What it has reserved by now, it gives to others when it learns of the end.
            self._remove(waiter)
            member.pool.discard(waiter.connection, "it went silent, while the server answers on others")

    def poll_now(self) -> None:
        """As :meth:`poll`, without waiting."""
        self._poll(0.0)

    def _poll(self, timeout: float | None) -> None:
        by_descriptor = self._by_descriptor
        for descriptor, _ in self._poller.wait(timeout):
            waiter = by_descriptor.get(descriptor)
            if waiter is not None:
                self._step(waiter)
            elif descriptor == self._wake_up.descriptor:
                self._changed = True
                self._wake_up.drain()
                self._poller.arm(descriptor, write=False)

    def _step(self, waiter: ServerWaiter) -> None:
        # From here until the job is with its caller every line is waited for, and is read from cold caches.
        try:
            reply = waiter.step()
            if reply is None:
                self._arm(waiter)
                return
            brought_job = reply.status == "RESERVED"
            if not brought_job and reply.status not in ("TIMED_OUT", "DEADLINE_SOON"):
                raise waiter.connection.refuse(RESERVE_WITH_TIMEOUT, reply)
        except BeanpoolError as error:
            self._lose(waiter, error)
            return
        member = waiter.member
        if not member.up:
            member.works(waiter.asked_at)
        waiter.connection.evict = None
        if brought_job:
            self.deliveries.append((member, waiter.connection, reply))
            del self._by_descriptor[waiter.descriptor]
            if waiter.beside:
                self._beside.remove(waiter)
            else:
                del self.by_post[waiter.post]
            self.empty.pop(waiter.post, None)
            self._changed = True
        else:
            self.heard[member] = time.monotonic()
            self._cut_off.discard(waiter.post)
            if waiter.post not in self.empty:
                self.empty[waiter.post] = 0.0
                # Where tubes have an order the next one may be asked now.
                self._changed |= self._order.is_strict
            if waiter.beside:
                self._remove(waiter)
                member.pool.checkin(waiter.connection)
            else:
                self.answered.append(waiter)

    def _lose(self, waiter: ServerWaiter, error: BeanpoolError) -> None:
        self._remove(waiter)
        self._not_before[waiter.post] = time.monotonic() + _REJOIN_AFTER
        if isinstance(error, CommandFailed):
            waiter.member.pool.discard(waiter.connection, str(error))
        else:
            waiter.member.pool.checkin(waiter.connection, broken=error)

    def _remove(self, waiter: ServerWaiter) -> None:
        self._disarm(waiter)
        if waiter.beside:
            self._beside.remove(waiter)
        else:
            self.by_post.pop(waiter.post, None)
        self._changed = True

    def _vacate(self, post: Post, now: float) -> None:
        waiter = self.by_post.pop(post, None)
        if waiter is not None:
            self._not_before[post] = now + _REJOIN_AFTER
            self._disarm(waiter)
            self._cancel(post[0], waiter.connection)

    def _cancel(self, member: Member, connection: PooledConnection) -> None:
        channel = member.pool.cancel_reserve(connection)
        if channel is not None:
            channel.close("its reserve was cancelled")

    def _arm(self, waiter: ServerWaiter) -> None:
        """Watch a connection until it is ready once."""
        descriptor = waiter.connection.live_descriptor()
        if descriptor != waiter.descriptor:
            self._disarm(waiter)
            waiter.descriptor = descriptor
        waiter.step = waiter.connection.next_step
        self._by_descriptor[descriptor] = waiter
        try:
            self._poller.arm(descriptor, write=waiter.connection.wants_write)
        except OSError as error:
            raise waiter.connection.closed_meanwhile() from error

    def _disarm(self, waiter: ServerWaiter) -> None:
        if self._by_descriptor.get(waiter.descriptor) is waiter:
            del self._by_descriptor[waiter.descriptor]
            self._poller.disarm(waiter.descriptor)
        waiter.descriptor = -1

    def discard_all(self, spared: Set[PooledConnection]) -> None:
        """Close everything: after an interrupt nobody knows what a connection waits for, or whether it holds a job.

        :param spared: connections that have brought a job to somebody who has it.
        """
        connections = [(waiter.member, waiter.connection) for waiter in (*self.by_post.values(), *self._beside)]
        connections += [(member, connection) for member, connection, _ in self.deliveries]
        for member, connection in connections:
            if connection not in spared:
                member.pool.discard(connection, "the thread that watched it was interrupted")
        self.by_post.clear()
        self._beside.clear()
        self.deliveries.clear()
        for member, connection in self._let_go():
            member.pool.discard(connection, "the thread that watched it was interrupted")

    def rest(self) -> None:
        """Nobody waits for the moment: keep nothing from others but the connections that wait."""
        for post in self.tickets.posts():
            self.tickets.leave(post)
        while self.adopted:
            for member, connection, number in taken(self.adopted[0]):
                self._settle_in((member, number), connection)
            self.adopted.popleft()
        answered, self.answered = self.answered, []
        for waiter in answered:
            if self.by_post.get(waiter.post) is waiter and not waiter.connection.waiting:
                self._remove(waiter)
                waiter.member.pool.checkin(waiter.connection)

    def end(self) -> list[tuple[Member, Channel | None]]:
        """Nobody waits any more: cancel what still waits, and give back what came in.

        :returns: the servers where something waited, each with the channel to be read to its end, if there is one.
        """
        while self.deliveries:
            member, connection, _ = self.deliveries.popleft()
            member.pool.discard(connection, "nobody came for its job")
        cancelled: list[tuple[Member, Channel | None]] = []
        for member, connection in self._let_go():
            waited = connection.waiting
            channel = member.pool.cancel_reserve(connection)
            if waited:
                cancelled.append((member, channel))
        return cancelled

    def _let_go(self) -> list[tuple[Member, PooledConnection]]:
        """Close the poller, and hand over the connections that wait."""
        self._wake_up.close()
        self._poller.close()
        for post in self.tickets.posts():
            self.tickets.leave(post)
        connections = [(waiter.member, waiter.connection) for waiter in (*self.by_post.values(), *self._beside)]
        self.by_post.clear()
        self._beside.clear()
        while self.adopted:
            connections += [(member, connection) for member, connection, _ in taken(self.adopted[0])]
            self.adopted.popleft()
        return connections


def _beyond(member: Member) -> float:
    """How much longer a connection to this server waits than to a near one when nobody does (seconds)."""
    usual = member.health.usual
    return min(LONGEST_BEYOND, _ROUND_TRIPS_TO_COME_BACK * usual) if usual >= _FAR else 0.0
