"""What fails on the way to a server, as dramatiq's users know it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from dramatiq.errors import ConnectionClosed

from beanpool.errors import BeanpoolError, JobTooBig, PutFailed, PutRefused


class EnqueueFailed(PutFailed, ConnectionClosed):
    """No server has certainly taken the message: sending it again may succeed.

    It is what dramatiq's users catch of any broker (``dramatiq.errors.ConnectionClosed``), and what beanpool's do
    (:class:`beanpool.PutFailed`); its cause says why. A message that no server would ever take is a
    :class:`beanpool.JobTooBig`.
    """

    def __init__(self, message: str, may_be_stored: bool = False) -> None:
        self.message = message
        self.may_be_stored = may_be_stored


@dataclasses.dataclass(frozen=True, slots=True)
class Unsent:
    """A message that was to follow another one, and could not be sent."""

    error: Exception
    delay: int | None
    """What it was to be delayed by (milliseconds)."""

    @property
    def hopeless(self) -> bool:
        """Whether sending it again would fail as well."""
        return isinstance(self.error, JobTooBig | PutRefused | TypeError | ValueError)


@contextlib.contextmanager
def connection_errors() -> Iterator[None]:
    """What dramatiq is told of beanpool's errors, but for those that its block suppresses."""
    try:
        yield
    except BeanpoolError as error:
        raise ConnectionClosed(str(error)) from error
