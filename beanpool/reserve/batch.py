"""Taking what is ready from all servers at once, and never more than was asked for.

Each server is first asked for one job; one that has it is asked for its whole share, in few round trips. What a
server does not have is left to those that gave all of theirs. A job that could be reserved is always accounted for:
asked for, or in hand, so no server reserves a job that the caller does not get. Only where there are fewer jobs to take
than servers, and those that were asked take their time, each of the others is asked for one as well: what is too much
goes back.
"""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

from beanpool.connection import Job, reserved_job
from beanpool.errors import BeanpoolError, CommandFailed, CommandTimeout, PoolClosed, without_frames
from beanpool.net import drive
from beanpool.policy import Lot, Pace, Quota
from beanpool.protocol import RESERVE_WITH_TIMEOUT, Reply, encode_reserve_with_timeout
from beanpool.reserve.server_waiter import Begun, Delivery, Post
from beanpool.reserve.tube_order import TubeOrder
from beanpool.reserve.waker import Interruption
from beanpool.server import Member, PooledConnection

MOST_JOBS = 100_000
"""The most jobs that one call may ask for: all of them are reserved, and held in memory, at the same time."""

_REQUEST = encode_reserve_with_timeout(0)
# How many requests may be on their way to one server. A server that runs dry answers all of them in vain.
_WINDOW = 256
# The same where a round trip takes so long (seconds) that it is what the time goes into.
_FAR_WINDOW = 4096
_FAR = 0.01
# With each command on a connection beanstalkd looks through all jobs that are reserved on it. From about here on that
# takes longer than the command itself, so more than these are taken over another connection.
_MOST_ON_ONE = 4096
# The share of a server's connections that one call may have for that.
_SHARE_OF_CONNECTIONS = 4
# How much may be on its way from one server, reckoned by the bodies that have come (bytes). Over a slow link that much
# takes its time, and nothing can call it off.
_BYTES = 1024 * 1024
# How long a server may be silent while others have given jobs, which are worth more now than later (seconds).
_PATIENCE = 1.0
# How long it may be silent while nobody has, before the wait on all servers takes over (seconds).
_PATIENCE_FOR_NOTHING = 0.25
# A connection that has given a reply just now is not looked at before its jobs are given out (seconds).
_TRUSTED_IDLE_SECONDS = 0.01
# A server whose time ends a little after the call's own is late, too (seconds).
_CLOSE_ENOUGH = 0.01
# How often to see whether the call is to end early, while servers let it wait (seconds).
_INTERRUPTED_WITHIN = 0.02
# How long some servers are not asked because so few jobs are wanted (seconds).
_IN_TURN = 0.02


class _Lane:
    """One connection that takes jobs from one server."""

    __slots__ = (
        "beyond",
        "connection",
        "found",
        "lot",
        "member",
        "number",
        "pace",
        "patience",
        "probe",
        "progress_at",
        "size",
    )

    def __init__(self, post: Post, connection: PooledConnection, lot: Lot) -> None:
        self.member, self.number = post
        self.connection = connection
        self.lot = lot
        self.beyond = False
        """Whether it was asked for one more than was wanted in all."""
        self.pace = Pace(self.member.health.round_trip)
        self.found: dict[int, bytes] = {}
        """The bodies of the jobs in hand, by id."""
        self.size = 0
        """How long all bodies are that have come (bytes)."""
        self.probe: bool | None = None
        """Whether its first request, which sees to everything else, is under way; None before it is sent."""
        self.progress_at = 0.0
        """When it began to connect, was connected, or gave a reply in full: part of one is no progress."""
        self.patience = 0.0
        """How long it may be without progress (seconds)."""

    def begin(self, now: float) -> None:
        """Requests go out, and none is under way; or what had to come before them is done."""
        self.progress_at = now
        self.pace.begin(now)

    def answered(self, bodies: Sequence[bytes]) -> None:
        """Replies with these bodies have come in."""
        size = sum(map(len, bodies))
        self.size += size
        self.progress_at = time.monotonic()
        self.pace.came(self.progress_at, len(bodies), size)

    @property
    def window(self) -> int:
        """How many replies may be due."""
        most = _FAR_WINDOW if _FAR <= self.pace.round_trip < math.inf else _WINDOW
        return min(most, max(2, _BYTES * len(self.found) // max(1, self.size)))

    @property
    def pending(self) -> bool:
        """Whether replies are due."""
        return self.lot.asked > 0

    @property
    def late_at(self) -> float:
        """When it will have been silent for too long, while replies are due (monotonic seconds)."""
        return self.connection.give_up_at if self.connection.connecting else self.progress_at + self.patience

    @property
    def stage(self) -> tuple[bool, int]:
        """How far the first request is."""
        channel = self.connection.opened_channel
        return self.connection.connecting, channel.due if channel is not None else 0


class Take:
    """One call of ``reserve_many``: what it may still ask for, and what it has in hand.

    :param limit: how many jobs to take at most.
    :param timeout: the longest that a server may be silent (seconds).
    :param interruption: what may end it early.
    """

    def __init__(self, order: TubeOrder, limit: int, timeout: float, interruption: Interruption) -> None:
        self._order = order
        self._timeout = timeout
        self._interruption = interruption
        self._quota = Quota(limit)
        self._lanes: list[_Lane] = []
        self._unasked: collections.deque[Post] = collections.deque()
        self.errors: dict[str, BaseException] = {}
        """Why servers could not be asked, by address."""
        self.missed: list[Member] = []
        """The servers to which all connections were in use."""

    @property
    def empty(self) -> bool:
        """Whether it has no job in hand."""
        return all(not lane.found for lane in self._lanes)

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Take jobs in hand that came otherwise; :meth:`run` asks their servers for more."""
        for member, connection, reply in deliveries:
            number = self._order.number(connection.watched)
            lane = _Lane((member, number), connection, self._quota.open(1))
            lane.probe = False
            self._lanes.append(lane)
            self._hold(lane, [(reply.number, reply.body)])

    @property
    def free(self) -> int:
        """How many more jobs it may have."""
        return self._quota.free

    def run(self, posts: Iterable[Post], until: float, wait_for_all: bool) -> None:
        """Take what is ready there, and where jobs came from before.

        :param until: when to end at the latest (monotonic seconds). Nothing is asked for that cannot be expected to
            come in by then.
        :param wait_for_all: whether all replies are waited for, also while no job is in hand; else silent servers are
            left over after a moment, for :meth:`hand_over`.
        """
        self._unasked.extend(posts)
        self._take(until, wait_for_all)
        for lane in [lane for lane in self._lanes if lane.beyond and lane.found][: self._quota.surplus]:
            self._forget(lane)
            lane.member.pool.discard(lane.connection, "others had given as many jobs as were wanted")

    def _take(self, until: float, wait_for_all: bool) -> None:
        started = time.monotonic()
        last_call = until - min(_PATIENCE, (until - started) / 4)
        while not self._interruption.came and self._quota.in_hand < self._quota.limit:
            allotted = self._share_out(last_call, started + _IN_TURN)
            for lane in list(self._lanes):
                self._ask(lane, until)
            due = [lane for lane in self._lanes if lane.lot.asked]
            if due:
                if not self._wait(due, until, wait_for_all):
                    return
            elif not allotted:
                return

    def _share_out(self, last_call: float, in_turn_until: float) -> bool:
        """Give what is to spare to servers that were not asked yet, and to those that may have more.

        :param in_turn_until: when to ask the others for one each, if all was given out before (monotonic seconds).
        """
        takers: list[_Lane] = []
        free = self._quota.free
        while self._unasked and len(takers) < free and time.monotonic() < last_call:
            lane = self._open_lane(self._unasked.popleft())
            if lane is not None:
                takers.append(lane)
        beyond: list[_Lane] = []
        while self._unasked and len(takers) == free and in_turn_until <= time.monotonic() < last_call:
            lane = self._open_lane(self._unasked.popleft())
            if lane is not None:
                lane.beyond = True
                beyond.append(lane)
        takers += [self._successor(lane) for lane in self._lanes if lane.lot.used_up and lane.probe is not None]
        self._lanes += [lane for lane in takers if lane not in self._lanes]
        self._quota.allot([lane.lot for lane in takers])
        self._quota.allot_beyond([lane.lot for lane in beyond])
        for lane in takers:
            most = self._most_on_one(lane.member)
            lane.lot.allotted = min(lane.lot.allotted, most - lane.lot.in_hand % most)
        return bool(beyond) or any(lane.lot.allotted for lane in takers)

    def _open_lane(self, post: Post) -> _Lane | None:
        member, number = post
        try:
            connection = member.pool.try_acquire(self._order.groups[number])
        except PoolClosed as error:
            # It was removed a moment ago, or the whole pool is being closed.
            self.errors[member.address] = without_frames(error)
            return None
        if connection is None:
            self.missed.append(member)
            return None
        lane = _Lane(post, connection, self._quota.open())
        self._lanes.append(lane)
        return lane

    def _most_on_one(self, member: Member) -> int:
        connections = max(1, member.pool.max_connections // _SHARE_OF_CONNECTIONS)
        return max(_MOST_ON_ONE, -(-self._quota.limit // connections))

    def _successor(self, lane: _Lane) -> _Lane:
        """Who goes on with a server: another connection if this one holds many jobs, and another is free."""
        if lane.lot.in_hand % self._most_on_one(lane.member) or not lane.lot.in_hand or not self._quota.free:
            return lane
        try:
            connection = lane.member.pool.try_acquire(self._order.groups[lane.number])
        except PoolClosed:
            return lane
        if connection is None:
            return lane
        lane.lot.stop()
        return _Lane((lane.member, lane.number), connection, self._quota.open())

    def _ask(self, lane: _Lane, until: float) -> None:
        lot = lane.lot
        if not lot.allotted or lane.probe or lot.asked > lane.window // 2:
            return
        connection = lane.connection
        now = time.monotonic()
        if not lot.asked:
            lane.begin(now)
        try:
            if lane.probe is None:
                count = 1
                lane.probe = True
                if connection.channel_state is None:
                    connection.begin_connecting()
                connection.begin_reserve(self._order.groups[lane.number], 0)
                if connection.connecting:
                    connection.step()
            else:
                # What is not there in time would have to go back, and what has come in on the same connection with it.
                count = min(lot.allotted, lane.pace.fits(until - now, lane.window) - lot.asked)
                if count <= 0:
                    if not lot.asked:
                        lot.stop()
                    return
                connection.channel.post(RESERVE_WITH_TIMEOUT, _REQUEST * count, count)
        except BeanpoolError as error:
            self._lose(lane, error)
            return
        lot.ask(count)

    def _wait(self, lanes: list[_Lane], until: float, wait_for_all: bool) -> bool:
        """Wait for replies on any of these; false if those that are due are waited for no longer."""
        empty = self.empty
        for lane in lanes:
            # What holds up the jobs of others must be a silence that says something of the server.
            lane.patience = self._timeout if empty else min(self._timeout, max(_PATIENCE, lane.member.patience))
            if until < lane.late_at <= until + _CLOSE_ENOUGH:
                lane.patience = until - lane.progress_at
        # Also those that owe nothing: their jobs are lost with their connection.
        watched = [lane for lane in self._lanes if lane.lot.asked or lane.found]
        now = time.monotonic()
        soon = min(until, self._leave_at(lanes, wait_for_all), now + _INTERRUPTED_WITHIN)
        drive(watched, self._receive, self._give_up, soon)
        now = time.monotonic()
        left = [lane for lane in self._lanes if lane.lot.asked]
        if now < until:
            return not left or now < self._leave_at(left, wait_for_all)
        # What has come in by now is taken; it may be more than one look brings.
        while drive([lane for lane in self._lanes if lane.lot.asked], self._receive, self._give_up, now):
            pass
        return False

    def _give_up(self, lane: _Lane) -> None:
        if lane.connection.connecting:
            return
        error = lane.connection.late()
        if isinstance(error, CommandTimeout):
            # Not since the first request: replies have come since.
            error.waited = min(lane.patience, time.monotonic() - lane.progress_at)
        self._lose(lane, error)

    def _leave_at(self, lanes: list[_Lane], wait_for_all: bool) -> float:
        """When to leave those that are silent to the wait on all servers."""
        if wait_for_all or not self.empty:
            return math.inf
        # That wait is for new jobs of the others, too. As long as nobody has answered, none can be missed.
        silent = max(lane.progress_at for lane in lanes)
        if len(lanes) == len(self._lanes):
            return silent + _PATIENCE
        latest = max(lane.progress_at for lane in self._lanes)
        return min(silent + _PATIENCE, latest + _PATIENCE_FOR_NOTHING)

    def _receive(self, lane: _Lane) -> None:
        connection = lane.connection
        try:
            if not lane.lot.asked:
                if not connection.channel.check_quiet():
                    raise connection.closed_meanwhile()
                return
            if lane.probe:
                stage = lane.stage
                reply = connection.step()
                if reply is None:
                    if lane.stage != stage:
                        lane.begin(time.monotonic())
                    return
                lane.probe = False
                lane.member.works(connection.asked_at)
                self._note(lane, reply)
                return
            for found in connection.channel.collect_reserved():
                if isinstance(found, Reply):
                    self._note(lane, found)
                else:
                    lane.answered([body for _, body in found])
                    lane.lot.take(len(found))
                    self._hold(lane, found)
        except BeanpoolError as error:
            self._lose(lane, error)

    def _note(self, lane: _Lane, reply: Reply) -> None:
        lane.answered([reply.body])
        if reply.status == "RESERVED":
            lane.lot.take(1)
            self._hold(lane, [(reply.number, reply.body)])
            return
        if reply.status not in ("TIMED_OUT", "DEADLINE_SOON"):
            self.errors[lane.member.address] = lane.connection.refuse(RESERVE_WITH_TIMEOUT, reply)
        lane.lot.miss()

    def _hold(self, lane: _Lane, jobs: Sequence[tuple[int, bytes]]) -> None:
        """Have these in hand. One that was so before has come a second time because its TTR ran out meanwhile."""
        found, lot = lane.found, lane.lot
        found.update(jobs)
        if len(found) != lot.in_hand:
            lot.lose(lot.in_hand - len(found))
        # Several connections to one server may be in use.
        others = [
            other for other in self._lanes if other is not lane and other.connection.origin == lane.connection.origin
        ]
        for other in others:
            again = other.found.keys() & {jid for jid, _ in jobs}
            for jid in again:
                del other.found[jid]
            other.lot.lose(len(again))

    def _lose(self, lane: _Lane, error: BeanpoolError) -> None:
        """The lane's connection is of no more use: what was reserved on it goes back to its server."""
        self._forget(lane)
        self.errors[lane.member.address] = without_frames(error)
        if isinstance(error, CommandFailed):
            lane.member.pool.checkin(lane.connection)
        else:
            lane.member.pool.checkin(lane.connection, broken=error)

    def _forget(self, lane: _Lane) -> None:
        self._lanes.remove(lane)
        self._quota.close(lane.lot)

    # The end.

    def hand_over(self, begun: Begun) -> None:
        """Add the connections that hold no job to `begun`, for whoever takes care of them."""
        for lane in [lane for lane in self._lanes if not lane.found]:
            begun.append((lane.member, lane.connection, lane.number))
            self._forget(lane)

    def sort_out(self) -> None:
        """Leave out the jobs that were lost with their connection while others were waited for."""
        now = time.monotonic()
        for lane in list(self._lanes):
            if lane.lot.asked:
                # It was to answer until now and did not; what it has not said yet would be nobody's.
                self._forget(lane)
                lane.member.pool.discard(lane.connection, "it did not answer in the time allowed")
            elif now - lane.progress_at > _TRUSTED_IDLE_SECONDS and not lane.connection.channel.check_quiet():
                self._lose(lane, lane.connection.closed_meanwhile())

    def jobs(self) -> list[Job[Any]]:
        """What was taken."""
        jobs: list[Job[Any]] = []
        now = time.monotonic()
        for lane in self._lanes:
            connection = lane.connection
            tubes = connection.watched
            tube = tubes[0] if len(tubes) == 1 else None
            lease = lane.member.reservations.lease(connection)
            recovery = lane.member.recovery
            taken = [
                reserved_job(connection, jid, data, tube, recovery, lease, now) for jid, data in lane.found.items()
            ]
            lease.hold_all(taken)
            jobs += taken
        return jobs

    def discard_all(self, because: str) -> None:
        """Close all connections: nobody is to have the jobs that are reserved on them."""
        for lane in self._lanes:
            lane.member.pool.discard(lane.connection, because)
