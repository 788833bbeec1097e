"""Every error that beanpool raises, under one root: :class:`BeanpoolError`.

A message says what happened, to which server, in which phase and what the caller can do. It never
holds a job's body.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any


class Phase(enum.Enum):
    """How far a command got before it failed."""

    RESOLVING = "resolving the host name"
    CONNECTING = "connecting"
    HANDSHAKE = "asking the server who it is"
    SENDING = "sending the command"
    WAITING = "waiting for the reply"
    CLOSED = "using a closed connection"


class BeanpoolError(Exception):
    """The root of all errors of beanpool."""


class CommandFailed(BeanpoolError):
    """The server understood the command and refused it; the connection stays usable.

    ``args`` are exactly ``(command, status, results)``, as in beanstalkc: the protocol's name of the
    command, the reply's first word, and the list of its other words.

    A refusal is raised as the subclass of its status (:class:`NotFound`, :class:`Draining`, ...), for
    ``except`` clauses. All of them print as ``CommandFailed``: the status is in the arguments, and a
    traceback looks as users of beanstalkc know it.
    """

    def __init__(self, command: str, status: str, results: list[str]) -> None:
        super().__init__(command, status, results)
        self.command = command
        self.status = status
        self.results = results

    def __init_subclass__(cls) -> None:
        cls.__qualname__ = CommandFailed.__qualname__

    def __reduce__(self) -> tuple[Any, ...]:
        return (refusal, self.args)


class NotFound(CommandFailed):
    """``NOT_FOUND``: no such job or tube here, or the job is reserved by another connection."""


class JobTooBig(CommandFailed):
    """``JOB_TOO_BIG``: the body exceeds the server's ``max-job-size`` (65,535 bytes by default)."""


class Draining(CommandFailed):
    """``DRAINING``: the server takes no new jobs until it is restarted."""


class OutOfMemory(CommandFailed):
    """``OUT_OF_MEMORY``: the server could not store the job; another server may."""


class Buried(CommandFailed):
    """``BURIED`` in answer to a put or a release: the job is stored, but in the buried state."""

    @property
    def id(self) -> int | None:
        """The id of the buried job when the reply names it (it does for ``put``)."""
        return int(self.results[0]) if self.results else None


class DeadlineSoon(CommandFailed):
    """``DEADLINE_SOON``: a job reserved on this connection is in its last second of TTR."""


_REFUSALS: dict[str, type[CommandFailed]] = {
    "NOT_FOUND": NotFound,
    "JOB_TOO_BIG": JobTooBig,
    "DRAINING": Draining,
    "OUT_OF_MEMORY": OutOfMemory,
    "BURIED": Buried,
    "DEADLINE_SOON": DeadlineSoon,
}


def refusal(command: str, status: str, results: list[str]) -> CommandFailed:
    """Build the :class:`CommandFailed` that fits `status`."""
    return _REFUSALS.get(status, CommandFailed)(command, status, results)


class UnexpectedResponse(BeanpoolError):
    """The reply is not one that the protocol allows here; the connection is dead.

    :ivar server: the server's address.
    :ivar may_have_taken_effect: whether the command may have been carried out.
    """

    def __init__(self, message: str, *, server: str = "", may_have_taken_effect: bool = True) -> None:
        super().__init__(message)
        self.server = server
        self.may_have_taken_effect = may_have_taken_effect


class ConnectionFailed(BeanpoolError):
    """Nobody answered: no connection could be made, or it broke in mid-command.

    :ivar server: the server's address.
    :ivar phase: the :class:`Phase` that the command had reached.
    :ivar may_have_taken_effect: whether the command may have been carried out: true only when all of
        it was sent and no complete reply came.
    """

    def __init__(
        self, message: str, *, server: str = "", phase: Phase = Phase.CLOSED, may_have_taken_effect: bool = False
    ) -> None:
        super().__init__(message)
        self.server = server
        self.phase = phase
        self.may_have_taken_effect = may_have_taken_effect


class CommandTimeout(ConnectionFailed):
    """The server did not answer in time; the connection is dead. A kind of :class:`ConnectionFailed`."""


class PutAmbiguous(BeanpoolError):
    """The put may or may not be stored: all of it was sent and no complete reply came.

    :ivar server: the address of the server that may hold the job.
    :ivar attempts: the errors of all attempts of this put, oldest first.
    """

    def __init__(self, message: str, *, server: str = "", attempts: Sequence[BaseException] = ()) -> None:
        super().__init__(message)
        self.server = server
        self.attempts = tuple(attempts)


class JobLost(BeanpoolError):
    """The reservation is gone: another worker may run the job, or has run it.

    :ivar reason: why, in words.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class NoServerAvailable(BeanpoolError):
    """No server could take the command.

    :ivar errors: the last error of each server, by address.
    """

    def __init__(self, message: str, *, errors: Mapping[str, BaseException] | None = None) -> None:
        super().__init__(message)
        self.errors = dict(errors or {})


class PoolTimeout(BeanpoolError):
    """No connection became free in time: all are in use by calls or by unfinished jobs."""


class PoolClosed(BeanpoolError):
    """The pool was closed."""


SocketError = ConnectionFailed
BeanstalkcException = BeanpoolError
