"""What differs between the versions of beanstalkd, as far as a client can see it."""

from __future__ import annotations

import dataclasses
import re

from beanpool.protocol import MAX_RESERVE_TIMEOUT

_LOOSE_NUMBER = re.compile(rb"[ \t\n\v\f\r]*([+-]?[0-9]+)")
_PLAIN_NUMBER = re.compile(rb" *([0-9]+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Dialect:
    """One version's way of speaking the protocol.

    :ivar version: as ``stats`` says it.
    :ivar quotes: whether names and the system's description are quoted in ``stats``, ``stats-tube`` and ``stats-job``.
    :ivar strict_timeout: whether ``reserve-with-timeout`` refuses what is no number from 0 to 2**31 - 1.
    """

    version: str
    quotes: bool
    strict_timeout: bool

    def text(self, value: str) -> str:
        """A name as it stands in a statistics document."""
        return f'"{value}"' if self.quotes else value

    def reserve_timeout(self, argument: bytes) -> int | None:
        """The argument of ``reserve-with-timeout``: seconds, negative for ever; None if it is refused."""
        if self.strict_timeout:
            number = _PLAIN_NUMBER.match(argument)
            return int(number[1]) if number and int(number[1]) <= MAX_RESERVE_TIMEOUT else None
        # C's strtol, cut to an int: what is no number is 0, and -1 waits for ever.
        number = _LOOSE_NUMBER.match(argument)
        seconds = int(number[1]) if number else 0
        if not -(2**63) <= seconds < 2**63:
            return None
        return (seconds + 2**31) % 2**32 - 2**31


DIALECTS = {
    dialect.version: dialect
    for dialect in (
        Dialect("1.12", quotes=False, strict_timeout=False),
        Dialect("1.13", quotes=True, strict_timeout=True),
    )
}
"""The versions that the embedded server can be."""

DEFAULT_VERSION = "1.13"
