"""Where a command listens: a host and a port."""

from __future__ import annotations

import re
from typing import NamedTuple

_FORM = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:\s]*)):(?P<port>[0-9]{1,5})")


class ListenAddress(NamedTuple):
    """Where to listen; an empty host stands for all of the machine's addresses, port 0 for a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """Read ``host:port``, ``[::1]:port`` or ``:port``.

        :raises ValueError: if it is none of these.
        """
        found = _FORM.fullmatch(text)
        port = int(found["port"]) if found else -1
        if found is None or port > 65535:
            raise ValueError(f"must be HOST:PORT, [ADDRESS]:PORT or :PORT, not {text!r}")
        return cls(found["ipv6"] or found["host"], port)
