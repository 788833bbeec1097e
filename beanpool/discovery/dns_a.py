"""Servers that are the addresses of one name."""

from __future__ import annotations

import socket
import time
from typing import Any

from beanpool.config import Server
from beanpool.discovery.found import Found
from beanpool.net import DEFAULT_PORT, Address, Lookup, lookup_timeout, wait_for
from beanpool.validation import check_seconds


class DnsA:
    """Each address of a host name is a server: the A records, or the AAAA records where there are no others.

    It asks the system, as every connect does, so it needs no other package, and ``/etc/hosts`` counts. It is not told
    how long the answer holds.

    The addresses are the servers' names. So the keys of a server move when it gets another address, even if it is the
    same server with the same jobs: take :class:`DnsSrv` where puts have keys.

    :param host: the host name.
    :param port: that of all servers.
    :param timeout: how long to wait for the answer (seconds).
    :raises ValueError: for a name, a port or a time that cannot be; :raises TypeError: for one of a wrong type.
    """

    def __init__(self, host: str, port: int = DEFAULT_PORT, *, timeout: float = 5.0) -> None:
        self._address = Address(host, port)
        self._timeout = check_seconds("timeout", timeout)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address.host!r}, {self._address.port})"

    def __call__(self) -> Found:
        """Ask for the addresses.

        :raises ConnectionFailed: if the name has none.
        :raises CommandTimeout: if there was no answer in time.
        """
        deadline = time.monotonic() + self._timeout
        lookup = Lookup(self._address)
        try:
            while not lookup.done:
                seconds = deadline - time.monotonic()
                if seconds <= 0:
                    raise lookup_timeout(self._address)
                wait_for(lookup, seconds=seconds, write=False)
            targets = lookup.result()
        finally:
            lookup.close()
        hosts = {_host(target) for family, target in targets if family == socket.AF_INET}
        hosts = hosts or {_host(target) for family, target in targets if family == socket.AF_INET6}
        return Found([Server(host, self._address.port) for host in sorted(hosts)])


def _host(target: tuple[Any, ...]) -> str:
    host: str = target[0]
    zone = target[3] if len(target) > 3 else 0
    return f"{host}%{zone}" if zone and "%" not in host else host
