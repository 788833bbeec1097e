"""Many puts at once: each server gets its share in few round trips, and all servers work at the same time."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from beanpool.dialing import wait_for_any
from beanpool.errors import BeanpoolError, CommandTimeout, ConnectionFailed, NoServerAvailable, Phase
from beanpool.job_id import JobId
from beanpool.member import Member
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.commands import PUT
from beanpool.protocol.replies import Reply
from beanpool.put_item import EncodedPut
from beanpool.putting import PutRequest, Putter, put_connection, too_big
from beanpool.topology import Topology

Outcome = JobId | Exception
"""What became of one item: the stored job's id, or the error of this item alone."""

# How much may be on its way to one server (bytes). It fits into socket buffers, so sending it never waits for a
# server that itself waits for its replies to be read.
_WINDOW = 64 * 1024
# How much is collected before it is sent (bytes).
_CHUNK = 16 * 1024
# How many items may wait for their second chance before they get it.
_MOST_LEFT_OVER = 256
_MOST_LANES = 64


class _Item(NamedTuple):
    """A put, and the place of its outcome."""

    place: int
    put: EncodedPut


class _Lane:
    """One connection that puts into one tube of one server."""

    __slots__ = ("connection", "due", "in_flight", "member", "progress_at", "unsent", "unsent_bytes")

    def __init__(self, member: Member, connection: PooledConnection) -> None:
        self.member = member
        self.connection = connection
        self.unsent: list[_Item] = []
        self.unsent_bytes = 0
        self.due: collections.deque[_Item] = collections.deque()
        self.in_flight = 0
        self.progress_at = 0.0

    def add(self, item: _Item) -> None:
        """Collect an item."""
        self.unsent.append(item)
        self.unsent_bytes += len(item.put.request)

    def send(self, deadline: float) -> None:
        """Send what was collected.

        :raises ConnectionFailed: `due` then holds what may have been executed, `unsent` what was not.
        """
        items, data = self.unsent, b"".join([item.put.request for item in self.unsent])
        if not self.due:
            self.progress_at = time.monotonic()
        try:
            self.connection.channel.post(PUT, data, len(items), deadline)
        except BaseException:
            accepted = self.connection.channel.accepted
            for position, item in enumerate(items):
                accepted -= len(item.put.request)
                if accepted < 0:
                    self.unsent = items[position:]
                    break
                self.due.append(item)
            else:
                self.unsent = []
            raise
        self.due.extend(items)
        self.in_flight += self.unsent_bytes
        self.unsent = []
        self.unsent_bytes = 0


class PutMany:
    """One call of ``put_many``.

    :param timeout: the longest that a server may let a reply wait (seconds).
    :param resend: whether an item that may or may not be stored is put again.
    """

    def __init__(self, topology: Callable[[], Topology], putter: Putter, timeout: float, resend: bool) -> None:
        self._topology = topology
        self._putter = putter
        self._timeout = timeout
        self._resend = resend
        self._lanes: dict[tuple[Member, str], _Lane] = {}
        self._outcomes: list[Outcome | None] = []
        self._left_over: list[tuple[_Item, Member | None, BeanpoolError | None]] = []
        self._gave_up = False

    def run(self, puts: Iterable[EncodedPut | Exception]) -> list[Outcome]:
        """Put all; returns one outcome per item, in order. An exception among them is its own outcome."""
        try:
            for put in puts:
                if isinstance(put, Exception):
                    self._outcomes.append(put)
                else:
                    self._outcomes.append(None)
                    self._route(_Item(len(self._outcomes) - 1, put))
            for lane in list(self._lanes.values()):
                self._send(lane)
            self._finish_all()
            self._give_second_chances()
        except BaseException:
            for lane in self._lanes.values():
                lane.member.pool.discard(lane.connection, "a batch was interrupted")
            raise
        return [outcome for outcome in self._outcomes if outcome is not None]

    def _route(self, item: _Item) -> None:
        _, size, tube, key = item.put
        topology = self._topology()
        member = topology.next_taker() if key is None else topology.owner(key)
        if member is None or not member.accepting or not member.up:
            self._leave_over(item, None, None)
            return
        lane = self._lanes.get((member, tube)) or self._open_lane(member, tube, item)
        if lane is None:
            return
        limit = lane.connection.identity.max_job_size
        if limit is not None and size > limit:
            self._outcomes[item.place] = too_big()
            return
        lane.add(item)
        if lane.unsent_bytes >= _CHUNK:
            self._send(lane)

    def _open_lane(self, member: Member, tube: str, item: _Item) -> _Lane | None:
        if len(self._lanes) >= _MOST_LANES:
            for lane in list(self._lanes.values()):
                self._send(lane)
            self._finish_all()
        try:
            connection = put_connection(member, tube, time.monotonic() + self._patience())
        except BeanpoolError as error:
            self._leave_over(item, member, error)
            return None
        lane = self._lanes[member, tube] = _Lane(member, connection)
        return lane

    # Sending and receiving.

    def _send(self, lane: _Lane) -> None:
        while lane.unsent and lane.due and lane.in_flight + lane.unsent_bytes > _WINDOW:
            if not self._wait([lane]):
                return
        if not lane.unsent:
            return
        try:
            lane.send(time.monotonic() + self._timeout)
        except BeanpoolError as error:
            self._lose(lane, error)
            return
        if lane.in_flight > _WINDOW // 2:
            self._receive(lane)

    def _finish_all(self) -> None:
        """Wait for all replies, and give the connections back."""
        while waiting := [lane for lane in self._lanes.values() if lane.due]:
            self._wait(waiting)
        for lane in self._lanes.values():
            lane.member.pool.release(lane.connection)
        self._lanes.clear()

    def _wait(self, lanes: list[_Lane]) -> bool:
        """Wait for replies on any of these; false if a lane was lost."""
        now = time.monotonic()
        give_up_at = min(lane.progress_at for lane in lanes) + self._patience()
        ready = wait_for_any([(lane.connection, lane) for lane in lanes], max(0.0, give_up_at - now))
        known = len(self._lanes)
        for lane in ready:
            self._receive(lane)
        now = time.monotonic()
        for lane in lanes:
            if lane.due and now - lane.progress_at >= self._patience():
                self._lose(lane, self._silent(lane))
        return len(self._lanes) == known

    def _patience(self) -> float:
        # A server that is silent must leave time for another one.
        return self._timeout / 2 if self._resend and self._topology().single is None else self._timeout

    def _receive(self, lane: _Lane) -> None:
        origin = (lane.member.address, lane.connection.instance)
        outcomes, due = self._outcomes, lane.due
        waiting = len(due)
        try:
            for reply in lane.connection.channel.collect_inserted():
                if not isinstance(reply, Reply):
                    for number in reply:
                        item = due.popleft()
                        lane.in_flight -= len(item.put.request)
                        outcomes[item.place] = JobId.of(number, origin)
                    continue
                item = due.popleft()
                lane.in_flight -= len(item.put.request)
                if reply.status == "BURIED":
                    outcomes[item.place] = JobId(reply.number, *origin, buried=True)
                else:
                    self._leave_over(item, lane.member, lane.connection.refuse(PUT, reply))
        except BeanpoolError as error:
            self._lose(lane, error)
            return
        # A look at a silent server is no progress.
        if len(due) != waiting:
            lane.progress_at = time.monotonic()

    def _silent(self, lane: _Lane) -> CommandTimeout:
        return CommandTimeout(
            f"{lane.member.address}: no reply to a put in the time allowed",
            server=lane.member.address,
            phase=Phase.WAITING,
            may_have_taken_effect=True,
        )

    # What goes wrong.

    def _lose(self, lane: _Lane, error: BeanpoolError) -> None:
        """The lane's connection is gone: what was sent may be stored, what was not is not."""
        self._lanes = {key: known for key, known in self._lanes.items() if known is not lane}
        lane.member.pool.broke(lane.connection, error)
        for items, sent in ((lane.due, True), (lane.unsent, False)):
            for item in items:
                failure = ConnectionFailed(
                    str(error), server=lane.member.address, phase=Phase.WAITING, may_have_taken_effect=sent
                )
                self._leave_over(item, lane.member, failure)
        lane.due.clear()
        lane.unsent = []

    def _leave_over(self, item: _Item, member: Member | None, error: BeanpoolError | None) -> None:
        self._left_over.append((item, member, error))
        if len(self._left_over) >= _MOST_LEFT_OVER:
            self._give_second_chances()

    def _give_second_chances(self) -> None:
        """Put what is left over one by one, by the rules of a single put."""
        left_over, self._left_over = self._left_over, []
        # One deadline for all of them, and no time at all once waiting has proved vain: a long batch must end.
        hopeless = self._gave_up and not any(member.accepting for member in self._topology().members)
        deadline = time.monotonic() + (0.0 if hopeless else self._timeout)
        for item, member, error in left_over:
            put = PutRequest(*item.put, deadline, self._resend)
            try:
                self._outcomes[item.place] = self._putter.go_on(put, member, error)
            except BeanpoolError as failure:
                self._outcomes[item.place] = failure.with_traceback(None)
                self._gave_up = self._gave_up or isinstance(failure, NoServerAvailable)
