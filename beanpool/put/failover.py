"""A put into a cluster: its attempts, what each of them left behind, and what the caller is told."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from beanpool.cluster import WHO_IS_IT, Availability, Topology, ask_each
from beanpool.connection import JobId, new_job_id
from beanpool.errors import (
    BeanpoolError,
    CommandFailed,
    CommandTimeout,
    ConnectionFailed,
    Draining,
    JobTooBig,
    OutOfMemory,
    Phase,
    UnexpectedResponse,
    refusal,
    without_frames,
)
from beanpool.policy import Attempts, RetryBudget, RetryPolicy, is_duplicate, is_over, may_be_stored, outcome
from beanpool.protocol import PUT, PUT_BURIED
from beanpool.server import Member, PooledConnection
from beanpool.telemetry import AttemptOutcome, Reporter

# Without a look into the class for every put.


# How long a put may wait for the permission to ask the same server once more (seconds).
_LONGEST_WAIT_FOR_BUDGET = 0.5

Result = TypeVar("Result")


class NotStored(Exception):
    """No server has acknowledged the put, and no other attempt would help; its attempts say why."""


class AnotherRound(NotStored):
    """No server took the put this time round; another round may help."""


Tried = list[tuple[Member, BeanpoolError]]
"""The attempts of a put, oldest first: on which server, and how each of them ended."""


class PutRequest:
    """One put: what is sent, and what its attempts have shown so far."""

    __slots__ = ("attempts", "began", "deadline", "key", "request", "resend", "size", "tube")

    def __init__(
        self, request: bytes, size: int, tube: str, key: str | bytes | None, deadline: float, resend: bool
    ) -> None:
        self.request: bytes = request
        self.size: int = size
        self.tube: str = tube
        self.key: str | bytes | None = key
        self.deadline: float = deadline
        self.resend: bool = resend
        self.attempts: Tried = []
        self.began: float = 0.0
        """When the attempt began that is under way (monotonic seconds)."""


def named(attempts: Tried) -> Attempts:
    """The attempts with the addresses of their servers, as :mod:`beanpool.policy.put_outcome` takes them."""
    return [(member.address, error) for member, error in attempts]


def attempt_outcome(result: JobId | BeanpoolError) -> AttemptOutcome:
    """What an attempt came to, by what it returned or raised."""
    if isinstance(result, JobId):
        return "buried" if result.buried else "stored"
    if may_be_stored(result):
        return "ambiguous"
    return "refused" if isinstance(result, CommandFailed) else "not_sent"


def has_tried(attempts: Tried, member: Member) -> bool:
    """Whether an attempt was made on this server before."""
    return any(tried is member for tried, _ in attempts)


def refused_for_size(attempts: Tried) -> set[Member]:
    """The servers that have refused the body for its size; none of them will take it later."""
    return {member for member, error in attempts if isinstance(error, JobTooBig)}


def _use(member: Member, connection: PooledConnection, tube: str, deadline: float) -> None:
    try:
        connection.use_tube(tube, deadline)
    except (ConnectionFailed, UnexpectedResponse) as error:
        # It was the use that got lost: no put was sent.
        error.may_have_taken_effect = False
        member.pool.checkin(connection, broken=error)
        raise
    except BaseException:
        member.pool.checkin(connection)
        raise


def _not_before(until: float, deadline: float, member: Member) -> float:
    """Until when a reply is waited for that is asked for now: not before a server that is so far away can answer."""
    return max(until, min(deadline, time.monotonic() + member.reply_time))


def too_big(connection: PooledConnection, size: int) -> CommandFailed:
    """The refusal of a body (of `size` bytes) that the server would refuse: nothing is sent."""
    return refusal("put", "JOB_TOO_BIG", server=connection.server, size=size, limit=connection.largest_body)


def put_once(
    member: Member,
    request: bytes,
    size: int,
    tube: str,
    until: float,
    deadline: float,
    wait: bool = True,
) -> JobId:
    """One attempt on one server.

    :param size: of the body (bytes).
    :param until: when others are to have a turn (monotonic seconds), if the server is silent; one that is known to be
        far away has its time for each round trip that it takes.
    :param deadline: when that ends, too (monotonic seconds).
    :param wait: whether to wait for a connection where all are in use, and not only for a reserve to give way.
    :raises PoolTimeout: if there was none.
    :raises BeanpoolError: :func:`beanpool.policy.put_outcome.may_be_stored` tells what became of the job.
    """
    pool = member.pool
    connection = pool.acquire(until, tube, deadline, wait)
    if connection.is_new or connection.used != tube:
        connection.is_new = False
        until = _not_before(until, deadline, member)
        if connection.used != tube:
            _use(member, connection, tube, until)
            until = _not_before(until, deadline, member)
    try:
        if size > connection.largest_body:
            raise too_big(connection, size)
        reply = connection.channel.exchange(PUT, request, until)
        if reply.status == "INSERTED":
            jid = new_job_id(reply.number, connection.origin)
        elif reply.status == "BURIED":
            connection.tally[PUT_BURIED] += 1
            jid = new_job_id(reply.number, connection.origin)
            jid.buried = True
        else:
            raise connection.refuse(PUT, reply, size=size, limit=connection.largest_body)
    except CommandFailed:
        pool.checkin(connection)
        raise
    except BaseException as error:
        pool.checkin(connection, broken=error)
        raise
    pool.checkin(connection)
    return jid


class Putter:
    """Puts jobs into a cluster, past the servers that do not take them.

    :param topology: returns the current topology.
    :param closing: is set when the pool closes.
    :param reporter: is told of what happens to puts.
    :param budget: bounds the attempts that repeat earlier ones.
    :param availability: ends the pauses of those that no server takes.
    """

    def __init__(
        self,
        topology: Callable[[], Topology],
        policy: RetryPolicy,
        closing: threading.Event,
        reporter: Reporter,
        budget: RetryBudget,
        availability: Availability,
    ) -> None:
        self._topology = topology
        self._policy = policy
        self._closing = closing
        self._availability = availability
        self.reporter = reporter
        self.budget = budget

    def end(self) -> None:
        """Let no put wait any more: the pool closes."""
        self.budget.end()

    def go_on(self, put: PutRequest, member: Member | None, error: BeanpoolError | None) -> JobId:
        """Go on after a first attempt that failed on `member`, or that found no server to try.

        :raises PutAmbiguous: if an attempt may have stored the job and no other one did.
        :raises NoServerAvailable: if no server took it before the deadline.
        """
        asked = []
        try:
            if member is not None and error is not None:
                self._settle(put, member, error)
                asked.append(member)
            with contextlib.suppress(AnotherRound):
                return self._round(put, asked)
            return self.rounds(lambda: self._round(put, []), put.deadline)
        except NotStored:
            failure = self.failure(put.attempts, put.key, put.size)
        self.reporter.put_failed()
        # Raised out here: the rounds' own errors are in the attempts, not in the context.
        raise failure

    @property
    def comebacks(self) -> int:
        """How often servers have come back so far."""
        return self._availability.comebacks

    def rounds(self, ask: Callable[[], Result], deadline: float) -> Result:
        """Ask servers again and again, with pauses between, until the deadline or the end of the pool.

        :param ask: makes one round; raises :class:`AnotherRound` if one more may help.
        :raises NotStored: if none of them brought the end.
        """
        if time.monotonic() >= deadline:
            # Nor is there time to load tenacity, if this is the first put that would need it.
            raise AnotherRound
        availability = self._availability
        seen = 0

        def ask_again() -> Result:
            nonlocal seen
            seen = availability.comebacks
            return ask()

        return self._policy.run(
            ask_again,
            AnotherRound,
            deadline,
            self._closing,
            self.reporter.retry_scheduled,
            lambda seconds: availability.wait_for_comeback(seen, seconds),
        )

    def _round(self, put: PutRequest, asked: list[Member]) -> JobId:
        too_small = refused_for_size(put.attempts)
        candidates = [
            member
            for member in self._topology().order(put.key)
            if member.accepting and member not in asked and member not in too_small
        ]
        if put.key is None:
            # It can go to any: not where it would have to wait for others.
            candidates.sort(key=lambda member: (not member.up, member.pool.wait_ahead(member.reply_time)))
        if not candidates and self.all_drain():
            self._look_for_new_ones(put.deadline)
            candidates = [m for m in self._topology().order(put.key) if m.accepting and m not in asked]
            if not candidates and self.all_drain():
                raise NotStored
        for index, member in enumerate(candidates):
            put.began = time.monotonic()
            remaining = put.deadline - put.began
            if remaining <= 0:
                break
            repeated = has_tried(put.attempts, member)
            if repeated and not self.may_repeat(put.deadline):
                continue
            try:
                until = put.deadline - remaining * (1 - self._share(put, member, candidates, index))
                until = _not_before(until, put.deadline, member)
                jid = put_once(member, put.request, put.size, put.tube, until, put.deadline)
            except BeanpoolError as error:
                self._settle(put, member, error)
                continue
            if repeated:
                self.budget.repay()
            member.works(put.began)
            if put.attempts:
                self.report_rerouted(member, put.attempts)
            jid.maybe_duplicate = is_duplicate(named(put.attempts))
            self._tell(put, member, jid)
            return jid
        if self.is_too_big_for_all(put.attempts, put.size):
            raise NotStored
        raise AnotherRound

    def _look_for_new_ones(self, deadline: float) -> None:
        """All servers drain. Only another process takes a put then: ask all at once whether they are one by now."""
        draining = [member for member in self._topology().distinct if member.health.draining]
        now = time.monotonic()
        answers = ask_each({member: [WHO_IS_IT] for member in draining}, now + max(0.0, deadline - now) / 2)
        if any(isinstance(answer, BeanpoolError) for said in answers.values() for answer in said):
            # One whose connection broke may be another process by now.
            raise AnotherRound

    def _share(self, put: PutRequest, member: Member, candidates: list[Member], index: int) -> float:
        # A server that is silent must leave time for the next one.
        if index + 1 == len(candidates) or not put.resend:
            return 1.0
        return 1 / 2 if member.up else 1 / 3

    def _settle(self, put: PutRequest, member: Member, error: BeanpoolError) -> None:
        """Take in how an attempt ended; raises if the put ends with it."""
        self._tell(put, member, error)
        if self.note(put.attempts, member, error, put.key, put.resend):
            raise NotStored

    def _tell(self, put: PutRequest, member: Member, result: JobId | BeanpoolError) -> None:
        if member.observers.active:
            seconds = time.monotonic() - put.began
            member.observers.put(member.address, put.tube, 1, put.size, seconds, attempt_outcome(result))

    def all_drain(self) -> bool:
        """Whether every server that may get puts is there, and drains."""
        takers = [member for member in self._topology().distinct if member.weight > 0]
        return bool(takers) and all(member.health.draining and not member.down for member in takers)

    # What batches have in common with single puts.

    def may_repeat(self, deadline: float) -> bool:
        """Whether a server may be asked once more to take the same job; waits a little for the permission."""
        now = time.monotonic()
        if self.budget.take(min(now + _LONGEST_WAIT_FOR_BUDGET, (now + deadline) / 2)):
            return True
        self.reporter.retry_refused()
        return False

    def note(
        self, attempts: Tried, member: Member, error: BeanpoolError, key: str | bytes | None, resend: bool
    ) -> bool:
        """Add an attempt to those of its put; returns whether the put ends with it."""
        if isinstance(error, Draining | OutOfMemory) and member.accepting:
            member.refused(error)
        # Without its traceback, which holds the frames of the attempt, and the body in them.
        attempts.append((member, without_frames(error)))
        member.pool.counters.rare.add("put_attempts_failed")
        if may_be_stored(error):
            self.reporter.put_ambiguous(member.address, error)
        at_home = key is not None and member is self._topology().owner(key)
        return is_over(error, resend=resend, at_home=at_home, closing=self._closing.is_set())

    def report_rerouted(self, member: Member, attempts: Tried) -> None:
        """Report that a server has taken a put after these attempts."""
        failed, error = attempts[-1]
        self.reporter.put_rerouted(member.address, failed.address, error)

    def is_too_big_for_all(self, attempts: Tried, size: int) -> bool:
        """Whether the body (of `size` bytes) was refused for its size, and no other server can be hoped for."""
        too_small = refused_for_size(attempts)
        return bool(too_small) and not any(
            _may_take(member, size) for member in self._topology().distinct if member not in too_small
        )

    def failure(self, attempts: Tried, key: str | bytes | None, size: int) -> BeanpoolError:
        """What the caller of a put is told that came to an end with these attempts."""
        topology = self._topology()
        too_small = refused_for_size(attempts)
        at_home = key is not None and topology.owner(key) in too_small
        unasked = {
            member.address: member.unusable() if not member.accepting else _no_time_for(member)
            for member in topology.members
        }
        return outcome(
            named(attempts),
            unasked=unasked,
            closing=self._closing.is_set(),
            too_big=at_home or self.is_too_big_for_all(attempts, size),
        )


def _may_take(member: Member, size: int) -> bool:
    # One that is away is waited for only if it is known to take what the others refuse.
    identity = member.health.identity
    limit = identity.max_job_size if identity is not None else None
    return member.accepting or (member.weight > 0 and limit is not None and limit >= size)


def _no_time_for(member: Member) -> BeanpoolError:
    return CommandTimeout(
        f"{member.address}: not asked, the time for the put had run out before its turn",
        server=member.address,
        phase=Phase.CLOSED,
    )
