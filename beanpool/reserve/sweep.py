"""Asking one server after another for a job that is ready."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Collection, Iterator

from beanpool.cluster import Topology
from beanpool.errors import BeanpoolError, CommandFailed
from beanpool.protocol import RESERVE_WITH_TIMEOUT
from beanpool.reserve.server_waiter import Begun, Delivery, Post
from beanpool.reserve.tube_order import TubeOrder
from beanpool.reserve.wait import Reaper, SharedWait
from beanpool.reserve.waker import Interruption, Waker
from beanpool.runtime import ReentrantEvent
from beanpool.server import Member, PooledConnection, Ticket

# How long a sweep looks at one server before it asks the next one; the reply is picked up later (seconds).
_PATIENCE = 0.25
# The same where the call may have to end early, and how often a call that waits for a reply sees whether it has to
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
    ) -> Delivery | None:
        """Ask one server after another; what was begun, who failed, and who could not be asked, is added to the three
        that are for that.

        :param number: for which group of tubes.
        :param interruption: what may end it early; None if only the end of all reserves may.
        :param spared: servers that are not asked.
        """
        patience = _PATIENCE if interruption is None else _INTERRUPTED_WITHIN
        members = self._topology().rotation(next(self.starts)) if shared.is_for_all else shared.members()
        strict = shared.order.is_strict
        delivery: Delivery | None = None
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
            if strict and (member in missed or any(one is member and c.waiting for one, c, _ in begun)):
                # Nobody knows yet whether it has a job that comes before.
                continue
            if not (member.up or wait_for_all) or member in spared:
                continue
            if self.stopped or (interruption is not None and interruption.came):
                return None
            now = _monotonic()
            delivery = self._ask((member, number), shared.order, min(until, now + patience), begun, errors, missed)
            if delivery is not None:
                break
            if _monotonic() - now >= _PATIENCE >= member.patience:
                # It is dismissed without a word if another one has a job. It must not cost every sweep this time.
                member.doubt()
        if missed and wait_for_all and delivery is None:
            some = interruption or Interruption(self._stop)
            delivery = self.ask_in_turn(missed, number, shared.order, until, begun, errors, some)
        if begun and wait_for_all and delivery is None:
            delivery = self._collect(begun, until, interruption or Interruption(self._stop))
        if begun and (delivery is not None or wait_for_all):
            self.dismiss(begun)
        return delivery

    def _ask(
        self,
        post: Post,
        order: TubeOrder,
        until: float,
        begun: Begun,
        errors: dict[str, BaseException],
        missed: list[Member],
        connection: PooledConnection | None = None,
    ) -> Delivery | None:
        member, number = post
        pool, tubes = member.pool, order.groups[number]
        if connection is None:
            try:
                connection = pool.try_acquire(tubes)
            except BeanpoolError as error:
                # It was removed a moment ago: that is no end of the pool.
                errors[member.address] = error
                return None
            if connection is None:
                missed.append(member)
                return None
        try:
            reply = connection.sweep(tubes, until)
            if reply is not None and reply.status == "RESERVED":
                return member, connection, reply
            if reply is None or reply.status in ("TIMED_OUT", "DEADLINE_SOON"):
                begun.append((member, connection, number))
                if reply is not None:
                    member.works()
                return None
            raise connection.refuse(RESERVE_WITH_TIMEOUT, reply)
        except CommandFailed as error:
            errors[member.address] = error
            pool.checkin(connection)
            return None
        except BeanpoolError as error:
            errors[member.address] = error
            pool.checkin(connection, broken=error)
            return None
        except BaseException:
            pool.discard(connection, "the caller was interrupted")
            raise

    def ask_in_turn(
        self,
        missed: list[Member],
        number: int,
        order: TubeOrder,
        until: float,
        begun: Begun,
        errors: dict[str, BaseException],
        interruption: Interruption,
    ) -> Delivery | None:
        """Queue for connections to these servers, and ask each with the one that comes.

        Not where unfinished jobs hold all: nothing says that one of them will be finished soon.

        :param missed: the servers; those that were asked are taken out.
        """
        come = _Come()
        queue: dict[Member, Ticket] = {}
        try:
            interruption.attach(come)
            self._dismiss_answered(begun)
            for member in missed:
                if member.pool.full_of_jobs():
                    continue
                queue[member] = Ticket(come.tell)
                try:
                    member.pool.queue_up(queue[member])
                except BeanpoolError as error:
                    # It was removed a moment ago: there will be no connection.
                    errors[member.address] = error
                    del queue[member]
                    continue
                with _noting(errors, member):
                    member.starved()
                    member.reservations.evict(for_jobs=True)
            while queue and not interruption.came:
                come.event.clear()
                for member in [member for member, ticket in queue.items() if ticket.settled]:
                    connection = None
                    with _noting(errors, member):
                        connection = member.pool.collect(queue.pop(member))
                    if connection is None:
                        continue
                    missed.remove(member)
                    patience = min(until, _monotonic() + _PATIENCE)
                    delivery = self._ask((member, number), order, patience, begun, errors, [], connection)
                    if delivery is not None:
                        return delivery
                    self._dismiss_answered(begun)
                if interruption.came or (queue and not come.event.wait(max(0.0, until - _monotonic()))):
                    break
        finally:
            interruption.detach(come)
            for member, ticket in queue.items():
                member.pool.queue.leave(ticket)
        return None

    def _collect(self, begun: Begun, until: float, interruption: Interruption) -> Delivery | None:
        """Give those who were slow to answer the rest of the time."""
        for entry in list(begun):
            member, connection, _ = entry
            if not connection.waiting:
                continue
            begun.remove(entry)
            try:
                reply = None
                while reply is None:
                    now = _monotonic()
                    if now >= until:
                        raise connection.late()
                    if interruption.came:
                        begun.append(entry)
                        return None
                    reply = connection.await_reply(min(until, now + _INTERRUPTED_WITHIN))
            except BeanpoolError as error:
                member.pool.checkin(connection, broken=error)
                continue
            except BaseException:
                member.pool.discard(connection, "the caller was interrupted")
                raise
            if reply.status == "RESERVED":
                return member, connection, reply
            member.pool.checkin(connection)
        return None

    def _dismiss_answered(self, begun: Begun) -> None:
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


@contextlib.contextmanager
def _noting(errors: dict[str, BaseException], member: Member) -> Iterator[None]:
    """Let the block end with an error of that server, which may have been removed, without more ado."""
    try:
        yield
    except BeanpoolError as error:
        errors[member.address] = error
