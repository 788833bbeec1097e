"""Many puts at once: each server gets its share in few round trips, and all servers work at the same time."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Generic

from beanpool.cluster import Topology
from beanpool.connection import JobId, new_job_id
from beanpool.errors import BeanpoolError, CommandTimeout, ConnectionFailed
from beanpool.net import drive, give_up_late
from beanpool.policy import StallBudget
from beanpool.protocol import PUT, PUT_BURIED, Reply
from beanpool.put.bell import Bell
from beanpool.put.candidates import Candidates
from beanpool.put.deferred import Deferred
from beanpool.put.failover import Putter, has_tried, too_big
from beanpool.put.item import EncodedPut
from beanpool.put.lane import CHUNK, Item, Lane, Retry, Stage, Token, as_retry
from beanpool.put.lanes import Lanes
from beanpool.put.outcomes import OnOutcomes, Outcomes
from beanpool.server import Member

# How much may be on its way to one server (bytes), but for a single body that is larger.
_WINDOW = 64 * 1024
# How long replies may gather before the first of them is enough (seconds).
_GATHERING = 0.002
_SHORTEST_REPLY = len(b"BURIED 1\r\n")
# How many items may wait for a server to come back before the batch waits with them.
_MOST_DEFERRED = 256
# How many round trips a connection takes: to connect, and to learn who the server is and tell it the tube.
_TO_OPEN = 2
# How often to look what has come where no bell can be heard (seconds).
_LOOKS = 0.02


class PutMany(Generic[Token]):
    """Puts that go out together, and one outcome for each: feed it, then let it finish.

    A put that a server does not take goes to the next one of its order within the batch, each at most once; only what
    no server takes waits, with pauses, for one that comes back. In a ``with`` block, an exception leaves no connection
    of it in use, and every put that it was fed has its outcome.

    :param timeout: the longest that the batch may wait without a put being stored (seconds).
    :param resend: whether an item that may or may not be stored is put again.
    :param on_outcomes: is given the outcomes as they come.
    """

    def __init__(
        self,
        topology: Callable[[], Topology],
        putter: Putter,
        timeout: float,
        resend: bool,
        on_outcomes: OnOutcomes[Token],
    ) -> None:
        self._topology = topology
        self._stall = StallBudget(timeout)
        self._candidates: Candidates[Token] = Candidates(topology, putter, self._stall, resend)
        self._lanes: Lanes[Token] = Lanes(topology)
        self._outcomes: Outcomes[Token] = Outcomes(putter, resend, on_outcomes)
        self._deferred: Deferred[Token] = Deferred(putter, self._stall, resend, self._candidates, self._outcomes)
        # Whether more may be collected than should be.
        self._crowded = False
        self._bell: Bell | None = None
        # Not sent, and on its way to another server.
        self._again: collections.deque[Item[Token]] = collections.deque()
        # How often replies have come.
        self._replies = 0
        self._ended = False

    def __enter__(self) -> PutMany[Token]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = True
        for lane in self._lanes.drop_all("a batch was interrupted"):
            self._abandon(lane)
        waiting, self._again = [*self._again, *self._deferred.puts], collections.deque()
        self._deferred.puts = []
        for item in waiting:
            self._outcomes.give_up(as_retry(item))
        if self._bell is not None:
            self._bell.close()
        self._outcomes.attempts.tell()

    def feed(self, items: Iterable[tuple[Token, EncodedPut]], *, hold_back: bool = True) -> bool:
        """Send these, each with its token, without waiting for the last outcomes.

        :param hold_back: whether to wait, between two items, while too much is collected that servers do not take yet.
        :returns: whether more may be fed; if not, something is amiss, and it is time to finish.
        """
        for item in items:
            self._route(item)
            if self._again:
                self._route_again()
            if not hold_back:
                continue
            if self._crowded:
                self._make_room()
            if len(self._deferred.puts) >= _MOST_DEFERRED:
                self.finish()
        self._advance()
        # What is deferred must not wait.
        return not self._deferred.puts

    def finish(self) -> None:
        """Wait for all outcomes."""
        while self._lanes.busy:
            self._wait()
        self._lanes.give_back_idle()
        if self._deferred.puts:
            self._deferred.retry(self._put_again)
        self._outcomes.attempts.tell()

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return self._lanes.busy

    @property
    def silent_since(self) -> float:
        """Since when the server has not answered that is waited for longest (monotonic seconds); infinite for none."""
        return self._lanes.silent_since

    def wait(self, until: float = math.inf) -> None:
        """Wait until something has come, the bell is rung, or it is so late (monotonic seconds); go on with all."""
        self._wait(until)

    @property
    def bell(self) -> Bell:
        """What any thread may ring to end a wait."""
        if self._bell is None:
            self._bell = Bell()
        return self._bell

    def meanwhile(self) -> bool:
        """Do what is to be done while the next item lets itself be waited for: send, pick up, give connections back.

        :returns: whether anything is still under way.
        """
        if self._ended:
            return False
        pending = self._lanes.pending()
        for lane in pending:
            self._receive(lane)
        give_up_late(pending, self._receive, self._give_up_lane)
        self._advance()
        self._lanes.give_back_idle()
        if not self._lanes.by_key:
            self._outcomes.attempts.tell()
        return bool(self._lanes.by_key)

    def rested(self, seconds: float) -> None:
        """The next item has let itself be waited for so long (seconds)."""
        self._stall.rest(seconds)

    # Which server.

    def _route(self, item: Item[Token]) -> None:
        request, size, tube, key = item[1]
        topology = self._topology()
        member = topology.single or (topology.next_taker() if key is None else topology.owner(key))
        retried = len(item) > 2
        if retried or member is None or not member.accepting:
            member = self._candidates.next(item)
            if member is None:
                self._deferred.add(item)
                return
        lane = self._lanes.by_key.get((member, tube))
        if lane is None:
            if key is None and member.pool.is_full:
                # It can go to any: not where it would have to wait for others.
                member = self._candidates.with_room(item, self._lanes.by_key) or member
                lane = self._lanes.by_key.get((member, tube))
            lane = lane or self._new_lane(member, tube, item)
            if lane is None:
                return
        if size > lane.largest_body:
            self._fail(item, member, too_big(lane.connection, size))
            return
        if retried:
            lane.has_retries = True
        lane.unsent.append(item)
        lane.unsent_bytes += len(request)
        if lane.unsent_bytes >= lane.send_at:
            self._send_on(lane)

    def _send_on(self, lane: Lane[Token]) -> None:
        """A lane has collected so much that something is to be done."""
        if not lane.send_at:
            lane.send_at = CHUNK
            if self._lanes.may_connect(lane):
                self._connect(lane)
            return
        self._send(lane)
        if lane.unsent_bytes >= lane.send_at:
            # Not again for each put.
            lane.send_at = lane.unsent_bytes + CHUNK
            self._crowded = True

    def _route_again(self) -> None:
        while self._again:
            self._route(self._again.popleft())

    # Connections.

    def _new_lane(self, member: Member, tube: str, item: Item[Token]) -> Lane[Token] | None:
        if self._candidates.is_exhausted(member):
            self._fail(item, member, member.pool.queue.exhausted())
            return None
        if not self._candidates.patience(member, _TO_OPEN):
            self._deferred.add(item)
            return None
        unproven = not member.up or (isinstance(item, Retry) and has_tried(item.attempts, member))
        lane: Lane[Token] = Lane(member, tube, unproven)
        self._lanes.by_key[member, tube] = lane
        self._crowded = self._crowded or self._lanes.too_many
        return lane

    def _connect(self, lane: Lane[Token]) -> None:
        try:
            connection = self._lanes.acquire(lane)
            until = time.monotonic() + self._candidates.patience(lane.member, _TO_OPEN)
            if connection is None:
                self._lanes.queue_up(lane, self.bell.ring, until)
                return
            lane.begin(connection, until)
        except BeanpoolError as error:
            self._lose(lane, error)
            return
        if lane.stage is Stage.OPEN:
            self._opened(lane)
        else:
            self._receive(lane)

    def _opened(self, lane: Lane[Token]) -> None:
        """Puts can be sent: but for those that would be refused for their size."""
        largest = lane.largest_body = lane.connection.largest_body
        if any(item[1].size > largest for item in lane.unsent):
            items = lane.take_unsent()
            for item in items:
                if item[1].size > largest:
                    self._fail(item, lane.member, too_big(lane.connection, item[1].size))
                else:
                    lane.unsent.append(item)
                    lane.unsent_bytes += len(item[1].request)
        self._send(lane)

    # Sending and receiving.

    def _advance(self) -> None:
        """Do all that is possible without waiting: connect, send what was collected, and what failed on the way."""
        while True:
            self._lanes.spare_others()
            if self._lanes.connect_soon:
                for lane in self._lanes.to_connect():
                    self._connect(lane)
            for lane in list(self._lanes.by_key.values()):
                if lane.unsent:
                    self._send(lane)
            if not self._again:
                break
            self._route_again()

    def _send(self, lane: Lane[Token]) -> None:
        """Send what was collected, as far as the window allows."""
        while lane.unsent and lane.stage is Stage.OPEN:
            if not lane.member.accepting:
                # It has refused, or failed, since these were collected.
                self._again.extend(lane.take_unsent())
                return
            in_flight = lane.in_flight
            if lane.due and (lane.unproven or in_flight + min(lane.unsent_bytes, CHUNK) > _WINDOW):
                return
            if not lane.due:
                patience = self._candidates.patience(lane.member)
                if not patience:
                    for item in lane.take_unsent():
                        self._deferred.add(item)
                    return
                lane.patience = patience
            try:
                lane.put(_WINDOW - in_flight)
            except BeanpoolError as error:
                self._lose(lane, error)
                return
            if lane.in_flight > _WINDOW // 2:
                self._receive(lane)

    def _make_room(self) -> None:
        """Wait while servers do not take what is collected: whoever feeds must not fill the memory."""
        most = CHUNK * max(1, len(self._topology().members))
        while self._lanes.unsent_bytes > most or self._lanes.too_many:
            if not self._lanes.busy:
                break
            self._wait()
        self._crowded = False

    def _put_again(self) -> None:
        """Try those that were deferred, and wait until nothing is under way."""
        # In this order: an interrupt in between must not lose them.
        self._again.extend(self._deferred.puts)
        self._deferred.puts = []
        self._route_again()
        self._advance()
        while self._lanes.busy:
            self._wait()
        self._lanes.give_back_idle()

    def _wait(self, until: float = math.inf) -> None:
        """Wait for what is under way, until something has come or a server has been silent for too long."""
        lanes = self._lanes.pending()
        unconnected = [lane for lane in lanes if lane.stage is Stage.UNCONNECTED]
        asked: list[Lane[Token] | Bell] = [lane for lane in lanes if lane.stage is not Stage.UNCONNECTED]
        due = [lane for lane in lanes if lane.due]
        started, replies, bell = time.monotonic(), self._replies, self._bell
        until = min([until, *(lane.late_at for lane in unconnected)])
        if bell is not None:
            asked.append(bell)
            if not bell.works:
                until = min(until, started + _LOOKS)
        # It may be few replies if many take their time.
        for lane in due:
            lane.connection.channel.gather(len(lane.due) * _SHORTEST_REPLY)
        soon = min(until, started + _GATHERING)
        if not drive(asked, self._hear, self._give_up_lane, soon if due else until) and due and soon < until:
            for lane in due:
                lane.connection.channel.gather(0)
            drive(asked, self._hear, self._give_up_lane, until)
        give_up_late(unconnected, self._receive, self._give_up_lane)
        self._advance()
        if self._replies == replies:
            self._stall.spend(time.monotonic() - started)

    def _hear(self, one: Lane[Token] | Bell) -> None:
        if isinstance(one, Bell):
            one.silence()
        else:
            self._receive(one)

    def _give_up_lane(self, lane: Lane[Token] | Bell) -> None:
        if isinstance(lane, Bell):
            return
        if lane.stage is Stage.UNCONNECTED:
            self._candidates.was_full(lane.member)
            for other in self._lanes.unconnected(lane.member):
                self._lose(other, other.member.pool.queue.exhausted())
        elif lane.stage is Stage.OPEN:
            self._lose(lane, lane.late(PUT))
        elif not lane.connection.connecting:
            self._lose(lane, lane.connection.late())

    def _open_further(self, lane: Lane[Token]) -> None:
        try:
            lane.go_on_opening()
        except BeanpoolError as error:
            self._lose(lane, error)
            return
        if lane.stage is Stage.OPEN:
            # It has answered: that was no waiting in vain.
            self._replies += 1
            self._stall.rest(time.monotonic() - lane.since)
            self._opened(lane)

    def _receive(self, lane: Lane[Token]) -> None:
        if lane.stage is not Stage.OPEN:
            if lane.stage is Stage.OPENING:
                self._open_further(lane)
            return
        origin = lane.connection.origin
        name, answered = new_job_id, lane.answered
        try:
            for run, reply in lane.receive(lane.connection.channel.collect_inserted()):
                lane.in_flight -= sum([len(request) for _, request in run])
                if not isinstance(reply, Reply):
                    stored = [(item[0], name(number, origin)) for (item, _), number in zip(run, reply, strict=True)]
                    self._outcomes.stored(lane, run, stored)
                    self._candidates.proved(lane)
                    continue
                item = run[0][0]
                if reply.status == "BURIED":
                    lane.connection.tally[PUT_BURIED] += 1
                    buried = [(item[0], JobId(reply.number, *origin, buried=True))]
                    self._outcomes.stored(lane, run, buried, "buried")
                    self._candidates.proved(lane)
                else:
                    refused = lane.connection.refuse(PUT, reply, size=item[1].size, limit=lane.connection.largest_body)
                    self._fail(item, lane.member, refused)
        except BeanpoolError as error:
            self._lose(lane, error)
            return
        if lane.answered != answered:
            self._replies += 1
            lane.patience = self._candidates.patience(lane.member)

    # What goes wrong.

    def _fail(self, item: Item[Token], member: Member, error: BeanpoolError) -> None:
        """An attempt has failed: the put goes to another server, or that was the end of it."""
        retry = as_retry(item)
        retry.asked.add(member)
        if self._outcomes.note(retry, member, error):
            self._outcomes.give_up(retry)
        else:
            self._again.append(retry)

    def _lose(self, lane: Lane[Token], error: BeanpoolError) -> None:
        """The lane's connection is gone, or was not to be had: what was sent may be stored, what was not is not."""
        self._lanes.remove(lane)
        self._candidates.failed(lane.member)
        failures = lane.split(error)
        if isinstance(error, CommandTimeout) and lane.stage is Stage.OPENING:
            error.waited = min(lane.until, time.monotonic()) - lane.since
        self._lanes.let_go(lane, error)
        for item, failure in failures:
            self._fail(item, lane.member, failure)

    def _abandon(self, lane: Lane[Token]) -> None:
        """The same at the end of a batch that was interrupted: nothing is put any more."""
        address = lane.member.address
        interrupted = ConnectionFailed(f"{address}: the batch of the put was interrupted", server=address)
        for item, failure in lane.split(interrupted):
            retry = as_retry(item)
            self._outcomes.note(retry, lane.member, failure)
            self._outcomes.give_up(retry)
