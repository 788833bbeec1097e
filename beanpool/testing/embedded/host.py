"""What ``stats`` says of the process and the machine."""

from __future__ import annotations

import dataclasses
import os
import secrets


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """One start of a server; the real one gives itself a new id at every start too."""

    instance: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))
    pid: int = dataclasses.field(default_factory=os.getpid)
    name: str = dataclasses.field(default_factory=lambda: os.uname().nodename)
    system: str = dataclasses.field(default_factory=lambda: os.uname().version)
    machine: str = dataclasses.field(default_factory=lambda: os.uname().machine)

    def processor_seconds(self) -> tuple[float, float]:
        """What this process has used so far, in user and in system mode."""
        times = os.times()
        return times.user, times.system
