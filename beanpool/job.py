"""A job, and the connection that it came from."""

from __future__ import annotations

import contextlib
import enum
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from beanpool.errors import BeanpoolError, ConnectionFailed, JobLost, NotFound, NotPicklable, UnexpectedResponse
from beanpool.job_id import JobId
from beanpool.locks import Lock, is_mine, within
from beanpool.protocol.commands import BURY, DELETE, RELEASE, TOUCH, Command, encode_bury, encode_job, encode_release

if TYPE_CHECKING:  # connection.py makes jobs; a job calls the connection that it is given.
    from beanpool.connection import Connection


_MADE_ANEW = "its connection was closed and made anew since"


class JobState(enum.Enum):
    """What this process may do with a job."""

    RESERVED = "reserved"
    """Reserved by this job's connection: nobody else gets it until it is finished, or its TTR runs out."""
    NOT_RESERVED = "not reserved"
    """Seen by a peek, or released, buried or deleted."""
    LOST = "lost"
    """It was reserved, and the reservation is gone."""


# Without a look into the class for every command.
_RESERVED = JobState.RESERVED
_NOT_RESERVED = JobState.NOT_RESERVED
_LOST = JobState.LOST
_new_object = object.__new__
_new_lock = Lock
_monotonic = time.monotonic


class Home(Protocol):
    """The pool that a job came out of; jobs of plain connections have none."""

    def borrow(self, job: Job, deadline: float) -> AbstractContextManager[Connection]:
        """Lend a connection to the very server process that the job lives in."""

    def delete_again(self, job: Job, sent: bool, deadline: float) -> None:
        """Finish the delete of a job whose connection is gone, if that can be done safely.

        :param sent: whether the delete may have been carried out.
        :raises JobLost: if it cannot.
        """

    def reacquire(self, job: Job, deadline: float) -> tuple[Connection, Lease]:
        """Reserve a job whose connection is gone again, if that can be done safely.

        :raises JobLost: if it cannot.
        """

    def lost(self, job: Job, reason: str) -> None:
        """The job's reservation is gone."""


class Lease(Protocol):
    """The hold that unfinished jobs have on their pooled connection. Dropping a job gives it back."""

    def hold(self, job: Job) -> None:
        """Keep the connection for this job."""

    def end(self, jid: int) -> None:
        """The job is no longer reserved: if it was the last one, its connection is free for others."""


class Job(NotPicklable):
    """A job of one server. Its commands go to the connection that it came from, and to no other.

    As a context manager it is deleted when the block ends well, and released when it raises.

    :ivar number: the job's id as a plain ``int`` (unique in its server process only).
    :ivar data: the body as raw bytes.
    :ivar tube: the tube's name where it is known without asking (see :meth:`stats`), else None.
    """

    __slots__ = ("__weakref__", "_connection", "_era", "_home", "_lease", "_lock", "_state", "data", "number", "tube")

    def __init__(
        self,
        connection: Connection,
        jid: int,
        data: bytes,
        *,
        reserved: bool = True,
        tube: str | None = None,
        home: Home | None = None,
        lease: Lease | None = None,
    ) -> None:
        self.number = jid
        self.data = data
        self.tube = tube
        self._connection = connection
        self._era = connection.era
        self._home = home
        self._lease = lease
        self._lock = Lock()
        self._state = _RESERVED if reserved else JobState.NOT_RESERVED

    @classmethod
    def of(
        cls, connection: Connection, jid: int, data: bytes, tube: str | None, home: Home | None, lease: Lease | None
    ) -> Job:
        """A job that was just reserved: as the constructor makes it, at half of its cost."""
        job = _new_object(cls)
        job.number = jid
        job.data = data
        job.tube = tube
        job._connection = connection
        job._era = connection.era
        job._home = home
        job._lease = lease
        job._lock = _new_lock()
        job._state = _RESERVED
        return job

    def __repr__(self) -> str:
        return f"<Job {self.number} of {self.server}, {self._state.value}, {len(self.data)} bytes>"

    @property
    def body(self) -> str | bytes:
        """The body, decoded with the connection's `encoding`; ``bytes`` if that is None.

        :raises UnicodeDecodeError: if it is not valid in that encoding; :attr:`data` has the bytes.
        """
        encoding = self._connection.encoding
        return self.data if encoding is None else self.data.decode(encoding)

    @property
    def id(self) -> int:
        """The job's id: of a pool's job a :class:`JobId`, which says where it is worth something, else an ``int``."""
        # Made when it is asked for: most jobs are finished without.
        origin = self._connection.origin
        return self.number if origin is None else JobId.of(self.number, origin)

    @property
    def jid(self) -> int:
        """The job's id, as beanstalkc calls it."""
        return self.id

    @property
    def connection(self) -> Connection:
        """The connection that the job came from."""
        return self._connection

    @property
    def conn(self) -> Connection:
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
        round trip: it sees that the server has closed the connection, not that the TTR ran out.
        """
        if self._state is not JobState.RESERVED:
            return self._state is JobState.LOST
        if not self._cut_off:
            self._connection.look()
        return self._cut_off

    @property
    def _cut_off(self) -> bool:
        """Whether the very connection that it came from is gone; one that was made anew is another."""
        return self._connection.closed or self._connection.era != self._era

    def delete(self) -> None:
        """Delete the job: its work is done (``delete``). A job that is not reserved can be deleted too.

        If the connection was lost meanwhile, one attempt is made to finish a pooled job's delete safely: only in
        the same server process, and only if nobody else has the job.

        :raises JobLost: if the reservation is gone and the job could not be deleted safely.
        :raises NotFound: if the job is not reserved here and is gone, or reserved by somebody else.
        """
        with self._exclusively():
            if self._state is _LOST:
                self._refuse_lost()
            deadline = _monotonic() + self._connection.timeout
            if self._state is not _RESERVED:
                with self._borrow(deadline) as connection:
                    connection.delete(self.number)
                return
            try:
                self._command(DELETE, encode_job(DELETE, self.number), "DELETED", deadline)
            except JobLost as error:
                self._delete_again(error, deadline)

    def _delete_again(self, error: JobLost, deadline: float) -> None:
        if self._home is None or not self._connection.closed:
            raise error
        cause = error.__cause__
        sent = isinstance(cause, ConnectionFailed | UnexpectedResponse) and cause.may_have_taken_effect
        self._home.delete_again(self, sent, deadline)
        self._state = JobState.NOT_RESERVED

    # For a batch of deletes, which sends its own commands.

    @property
    def lease(self) -> Lease | None:
        """The hold that it has on a pooled connection that stands, while it is reserved; else None."""
        return None if self._state is not JobState.RESERVED or self._cut_off else self._lease

    def deleted(self) -> None:
        """The server has said so, to who carries out commands on the job's connection; its lease is theirs to end."""
        self._state = JobState.NOT_RESERVED
        self._lease = None

    def refused(self) -> None:
        """A batch was told ``NOT_FOUND``; raises what :meth:`delete` raises then."""
        with self._exclusively():
            self._not_found(DELETE)

    def go_on_deleting(self, error: ConnectionFailed | UnexpectedResponse, deadline: float) -> None:
        """The connection broke while a batch was to delete the job: go on as :meth:`delete` does.

        :param error: tells whether the command may have been carried out.
        """
        with self._exclusively():
            if self._state is not JobState.RESERVED:
                raise NotFound(DELETE.name, "NOT_FOUND", [])
            lost = self._disconnected(error)
            lost.__cause__ = error
            self._delete_again(lost, deadline)

    def release(self, priority: int | None = None, delay: float = 0) -> None:
        """Give the job back to its tube (``release``); does nothing if it is not reserved here.

        :param priority: its new priority; None keeps the one it has (asked by ``stats-job``).
        :param delay: how long before it becomes ready again (seconds).
        :raises JobLost: if the reservation is gone.
        :raises Buried: if the server had no memory to queue the job, and has buried it.
        """
        encode_release(self.number, 0 if priority is None else priority, delay)
        self._give_up(
            lambda deadline: (
                RELEASE,
                encode_release(self.number, self._priority(priority, deadline), delay),
                "RELEASED",
            )
        )

    def bury(self, priority: int | None = None) -> None:
        """Put the job aside until it is kicked (``bury``); does nothing if it is not reserved here.

        :param priority: its new priority; None keeps the one it has (asked by ``stats-job``).
        :raises JobLost: if the reservation is gone.
        """
        encode_bury(self.number, 0 if priority is None else priority)
        self._give_up(lambda deadline: (BURY, encode_bury(self.number, self._priority(priority, deadline)), "BURIED"))

    def touch(self) -> None:
        """Start the job's TTR anew (``touch``); does nothing if it is not reserved here.

        :raises JobLost: if the reservation is gone.
        """
        with self._exclusively():
            self._refuse_lost()
            if self._state is JobState.RESERVED:
                self._command(TOUCH, encode_job(TOUCH, self.number), "TOUCHED", self._deadline())

    def reacquire(self) -> None:
        """Reserve a job whose connection was lost again, to go on working on it; does nothing if it is reserved.

        It takes the same server process, a server that knows ``reserve-job`` (1.12), and nobody who has the job.

        :raises JobLost: if it cannot be had again.
        """
        with self._exclusively():
            if self.reserved:
                return
            if self._home is None or not (self._state is JobState.LOST or self.lost):
                raise self._lost("it cannot be reserved again here")
            connection, lease = self._home.reacquire(self, self._deadline())
            self._connection, self._era, self._lease = connection, connection.era, lease
            self._state = JobState.RESERVED
            lease.hold(self)

    def kick(self) -> None:
        """Make a buried or delayed job ready (``kick-job``).

        :raises NotFound: if it is neither.
        """
        with self._exclusively(), self._borrow(self._deadline()) as connection:
            connection.kick_job(self.number)

    def stats(self) -> Any:
        """The server's statistics of the job (``stats-job``), parsed as the connection's `parse_yaml` says.

        :raises NotFound: if the job is gone.
        """
        with self._exclusively(), self._borrow(self._deadline()) as connection:
            return connection.stats_job(self.number)

    def __enter__(self) -> Job:
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

    def _exclusively(self) -> threading.RLock:
        # Before the lock: in a forked child a thread of the parent may hold it for ever.
        if self._connection.inherited:
            raise self._lost("it was reserved by the parent process, which still has it")
        if is_mine(self._lock):
            raise within(f"a command to job {self.id}")
        return self._lock

    def _deadline(self) -> float:
        return time.monotonic() + self._connection.timeout

    def _borrow(self, deadline: float) -> AbstractContextManager[Connection]:
        if self._home is not None and not self.reserved:
            return self._home.borrow(self, deadline)
        if self._connection.era != self._era:
            # Who knows what process answers now, and whose job has the id there?
            raise self._lost(_MADE_ANEW)
        return contextlib.nullcontext(self._connection)

    def _refuse_lost(self) -> None:
        if self._state is JobState.LOST:
            raise self._lost("its reservation was lost before")

    def _give_up(self, build: Callable[[float], tuple[Command, bytes, str]]) -> None:
        with self._exclusively():
            self._refuse_lost()
            if self._state is JobState.RESERVED:
                deadline = self._deadline()
                self._command(*build(deadline), deadline)

    def _priority(self, priority: int | None, deadline: float) -> int:
        if priority is not None or self._connection.era != self._era:
            return priority or 0
        try:
            return self._connection.job_priority(self.number, deadline)
        except NotFound as error:
            if self._state is not JobState.RESERVED:
                return 0
            raise self._lose("the server does not know the job any more") from error
        except (ConnectionFailed, UnexpectedResponse) as error:
            raise self._disconnected(error) from error

    def _command(self, command: Command, request: bytes, success: str, deadline: float) -> None:
        connection = self._connection
        if connection.era != self._era:
            raise self._lose(_MADE_ANEW)
        try:
            reply = connection.job_exchange(command, request, deadline)
        except (ConnectionFailed, UnexpectedResponse) as error:
            if not connection.closed:
                # It has waited for others on the same connection, and nothing was sent: it is reserved as before.
                raise
            raise self._disconnected(error) from error
        if reply.status == success:
            if command is not TOUCH:
                self._let_go(_NOT_RESERVED)
        elif reply.status == "NOT_FOUND":
            self._not_found(command)
        else:
            if reply.status == "BURIED":
                self._let_go(JobState.NOT_RESERVED)
            raise connection.refuse(command, reply)

    def _not_found(self, command: Command) -> None:
        if self._state is JobState.RESERVED:
            raise self._lose("its TTR ran out, or it was finished elsewhere")
        # Another thread has deleted it, in a batch, while this one waited for its turn on the connection.
        if command is DELETE:
            raise NotFound(command.name, "NOT_FOUND", [])

    def _disconnected(self, error: BeanpoolError) -> JobLost:
        return self._lose(f"its connection is gone ({error})")

    def _lose(self, reason: str) -> JobLost:
        self._let_go(JobState.LOST)
        if self._home is not None:
            self._home.lost(self, reason)
        return self._lost(reason)

    def _let_go(self, state: JobState) -> None:
        self._state = state
        lease = self._lease
        if lease is not None:
            lease.end(self.number)
            self._lease = None

    def _lost(self, reason: str) -> JobLost:
        return JobLost(f"job {self.number} of {self.server} is lost: {reason}", reason=reason)
