"""Every error that beanpool raises, under one root: :class:`BeanpoolError`.

A message says what happened, to which server, in which phase and what the caller can do. It never
holds a job's body.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypedDict, TypeVar, Unpack


class Phase(enum.Enum):
    """How far a command got before it failed."""

    RESOLVING = "resolving the host name"
    CONNECTING = "connecting"
    HANDSHAKE = "asking the server who it is"
    SENDING = "sending the command"
    WAITING = "waiting for the reply"
    CLOSED = "using a closed connection"


class NotPicklable:
    """What stands on sockets and locks of one process, and so refuses to be pickled or copied."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled or copied, for its connections belong to one process: make a"
            " pool in each process, and send what a job is about (its body, or the JobId of its put)"
        )


class BeanpoolError(Exception):
    """The root of all errors of beanpool."""


class PutFailed(BeanpoolError):
    """A put into a pool that was not certainly stored: what :meth:`PoolManager.put` raises, and its kin report.

    One ``except PutFailed`` catches whatever a cluster, a pool or a producer can do to a put, and no failure of a
    reserve or of any other command. Each is raised as the kind that says why: :class:`PutAmbiguous`,
    :class:`NoServerForPut`, :class:`PoolTimeoutForPut`, :class:`PoolClosedForPut`, :class:`JobTooBig` or
    :class:`PutRefused`. The last three are the ones that putting the job again does not mend.

    What a caller does wrong is none: a bad argument is a ``ValueError`` or ``TypeError``, and a put in a signal handler
    that has interrupted the pool's own work is a :class:`ReentrantCall`.
    """

    may_be_stored: bool = False
    """Whether the job may be stored all the same, so that putting it again may store it twice. For many puts (a
    producer's :meth:`~Producer.flush`): whether any of them may be."""


class About(TypedDict, total=False):
    """What a refused command was about, for the text of its error."""

    job: int
    """The job's id."""
    tube: str
    size: int
    """Of the body (bytes)."""
    limit: int
    """The server's ``max-job-size`` (bytes)."""
    held: Iterable[int]
    """The ids of the jobs that are reserved on the connection."""


class CommandFailed(BeanpoolError):
    """The server understood the command and refused it; the connection stays usable.

    ``args`` are exactly ``(command, status, results)``, as in beanstalkc: the protocol's name of the
    command, the reply's first word, and the list of its other words. The text says more: which job or tube of which
    server, and why. It is raised as the subclass of its status (:class:`NotFound`, :class:`Draining`, ...), for
    ``except`` clauses.

    :ivar command: the protocol's name of the command; ``args[0]``.
    :ivar status: the reply's first word; ``args[1]``.
    :ivar results: its other words; ``args[2]``.
    :ivar server: the address of the server, or of all that have refused, with commas; empty if nobody has said.
    :ivar job: the id of the job that the command was about; None if it was about none.
    :ivar tube: the tube that it was about; None if it was about none.
    """

    command: str
    status: str
    results: list[str]

    def __init__(self, *args: Any, server: str = "", **about: Unpack[About]) -> None:
        super().__init__(*args)
        self.command, self.status, self.results = _reply(args)
        self.server: str = server
        job = about.get("job")
        self.job: int | None = int(job) if job is not None else None
        self.tube: str | None = about.get("tube")

    def __str__(self) -> str:
        if not self.server:
            # Made by somebody else, as beanstalkc's are.
            return super().__str__()
        what = f"job {self.job} of " if self.job is not None else f"tube {self.tube} of " if self.tube else ""
        return f"{what}{self.server}: {self._why()} ({self.status} in answer to {self.command})"

    def _why(self) -> str:
        return "the server refused it"


def _reply(args: tuple[Any, ...]) -> tuple[str, str, list[str]]:
    # Code that comes from beanstalkc raises these itself in its tests, with whatever arguments.
    return args if len(args) == 3 else ("", "", [])


class NotFound(CommandFailed):
    """``NOT_FOUND``: no such job or tube here, or the job is reserved by another connection."""

    def _why(self) -> str:
        if self.tube:
            return "there is no such tube: it has no jobs, and nobody uses or watches it"
        return _NOT_FOUND.get(self.command, "there is none")


_NOT_FOUND = {
    "delete": "there is no such job, or another connection has reserved it",
    "reserve-job": "there is no such job, or it is reserved already",
    "release": "it is not reserved here",
    "bury": "it is not reserved here",
    "touch": "it is not reserved here",
    "kick-job": "there is no such job, or it is neither buried nor delayed",
    "stats-job": "there is no such job",
}


class JobTooBig(PutFailed, CommandFailed):
    """``JOB_TOO_BIG``: the body exceeds the server's ``max-job-size`` (65,535 bytes by default).

    A :class:`PutFailed` that no other attempt mends: catch it before that where puts are repeated.

    :ivar size: of the body (bytes); None if nobody has said.
    :ivar limit: the server's ``max-job-size`` (bytes); None where the server was not asked, as by a ``Connection``.
    """

    def __init__(self, *args: Any, server: str = "", **about: Unpack[About]) -> None:
        super().__init__(*args, server=server, **about)
        self.size: int | None = about.get("size")
        self.limit: int | None = about.get("limit")

    def _why(self) -> str:
        size = "the body" if self.size is None else f"a body of {self.size:,} bytes"
        limit = "" if self.limit is None else f" of {self.limit:,} bytes"
        return f"{size} is larger than the server's max-job-size{limit}; beanstalkd -z sets that"


class PutRefused(PutFailed, CommandFailed):
    """The server refused a put that is well-formed, by a word of the protocol that says otherwise.

    No beanstalkd does: something else answers at that address, or changes what is sent on its way.
    """


class Draining(CommandFailed):
    """``DRAINING``: the server takes no new jobs until it is restarted."""

    def _why(self) -> str:
        return "the server is draining, and takes no new jobs until it is restarted"


class OutOfMemory(CommandFailed):
    """``OUT_OF_MEMORY``: the server could not store the job; another server may."""

    def _why(self) -> str:
        return "the server has no memory for it"


class Buried(CommandFailed):
    """``BURIED`` in answer to a put or a release: the job is stored, but in the buried state."""

    @property
    def id(self) -> int | None:
        """The id of the buried job; None if nobody has said."""
        return int(self.results[0]) if self.results else self.job

    def _why(self) -> str:
        job = "the job" if self.job is not None else f"job {self.id}"
        return f"the server had no memory to queue {job}, and has buried it: it is stored, and kick makes it ready"


class DeadlineSoon(CommandFailed):
    """``DEADLINE_SOON``: a job reserved on this connection is in its last second of TTR.

    It comes from a :class:`Connection` only: a pool's connections that hold jobs never wait for others.

    :ivar held: the ids of the jobs that are reserved on the connection, as far as it knows: it is one of them.
    """

    def __init__(self, *args: Any, server: str = "", **about: Unpack[About]) -> None:
        super().__init__(*args, server=server, **about)
        self.held: tuple[int, ...] = tuple(sorted(about.get("held", ())))

    def _why(self) -> str:
        known = ", ".join(map(str, self.held[:_MOST_NAMED])) + (", ..." if len(self.held) > _MOST_NAMED else "")
        jobs = f" ({'jobs' if len(self.held) > 1 else 'job'} {known})" if known else ""
        return f"a job that is reserved on this connection{jobs} is in its last second: finish it, or touch it"


# How many jobs a text names.
_MOST_NAMED = 5
_NO_PUT = ("BAD_FORMAT", "UNKNOWN_COMMAND", "EXPECTED_CRLF")
_REFUSALS: dict[str, type[CommandFailed]] = {
    "NOT_FOUND": NotFound,
    "JOB_TOO_BIG": JobTooBig,
    "DRAINING": Draining,
    "OUT_OF_MEMORY": OutOfMemory,
    "BURIED": Buried,
    "DEADLINE_SOON": DeadlineSoon,
}


def refusal(
    command: str, status: str, results: Sequence[str] = (), *, server: str = "", **about: Unpack[About]
) -> CommandFailed:
    """Build the :class:`CommandFailed` that fits `status`: every refusal is made here.

    :param server: the address of who refuses.
    """
    kind = _REFUSALS.get(status, CommandFailed)
    if command == "put" and status in _NO_PUT:
        kind = PutRefused
    return kind(command, status, list(results), server=server, **about)


class UnexpectedResponse(BeanpoolError):
    """The reply is not one that the protocol allows here; the connection is dead.

    ``args`` are ``(command, status, results)``, as in beanstalkc. The status is empty unless it is a word of the
    protocol, and the results always are: what came may be part of a job's body.

    :ivar server: the server's address.
    :ivar may_have_taken_effect: whether the command may have been carried out.
    """

    command: str
    status: str
    results: list[str]

    def __init__(self, *args: Any, message: str = "", server: str = "", may_have_taken_effect: bool = True) -> None:
        super().__init__(*args)
        self.command, self.status, self.results = _reply(args)
        self.message = message
        self.server = server
        self.may_have_taken_effect = may_have_taken_effect

    def __str__(self) -> str:
        return self.message or super().__str__()


class ConnectionFailed(BeanpoolError, ConnectionError):
    """Nobody answered: no connection could be made, or it broke in mid-command.

    It is a :class:`ConnectionError`, and so an :class:`OSError`. Its ``errno`` is the system's where the system
    gave one, else None.

    :ivar server: the server's address.
    :ivar phase: the :class:`Phase` that the command had reached.
    :ivar may_have_taken_effect: whether the command may have been carried out: true only when all of
        it was sent and no complete reply came.
    """

    errno: int | None

    def __init__(
        self,
        *args: Any,
        server: str = "",
        phase: Phase = Phase.CLOSED,
        may_have_taken_effect: bool = False,
        errno: int | None = None,
    ) -> None:
        super().__init__(*args)
        self.server = server
        self.phase = phase
        self.may_have_taken_effect = may_have_taken_effect
        if errno is not None:
            self.errno = errno

    def __reduce__(self) -> tuple[Any, ...]:
        # An OSError keeps its number beside its other attributes, and not with them.
        return (_connection_failed, (type(self), self.args, self.errno), vars(self))


def _connection_failed(kind: type[ConnectionFailed], args: tuple[Any, ...], errno: int | None) -> ConnectionFailed:
    error = kind(*args)
    error.errno = errno
    return error


class CommandTimeout(ConnectionFailed, TimeoutError):
    """The server did not answer in time; the connection is dead.

    A kind of :class:`ConnectionFailed`, and a :class:`TimeoutError`.
    """

    waited: float | None = None
    """How long it was silent within the time allowed (seconds), where that is known. Of a short one a pool concludes
    nothing."""


class PutAmbiguous(PutFailed):
    """The put may or may not be stored: all of it was sent and no complete reply came.

    It comes with ``on_ambiguous="resend"`` too: when no other server took the put in time.

    :ivar server: the address of the server that may hold the job.
    :ivar attempts: the errors of all attempts of this put, oldest first.
    """

    may_be_stored = True

    def __init__(self, *args: Any, server: str = "", attempts: Sequence[BaseException] = ()) -> None:
        super().__init__(*args)
        self.server = server
        self.attempts: tuple[BaseException, ...] = tuple(attempts)


class JobLost(BeanpoolError):
    """The reservation is gone: another worker may run the job, or has run it.

    :ivar reason: why, in words.
    """

    def __init__(self, *args: Any, reason: str = "") -> None:
        super().__init__(*args)
        self.reason: str = reason or str(self)


def job_lost(jid: int, server: str, reason: str) -> JobLost:
    """Build the error of a job whose reservation is gone, or that cannot be found again."""
    return JobLost(f"job {jid} of {server} is lost: {reason}", reason=reason)


class NoServerAvailable(BeanpoolError):
    """No server could take the command; of a put: :class:`NoServerForPut`.

    :ivar errors: the last error of each server, by address.
    """

    def __init__(self, *args: Any, errors: Mapping[str, BaseException] | None = None) -> None:
        super().__init__(*args)
        self.errors: dict[str, BaseException] = dict(errors or {})


class NoServerForPut(PutFailed, NoServerAvailable):
    """No server took the put before its deadline; the job is in none of them."""


def no_server(errors: Mapping[str, BaseException], what: str) -> NoServerAvailable:
    """Build the error that lists every server with its reason."""
    return NoServerAvailable(_listed(errors, what), errors=errors)


def no_server_for_put(errors: Mapping[str, BaseException]) -> NoServerForPut:
    """The same for a put."""
    return NoServerForPut(_listed(errors, "took the put"), errors=errors)


def _listed(errors: Mapping[str, BaseException], what: str) -> str:
    reasons = "".join(f"\n  {_named(address, error)}" for address, error in errors.items())
    return f"no server {what}:{reasons or ' the pool has no servers'}"


def _named(address: str, error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if text.startswith(address) else f"{address}: {text}"


class PoolTimeout(BeanpoolError):
    """No connection became free in time: all are in use by calls or by unfinished jobs.

    The message says how many there are, how many of them unfinished jobs hold, and what ``max_connections`` is. Of a
    put: :class:`PoolTimeoutForPut`.
    """


class PoolTimeoutForPut(PutFailed, PoolTimeout):
    """No connection became free for a put in time, or no room in a producer's buffer; the job was not put.

    A producer's :meth:`~Producer.flush` and :meth:`~Producer.close` raise it for puts that they had no time for;
    :attr:`may_be_stored` says whether some of them were on their way.
    """


class PoolClosed(BeanpoolError):
    """The pool was closed; of a put: :class:`PoolClosedForPut`."""


class PoolClosedForPut(PutFailed, PoolClosed):
    """The pool, or the producer, was closed before a server had taken the put; the job is in none of them."""


class ReentrantCall(BeanpoolError):
    """A signal handler or a finalizer has called what the very frame that it interrupted is in the middle of."""


def describe(error: BaseException) -> str:
    """The type of `error` and its text: never an empty reason."""
    text = str(error)
    name = type(error).__name__
    return f"{name}: {text}" if text else name


ErrorT = TypeVar("ErrorT", bound=BaseException)


def without_frames(error: ErrorT) -> ErrorT:
    """An error that is kept while its call goes on: without its traceback, and without those of its causes.

    They hold the frames that it came through, these hold those that called them, and one of them holds the error. In
    such a circle every variable of the caller, a job for one, lives on until the garbage collector comes that way.
    """
    left: list[BaseException] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            left += [other for other in (one.__cause__, one.__context__) if other is not None]
    return error


SocketError = ConnectionFailed
BeanstalkcException = BeanpoolError

# A traceback shows the name that one imports, and catches.
for _kind in [kind for kind in vars().values() if isinstance(kind, type) and issubclass(kind, BeanpoolError)]:
    _kind.__module__ = "beanpool"
del _kind
