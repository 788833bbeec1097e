"""What a worker tells its listeners: frozen descriptions of what became of jobs."""

from __future__ import annotations

import dataclasses

from beanpool.events import Event


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerEvent(Event):
    """The base of a worker's events: the job that one is about."""

    tube: str
    server: str
    id: int


@dataclasses.dataclass(frozen=True, slots=True)
class JobStarted(WorkerEvent):
    """A handler is about to be called."""

    waited: float
    """How long the job has waited for the jobs before it in its batch (seconds)."""


@dataclasses.dataclass(frozen=True, slots=True)
class JobDone(WorkerEvent):
    """A handler has returned. The job is deleted now, or with others of its batch within a quarter of a second."""

    seconds: float
    """How long the handler ran."""


@dataclasses.dataclass(frozen=True, slots=True)
class JobRetried(WorkerEvent):
    """A handler has raised, and the job was released: it is tried again."""

    seconds: float
    attempt: int
    """Which try it was, from 1 on."""
    delay: int
    """How long the job waits (seconds)."""
    error: BaseException


@dataclasses.dataclass(frozen=True, slots=True)
class JobBuried(WorkerEvent):
    """The job was buried: its tries are used up, its handler said so, or it was delivered too often to be run again."""

    seconds: float
    attempt: int
    error: BaseException | None
    """What the handler raised; None if it was not called."""


@dataclasses.dataclass(frozen=True, slots=True)
class JobLost(WorkerEvent):
    """The reservation was gone before the job was finished: another worker may run it, or has run it.

    Not :class:`beanpool.JobLost`, which is the error.
    """

    seconds: float
    reason: str
    error: BaseException | None
    """What the handler raised; None if it has returned."""


@dataclasses.dataclass(frozen=True, slots=True)
class JobGivenBack(WorkerEvent):
    """The job went back to its server unfinished: the worker stops, or its tube is left alone. That is no try."""

    seconds: float
    """How long the handler has run so far; 0 if it was not called."""
