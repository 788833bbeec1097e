"""A reserve over all servers: a sweep over those that may have a job, then one wait on all of them."""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from beanpool.cluster import BackgroundExecutor, Topology
from beanpool.connection import Job, reserved_job
from beanpool.errors import BeanpoolError, CommandFailed, JobLost, PoolClosed, job_lost, no_server
from beanpool.protocol import RESERVE_JOB, RESERVE_WITH_TIMEOUT, encode_job
from beanpool.reserve.batch import Take
from beanpool.reserve.wait import GRACE, Janitor, Retired, SharedWait
from beanpool.reserve.waiters import Begun, Catch, Watch
from beanpool.reserve.waker import Interruption, Waker
from beanpool.runtime import Lock, ReentrantEvent
from beanpool.server import Member, PooledConnection, Ticket, why_another
from beanpool.telemetry import Observers

# How long a sweep looks at one server before it asks the next one; the reply is picked up later (seconds).
_PATIENCE = 0.25
# The same where the call may have to end early, and how often a call that waits for a reply sees whether it has to
# (seconds).
_INTERRUPTED_WITHIN = 0.02
_KEPT_WAITS = 256
_monotonic = time.monotonic


class Reserver:
    """Reserves jobs from all servers of a cluster.

    :param topology: returns the current topology.
    :param janitor: closes what was cancelled.
    :param background: does what callers should not wait for.
    :param observers: are told of the jobs that were reserved.
    """

    def __init__(
        self,
        topology: Callable[[], Topology],
        timeout: float,
        janitor: Janitor,
        background: BackgroundExecutor,
        observers: Observers,
    ) -> None:
        self._observers = observers
        self._topology = topology
        self._timeout = timeout
        self._janitor = janitor
        self._background = background
        self._starts = itertools.count(random.randrange(1 << 30))
        self._waits: dict[tuple[str, ...], SharedWait] = {}
        self._lock = Lock()
        self._closed = False
        # What ends all reserves, and whether it was set: without a call.
        self._stop = Waker()
        self._stopped = False

    def reserve(self, tubes: tuple[str, ...], timeout: float | None, waker: Waker | None = None) -> Job[Any] | None:
        """Reserve a job of `tubes`, from whichever server has one.

        :param timeout: how long to wait (seconds); None for ever.
        :param waker: ends the call early.
        :raises NoServerAvailable: if no server could be asked until then.
        """
        if self._stopped or (waker is not None and waker.is_set()):
            return None
        interruption = None if waker is None else Interruption(self._stop, waker)
        began = _monotonic() if self._observers.active else None
        shared, deadline, until = self._begin(tubes, timeout)
        begun: Begun = []
        errors: dict[str, BaseException] = {}
        missed: list[Member] = []
        try:
            kept = None if shared.watch_ref is None else shared.kept
            if kept is None:
                catch = self._sweep(tubes, shared, until, timeout == 0, begun, errors, missed, interruption)
            else:
                catch = self._resume(kept, tubes, shared, until, timeout == 0, begun, errors, missed, interruption)
            while catch is None and timeout != 0:
                if interruption is None:
                    interruption = Interruption(self._stop)
                try:
                    catch = shared.wait(deadline, begun, missed, interruption)
                    break
                except Retired:
                    shared = self._shared_wait(tubes)
        except BaseException:
            self._dismiss(begun)
            raise
        if self._stopped:
            self._give_back(catch, begun)
            return None
        if catch is not None:
            job = self._job(tubes, catch)
            if began is not None:
                self._observers.reserved(job.server, job.tube, 1, _monotonic() - began)
            return job
        if interruption is not None and interruption.came:
            self._dismiss(begun)
            return None
        self._refuse_silence(errors, missed, timeout == 0)
        return None

    def _give_back(self, catch: Catch | None, begun: Begun) -> None:
        """Nobody may have a job any more, neither this one nor what may still come."""
        if catch is not None:
            member, connection, _ = catch
            member.pool.discard(connection, "its job came when nobody was to have one any more")
        self._dismiss(begun)

    def reserve_many(
        self, tubes: tuple[str, ...], limit: int, timeout: float | None, waker: Waker | None = None
    ) -> list[Job[Any]]:
        """Reserve up to `limit` jobs: what is ready, else what is once the first one has come.

        :param timeout: how long to wait for the first one (seconds); None for ever.
        :param waker: ends the call early: what is in hand then is returned.
        :raises NoServerAvailable: if no server could be asked until then.
        """
        if self._stopped or (waker is not None and waker.is_set()):
            return []
        interruption = Interruption(self._stop) if waker is None else Interruption(self._stop, waker)
        began = _monotonic() if self._observers.active else None
        shared, deadline, until = self._begin(tubes, timeout)
        thorough = timeout == 0
        take = Take(tubes, limit, self._timeout, interruption)
        begun: Begun = []
        kept = shared.kept
        try:
            if kept is not None:
                take.add(shared.held(limit))
            members = self._topology().rotation(next(self._starts))
            asked = [
                member
                for member in members
                if (member.up or thorough)
                and ((thorough and kept is not None) or not shared.waits_on(member, for_sure=thorough))
            ]
            take.run(asked, min(until, time.monotonic() + self._timeout), thorough)
            take.hand_over(begun)
            take.sort_out()
            if take.empty and thorough:
                late = self._ask_in_turn(take.missed, tubes, until, begun, take.errors, interruption)
                if late is not None:
                    take.add([late])
                    take.run((), until, True)
                    take.sort_out()
            if take.empty and thorough and kept is not None:
                take.add(shared.held(limit))
            while take.empty and not thorough and not interruption.came:
                catches = self._wait_many(shared, deadline, begun, take.missed, interruption, limit)
                if not catches:
                    break
                take.add(catches)
                take.run((), min(deadline, time.monotonic() + self._timeout), True)
                take.sort_out()
            self._dismiss(begun)
            if self._stopped:
                take.scrap("its jobs came when nobody was to have one any more")
                return []
            jobs = take.jobs()
        except BaseException:
            take.scrap("the caller was interrupted")
            self._dismiss(begun)
            raise
        if not jobs and interruption.came:
            return []
        if not jobs:
            self._refuse_silence(take.errors, take.missed, thorough)
        elif began is not None:
            waited = _monotonic() - began
            for server, count in collections.Counter(job.server for job in jobs).items():
                self._observers.reserved(server, jobs[0].tube, count, waited)
        return jobs

    def _wait_many(
        self,
        shared: SharedWait,
        deadline: float,
        begun: Begun,
        missed: list[Member],
        interruption: Interruption,
        limit: int,
    ) -> list[Catch]:
        while True:
            try:
                return shared.wait_many(deadline, begun, missed, interruption, limit)
            except Retired:
                shared = self._shared_wait(shared.tubes)

    def _begin(self, tubes: tuple[str, ...], timeout: float | None) -> tuple[SharedWait, float, float]:
        """Returns the wait of those who wait for the same, until when to wait, and until when to look without that."""
        shared = self._waits.get(tubes) or self._shared_wait(tubes)
        if timeout is not None and timeout < GRACE and len(self._waits) > 1:
            # A job of theirs may have come in for nobody. Who has more time gets it after the grace.
            for other in list(self._waits.values()):
                if other is not shared and other.watch_ref is not None and not set(tubes).isdisjoint(other.tubes):
                    other.end()
        now = _monotonic()
        deadline = math.inf if timeout is None else now + timeout
        # With no time to wait, the sweep itself has as long as any command.
        return shared, deadline, deadline if timeout != 0 else now + self._timeout

    def _refuse_silence(self, errors: dict[str, BaseException], missed: Sequence[Member], thorough: bool) -> None:
        """Raise, instead of telling the caller that there is no job, when nobody could say so.

        :param missed: the servers to which all connections were in use, all the time.
        :param thorough: whether nothing but the errors tells whom we could not ask; else a wait has asked again.
        """
        if self._closed:
            raise PoolClosed("the pool is closed")
        members = self._topology().distinct
        usable = [member for member in members if member.up]
        # One that is up, and could not be asked, is so because of our own limits: a lack of descriptors, for one.
        if all(thorough and member.address in errors for member in usable):
            reasons = {member.address: errors.get(member.address) or member.unusable("not asked") for member in members}
            raise no_server(reasons, "could be asked for a job")
        # Where connections wait, or others have asked meanwhile, nothing is wrong.
        if all(member in missed or member.pool.full_of_jobs() for member in usable):
            raise usable[0].pool.queue.exhausted()

    def _resume(
        self,
        kept: Watch,
        tubes: tuple[str, ...],
        shared: SharedWait,
        until: float,
        thorough: bool,
        begun: Begun,
        errors: dict[str, BaseException],
        missed: list[Member],
        interruption: Interruption | None,
    ) -> Catch | None:
        """As :meth:`_sweep`, where connections wait in whose jobs nobody was interested for a moment."""
        if not thorough:
            unasked = [member for member in self._topology().distinct if member.up and member not in kept.stations]
            if len(unasked) <= 1:
                # To ask one server is what the wait does, too.
                missed += unasked
                return None
        for held in shared.held():
            return held
        catch = self._sweep(tubes, shared, until, thorough, begun, errors, missed, interruption)
        if catch is None and thorough:
            # A job may have been on its way to one of them when its server was asked over another connection.
            for held in shared.held():
                return held
        return catch

    def _sweep(
        self,
        tubes: tuple[str, ...],
        shared: SharedWait,
        until: float,
        thorough: bool,
        begun: Begun,
        errors: dict[str, BaseException],
        missed: list[Member],
        interruption: Interruption | None,
    ) -> Catch | None:
        """Ask one server after another; what was begun, who failed, and who could not be asked, is added to the three
        that are for that.

        :param interruption: what may end it early; None if only the end of all reserves may.
        """
        patience = _PATIENCE if interruption is None else _INTERRUPTED_WITHIN
        members = self._topology().rotation(next(self._starts))
        catch: Catch | None = None
        for member in members:
            ref = shared.watch_ref
            watch = None if ref is None else ref()
            # Where a connection waits there is no job; a mere look wants to have heard so, and that somebody gets what
            # comes in.
            if (
                watch is not None
                and member in watch.stations
                and (not thorough or (member in watch.empty and shared.kept is None))
            ):
                continue
            if not (member.up or thorough):
                continue
            if self._stopped or (interruption is not None and interruption.came):
                return None
            now = _monotonic()
            catch = self._ask(member, tubes, min(until, now + patience), begun, errors, missed)
            if catch is not None:
                break
            if _monotonic() - now >= _PATIENCE >= member.patience:
                # It is dismissed without a word if another one has a job. It must not cost every sweep this time.
                member.doubt()
        if missed and thorough and catch is None:
            catch = self._ask_in_turn(missed, tubes, until, begun, errors, interruption or Interruption(self._stop))
        if begun and thorough and catch is None:
            catch = self._collect(begun, until, interruption or Interruption(self._stop))
        if begun and (catch is not None or thorough):
            self._dismiss(begun)
        return catch

    def _ask(
        self,
        member: Member,
        tubes: tuple[str, ...],
        until: float,
        begun: Begun,
        errors: dict[str, BaseException],
        missed: list[Member],
        connection: PooledConnection | None = None,
    ) -> Catch | None:
        pool = member.pool
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
                begun.append((member, connection))
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

    def _ask_in_turn(
        self,
        missed: list[Member],
        tubes: tuple[str, ...],
        until: float,
        begun: Begun,
        errors: dict[str, BaseException],
        interruption: Interruption,
    ) -> Catch | None:
        """Queue for connections to these servers, and ask each with the one that comes.

        Not where unfinished jobs hold all: nothing says that one of them will be finished soon.

        :param missed: the servers; those that were asked are taken out.
        """
        come = _Come()
        queue: dict[Member, Ticket] = {}
        try:
            interruption.attach(come)
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
                    catch = self._ask(member, tubes, patience, begun, errors, [], connection)
                    if catch is not None:
                        return catch
                if interruption.came or (queue and not come.event.wait(max(0.0, until - _monotonic()))):
                    break
        finally:
            interruption.detach(come)
            for member, ticket in queue.items():
                member.pool.queue.leave(ticket)
        return None

    def _collect(self, begun: Begun, until: float, interruption: Interruption) -> Catch | None:
        """Give those who were slow to answer the rest of the time."""
        for entry in list(begun):
            member, connection = entry
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

    def _dismiss(self, begun: Begun) -> None:
        cancelled = []
        while begun:
            member, connection = begun.pop()
            channel = member.pool.cancel_reserve(connection)
            if channel is not None:
                cancelled.append(channel)
        if cancelled:
            self._janitor.linger(cancelled)

    def _job(self, tubes: tuple[str, ...], catch: Catch) -> Job[Any]:
        member, connection, reply = catch
        lease = member.reservations.lease(connection)
        tube = tubes[0] if len(tubes) == 1 else None
        job = reserved_job(connection, reply.number, reply.body, tube, member.recovery, lease, _monotonic())
        lease.hold(job)
        return job

    def reserve_job(self, member: Member, jid: int, instance: str | None, deadline: float) -> Job[Any]:
        """Reserve one job of one server.

        :raises NotFound: if there is none, or it is reserved.
        :raises JobLost: if the process `instance` is gone.
        """
        began = _monotonic() if self._observers.active else None
        connection = member.pool.acquire(deadline)
        try:
            reason = why_another(connection, instance) if instance is not None else None
            if reason is not None:
                raise job_lost(jid, member.address, reason)
            reply = connection.channel.exchange(RESERVE_JOB, encode_job(RESERVE_JOB, jid), deadline)
            if reply.status != "RESERVED":
                raise connection.refuse(RESERVE_JOB, reply, job=jid)
            if reply.number != jid:
                raise connection.violated(RESERVE_JOB, "another job")
        except (CommandFailed, JobLost):
            member.pool.checkin(connection)
            raise
        except BaseException as error:
            member.pool.checkin(connection, broken=error)
            raise
        job = self._job((), (member, connection, reply))
        if began is not None:
            self._observers.reserved(member.address, None, 1, _monotonic() - began)
        return job

    def at_home(self, member: Member, job: Job[Any] | None) -> Job[Any] | None:
        """A job that was looked at: its commands go through the pool, for its connection is back there."""
        if job is None:
            return None
        return Job(job.connection, job.number, job.data, tube=job.tube, recovery=member.recovery)

    def _shared_wait(self, tubes: tuple[str, ...]) -> SharedWait:
        retired: list[SharedWait] = []
        with self._lock:
            if self._closed:
                raise PoolClosed("the pool is closed")
            shared = self._waits.get(tubes)
            if shared is None:
                if len(self._waits) >= _KEPT_WAITS:
                    # Who has one of these in hand and comes to it later is sent back here.
                    retired = [wait for wait in self._waits.values() if wait.retire()]
                    self._waits = {wait.tubes: wait for wait in self._waits.values() if wait not in retired}
                shared = self._waits[tubes] = SharedWait(
                    tubes, members=lambda: self._topology().distinct, janitor=self._janitor, background=self._background
                )
        for wait in retired:
            wait.end()
        return shared

    # What concerns those who wait.

    def poke(self) -> None:
        """The servers have changed: let those who wait look at them anew."""
        for shared in list(self._waits.values()):
            shared.poke()

    def give_up(self, member: Member) -> None:
        """A caller needs a connection to this server, and one that waits there is in its way."""
        for shared in list(self._waits.values()):
            shared.give_up(member)
        member.reservations.evict()

    def stop(self) -> None:
        """Let every reserve that waits, and every other from now on, return without a job. Idempotent; takes no lock,
        for signal handlers.
        """
        self._stopped = True
        self._stop.set()

    def close(self) -> None:
        """Wake everybody who waits with :class:`PoolClosed`."""
        with self._lock:
            self._closed = True
            waits = list(self._waits.values())
        for shared in waits:
            shared.close()


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
