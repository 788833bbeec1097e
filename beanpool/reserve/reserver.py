"""A reserve over all servers: a sweep over those that may have a job, then one wait on all of them."""

from __future__ import annotations

import collections
import functools
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from beanpool.cluster import BackgroundExecutor, Topology
from beanpool.connection import Job, reserved_job
from beanpool.errors import CommandFailed, JobLost, PoolClosed, job_lost, no_server
from beanpool.protocol import RESERVE_JOB, encode_job
from beanpool.reserve.batch import Take
from beanpool.reserve.many_tubes import ManyTubes
from beanpool.reserve.server_waiter import Begun, Delivery
from beanpool.reserve.sweep import Sweeper
from beanpool.reserve.tube_order import Demand
from beanpool.reserve.wait import LONGEST_GRACE, Reaper, Retired, SharedWait
from beanpool.reserve.waiters import WaiterSet
from beanpool.reserve.waker import Interruption, Waker
from beanpool.runtime import Lock
from beanpool.server import Member, why_another
from beanpool.telemetry import Observers

_KEPT_WAITS = 256
_monotonic = time.monotonic


class Reserver:
    """Reserves jobs from all servers of a cluster.

    :param topology: returns the current topology.
    :param reaper: closes what was cancelled.
    :param background: does what callers should not wait for.
    :param observers: are told of the jobs that were reserved.
    """

    def __init__(
        self,
        topology: Callable[[], Topology],
        timeout: float,
        reaper: Reaper,
        background: BackgroundExecutor,
        observers: Observers,
    ) -> None:
        self._observers = observers
        self._topology = topology
        self._timeout = timeout
        self._reaper = reaper
        self._background = background
        self._waits: dict[tuple[str, ...] | Demand, SharedWait] = {}
        self._lock = Lock()
        self._closed = False
        # What ends all reserves, and whether it was set: without a call.
        self._stop = Waker()
        self._stopped = False
        self._sweeper = Sweeper(topology, reaper, self._stop)
        self._many_tubes = ManyTubes(self._sweeper, timeout)

    def reserve(
        self, demand: tuple[str, ...] | Demand, timeout: float | None, waker: Waker | None = None
    ) -> Job[Any] | None:
        """Reserve a job, from whichever server has one.

        :param demand: of which tubes, and in which order.
        :param timeout: how long to wait (seconds); None for ever.
        :param waker: ends the call early.
        :raises NoServerAvailable: if no server could be asked until then.
        """
        if self._stopped or (waker is not None and waker.is_set()):
            return None
        interruption = None if waker is None else Interruption(self._stop, waker)
        began = _monotonic() if self._observers.active else None
        shared, deadline, until = self._begin(demand, timeout)
        waited = shared
        begun: Begun = []
        errors: dict[str, BaseException] = {}
        missed: list[Member] = []
        try:
            kept = None if shared.waiters_ref is None else shared.kept
            if kept is None and shared.is_plain:
                delivery = self._sweeper.run(shared, 0, until, timeout == 0, begun, errors, missed, interruption)
            elif not shared.is_plain and shared.crowded:
                waited = self._shared_wait(shared.all_at_once)
                delivery = self._many_tubes.run(
                    shared, waited, until, timeout == 0, begun, errors, missed, interruption
                )
            elif kept is None or not self._need_not_sweep(kept, shared, missed, timeout == 0):
                delivery = self._in_order(shared, until, timeout == 0, begun, errors, missed, interruption)
            else:
                delivery = None
            while delivery is None and timeout != 0:
                if interruption is None:
                    interruption = Interruption(self._stop)
                try:
                    delivery = waited.wait(deadline, begun, missed, interruption)
                    break
                except Retired:
                    waited = self._shared_wait(waited.key)
        except BaseException:
            self._sweeper.dismiss(begun)
            raise
        if self._stopped:
            self._give_back(delivery, begun)
            return None
        if delivery is not None:
            watched = delivery[1].watched
            job = self._job(delivery, watched[0] if len(watched) == 1 else None)
            if waited is not shared and job.tube is None:
                self._many_tubes.name_tubes([job], shared)
            if began is not None:
                self._observers.reserved(job.server, job.tube, 1, _monotonic() - began)
            return job
        if interruption is not None and interruption.came:
            self._sweeper.dismiss(begun)
            return None
        self._refuse_silence(shared, errors, missed, timeout == 0)
        return None

    def _give_back(self, delivery: Delivery | None, begun: Begun) -> None:
        """Nobody may have a job any more, neither this one nor what may still come."""
        if delivery is not None:
            member, connection, _ = delivery
            member.pool.discard(connection, "its job came when nobody was to have one any more")
        self._sweeper.dismiss(begun)

    def reserve_many(
        self, demand: tuple[str, ...] | Demand, limit: int, timeout: float | None, waker: Waker | None = None
    ) -> list[Job[Any]]:
        """Reserve up to `limit` jobs: what is ready, else what is once the first one has come.

        :param demand: of which tubes, and in which order.
        :param timeout: how long to wait for the first one (seconds); None for ever.
        :param waker: ends the call early: what is in hand then is returned.
        :raises NoServerAvailable: if no server could be asked until then.
        """
        if self._stopped or (waker is not None and waker.is_set()):
            return []
        interruption = Interruption(self._stop) if waker is None else Interruption(self._stop, waker)
        began = _monotonic() if self._observers.active else None
        shared, deadline, until = self._begin(demand, timeout)
        wait_for_all = timeout == 0
        take = Take(shared.order, limit, self._timeout, interruption)
        begun: Begun = []
        waited = shared
        spared: set[Member] = set()
        try:
            if not shared.is_plain and shared.crowded:
                waited = self._shared_wait(shared.all_at_once)
                take.add(waited.held(take.free))
                spared = self._many_tubes.known_to_be_empty(waited, wait_for_all)
            ranking = shared.order.ranking()
            for hears in (False, True) if wait_for_all and len(ranking) > 1 else (True,):
                # What a mere look has to wait for comes last, as in _in_order.
                slow = self._take_in_order(
                    take, shared, waited, ranking, until, begun, interruption, spared, wait_for_all, hears
                )
                if not (take.empty and slow):
                    break
                spared = {member for member in shared.members() if member not in slow}
            while take.empty and not wait_for_all and not interruption.came:
                deliveries = self._wait_many(waited, deadline, begun, take.missed, interruption, limit)
                if not deliveries:
                    break
                take.add(deliveries)
                take.run((), min(deadline, time.monotonic() + self._timeout), True)
                take.sort_out()
            self._sweeper.dismiss(begun)
            if self._stopped:
                take.discard_all("its jobs came when nobody was to have one any more")
                return []
            jobs = take.jobs()
        except BaseException:
            take.discard_all("the caller was interrupted")
            self._sweeper.dismiss(begun)
            raise
        if waited is not shared:
            self._many_tubes.name_tubes(jobs, shared)
        if not jobs and interruption.came:
            return []
        if not jobs:
            self._refuse_silence(shared, take.errors, take.missed, wait_for_all)
            return []
        if jobs[-1].tube is not None:
            shared.order.served(shared.order.number((jobs[-1].tube,)))
        if began is not None:
            seconds = _monotonic() - began
            for (server, tube), count in collections.Counter((job.server, job.tube) for job in jobs).items():
                self._observers.reserved(server, tube, count, seconds)
        return jobs

    def _take_in_order(
        self,
        take: Take,
        shared: SharedWait,
        waited: SharedWait,
        ranking: Sequence[int],
        until: float,
        begun: Begun,
        interruption: Interruption,
        spared: Collection[Member],
        wait_for_all: bool,
        hears: bool,
    ) -> set[Member]:
        """Take what is ready of one group of tubes after the other; returns the servers that have not answered."""
        kept = shared.kept
        spared, slow = set(spared), set[Member]()
        for rank, number in enumerate(ranking, 1):
            among = ranking[:rank]
            if kept is not None:
                take.add(shared.held(take.free, among))
            self._take_of_group(take, shared, number, until, begun, interruption, spared, wait_for_all, hears)
            if waited is not shared:
                left = self._many_tubes.leave_slow_ones(begun)
                spared |= left
                slow |= left
                if _monotonic() >= until:
                    break
            if kept is not None and wait_for_all and take.free:
                take.add(shared.held(take.free, among))
            if not take.free or interruption.came or (wait_for_all and _monotonic() >= until):
                break
        return slow | _unheard(begun, take.missed)

    def _take_of_group(
        self,
        take: Take,
        shared: SharedWait,
        number: int,
        until: float,
        begun: Begun,
        interruption: Interruption,
        spared: Collection[Member],
        wait_for_all: bool,
        hears: bool,
    ) -> None:
        """Take what is ready of one group of tubes.

        :param hears: whether a mere look waits for those who are slow, or could not be asked.
        """
        kept = shared.kept
        members = self._topology().rotation(next(self._sweeper.starts)) if shared.is_for_all else shared.members()
        unheard = _unheard(begun, ()) if shared.order.is_strict or wait_for_all else ()
        asked = [
            (member, number)
            for member in members
            if (member.up or wait_for_all)
            and ((wait_for_all and kept is not None) or not shared.waits_on((member, number), for_sure=wait_for_all))
            # Where nobody knows yet whether there is a job that comes before, none is taken.
            and member not in unheard
            and member not in spared
        ]
        take.run(asked, min(until, time.monotonic() + self._timeout), wait_for_all and hears)
        take.hand_over(begun)
        take.sort_out()
        if wait_for_all and not hears:
            self._sweeper.dismiss_answered(begun)
        elif wait_for_all and take.empty:
            late = self._sweeper.hear_all(take.missed, number, shared.order, until, begun, take.errors, interruption)
            if late is not None:
                take.add([late])
                take.run((), until, True)
                take.sort_out()

    def _wait_many(
        self,
        shared: SharedWait,
        deadline: float,
        begun: Begun,
        missed: list[Member],
        interruption: Interruption,
        limit: int,
    ) -> list[Delivery]:
        while True:
            try:
                return shared.wait_many(deadline, begun, missed, interruption, limit)
            except Retired:
                shared = self._shared_wait(shared.key)

    def _begin(self, demand: tuple[str, ...] | Demand, timeout: float | None) -> tuple[SharedWait, float, float]:
        """Returns the wait of those who wait for the same, until when to wait, and until when to look without that."""
        shared = self._waits.get(demand) or self._shared_wait(demand)
        now = _monotonic()
        if timeout is not None and timeout < LONGEST_GRACE and len(self._waits) > 1:
            # A job of theirs may have come in for nobody. Who has more time gets it after the grace.
            for other in list(self._waits.values()):
                if (
                    other is not shared
                    and other.waiters_ref is not None
                    and other.lasts_until > now + timeout
                    and not set(shared.tubes).isdisjoint(other.tubes)
                ):
                    other.end()
        deadline = math.inf if timeout is None else now + timeout
        # With no time to wait, the sweep itself has as long as any command.
        return shared, deadline, deadline if timeout != 0 else now + self._timeout

    def _refuse_silence(
        self, shared: SharedWait, errors: dict[str, BaseException], missed: Sequence[Member], wait_for_all: bool
    ) -> None:
        """Raise, instead of telling the caller that there is no job, when nobody could say so.

        :param missed: the servers to which all connections were in use, all the time.
        :param wait_for_all: whether nothing but the errors tells whom we could not ask; else a wait has asked again.
        """
        if self._closed:
            raise PoolClosed("the pool is closed")
        members = shared.members()
        usable = [member for member in members if member.up]
        # One that is up, and could not be asked, is so because of our own limits: a lack of descriptors, for one.
        if all(wait_for_all and member.address in errors for member in usable):
            reasons = {member.address: errors.get(member.address) or member.unusable("not asked") for member in members}
            raise no_server(reasons, "could be asked for a job")
        # Where connections wait, or others have asked meanwhile, nothing is wrong.
        if all(member in missed or member.pool.full_of_jobs() for member in usable):
            raise usable[0].pool.queue.exhausted()

    def _need_not_sweep(self, kept: WaiterSet, shared: SharedWait, missed: list[Member], wait_for_all: bool) -> bool:
        """Whether the wait asks all that a sweep would ask: where connections wait, and one is missing at most.

        :param missed: what is missing is added.
        """
        if wait_for_all:
            return False
        numbers = range(len(shared.order.groups))
        up = [member for member in shared.members() if member.up]
        unasked = [member for member in up for number in numbers if (member, number) not in kept.by_post]
        if len(unasked) <= 1:
            missed += unasked
        return len(unasked) <= 1

    def _in_order(
        self,
        shared: SharedWait,
        until: float,
        wait_for_all: bool,
        begun: Begun,
        errors: dict[str, BaseException],
        missed: list[Member],
        interruption: Interruption | None,
    ) -> Delivery | None:
        """Sweep for one group of tubes after the other, where jobs may have come in for nobody, too.

        What a mere look has to wait for comes last: it must not keep it from the other groups of all other servers.
        """
        ranking = shared.order.ranking()
        spared: set[Member] = set()
        for hears in (False, True) if wait_for_all and len(ranking) > 1 else (True,):
            for rank, number in enumerate(ranking, 1):
                # What comes before was asked for now, so these may be given out.
                among = ranking[:rank]
                for held in shared.held(1, among):
                    return held
                delivery = self._sweeper.run(
                    shared, number, until, wait_for_all, begun, errors, missed, interruption, spared, hears=hears
                )
                if delivery is not None:
                    shared.order.served(number)
                    return delivery
                if wait_for_all:
                    # A job may have been on its way when its server was asked over another connection.
                    for held in shared.held(1, among):
                        return held
                    if _monotonic() >= until:
                        return None
            slow = _unheard(begun, missed)
            if not slow:
                break
            spared = {member for member in shared.members() if member not in slow}
        return None

    def _job(self, delivery: Delivery, tube: str | None) -> Job[Any]:
        member, connection, reply = delivery
        lease = member.reservations.lease(connection)
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
        job = self._job((member, connection, reply), None)
        if began is not None:
            self._observers.reserved(member.address, None, 1, _monotonic() - began)
        return job

    def at_home(self, member: Member, job: Job[Any] | None) -> Job[Any] | None:
        """A job that was looked at: its commands go through the pool, for its connection is back there."""
        if job is None:
            return None
        return Job(job.connection, job.number, job.data, tube=job.tube, recovery=member.recovery)

    def _shared_wait(self, demand: tuple[str, ...] | Demand) -> SharedWait:
        retired: list[SharedWait] = []
        with self._lock:
            if self._closed:
                raise PoolClosed("the pool is closed")
            shared = self._waits.get(demand)
            if shared is None:
                if len(self._waits) >= _KEPT_WAITS:
                    # Who has one of these in hand and comes to it later is sent back here.
                    retired = [wait for wait in self._waits.values() if wait.retire()]
                    self._waits = {wait.key: wait for wait in self._waits.values() if wait not in retired}
                shared = self._waits[demand] = SharedWait(
                    demand,
                    members=functools.partial(self._members, demand.server if isinstance(demand, Demand) else ""),
                    reaper=self._reaper,
                    background=self._background,
                )
        for wait in retired:
            wait.end()
        return shared

    def _members(self, server: str) -> tuple[Member, ...]:
        """All servers, or the one with this address, if it is still there."""
        distinct = self._topology().distinct
        return tuple(member for member in distinct if member.address == server) if server else distinct

    # What concerns those who wait.

    def wake(self) -> None:
        """The servers have changed: let those who wait look at them anew."""
        for shared in list(self._waits.values()):
            shared.wake()

    def give_up(self, member: Member) -> None:
        """A caller needs a connection to this server, and one that waits there is in its way."""
        for shared in list(self._waits.values()):
            shared.give_up(member)
        member.reservations.evict()

    def stop(self) -> None:
        """Let every reserve that waits, and every other from now on, return without a job. Idempotent; takes no lock,
        for signal handlers.
        """
        self._stopped = self._sweeper.stopped = True
        self._stop.set()

    def close(self) -> None:
        """Wake everybody who waits with :class:`PoolClosed`."""
        with self._lock:
            self._closed = True
            waits = list(self._waits.values())
        for shared in waits:
            shared.close()


def _unheard(begun: Begun, missed: Collection[Member]) -> set[Member]:
    """The servers that have not answered yet, or could not be asked."""
    return {*missed, *(member for member, connection, _ in begun if connection.waiting)}
