"""Taking what is ready from all servers at once, and never more than was asked for.

Each server is first asked for one job; one that has it is asked for its whole share, in few round trips. What a
server does not have is left to those that gave all of theirs. A job that could be reserved is always accounted for:
asked for, or in hand, so no server ever reserves a job that the caller does not get.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Iterable

from beanpool.errors import BeanpoolError, CommandFailed, ConnectionFailed, Phase, PoolClosed
from beanpool.job import Job
from beanpool.lease import Lease
from beanpool.member import Member
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.commands import RESERVE_WITH_TIMEOUT, encode_reserve_with_timeout
from beanpool.protocol.replies import Reply
from beanpool.readiness import wait_for_any
from beanpool.shares import shares
from beanpool.watch import Begun, Catch

MOST_JOBS = 100_000
"""The most jobs that one call may ask for: all of them are reserved, and held in memory, at the same time."""

_REQUEST = encode_reserve_with_timeout(0)
# How many requests may be on their way to one server. A server that runs dry answers all of them in vain.
_WINDOW = 256
# How long a server may be silent while others have given jobs, which are worth more now than later (seconds).
_PATIENCE = 1.0
# How long it may be silent while nobody has, before the wait on all servers takes over (seconds).
_PATIENCE_FOR_NOTHING = 0.25
# A server whose time ends a little after the call's own is late, too (seconds).
_CLOSE_ENOUGH = 0.01


class _Lane:
    """One connection that takes jobs from one server."""

    __slots__ = ("connection", "dry", "due", "found", "member", "probe", "progress_at", "share")

    def __init__(self, member: Member, connection: PooledConnection) -> None:
        self.member = member
        self.connection = connection
        self.share = 0
        """How many more jobs it may ask for."""
        self.due = 0
        """How many replies are due."""
        self.found: list[tuple[int, bytes]] = []
        self.dry = False
        self.probe: bool | None = None
        """Whether its first request, which sees to everything else, is under way; None before it is sent."""
        self.progress_at = 0.0

    @property
    def rests(self) -> bool:
        """Whether it gave all that it was asked for, and may have more."""
        return not (self.dry or self.share or self.due)


class Take:
    """One call of ``reserve_many``: what it may still ask for, and what it has in hand.

    :param limit: how many jobs to take at most.
    :param timeout: the longest that a server may be silent (seconds).
    """

    def __init__(self, tubes: tuple[str, ...], limit: int, timeout: float) -> None:
        self._tubes = tubes
        self._timeout = timeout
        self._spare = limit
        self._lanes: list[_Lane] = []
        self._unasked: collections.deque[Member] = collections.deque()
        self.errors: dict[str, BaseException] = {}
        """Why servers could not be asked, by address."""

    @property
    def empty(self) -> bool:
        """Whether it has no job in hand."""
        return not any(lane.found for lane in self._lanes)

    def add(self, catches: Iterable[Catch]) -> None:
        """Take jobs in hand that came otherwise; :meth:`run` asks their servers for more."""
        for member, connection, reply in catches:
            lane = _Lane(member, connection)
            lane.found.append((reply.number, reply.body))
            lane.probe = False
            self._lanes.append(lane)
            self._spare -= 1

    def run(self, members: Iterable[Member], until: float, thorough: bool) -> None:
        """Take what is ready on these servers, and on those that have given jobs before.

        :param until: when to end at the latest (monotonic seconds). A while before that nothing more is asked for, so
            that what was asked for can come in.
        :param thorough: whether all replies are waited for, also while no job is in hand; else silent servers are
            left over after a moment, for :meth:`hand_over`.
        """
        self._unasked.extend(members)
        started = time.monotonic()
        last_call = until - min(_PATIENCE, (until - started) / 4)
        while True:
            asked = time.monotonic() < last_call and self._share_out()
            for lane in list(self._lanes):
                self._ask(lane, until)
            due = [lane for lane in self._lanes if lane.due]
            if due:
                if not self._wait(due, until, thorough):
                    return
            elif not asked:
                return

    def _share_out(self) -> bool:
        """Give what is to spare to servers that were not asked yet, and to those that may have more."""
        takers: list[_Lane] = []
        while self._unasked and len(takers) < self._spare:
            member = self._unasked.popleft()
            try:
                connection = member.pool.acquire_now(self._tubes)
            except PoolClosed as error:
                # It was removed a moment ago, or the whole pool is being closed.
                self.errors[member.address] = error
                continue
            if connection is not None:
                lane = _Lane(member, connection)
                self._lanes.append(lane)
                takers.append(lane)
        takers += [lane for lane in self._lanes if lane.rests and lane.probe is not None]
        for lane, share in zip(takers, shares(self._spare, len(takers)), strict=True):
            lane.share = share
            self._spare -= share
        return any(lane.share for lane in takers)

    def _ask(self, lane: _Lane, until: float) -> None:
        if not lane.share or lane.probe or lane.due > _WINDOW // 2:
            return
        connection = lane.connection
        lane.progress_at = time.monotonic()
        try:
            if lane.probe is None:
                count = 1
                lane.probe = True
                if connection.channel_state is None:
                    connection.begin_dialing()
                connection.begin_reserve(self._tubes, 0)
                if connection.dialing:
                    connection.step()
            else:
                count = min(lane.share, _WINDOW - lane.due)
                connection.channel.post(RESERVE_WITH_TIMEOUT, _REQUEST * count, count)
        except BeanpoolError as error:
            self._lose(lane, error)
            return
        lane.share -= count
        lane.due += count

    def _wait(self, lanes: list[_Lane], until: float, thorough: bool) -> bool:
        """Wait for replies on any of these; false if those that are due are waited for no longer."""
        hopeful = thorough or not self.empty
        patience = min(self._timeout, _PATIENCE) if not self.empty else self._timeout
        give_up_at = until
        for lane in lanes:
            give_up_at = min(give_up_at, lane.progress_at + (patience if hopeful else _PATIENCE_FOR_NOTHING))
            if lane.connection.dialing:
                give_up_at = min(give_up_at, lane.connection.give_up_at)
        ready = wait_for_any([(lane.connection, lane) for lane in lanes], max(0.0, give_up_at - time.monotonic()))
        for lane in ready:
            self._receive(lane)
        now = time.monotonic()
        for lane in lanes:
            if lane.due and lane not in ready and now + _CLOSE_ENOUGH >= self._late_at(lane, patience):
                self._lose(lane, lane.connection.late())
        if thorough or not self.empty:
            return now < until
        silent = [lane for lane in lanes if lane.due]
        return now < until and (not silent or any(now < lane.progress_at + _PATIENCE_FOR_NOTHING for lane in silent))

    def _late_at(self, lane: _Lane, patience: float) -> float:
        return lane.connection.give_up_at if lane.connection.dialing else lane.progress_at + patience

    def _receive(self, lane: _Lane) -> None:
        connection = lane.connection
        lane.progress_at = time.monotonic()
        try:
            if lane.probe:
                reply = connection.step()
                if reply is None:
                    return
                lane.probe = False
                lane.member.works()
                self._note(lane, reply)
                return
            for found in connection.channel.collect_reserved():
                if isinstance(found, Reply):
                    self._note(lane, found)
                else:
                    lane.due -= len(found)
                    lane.found += found
        except BeanpoolError as error:
            self._lose(lane, error)

    def _note(self, lane: _Lane, reply: Reply) -> None:
        lane.due -= 1
        if reply.status == "RESERVED":
            lane.found.append((reply.number, reply.body))
            return
        if reply.status not in ("TIMED_OUT", "DEADLINE_SOON"):
            self.errors[lane.member.address] = lane.connection.refuse(RESERVE_WITH_TIMEOUT, reply)
        lane.dry = True
        self._spare += 1 + lane.share
        lane.share = 0

    def _lose(self, lane: _Lane, error: BeanpoolError) -> None:
        """The lane's connection is of no more use: what was reserved on it goes back to its server."""
        self._lanes.remove(lane)
        self.errors[lane.member.address] = error
        # Not what it was asked for: that may be reserved until the server sees that the connection is closed.
        self._spare += lane.share
        if isinstance(error, ConnectionFailed) and error.phase in (Phase.RESOLVING, Phase.CONNECTING):
            self._spare += lane.due
        if isinstance(error, CommandFailed):
            lane.member.pool.release(lane.connection)
        else:
            lane.member.pool.broke(lane.connection, error)

    # The end.

    def hand_over(self, begun: Begun) -> None:
        """Add the connections that hold no job to `begun`, for whoever takes care of them."""
        for lane in [lane for lane in self._lanes if not lane.found]:
            begun.append((lane.member, lane.connection))
            self._lanes.remove(lane)

    def jobs(self) -> list[Job]:
        """What was taken."""
        jobs: list[Job] = []
        tube = self._tubes[0] if len(self._tubes) == 1 else None
        for lane in list(self._lanes):
            pool, connection = lane.member.pool, lane.connection
            if lane.due or connection.closed:
                # It was to answer until now and did not; what it has not said yet would be nobody's.
                self._lanes.remove(lane)
                pool.discard(connection, "it did not answer in the time allowed")
                continue
            lease = Lease(pool, connection)
            home = lane.member.home
            taken = [Job.of(connection, jid, data, tube, home, lease) for jid, data in lane.found]
            lease.hold_all(taken)
            jobs += taken
        return jobs

    def scrap(self) -> None:
        """Close all connections: after an interrupt nobody has the jobs that are reserved on them."""
        for lane in self._lanes:
            lane.member.pool.discard(lane.connection, "the caller was interrupted")
