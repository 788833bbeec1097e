"""A job, and the connection that it came from."""

from __future__ import annotations

import contextlib
import enum
import functools
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from beanpool.connection import results
from beanpool.connection.body_type import BodyT
from beanpool.connection.job_id import new_job_id
from beanpool.connection.job_protocols import JobConnection, JobLease, JobRecovery
from beanpool.connection.turns import offer, queue_up, turn
from beanpool.errors import BeanpoolError, ConnectionFailed, JobLost, NotPicklable, UnexpectedResponse, job_lost
from beanpool.net import OF_THE_PARENT, Channel, ChannelState
from beanpool.protocol import (
    BURY,
    DELETE,
    KICK_JOB,
    RELEASE,
    STATS_JOB,
    TOUCH,
    Command,
    Reply,
    encode_bury,
    encode_job,
    encode_release,
)
from beanpool.telemetry import JobTiming, Observers
from beanpool.validation import check_seconds

Answer = TypeVar("Answer")
Read = Callable[[Channel, Reply], Answer]
"""What makes a value of a reply, or raises the error that it stands for: a function of ``results.py``."""

_MADE_ANEW = "its connection was closed and made anew since"
RAN_OUT = "its TTR ran out, or it was finished elsewhere"
_RESERVED_AGAIN = "its TTR ran out, and the server has given it out again"
SUPERSEDED = -1
"""The epoch of a job that another reservation has taken the place of."""


class JobState(enum.Enum):
    """What this process may do with a job."""

    RESERVED = "reserved"
    """Reserved by this job's connection: nobody else gets it until it is finished, or its TTR runs out."""
    NOT_RESERVED = "not reserved"
    """Seen by a peek, or released, buried or deleted."""
    LOST = "lost"
    """It was reserved, and the reservation is gone."""


# A global is found faster than a member of an enumeration.
_RESERVED = JobState.RESERVED
_NOT_RESERVED = JobState.NOT_RESERVED
_LOST = JobState.LOST
_CLOSED = ChannelState.CLOSED
_monotonic = time.monotonic


class Job(NotPicklable, Generic[BodyT]):
    """A job of one server. Its commands go to the connection that it came from, and to no other.

    As a context manager it is deleted when the block ends well, and released when it raises.

    :ivar number: the job's id as a plain ``int`` (unique in its server process only).
    :ivar data: the body as raw bytes.
    :ivar tube: the tube's name where it is known without asking (see :meth:`stats`), else None.
    """

    __slots__ = (
        *("__weakref__", "_connection", "_epoch", "_lease", "_recovery", "_reserved_at", "_state"),
        *("data", "number", "tube"),
    )

    def __init__(
        self,
        connection: JobConnection,
        jid: int,
        data: bytes,
        *,
        tube: str | None = None,
        recovery: JobRecovery[Job[Any]] | None = None,
    ) -> None:
        self.number: int = jid
        self.data: bytes = data
        self.tube: str | None = tube
        self._connection = connection
        self._epoch = connection._epoch
        self._recovery = recovery
        self._lease: JobLease[Job[Any]] | None = None
        # When it was reserved (monotonic seconds).
        self._reserved_at = 0.0
        self._state = _NOT_RESERVED

    def __repr__(self) -> str:
        return f"<Job {self.number} of {self.server}, {self._state.value}, {len(self.data)} bytes>"

    @property
    def body(self) -> BodyT:
        """The body: ``str``, decoded with the connection's `encoding`; ``bytes`` if that is None.

        :raises UnicodeDecodeError: if it is not valid in that encoding; :attr:`data` has the bytes.
        """
        encoding = self._connection.encoding
        data: Any = self.data
        body: BodyT = data if encoding is None else data.decode(encoding)
        return body

    @property
    def id(self) -> int:
        """The job's id: of a pool's job a :class:`JobId`, which says where it is worth something, else an ``int``."""
        # Made when it is asked for: most jobs are finished without.
        origin = self._connection._origin
        return self.number if origin is None else new_job_id(self.number, origin)

    @property
    def jid(self) -> int:
        """The job's id, as beanstalkc calls it."""
        return self.id

    @property
    def connection(self) -> Any:
        """The connection that the job came from: a :class:`Connection`, or one of a pool.

        Those have no verbs; they have `server`, `timeout`, `encoding`, `closed` and :meth:`~Connection.close`.
        """
        return self._connection

    @property
    def conn(self) -> Any:
        """The connection, as beanstalkc calls it."""
        return self._connection

    @property
    def server(self) -> str:
        """The address of the job's server."""
        return self._connection.server

    @property
    def reserved(self) -> bool:
        """Whether the job is reserved here, as far as this process knows."""
        return self._state is JobState.RESERVED and not self._cut_off

    @property
    def lost(self) -> bool:
        """Whether the reservation is gone: its connection broke, or the server has said so.

        Work on a lost job may be done a second time by another worker, so it is worth stopping early. Asking takes no
        round trip: it sees that the server has closed the connection, and that this pool was given the job again, not
        that the TTR ran out.
        """
        if self._state is _RESERVED and not self._cut_off:
            connection = self._connection
            # Whoever has a command under way sees for himself.
            with contextlib.suppress(BeanpoolError), queue_up(connection, 0.0):
                channel = connection._channel
                if self._has(connection) and channel is not None:
                    channel.check_quiet()
        return self._state is _LOST or (self._state is _RESERVED and self._cut_off)

    @property
    def _cut_off(self) -> bool:
        """Whether the very connection that it came from is gone; one that was made anew is another."""
        return self._connection.closed or self._connection._epoch != self._epoch

    def _has(self, connection: JobConnection) -> bool:
        """Whether the job keeps `connection` for itself; asked by who has its guard, it stays so until that is let go.

        All that ends a job has the guard. While nobody has it, another thread may end the last job of the connection,
        and the pool may give that to another caller.
        """
        return self._state is _RESERVED and self._connection is connection

    def delete(self, *, timeout: float | None = None) -> None:
        """Delete the job: its work is done (``delete``). A job that is not reserved can be deleted too.

        If the connection was lost meanwhile, one attempt is made to finish a pooled job's delete safely: only in
        the same server process, and only if nobody else has the job.

        :param timeout: the longest it may take (seconds); None for the connection's.
        :raises JobLost: if the reservation is gone and the job could not be deleted safely.
        :raises NotFound: if the job is not reserved here and is gone, or reserved by somebody else.
        """
        seconds = self._connection.timeout if timeout is None else check_seconds("timeout", timeout)
        self._delete_by(_monotonic() + seconds)

    def _delete_by(self, deadline: float) -> None:
        """As :meth:`delete`, until a time of the caller's (monotonic seconds)."""
        connection = self._connection
        if is_inherited(connection):
            raise self._of_the_parent()
        if self._state is _RESERVED:
            try:
                if self._command(DELETE, encode_job(DELETE, self.number), "DELETED", deadline):
                    return
            except JobLost as error:
                self._delete_again(error, deadline)
                return
        self._refuse_lost()
        self._ask(DELETE, encode_job(DELETE, self.number), deadline, self._confirm(DELETE, "DELETED"))

    def _delete_again(self, error: JobLost, deadline: float) -> None:
        cause = error.__cause__
        if not isinstance(cause, ConnectionFailed | UnexpectedResponse):
            raise error
        # It counts as lost only if the work cannot be finished.
        recovery = self._recovery
        timing = None if recovery is None or not recovery.observers.active else self._timing(recovery.observers)
        try:
            if recovery is None:
                raise error
            recovery.delete_again(self, cause.may_have_taken_effect, deadline)
        except BaseException:
            self._tell_lost(error.reason)
            raise
        self._state = _NOT_RESERVED
        if timing is not None:
            timing.ended(DELETE.name, "DELETED")

    def release(self, priority: int | None = None, delay: float = 0, *, timeout: float | None = None) -> None:
        """Give the job back to its tube (``release``); does nothing if it is not reserved here.

        :param priority: its new priority; None keeps the one it has (asked by ``stats-job``).
        :param delay: how long before it becomes ready again (seconds).
        :param timeout: the longest it may take (seconds); None for the connection's.
        :raises JobLost: if the reservation is gone.
        :raises Buried: if the server had no memory to queue the job, and has buried it.
        """
        encode_release(self.number, 0 if priority is None else priority, delay)
        deadline = self._deadline(timeout)
        self._give_up(RELEASE, lambda known: encode_release(self.number, known, delay), "RELEASED", priority, deadline)

    def bury(self, priority: int | None = None, *, timeout: float | None = None) -> None:
        """Put the job aside until it is kicked (``bury``); does nothing if it is not reserved here.

        :param priority: its new priority; None keeps the one it has (asked by ``stats-job``).
        :param timeout: the longest it may take (seconds); None for the connection's.
        :raises JobLost: if the reservation is gone.
        """
        encode_bury(self.number, 0 if priority is None else priority)
        deadline = self._deadline(timeout)
        self._give_up(BURY, lambda known: encode_bury(self.number, known), "BURIED", priority, deadline)

    def touch(self, *, timeout: float | None = None) -> None:
        """Start the job's TTR anew (``touch``); does nothing if it is not reserved here.

        :param timeout: the longest it may take (seconds); None for the connection's.
        :raises JobLost: if the reservation is gone.
        """
        connection = self._connection
        if is_inherited(connection):
            raise self._of_the_parent()
        deadline = _monotonic() + (connection.timeout if timeout is None else check_seconds("timeout", timeout))
        if self._state is not _RESERVED or not self._command(
            TOUCH, encode_job(TOUCH, self.number), "TOUCHED", deadline
        ):
            self._refuse_lost()

    def reacquire(self, *, timeout: float | None = None) -> None:
        """Reserve a job whose connection was lost again, to go on working on it; does nothing if it is reserved.

        It takes the same server process, a server that knows ``reserve-job`` (1.12), and nobody who has the job.

        :param timeout: the longest it may take (seconds); None for the connection's.
        :raises JobLost: if it cannot be had again.
        """
        deadline = self._deadline(timeout)
        if self.reserved:
            return
        if self._recovery is None or not self.lost:
            raise self._lost("it cannot be reserved again here")
        connection, lease = self._recovery.reacquire(self, deadline)
        self._connection, self._epoch, self._lease = connection, connection._epoch, lease
        self._state, self._reserved_at = _RESERVED, _monotonic()
        lease.hold(self)

    def kick(self, *, timeout: float | None = None) -> None:
        """Make a buried or delayed job ready (``kick-job``).

        :param timeout: the longest it may take (seconds); None for the connection's.
        :raises NotFound: if it is neither.
        """
        self._ask(
            KICK_JOB, encode_job(KICK_JOB, self.number), self._deadline(timeout), self._confirm(KICK_JOB, "KICKED")
        )

    def stats(self, *, timeout: float | None = None) -> Any:
        """The server's statistics of the job (``stats-job``), parsed as the connection's `parse_yaml` says.

        :param timeout: the longest it may take (seconds); None for the connection's.
        :raises NotFound: if the job is gone.
        """
        read = functools.partial(results.document, self._connection.parse_yaml, STATS_JOB, job=self.number)
        return self._ask(STATS_JOB, encode_job(STATS_JOB, self.number), self._deadline(timeout), read)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._state is not JobState.RESERVED:
            return
        if error is None:
            self.delete()
            return
        # What went wrong in the block matters more than a job that the server gives back by itself.
        with contextlib.suppress(BeanpoolError):
            self.release()

    def _deadline(self, timeout: float | None) -> float:
        """When a command that begins now must end."""
        connection = self._connection
        # Before anything is waited for: in a forked child a thread of the parent may have the guard for ever.
        if is_inherited(connection):
            raise self._of_the_parent()
        return _monotonic() + (connection.timeout if timeout is None else check_seconds("timeout", timeout))

    def _of_the_parent(self) -> JobLost:
        return self._lost("it was reserved by the parent process, which still has it")

    def _refuse_lost(self) -> None:
        if self._state is _LOST:
            raise self._lost("its reservation was lost before")

    def _ask(self, command: Command, request: bytes, deadline: float, read: Read[Answer]) -> Answer:
        """Carry out a command that takes no reservation: over the job's own connection while it has that, or has no
        pool; else over another one to the same process.
        """
        connection = self._connection
        if self._recovery is None or self.reserved:
            with turn(connection, deadline):
                if self._recovery is None or self._has(connection):
                    if connection._epoch != self._epoch:
                        # Who knows what process answers now, and whose job has the id there?
                        raise self._lost(self._why_cut_off())
                    return _exchange(connection, command, request, deadline, read)
        with self._recovery.borrow(self, deadline) as borrowed:
            return _exchange(borrowed, command, request, deadline, read)

    def _confirm(self, command: Command, success: str) -> Read[None]:
        return functools.partial(results.confirm, command, success, job=self.number)

    def _give_up(
        self, command: Command, encode: Callable[[int], bytes], success: str, priority: int | None, deadline: float
    ) -> None:
        if self._state is _RESERVED:
            known = priority if priority is not None else self._priority(deadline)
            if known is not None and self._command(command, encode(known), success, deadline):
                return
        self._refuse_lost()

    def _priority(self, deadline: float) -> int | None:
        """The priority that the job has; None if it is no longer reserved here."""
        connection = self._connection
        try:
            with turn(connection, deadline):
                if not self._has(connection):
                    return None
                if connection._epoch != self._epoch:
                    return 0
                request = encode_job(STATS_JOB, self.number)
                priority = _exchange(connection, STATS_JOB, request, deadline, results.priority)
                if priority is not None:
                    return priority
                self._state = _LOST
        except (ConnectionFailed, UnexpectedResponse) as error:
            if not connection.closed:
                raise
            raise self._lose(error) from error
        self._end_lease()
        raise self._tell_lost("the server does not know the job any more")

    def _command(self, command: Command, request: bytes, success: str, deadline: float) -> bool:
        """Carry out a command on the reserved job; false if it is not reserved any more when its turn comes."""
        connection = self._connection
        guard = connection._guard
        recovery = self._recovery
        timing = None if recovery is None or not recovery.observers.active else self._timing(recovery.observers)
        try:
            # As turn(), which every command would have to call.
            with guard if not (guard.locked() or connection._line) else queue_up(connection, deadline):
                # As _has(), which every command would have to call.
                if self._state is not _RESERVED or self._connection is not connection:
                    return False
                if connection._epoch != self._epoch:
                    status, lost = "", self._why_cut_off()
                    self._state = _LOST
                else:
                    try:
                        channel = connection._channel or connection._open_channel()
                        reply = channel.exchange(command, request, deadline)
                    except (ConnectionFailed, UnexpectedResponse):
                        if connection.closed:
                            self._state = _LOST
                        raise
                    status, lost = reply.status, RAN_OUT
                    if status == success:
                        if command is not TOUCH:
                            self._state = _NOT_RESERVED
                    elif status == "NOT_FOUND":
                        self._state = _LOST
                    else:
                        refused = channel.refuse(command, reply, job=self.number)
                        if status != "BURIED":
                            raise refused
                        self._state = _NOT_RESERVED
        except (ConnectionFailed, UnexpectedResponse) as error:
            if not connection.closed:
                # It has waited for others on the same connection, and nothing was sent: it is reserved as before.
                raise
            if timing is not None:
                timing.ended(command.name, "")
            if command is DELETE:
                # Whether it is lost is not settled yet.
                raise self._disconnected(error) from error
            raise self._lose(error) from error
        finally:
            if connection._line:
                offer(connection)
        if status != success or command is not TOUCH:
            self._end_lease()
        if timing is not None:
            timing.ended(command.name, status)
        if status == success:
            return True
        if self._state is _LOST:
            raise self._tell_lost(lost)
        raise refused

    def _timing(self, observers: Observers) -> JobTiming:
        return JobTiming(observers, self.server, self.tube, self._reserved_at)

    def _why_cut_off(self) -> str:
        return _RESERVED_AGAIN if self._epoch == SUPERSEDED else _MADE_ANEW

    def _disconnected(self, error: BeanpoolError) -> JobLost:
        self._state = _LOST
        self._end_lease()
        return self._lost(f"its connection is gone ({error})")

    def _lose(self, error: BeanpoolError) -> JobLost:
        return self._tell_lost(self._disconnected(error).reason)

    def _tell_lost(self, reason: str) -> JobLost:
        if self._recovery is not None:
            self._recovery.lost(self, reason)
        return self._lost(reason)

    def _end_lease(self) -> None:
        lease = self._lease
        if lease is not None:
            lease.end(self.number)
            self._lease = None

    def _lost(self, reason: str) -> JobLost:
        return job_lost(self.number, self.server, reason)


def is_inherited(connection: JobConnection) -> bool:
    """Whether it was made before a fork, in the parent process."""
    channel = connection._channel
    # Asked before every command of a job: most often the first look is enough.
    return channel is not None and channel.state is _CLOSED and channel.closed_because is OF_THE_PARENT


def _exchange(
    connection: JobConnection, command: Command, request: bytes, deadline: float, read: Read[Answer]
) -> Answer:
    """Carry out a command, for who has the guard."""
    channel = connection._channel or connection._open_channel()
    return read(channel, channel.exchange(command, request, deadline))
