"""What finds out which servers there are, and what it has found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from beanpool.config import AnyServer, Server, parse_servers
from beanpool.validation import check_wait


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class Found:
    """The servers that there are.

    :param servers: as for a :class:`~beanpool.PoolManager`, without options. A pool goes on with the servers that it
        has if there are none: that is what a name server says, too, whose data are lost.
    :param ttl: for how long that holds (seconds, from 0 on); None if that is not known.
    :raises TypeError: for a value of a wrong type.
    :raises ValueError: for a server that cannot be, one that is there twice, or a time out of range.
    """

    servers: tuple[Server, ...]
    ttl: float | None

    def __init__(self, servers: AnyServer | Iterable[AnyServer], ttl: float | None = None) -> None:
        named, options = parse_servers(servers, at_least_one=False)
        if options:
            raise ValueError(f"what was found are servers, not the option {next(iter(options))}")
        object.__setattr__(self, "servers", named)
        object.__setattr__(self, "ttl", check_wait("ttl", ttl))


Discovery = Callable[[], Found]
"""Finds out which servers there are; raises if it cannot.

It is called again and again, in a thread of its own, and may take its time; let it have a timeout, for there is no next
call before it returns. :class:`DnsSrv` and :class:`DnsA` are some.
"""
