"""Many puts at once: each server gets its share in few round trips, and all servers work at the same time."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Generic, TypeVar

from beanpool.errors import BeanpoolError, CommandTimeout, ConnectionFailed, NoServerAvailable, Phase
from beanpool.job_id import JobId
from beanpool.member import Member
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.commands import PUT
from beanpool.protocol.replies import Reply
from beanpool.put_item import EncodedPut
from beanpool.putting import PutRequest, Putter, put_connection, too_big
from beanpool.readiness import wait_for_any
from beanpool.topology import Topology

Outcome = JobId | Exception
"""What became of one item: the stored job's id, or the error of this item alone."""

# How much may be on its way to one server (bytes), but for a single body that is larger.
_WINDOW = 64 * 1024
# How much is collected before it is sent (bytes).
_CHUNK = 16 * 1024
# How long replies may gather before the first of them is enough (seconds).
_GATHERING = 0.002
_SHORTEST_REPLY = len(b"BURIED 1\r\n")
# How many items may wait for their second chance before they get it.
_MOST_LEFT_OVER = 256
_MOST_LANES = 64


Place = TypeVar("Place")
Settle = Callable[[Sequence[tuple[Place, Outcome]]], None]
"""Is given outcomes, each with the place that was given with its put."""


class _Lane(Generic[Place]):
    """One connection that puts into one tube of one server."""

    __slots__ = ("connection", "due", "in_flight", "member", "progress_at", "unsent", "unsent_bytes")

    def __init__(self, member: Member, connection: PooledConnection) -> None:
        self.member = member
        self.connection = connection
        self.unsent: list[tuple[Place, EncodedPut]] = []
        self.unsent_bytes = 0
        self.due: collections.deque[tuple[Place, EncodedPut]] = collections.deque()
        self.in_flight = 0
        self.progress_at = 0.0

    def send(self) -> None:
        """Send what was collected, as far as it goes at once; the channel sends on when replies are picked up.

        :raises ConnectionFailed: if the connection is or gets broken.
        """
        items, data = self.unsent, b"".join([put.request for _, put in self.unsent])
        if not self.due:
            self.progress_at = time.monotonic()
        self.due.extend(items)
        self.in_flight += self.unsent_bytes
        self.unsent = []
        self.unsent_bytes = 0
        self.connection.channel.post(PUT, data, len(items))

    def take_back(self) -> list[tuple[Place, EncodedPut]]:
        """Once the connection is broken: what was certainly not executed; what may have been is left in `due`."""
        unsent = self.connection.channel.unsent
        not_executed = self.unsent[::-1]
        while unsent > 0 and self.due:
            item = self.due.pop()
            unsent -= len(item[1].request)
            not_executed.append(item)
        self.unsent = []
        return not_executed[::-1]


class PutMany(Generic[Place]):
    """Puts that go out together, and one outcome for each: feed it, then let it finish.

    In a ``with`` block, an exception leaves no connection of it in use.

    :param timeout: the longest that a server may let a reply wait (seconds).
    :param resend: whether an item that may or may not be stored is put again.
    :param settle: is given the outcomes as they come.
    """

    def __init__(
        self,
        topology: Callable[[], Topology],
        putter: Putter,
        timeout: float,
        resend: bool,
        settle: Settle[Place],
    ) -> None:
        self._topology = topology
        self._putter = putter
        self._timeout = timeout
        self._resend = resend
        self._settle = settle
        self._lanes: dict[tuple[Member, str], _Lane[Place]] = {}
        self._left_over: list[tuple[tuple[Place, EncodedPut], Member | None, BeanpoolError | None]] = []
        self._gave_up = False

    def __enter__(self) -> PutMany[Place]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for lane in self._lanes.values():
            lane.member.pool.discard(lane.connection, "a batch was interrupted")

    def feed(self, items: Iterable[tuple[Place, EncodedPut]]) -> bool:
        """Send these, each with its place, without waiting for the last outcomes.

        :returns: whether more may be fed; if not, something is amiss, and it is time to finish.
        """
        for item in items:
            self._route(item)
        for lane in list(self._lanes.values()):
            self._send(lane)
        # What is left over must not wait, nor other callers for the connections of many tubes.
        return not self._left_over and len(self._lanes) <= len(self._topology().members)

    def finish(self) -> None:
        """Wait for all outcomes."""
        self._finish_all()
        self._give_second_chances()

    def _route(self, item: tuple[Place, EncodedPut]) -> None:
        request, size, tube, key = item[1]
        topology = self._topology()
        member = topology.single or (topology.next_taker() if key is None else topology.owner(key))
        if member is None or not member.accepting or not member.up:
            self._leave_over(item, None, None)
            return
        lane = self._lanes.get((member, tube)) or self._open_lane(member, tube, item)
        if lane is None:
            return
        if size > lane.connection.largest_body:
            self._settle([(item[0], too_big())])
            return
        lane.unsent.append(item)
        lane.unsent_bytes += len(request)
        if lane.unsent_bytes >= _CHUNK:
            self._send(lane)

    def _open_lane(self, member: Member, tube: str, item: tuple[Place, EncodedPut]) -> _Lane[Place] | None:
        if len(self._lanes) >= _MOST_LANES:
            for lane in list(self._lanes.values()):
                self._send(lane)
            self._finish_all()
        try:
            connection = put_connection(member, tube, time.monotonic() + self._patience())
        except BeanpoolError as error:
            self._leave_over(item, member, error)
            return None
        opened: _Lane[Place] = _Lane(member, connection)
        self._lanes[member, tube] = opened
        return opened

    # Sending and receiving.

    def _send(self, lane: _Lane[Place]) -> None:
        while lane.unsent and lane.due and lane.in_flight + lane.unsent_bytes > _WINDOW:
            if not self._wait([lane]):
                return
        if not lane.unsent:
            return
        try:
            lane.send()
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

    def _wait(self, lanes: list[_Lane[Place]]) -> bool:
        """Wait for replies on any of these; false if a lane was lost."""
        known = len(self._lanes)
        patience = self._patience()
        for lane in self._ready(lanes, min(lane.progress_at for lane in lanes) + patience):
            self._receive(lane)
        now = time.monotonic()
        for lane in lanes:
            if lane.due and now - lane.progress_at >= patience:
                # It may have sent what nobody looked at: too little to be woken for.
                self._receive(lane)
                if lane.due and now - lane.progress_at >= patience:
                    self._lose(lane, self._silent(lane))
        return len(self._lanes) == known

    def _ready(self, lanes: list[_Lane[Place]], until: float) -> list[_Lane[Place]]:
        """Those whose replies have come; it may be few of them if many take their time."""
        for lane in lanes:
            lane.connection.channel.gather(len(lane.due) * _SHORTEST_REPLY)
        waiters = [(lane.connection, lane) for lane in lanes]
        remaining = until - time.monotonic()
        ready = wait_for_any(waiters, max(0.0, min(_GATHERING, remaining)))
        if not ready and remaining > 0:
            for lane in lanes:
                lane.connection.channel.gather(0)
            ready = wait_for_any(waiters, max(0.0, until - time.monotonic()))
        return ready

    def _patience(self) -> float:
        # A server that is silent must leave time for another one.
        return self._timeout / 2 if self._resend and self._topology().single is None else self._timeout

    def _receive(self, lane: _Lane[Place]) -> None:
        origin = (lane.member.address, lane.connection.instance)
        due, name = lane.due, JobId.of
        waiting = len(due)
        try:
            for reply in lane.connection.channel.collect_inserted():
                if not isinstance(reply, Reply):
                    run = [due.popleft() for _ in reply]
                    lane.in_flight -= sum([len(put[0]) for _, put in run])
                    self._settle([(item[0], name(number, origin)) for item, number in zip(run, reply, strict=True)])
                    continue
                item = due.popleft()
                lane.in_flight -= len(item[1].request)
                if reply.status == "BURIED":
                    self._settle([(item[0], JobId(reply.number, *origin, buried=True))])
                else:
                    self._leave_over(item, lane.member, lane.connection.refuse(PUT, reply))
        except BeanpoolError as error:
            self._lose(lane, error)
            return
        # A look at a silent server is no progress.
        if len(due) != waiting:
            lane.progress_at = time.monotonic()

    def _silent(self, lane: _Lane[Place]) -> CommandTimeout:
        error = CommandTimeout(
            f"{lane.member.address}: no reply to a put in the time allowed",
            server=lane.member.address,
            phase=Phase.WAITING,
            may_have_taken_effect=True,
        )
        error.waited = time.monotonic() - lane.progress_at
        return error

    # What goes wrong.

    def _lose(self, lane: _Lane[Place], error: BeanpoolError) -> None:
        """The lane's connection is gone: what was sent may be stored, what was not is not."""
        self._lanes = {key: known for key, known in self._lanes.items() if known is not lane}
        lane.member.pool.broke(lane.connection, error)
        not_executed = lane.take_back()
        for items, sent in ((lane.due, True), (not_executed, False)):
            for item in items:
                failure = ConnectionFailed(
                    str(error), server=lane.member.address, phase=Phase.WAITING, may_have_taken_effect=sent
                )
                self._leave_over(item, lane.member, failure)
        lane.due.clear()

    def _leave_over(self, item: tuple[Place, EncodedPut], member: Member | None, error: BeanpoolError | None) -> None:
        self._left_over.append((item, member, error))
        if len(self._left_over) >= _MOST_LEFT_OVER:
            self._give_second_chances()

    def _give_second_chances(self) -> None:
        """Put what is left over one by one, by the rules of a single put."""
        left_over, self._left_over = self._left_over, []
        # One deadline for all of them, and no time at all once waiting has proved vain: a long batch must end.
        hopeless = self._gave_up and not any(member.accepting for member in self._topology().members)
        deadline = time.monotonic() + (0.0 if hopeless else self._timeout)
        for (place, put), member, error in left_over:
            outcome: Outcome
            try:
                outcome = self._putter.go_on(PutRequest(*put, deadline, self._resend), member, error)
            except BeanpoolError as failure:
                outcome = failure.with_traceback(None)
                self._gave_up = self._gave_up or isinstance(failure, NoServerAvailable)
            self._settle([(place, outcome)])


def put_all(puts: Iterable[EncodedPut | Exception], batch: Callable[[Settle[int]], PutMany[int]]) -> list[Outcome]:
    """Put all as one batch; returns one outcome per item, in order. An exception among them is its own outcome."""
    outcomes: list[Outcome | None] = []

    def numbered() -> Iterator[tuple[int, EncodedPut]]:
        for place, put in enumerate(puts):
            if isinstance(put, Exception):
                outcomes.append(put)
            else:
                outcomes.append(None)
                yield place, put

    def settle(settled: Sequence[tuple[int, Outcome]]) -> None:
        for place, outcome in settled:
            outcomes[place] = outcome

    with batch(settle) as running:
        running.feed(numbered())
        running.finish()
    return [outcome for outcome in outcomes if outcome is not None]
