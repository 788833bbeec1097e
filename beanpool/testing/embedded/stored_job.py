"""A job as the server holds it."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from beanpool.testing.embedded.session import Session
    from beanpool.testing.embedded.tube import Tube


class JobState(enum.Enum):
    """Where a job is; the value is the protocol's word for it."""

    ARRIVING = "invalid"
    """It has an id, and its body is on the way."""
    READY = "ready"
    DELAYED = "delayed"
    RESERVED = "reserved"
    BURIED = "buried"


@dataclasses.dataclass(slots=True, eq=False)
class StoredJob:
    """One job.

    :ivar delay: seconds that it was last delayed for.
    :ivar ttr: seconds that a reservation lasts.
    :ivar created: when its put command came (nanoseconds of the server's clock).
    :ivar deadline: while it is delayed or reserved: when that ends.
    :ivar holder: the session that has it reserved.
    """

    id: int
    tube: Tube
    priority: int
    delay: int
    ttr: int
    created: int
    body: bytes = b""
    state: JobState = JobState.ARRIVING
    deadline: int = 0
    holder: Session | None = None
    reserves: int = 0
    timeouts: int = 0
    releases: int = 0
    buries: int = 0
    kicks: int = 0
