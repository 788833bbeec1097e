"""What a job needs of others: its connection, the lease that keeps the connection for it, and a pool's recovery."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from beanpool.connection.results import YamlParsing
from beanpool.connection.turns import Guarded
from beanpool.net import Channel
from beanpool.telemetry import Observers

AnyJob = TypeVar("AnyJob", contravariant=True)
"""Always :class:`~beanpool.Job`, which knows these."""


class JobConnection(Guarded, Protocol):
    """The connection that a job came from: a :class:`~beanpool.Connection`, or one of a pool.

    What has an underscore is for jobs alone.
    """

    timeout: float
    encoding: str | None
    parse_yaml: YamlParsing
    _channel: Channel | None
    _epoch: int
    """How often it was connected anew: jobs of an earlier epoch are not this connection's any more."""

    @property
    def closed(self) -> bool:
        """Whether it is closed or broken."""

    @property
    def _origin(self) -> tuple[str, str] | None:
        """Its server, and the id of the server process; None where nobody has asked for it."""

    def _open_channel(self) -> Channel:
        """The channel, opened if need be.

        :raises ConnectionFailed: if it cannot be.
        """


class JobLease(Protocol[AnyJob]):
    """The hold that unfinished jobs have on their connection. Dropping a pool's job gives the connection back."""

    def hold(self, job: AnyJob) -> None:
        """Keep the connection for this job."""

    def end(self, jid: int) -> None:
        """The job is no longer reserved: if it was the last one of a pool's connection, that is free for others."""


class JobRecovery(Protocol[AnyJob]):
    """What a pool's jobs can do beyond their own connection; jobs of plain connections have none."""

    observers: Observers
    """Who is told of what is done with the job."""

    def borrow(self, job: AnyJob, deadline: float) -> AbstractContextManager[JobConnection]:
        """Lend a connection to the very server process that the job lives in."""

    def delete_again(self, job: AnyJob, sent: bool, deadline: float) -> None:
        """Finish the delete of a job whose connection is gone, if that can be done safely.

        :param sent: whether the delete may have been carried out.
        :raises JobLost: if it cannot.
        """

    def reacquire(self, job: AnyJob, deadline: float) -> tuple[JobConnection, JobLease[AnyJob]]:
        """Reserve a job whose connection is gone again, if that can be done safely.

        :raises JobLost: if it cannot.
        """

    def lost(self, job: AnyJob, reason: str) -> None:
        """The job's reservation is gone."""
