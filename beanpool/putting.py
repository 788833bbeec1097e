"""A put into a cluster: its attempts, what each of them left behind, and what the caller is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from beanpool.comebacks import Comebacks
from beanpool.errors import (
    BeanpoolError,
    CommandFailed,
    ConnectionFailed,
    Draining,
    JobTooBig,
    NoServerAvailable,
    OutOfMemory,
    PoolClosed,
    PoolTimeout,
    PutAmbiguous,
    ReentrantCall,
    UnexpectedResponse,
)
from beanpool.job_id import JobId
from beanpool.member import Member
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.commands import PUT
from beanpool.retry import RetryPolicy
from beanpool.retry_budget import RetryBudget
from beanpool.topology import Topology

# Without a look into the class for every put.
_name = JobId.of


class _NotStored(Exception):
    """No server took the put this time round; another round may help."""


class PutObserver(Protocol):
    """Who is told of what happens to puts."""

    def put_rerouted(self, member: Member, instead_of: Member, error: BeanpoolError) -> None:
        """A put went to another server than the one that was tried before."""

    def put_ambiguous(self, member: Member, error: BeanpoolError) -> None:
        """A put may or may not be stored."""

    def retry_scheduled(self, wait: float, error: BaseException | None) -> None:
        """No server took a put; all will be asked again after `wait` seconds."""

    def retry_refused(self) -> None:
        """A put was not tried again: too many were, of late."""


class PutRequest:
    """One put: what is sent, and what its attempts have shown so far."""

    __slots__ = ("attempts", "deadline", "key", "request", "resend", "size", "tube")

    def __init__(
        self, request: bytes, size: int, tube: str, key: str | bytes | None, deadline: float, resend: bool
    ) -> None:
        self.request = request
        self.size = size
        self.tube = tube
        self.key = key
        self.deadline = deadline
        self.resend = resend
        self.attempts: list[tuple[Member, BeanpoolError]] = []

    def has_tried(self, member: Member) -> bool:
        """Whether an attempt was made on this server before."""
        return any(tried is member for tried, _ in self.attempts)

    def ambiguous(self) -> tuple[Member, BeanpoolError] | None:
        """The first attempt that may have stored the job."""
        for member, error in self.attempts:
            if may_be_stored(error):
                return member, error
        return None


def may_be_stored(error: BeanpoolError) -> bool:
    """Whether a put that ended so may be in the server: decided by how far it got, not by the kind of error."""
    if isinstance(error, CommandFailed):
        return error.status == "INTERNAL_ERROR"
    return isinstance(error, ConnectionFailed | UnexpectedResponse) and error.may_have_taken_effect


def put_connection(member: Member, tube: str, deadline: float) -> PooledConnection:
    """Check out a connection whose puts go to `tube`.

    :raises BeanpoolError: nothing was put; :func:`may_be_stored` says so too.
    """
    connection = member.pool.acquire(deadline, tube)
    if connection.used != tube:
        _use(member, connection, tube, deadline)
    return connection


def _use(member: Member, connection: PooledConnection, tube: str, deadline: float) -> None:
    try:
        connection.use_tube(tube, deadline)
    except (ConnectionFailed, UnexpectedResponse) as error:
        # It was the use that got lost: no put was sent.
        error.may_have_taken_effect = False
        member.pool.broke(connection, error)
        raise
    except BaseException:
        member.pool.release(connection)
        raise


def too_big() -> JobTooBig:
    """The refusal of a body that the server would refuse: nothing is sent."""
    return JobTooBig("put", "JOB_TOO_BIG", [])


def put_once(member: Member, request: bytes, size: int, tube: str, deadline: float) -> JobId:
    """One attempt on one server.

    :param size: of the body (bytes).
    :raises BeanpoolError: :func:`may_be_stored` tells what became of the job.
    """
    pool = member.pool
    connection = pool.acquire(deadline, tube)
    if connection.used != tube:
        _use(member, connection, tube, deadline)
    try:
        if size > connection.largest_body:
            raise too_big()
        reply = connection.channel.exchange(PUT, request, deadline)
        if reply.status == "INSERTED":
            jid = _name(reply.number, connection.origin)
        elif reply.status == "BURIED":
            jid = _name(reply.number, connection.origin)
            jid.buried = True
        else:
            raise connection.refuse(PUT, reply)
    except CommandFailed:
        pool.release(connection)
        raise
    except BaseException as error:
        pool.broke(connection, error)
        raise
    pool.release(connection)
    return jid


class Putter:
    """Puts jobs into a cluster, past the servers that do not take them.

    :param topology: returns the current topology.
    :param closing: is set when the pool closes.
    :param observer: is told of what happens to puts.
    :param budget: bounds the attempts that repeat earlier ones.
    :param comebacks: end the pauses of those that no server takes.
    """

    def __init__(
        self,
        topology: Callable[[], Topology],
        policy: RetryPolicy,
        closing: threading.Event,
        observer: PutObserver,
        budget: RetryBudget,
        comebacks: Comebacks,
    ) -> None:
        self._topology = topology
        self._policy = policy
        self._closing = closing
        self._observer = observer
        self._budget = budget
        self._comebacks = comebacks

    def go_on(self, put: PutRequest, member: Member | None, error: BeanpoolError | None) -> JobId:
        """Go on after a first attempt that failed on `member`, or that found no server to try.

        :raises PutAmbiguous: if an attempt may have stored the job and no other one did.
        :raises NoServerAvailable: if no server took it before the deadline.
        """
        tried = []
        if member is not None and error is not None:
            self._settle(put, member, error)
            tried.append(member)
        failure: BeanpoolError
        comebacks = self._comebacks
        seen = comebacks.count

        def another_round() -> JobId:
            nonlocal seen
            seen = comebacks.count
            return self._round(put, [])

        try:
            return self._round(put, tried)
        except _NotStored:
            pass
        if time.monotonic() >= put.deadline:
            # Nor is there time to load tenacity, if this is the first put that would need it.
            raise self._failure(put)
        try:
            return self._policy.run(
                another_round,
                _NotStored,
                put.deadline,
                self._closing,
                self._observer.retry_scheduled,
                lambda seconds: comebacks.sleep(seconds, seen),
            )
        except _NotStored:
            failure = self._failure(put)
        # Raised out here: the rounds' own errors are in the attempts, not in the context.
        raise failure

    def _round(self, put: PutRequest, tried: list[Member]) -> JobId:
        candidates = [member for member in self._topology().order(put.key) if member.accepting and member not in tried]
        for index, member in enumerate(candidates):
            remaining = put.deadline - time.monotonic()
            if remaining <= 0:
                break
            if put.has_tried(member) and not self._budget.take():
                self._observer.retry_refused()
                raise self._failure(put)
            try:
                until = put.deadline - remaining * (1 - self._share(put, member, candidates, index))
                jid = put_once(member, put.request, put.size, put.tube, until)
            except BeanpoolError as error:
                self._settle(put, member, error)
                continue
            member.works()
            if put.attempts:
                self._observer.put_rerouted(member, *put.attempts[-1])
            jid.maybe_duplicate = put.ambiguous() is not None
            return jid
        raise _NotStored

    def _share(self, put: PutRequest, member: Member, candidates: list[Member], index: int) -> float:
        # A server that is silent must leave time for the next one.
        if index + 1 == len(candidates) or not put.resend:
            return 1.0
        return 1 / 2 if member.up else 1 / 3

    def _settle(self, put: PutRequest, member: Member, error: BeanpoolError) -> None:
        """Take in how an attempt ended; raises if the put ends with it."""
        if isinstance(error, PoolClosed | ReentrantCall) or (
            isinstance(error, CommandFailed) and error.status not in ("DRAINING", "OUT_OF_MEMORY", "INTERNAL_ERROR")
        ):
            raise error
        if isinstance(error, Draining | OutOfMemory):
            member.refused(error)
        # Without its traceback, which holds the frames of the attempt, and the body in them.
        put.attempts.append((member, error.with_traceback(None)))
        if may_be_stored(error):
            self._observer.put_ambiguous(member, error)
            if not put.resend:
                raise self._failure(put)

    def _failure(self, put: PutRequest) -> BeanpoolError:
        if self._closing.is_set():
            return PoolClosed("the pool was closed while a put waited for a server")
        ambiguous = put.ambiguous()
        if ambiguous is not None:
            member, error = ambiguous
            return PutAmbiguous(
                f"{member.address}: the put may or may not be stored ({error}); putting it again may store it twice",
                server=member.address,
                attempts=[error for _, error in put.attempts],
            )
        errors: dict[str, BaseException] = {
            member.address: member.unusable() for member in self._topology().members if not member.accepting
        }
        errors.update((member.address, error) for member, error in put.attempts)
        if errors and all(isinstance(error, PoolTimeout) for error in errors.values()):
            return PoolTimeout("; ".join(str(error) for error in errors.values()))
        return no_server(errors, "took the put")


def no_server(errors: dict[str, BaseException], what: str) -> NoServerAvailable:
    """One error that lists every server with its reason."""
    reasons = "".join(f"\n  {_named(address, error)}" for address, error in errors.items())
    return NoServerAvailable(f"no server {what}:{reasons or ' there is none'}", errors=errors)


def _named(address: str, error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if text.startswith(address) else f"{address}: {text}"
