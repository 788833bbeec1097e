"""Many puts at once: each server gets its share in few round trips, and all servers work at the same time."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Generic

from beanpool.cluster import Topology
from beanpool.connection import JobId, new_job_id
from beanpool.errors import BeanpoolError, ConnectionFailed, PoolTimeout, without_frames
from beanpool.net import drive, give_up_late
from beanpool.policy import StallBudget, is_duplicate
from beanpool.protocol import PUT, PUT_BURIED, Reply
from beanpool.put.failover import (
    AnotherRound,
    NotStored,
    PutRequest,
    Putter,
    attempt_outcome,
    has_tried,
    named,
    put_connection,
    refused_for_size,
    too_big,
)
from beanpool.put.item import EncodedPut
from beanpool.put.lane import Item, Lane, Retry, Token, as_retry
from beanpool.put.observing import AttemptTally
from beanpool.server import Member

Outcome = JobId | Exception
"""What became of one item: the stored job's id, or the error of this item alone."""

# How much may be on its way to one server (bytes), but for a single body that is larger.
_WINDOW = 64 * 1024
# How much is collected before it is sent (bytes).
_CHUNK = 16 * 1024
# How long replies may gather before the first of them is enough (seconds).
_GATHERING = 0.002
_SHORTEST_REPLY = len(b"BURIED 1\r\n")
# How many items may wait for a server to come back before the batch waits with them.
_MOST_DEFERRED = 256
_MOST_LANES = 64

OnOutcomes = Callable[[Sequence[tuple[Token, Outcome]]], None]
"""Is given outcomes, each with the token that was given with its put."""


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
        self._putter = putter
        self._resend = resend
        self._on_outcomes = on_outcomes
        self._stall = StallBudget(timeout)
        self._lanes: dict[tuple[Member, str], Lane[Token]] = {}
        # Not sent, and on its way to another server.
        self._again: collections.deque[Item[Token]] = collections.deque()
        # No server is there that could be asked.
        self._deferred: list[Retry[Token]] = []
        # Servers that have failed since a put was last stored, and how many comebacks there had been by then.
        self._failed: dict[Member, int] = {}
        # Servers that had no connection free when it was waited for.
        self._full: set[Member] = set()
        # Servers that may be asked once more by those whom they have failed, in this round.
        self._permitted: dict[Member, bool] = {}
        # How often replies have come, and since when nobody has been asked.
        self._replies = 0
        self._pausing_since = 0.0
        self._ended = False
        self._attempts: AttemptTally[Token] = AttemptTally(putter.reporter.observers)

    def __enter__(self) -> PutMany[Token]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = True
        lanes, self._lanes = list(self._lanes.values()), {}
        for lane in lanes:
            lane.member.pool.discard(lane.connection, "a batch was interrupted")
        for lane in lanes:
            self._abandon(lane)
        waiting, self._again = [*self._again, *self._deferred], collections.deque()
        self._deferred = []
        for item in waiting:
            self._give_up(as_retry(item))
        self._attempts.tell()

    def feed(self, items: Iterable[tuple[Token, EncodedPut]]) -> bool:
        """Send these, each with its token, without waiting for the last outcomes.

        :returns: whether more may be fed; if not, something is amiss, and it is time to finish.
        """
        for item in items:
            self._route(item)
            if self._again:
                self._route_again()
            if len(self._deferred) >= _MOST_DEFERRED:
                self.finish()
        self._send_all()
        # What is deferred must not wait, nor other callers for the connections of many tubes.
        return not self._deferred and len(self._lanes) <= len(self._topology().members)

    def finish(self) -> None:
        """Wait for all outcomes."""
        self._work_off()
        if self._deferred:
            self._retry_deferred()
        self._attempts.tell()

    def meanwhile(self) -> bool:
        """Do what is to be done while the next item lets itself be waited for: send, pick up, give connections back.

        :returns: whether anything is still under way.
        """
        if self._ended:
            return False
        due = [lane for lane in self._lanes.values() if lane.due]
        for lane in due:
            self._receive(lane)
        give_up_late(due, self._receive, self._give_up_lane)
        self._send_all(wait=False)
        for key, lane in list(self._lanes.items()):
            if not lane.due and not lane.unsent:
                del self._lanes[key]
                lane.member.pool.checkin(lane.connection)
        if not self._lanes:
            self._attempts.tell()
        return bool(self._lanes)

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
            member = self._next_member(item)
            if member is None:
                self._defer(item)
                return
        lane = self._lanes.get((member, tube)) or self._open_lane(member, tube, item)
        if lane is None:
            return
        if size > lane.connection.largest_body:
            self._fail(item, member, too_big(lane.connection, size))
            return
        if retried:
            lane.has_retries = True
        lane.unsent.append(item)
        lane.unsent_bytes += len(request)
        if lane.unsent_bytes >= _CHUNK:
            self._send(lane)

    def _next_member(self, item: Item[Token]) -> Member | None:
        """The first of its order that takes puts and need not be passed over."""
        for member in self._topology().order(item[1].key):
            if member.accepting and (not isinstance(item, Retry) or self._may_ask(item, member)):
                return member
        return None

    def _may_ask(self, item: Retry[Token], member: Member) -> bool:
        if member in item.asked:
            return False
        if not has_tried(item.attempts, member):
            return True
        if member in refused_for_size(item.attempts):
            return False
        if member not in self._permitted:
            self._permitted[member] = self._putter.may_repeat(time.monotonic() + self._stall.left)
        return self._permitted[member]

    def _route_again(self) -> None:
        while self._again:
            self._route(self._again.popleft())

    def _defer(self, item: Item[Token]) -> None:
        retry = as_retry(item)
        if self._putter.is_too_big_for_all(retry.attempts, retry.put.size):
            self._give_up(retry)
        else:
            self._deferred.append(retry)

    # Connections.

    def _open_lane(self, member: Member, tube: str, item: Item[Token]) -> Lane[Token] | None:
        if member in self._full:
            if member.pool.is_full:
                # The batch has waited for it before.
                self._fail(item, member, member.pool.queue.exhausted())
                return None
            self._full.discard(member)
            self._failed.pop(member, None)
        if self._lanes and (len(self._lanes) >= _MOST_LANES or member.pool.is_full):
            # Who waits for a connection has none: it may be the batch itself that has them all, or another batch that
            # waits for one of this one's.
            self._finish_lanes()
        patience = self._patience(member, to_connect=True)
        if not patience:
            self._defer(item)
            return None
        started = time.monotonic()
        try:
            connection = put_connection(member, tube, started + patience)
        except BeanpoolError as error:
            self._stall.spend(time.monotonic() - started)
            self._failed[member] = self._putter.comebacks
            if isinstance(error, PoolTimeout):
                self._full.add(member)
            self._fail(item, member, error)
            return None
        unproven = not member.up or (isinstance(item, Retry) and has_tried(item.attempts, member))
        opened: Lane[Token] = Lane(member, connection, unproven)
        self._lanes[member, tube] = opened
        return opened

    def _patience(self, member: Member, *, to_connect: bool = False) -> float:
        # A server that is silent must leave time for another one; but where nothing may be put twice, one that has been
        # sent a put has all of it.
        alone = self._topology().single is not None or (not to_connect and not self._resend)
        share = 1.0 if alone else 1 / 2 if member.up else 1 / 3
        return self._stall.patience(share, self._failed.get(member) != self._putter.comebacks)

    # Sending and receiving.

    def _send_all(self, *, wait: bool = True) -> None:
        """Send what was collected, and what failed on the way; where it goes no further, wait for replies."""
        while True:
            for lane in list(self._lanes.values()):
                self._send(lane, wait=wait)
            if not self._again:
                break
            self._route_again()

    def _send(self, lane: Lane[Token], *, wait: bool = True) -> None:
        while lane.unsent:
            if not lane.member.accepting:
                # It has refused, or failed, since these were collected.
                self._again.extend(lane.take_unsent())
                return
            if lane.due and (lane.unproven or lane.in_flight + lane.unsent_bytes > _WINDOW):
                if not wait:
                    return
                self._wait()
                continue
            if not lane.due:
                patience = self._patience(lane.member)
                if not patience:
                    for item in lane.take_unsent():
                        self._defer(item)
                    return
                lane.patience = patience
            try:
                lane.put()
            except BeanpoolError as error:
                self._lose(lane, error)
                return
            if lane.in_flight > _WINDOW // 2:
                self._receive(lane)

    def _work_off(self) -> None:
        """Wait until nothing is under way; what is deferred then waits for a server."""
        while True:
            self._finish_lanes()
            if not self._again:
                return
            self._route_again()

    def _finish_lanes(self) -> None:
        """Wait for all replies, and give the connections back."""
        while True:
            for lane in list(self._lanes.values()):
                self._send(lane)
            if not any(lane.due for lane in self._lanes.values()):
                break
            self._wait()
        while self._lanes:
            # First out of the batch: an interrupt in between must not close what another caller has by then.
            _, lane = self._lanes.popitem()
            lane.member.pool.checkin(lane.connection)

    def _wait(self) -> None:
        """Wait for replies, until some have come or a server has been silent for too long."""
        lanes = [lane for lane in self._lanes.values() if lane.due]
        started, replies = time.monotonic(), self._replies
        # It may be few replies if many take their time.
        for lane in lanes:
            lane.connection.channel.gather(len(lane.due) * _SHORTEST_REPLY)
        if not drive(lanes, self._receive, self._give_up_lane, started + _GATHERING):
            for lane in lanes:
                lane.connection.channel.gather(0)
            drive(lanes, self._receive, self._give_up_lane)
        if self._replies == replies:
            self._stall.spend(time.monotonic() - started)

    def _give_up_lane(self, lane: Lane[Token]) -> None:
        self._lose(lane, lane.late(PUT))

    def _receive(self, lane: Lane[Token]) -> None:
        origin = lane.connection.origin
        name, answered = new_job_id, lane.answered
        try:
            for run, reply in lane.receive(lane.connection.channel.collect_inserted()):
                lane.in_flight -= sum([len(request) for _, request in run])
                if not isinstance(reply, Reply):
                    stored = [(item[0], name(number, origin)) for (item, _), number in zip(run, reply, strict=True)]
                    if lane.has_retries:
                        self._declare(lane.member, run, stored)
                    self._on_outcomes(stored)
                    self._proved(lane)
                    self._attempts.add(lane.member, "stored", run)
                    continue
                item = run[0][0]
                if reply.status == "BURIED":
                    lane.connection.tally[PUT_BURIED] += 1
                    buried = [(item[0], JobId(reply.number, *origin, buried=True))]
                    self._declare(lane.member, run, buried)
                    self._on_outcomes(buried)
                    self._proved(lane)
                    self._attempts.add(lane.member, "buried", run)
                else:
                    refused = lane.connection.refuse(PUT, reply, size=item[1].size, limit=lane.connection.largest_body)
                    self._fail(item, lane.member, refused)
        except BeanpoolError as error:
            self._lose(lane, error)
            return
        if lane.answered != answered:
            self._replies += 1
            lane.patience = self._patience(lane.member)

    def _declare(
        self, member: Member, run: Sequence[tuple[Item[Token], bytes]], stored: Sequence[tuple[Token, JobId]]
    ) -> None:
        """Say of those that were tried before what their attempts have left behind."""
        for (item, _), (_, jid) in zip(run, stored, strict=True):
            if isinstance(item, Retry) and item.attempts:
                jid.maybe_duplicate = is_duplicate(named(item.attempts))
                self._putter.report_rerouted(member, item.attempts)

    def _proved(self, lane: Lane[Token]) -> None:
        """The server has stored a put."""
        self._stall.renew()
        self._failed.clear()
        if lane.unproven:
            lane.unproven = False
            lane.member.works()
            if self._permitted.get(lane.member):
                self._putter.budget.repay()

    # What goes wrong.

    def _fail(self, item: Item[Token], member: Member, error: BeanpoolError) -> None:
        """An attempt has failed: the put goes to another server, or that was the end of it."""
        retry = as_retry(item)
        retry.asked.add(member)
        if self._note(retry, member, error):
            self._give_up(retry)
        else:
            self._again.append(retry)

    def _note(self, retry: Retry[Token], member: Member, error: BeanpoolError) -> bool:
        """Add an attempt to those of its put; returns whether the put ends with it."""
        self._attempts.add(member, attempt_outcome(error), [(retry, b"")])
        return self._putter.note(retry.attempts, member, error, retry.put.key, self._resend)

    def _lose(self, lane: Lane[Token], error: BeanpoolError) -> None:
        """The lane's connection is gone: what was sent may be stored, what was not is not."""
        self._lanes = {key: known for key, known in self._lanes.items() if known is not lane}
        self._failed[lane.member] = self._putter.comebacks
        lane.member.pool.checkin(lane.connection, broken=error)
        for item, failure in lane.split(error):
            self._fail(item, lane.member, failure)

    def _abandon(self, lane: Lane[Token]) -> None:
        """The same at the end of a batch that was interrupted: nothing is put any more."""
        address = lane.member.address
        interrupted = ConnectionFailed(f"{address}: the batch of the put was interrupted", server=address)
        for item, failure in lane.split(interrupted):
            retry = as_retry(item)
            self._note(retry, lane.member, failure)
            self._give_up(retry)

    def _give_up(self, retry: Retry[Token]) -> None:
        self._putter.reporter.put_failed()
        self._on_outcomes([(retry.token, self._putter.failure(retry.attempts, retry.put.key, retry.put.size))])

    def _retry_deferred(self) -> None:
        """Wait for servers with those that no server took, and try again; what is deferred then is given up."""
        if self._putter.all_drain():
            self._ask_who_drains()
        self._pausing_since = time.monotonic()
        with contextlib.suppress(NotStored):
            self._putter.rounds(self._another_round, self._pausing_since + self._stall.left)
        if self._deferred:
            self._stall.spend(time.monotonic() - self._pausing_since)
        waiting, self._deferred = self._deferred, []
        for retry in waiting:
            self._give_up(retry)

    def _ask_who_drains(self) -> None:
        """Only another process takes a put then: one put finds out whether there is one, and speaks for all."""
        retry = self._deferred.pop(0)
        started = time.monotonic()
        request = PutRequest(*retry.put, started + self._stall.left, self._resend)
        request.attempts = retry.attempts
        outcome: Outcome
        try:
            outcome = self._putter.go_on(request, None, None)
        except BeanpoolError as error:
            outcome = without_frames(error)
            self._stall.spend(time.monotonic() - started)
        self._on_outcomes([(retry.token, outcome)])
        if self._putter.all_drain():
            drained, self._deferred = self._deferred, []
            for left in drained:
                self._give_up(left)

    def _another_round(self) -> None:
        self._stall.spend(time.monotonic() - self._pausing_since)
        self._permitted.clear()
        for retry in self._deferred:
            retry.asked.clear()
        self._again.extend(self._deferred)
        self._deferred = []
        self._route_again()
        self._work_off()
        self._pausing_since = time.monotonic()
        if self._deferred:
            raise AnotherRound
