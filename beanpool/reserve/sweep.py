"""Asking one server after another for a job that is ready; far ones at once."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from beanpool.cluster import Topology
from beanpool.errors import BeanpoolError, CommandFailed, without_frames
from beanpool.net import wait_for_any
from beanpool.protocol import RESERVE_WITH_TIMEOUT, Reply
from beanpool.reserve.server_waiter import Begun, Delivery, Post
from beanpool.reserve.tube_order import TubeOrder
from beanpool.reserve.wait import Reaper, SharedWait
from beanpool.reserve.waker import Interruption, Waker
from beanpool.runtime import ReentrantEvent
from beanpool.server import Member, PooledConnection, Ticket

# How long a sweep looks at one server before it asks others, unless that is known to be farther away; the reply is
# picked up later (seconds).
_PATIENCE = 0.25
# How long a sweep asks one server after another; then those that are left are asked at once (seconds). Near servers are
# done by then. Of far ones, many must not take longer than one; what they bring too much goes back.
_ONE_BY_ONE = 0.02
# How often a call that waits for a reply sees whether it has to end early, or has a connection that it queues for
# (seconds).
_INTERRUPTED_WITHIN = 0.02
_monotonic = time.monotonic


class Sweeper:
    """Asks servers, one after another.

    :param topology: returns the current topology.
    :param reaper: closes what was cancelled.
    :param stop: ends all calls.
    """

    def __init__(self, topology: Callable[[], Topology], reaper: Reaper, stop: Waker) -> None:
        self._topology = topology
        self._reaper = reaper
        self._stop = stop
        self.stopped = False
        """Whether `stop` was set: without a call."""
        self.starts = itertools.count(random.randrange(1 << 30))
        """Where each sweep begins."""

    def run(
        self,
        shared: SharedWait,
        number: int,
        until: float,
        wait_for_all: bool,
        begun: Begun,
        errors: dict[str, BaseException],
        missed: list[Member],
        interruption: Interruption | None,
        spared: Collection[Member] = (),
        *,
        hears: bool = True,
    ) -> Delivery | None:
        """Ask one server after another; what was begun, who failed, and who could not be asked, is added to the three
        that are for that.

        :param number: for which group of tubes.
        :param interruption: what may end it early; None if only the end of all reserves may.
        :param spared: servers that are not asked.
        :param hears: whether a mere look gives those who are slow, or could not be asked, the rest of the time.
        """
        members = self._topology().rotation(next(self.starts)) if shared.is_for_all else shared.members()
        strict = shared.order.is_strict
        delivery: Delivery | None = None
        left: list[Member] = []
        started = now = _monotonic()
        for member in members:
            ref = shared.waiters_ref
            waiters = None if ref is None else ref()
            # Where a connection waits there is no job; a mere look wants to have heard so, and that somebody gets what
            # comes in.
            if waiters is not None:
                post = member, number
                known = post in waiters.by_post and (post in waiters.empty or not (wait_for_all or strict))
                if known and (not wait_for_all or shared.kept is None):
                    continue
            if (strict or wait_for_all) and (
                member in missed or any(one is member and c.waiting for one, c, _ in begun)
            ):
                # Nobody knows yet whether it has a job that comes before.
                continue
            if not (member.up or wait_for_all) or member in spared:
                continue
            if now - started > _ONE_BY_ONE:
                left.append(member)
                continue
            if self.stopped or (interruption is not None and interruption.came):
                return None
            until_next = min(until, now + _patience(member))
            delivery = self._ask((member, number), shared.order, until_next, begun, errors, missed, interruption)
            if delivery is not None:
                break
            asked_at, now = now, _monotonic()
            if now - asked_at >= member.patience:
                # It is dismissed without a word if another one has a job. It must not cost every sweep this time.
                member.doubt()
        if left and delivery is None and (wait_for_all or not shared.is_plain):
            # Else the wait, which comes next, asks them.
            delivery = self._ask_at_once(left, number, shared.order, until, begun, errors, missed, interruption)
        if (missed or begun) and wait_for_all and hears and delivery is None:
            some = interruption or Interruption(self._stop)
            delivery = self.hear_all(missed, number, shared.order, until, begun, errors, some)
        if begun and (delivery is not None or (wait_for_all and hears)):
            self.dismiss(begun)
        elif begun and wait_for_all:
            # What comes next may need these connections.
            self.dismiss_answered(begun)
        return delivery

    def _ask(
        self,
        post: Post,
        order: TubeOrder,
        until: float,
        begun: Begun,
        errors: dict[str, BaseException],
        missed: list[Member],
        interruption: Interruption | None,
        connection: PooledConnection | None = None,
    ) -> Delivery | None:
        """Ask one server, and wait for the reply until then (monotonic seconds)."""
        member, number = post
        pool, tubes = member.pool, order.groups[number]
        if connection is None:
            try:
                connection = pool.try_acquire(tubes)
            except BeanpoolError as error:
                # It was removed a moment ago: that is no end of the pool.
                errors[member.address] = without_frames(error)
                return None
            if connection is None:
                missed.append(member)
                return None
        try:
            if interruption is None:
                reply = connection.sweep(tubes, until)
            else:
                reply = connection.sweep(tubes, min(until, _monotonic() + _INTERRUPTED_WITHIN))
                while reply is None and not interruption.came and (now := _monotonic()) < until:
                    reply = connection.await_reply(min(until, now + _INTERRUPTED_WITHIN))
            if reply is not None and reply.status == "RESERVED":
                return member, connection, reply
            if reply is not None:
                _check_empty(member, connection, reply)
            begun.append((member, connection, number))
            return None
        except CommandFailed as error:
            errors[member.address] = without_frames(error)
            pool.checkin(connection)
            return None
        except BeanpoolError as error:
            errors[member.address] = without_frames(error)
            pool.checkin(connection, broken=error)
            return None
        except BaseException:
            pool.discard(connection, "the caller was interrupted")
            raise

    def _ask_at_once(
        self,
        members: Sequence[Member],
        number: int,
        order: TubeOrder,
        until: float,
        begun: Begun,
        errors: dict[str, BaseException],
        missed: list[Member],
        interruption: Interruption | None,
    ) -> Delivery | None:
        """Ask all of these at the same time, and wait for the replies as long as for one."""
        for member in members:
            delivery = self._ask((member, number), order, 0.0, begun, errors, missed, None)
            if delivery is not None:
                return delivery
        asked_at = _monotonic()
        until = min(until, asked_at + max(map(_patience, members)))
        some = interruption or Interruption(self._stop)
        while any(connection.waiting for _, connection, _ in begun) and not some.came:
            delivery = self._await_some(begun, until, errors)
            if delivery is not None:
                return delivery
            now = _monotonic()
            if now >= until:
                for member in [member for member, connection, _ in begun if connection.waiting]:
                    if now - asked_at >= member.patience:
                        member.doubt()
                break
        return None

    def hear_all(
        self,
        missed: list[Member],
        number: int,
        order: TubeOrder,
        until: float,
        begun: Begun,
        errors: dict[str, BaseException],
        interruption: Interruption,
    ) -> Delivery | None:
        """Give those who were slow to answer the rest of the time, and queue for connections to those that were missed.

        Both at once, and what is of no more use is given back at once: else two callers could wait for each other.
        Nobody queues where unfinished jobs hold all connections: nothing says that one of them will be finished soon.

        :param missed: the servers that could not be asked; those that are asked now are taken out.
        """
        come = _Come()
        queue: dict[Member, Ticket] = {}
        missed[:] = dict.fromkeys(missed)
        try:
            interruption.attach(come)
            self.dismiss_answered(begun)
            for member in missed:
                if not member.pool.full_of_jobs():
                    self._queue_up(member, come, queue, errors)
            while (queue or begun) and not interruption.came:
                come.event.clear()
                for member in [member for member, ticket in queue.items() if ticket.settled]:
                    connection = None
                    with _noting(errors, member):
                        connection = member.pool.collect(queue.pop(member))
                    if connection is None:
                        continue
                    missed.remove(member)
                    delivery = self._ask((member, number), order, 0.0, begun, errors, [], None, connection)
                    if delivery is not None:
                        return delivery
                now = _monotonic()
                if not begun:
                    # One that came before the event was cleared is not waited for.
                    if interruption.came or (queue and not come.event.wait(max(0.0, until - now))):
                        break
                    continue
                delivery = self._await_some(begun, min(until, now + _INTERRUPTED_WITHIN), errors)
                if delivery is not None:
                    return delivery
                self.dismiss_answered(begun)
                if _monotonic() >= until:
                    self._give_up(begun, errors)
                    break
        finally:
            interruption.detach(come)
            for member, ticket in queue.items():
                member.pool.queue.leave(ticket)
        return None

    def _queue_up(
        self, member: Member, come: _Come, queue: dict[Member, Ticket], errors: dict[str, BaseException]
    ) -> None:
        queue[member] = Ticket(come.tell)
        try:
            member.pool.queue_up(queue[member])
        except BeanpoolError as error:
            # It was removed a moment ago: there will be no connection.
            errors[member.address] = without_frames(error)
            del queue[member]
            return
        with _noting(errors, member):
            member.starved()
            member.reservations.evict(for_jobs=True)

    def _await_some(self, begun: Begun, until: float, errors: dict[str, BaseException]) -> Delivery | None:
        """Wait until one of them answers, or until then (monotonic seconds, at most the usual slice), and take that in.

        :returns: the first job.
        """
        waiting = [entry for entry in begun if entry[1].waiting]
        now = _monotonic()
        soon = min([until, now + _INTERRUPTED_WITHIN, *(connection.give_up_at for _, connection, _ in waiting)])
        ready = wait_for_any([(entry[1], entry) for entry in waiting], soon - now)
        now = _monotonic()
        # What was closed by another thread is not reported.
        for entry in [entry for entry in waiting if entry in ready or entry[1].closed or now >= entry[1].give_up_at]:
            delivery = self._pick_up(entry, begun, errors)
            if delivery is not None:
                return delivery
        return None

    def _pick_up(
        self, entry: tuple[Member, PooledConnection, int], begun: Begun, errors: dict[str, BaseException]
    ) -> Delivery | None:
        """Take in what has come on one connection; it stays in `begun` if that is no job and no error."""
        member, connection, _ = entry
        try:
            reply = connection.step()
            if reply is None:
                if not connection.connecting and _monotonic() >= connection.give_up_at:
                    raise connection.late()
                return None
            if reply.status != "RESERVED":
                _check_empty(member, connection, reply)
                return None
        except BeanpoolError as error:
            begun.remove(entry)
            errors[member.address] = without_frames(error)
            member.pool.checkin(connection, broken=None if isinstance(error, CommandFailed) else error)
            return None
        except BaseException:
            begun.remove(entry)
            member.pool.discard(connection, "the caller was interrupted")
            raise
        begun.remove(entry)
        return member, connection, reply

    def _give_up(self, begun: Begun, errors: dict[str, BaseException]) -> None:
        """The time is up for those that have not answered."""
        while begun:
            member, connection, _ = begun.pop()
            errors[member.address] = error = connection.late()
            member.pool.checkin(connection, broken=error)

    def dismiss_answered(self, begun: Begun) -> None:
        """Give back what is of no more use: those who queue for it may hold what is queued for here."""
        answered = [entry for entry in begun if not entry[1].waiting]
        for entry in answered:
            begun.remove(entry)
        self.dismiss(answered)

    def dismiss(self, begun: Begun) -> None:
        """Cancel the reserves that were begun: nobody waits for them."""
        cancelled = []
        while begun:
            member, connection, _ = begun.pop()
            channel = member.pool.cancel_reserve(connection)
            if channel is not None:
                cancelled.append(channel)
        if cancelled:
            self._reaper.close_half_closed(cancelled)


class _Come:
    """Tells a caller that a connection has come, or that it is to wait no longer."""

    def __init__(self) -> None:
        self.event = ReentrantEvent()

    def tell(self) -> bool:
        """A connection has come; returns that somebody is there."""
        self.event.set()
        return True

    def interrupt(self) -> None:
        """See :class:`Interruptible`."""
        self.event.set()


def _patience(member: Member) -> float:
    """How long a sweep waits for this server (seconds)."""
    return min(member.patience, max(_PATIENCE, member.reply_time))


def _check_empty(member: Member, connection: PooledConnection, reply: Reply) -> None:
    """The server has answered, but not with a job.

    :raises BeanpoolError: if it has not said that there is none.
    """
    if reply.status not in ("TIMED_OUT", "DEADLINE_SOON"):
        raise connection.refuse(RESERVE_WITH_TIMEOUT, reply)
    member.works(connection.asked_at)


@contextlib.contextmanager
def _noting(errors: dict[str, BaseException], member: Member) -> Iterator[None]:
    """Let the block end with an error of that server, which may have been removed, without more ado."""
    try:
        yield
    except BeanpoolError as error:
        errors[member.address] = without_frames(error)
