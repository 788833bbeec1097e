"""Opening a socket to a server without ever blocking in it.

:class:`Connector` tries each resolved address in turn and is driven by readiness, so one thread can open
many connections at once; :func:`connect` drives one to its end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from typing import Any

from beanpool.errors import CommandTimeout, ConnectionFailed, Phase, describe
from beanpool.net.address import Address
from beanpool.net.readiness import wait_for
from beanpool.net.resolver import Lookup, Target, lookup_timeout
from beanpool.net.sockets import Socket, new_socket, tune
from beanpool.runtime import OwnLimit, is_own_limit

# EAGAIN is not among them: the queue of a Unix socket is full then, and nothing reports when it has room again.
_UNDER_WAY = {errno.EINPROGRESS, errno.EINTR} | ({errno.EWOULDBLOCK} if sys.platform == "win32" else set())
_SILENT = errno.ETIMEDOUT


class Connector:
    """One attempt to connect to a server: its addresses in turn, the first that accepts wins.

    The addresses share the time, so a black hole among them does not take all of it.

    :param deadline: when to give up (monotonic seconds).
    """

    def __init__(self, address: Address, deadline: float) -> None:
        self.late_at = deadline
        """When the time of the name server, or of the address that is being tried, is over: call :meth:`skip` then."""
        self._address = address
        self._deadline = deadline
        self._lookup: Lookup | None = Lookup(address)
        self._targets: list[Target] = []
        self._where: Any = None
        self._failures: list[tuple[str, OSError]] = []
        self.socket: Socket | None = None
        """The socket that is being connected."""

    def fileno(self) -> int:
        """What to wait for before the next :meth:`step`: :attr:`wants_write` tells for what."""
        if self._lookup is not None:
            return self._lookup.fileno()
        return self.socket.fileno() if self.socket is not None else -1

    @property
    def wants_write(self) -> bool:
        """Whether to wait until it is writable (a connect is under way), or readable (a look-up is)."""
        return self._lookup is None

    def step(self) -> socket.socket | None:
        """Do what is possible without waiting; return the socket once it is connected.

        :raises ConnectionFailed: when no address is left to be tried.
        """
        if self._lookup is not None:
            if not self._lookup.done:
                return None
            lookup, self._lookup = self._lookup, None
            self._targets = lookup.result()[::-1]
        while True:
            sock = self.socket
            if sock is None:
                if not self._targets:
                    raise self._failure()
                error = self._begin()
                sock = self.socket
            else:
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0 and not wait_for(sock, write=True, read=False, seconds=0):
                    return None
                error = connect_error(code, sock.family, self._where) if code else None
            if error is None and sock is not None:
                self.socket = None
                tune(sock)
                return sock
            if error is not None and error.errno in _UNDER_WAY:
                return None
            self._give_up(error)

    def _begin(self) -> OSError | None:
        """Start with the next address; None once it has accepted."""
        now = time.monotonic()
        self.late_at = now + (self._deadline - now) / len(self._targets)
        family, self._where = self._targets.pop()
        try:
            sock = self.socket = new_socket(family)
            code = sock.connect_ex(self._where)
        except OSError as error:
            return error
        return connect_error(code, family, self._where) if code else None

    def _give_up(self, error: OSError | None) -> None:
        where = self._where[0] if isinstance(self._where, tuple) else str(self._where)
        self._failures.append((where, error or OSError(_SILENT, os.strerror(_SILENT))))
        self._close_socket()

    def skip(self) -> None:
        """Give up the address that is being tried, and go on with the next at the next :meth:`step`.

        :raises CommandTimeout: if there is none, or it is the name server that has not answered.
        :raises ConnectionFailed: if this says nothing of the server.
        """
        if self._lookup is not None:
            raise lookup_timeout(self._address)
        self._give_up(None)
        if not self._targets or time.monotonic() >= self._deadline:
            raise self._failure()

    def _failure(self) -> ConnectionFailed:
        """The error that follows from all addresses. Own limits and silence say nothing about the server."""
        errors = [error for _, error in self._failures]
        limits = [error for error in errors if is_own_limit(error)]
        silences = [error for error in errors if error.errno == _SILENT]
        if errors and len(silences) == len(errors):
            return CommandTimeout(
                f"{self._address}: no answer to the attempt to connect in the time allowed",
                server=str(self._address),
                phase=Phase.CONNECTING,
            )
        if len(errors) > 1:
            reasons = "; ".join(f"{where}: {describe(error)}" for where, error in self._failures)
        else:
            reasons = "".join(map(describe, errors)) or "no address to try"
        cause = next(iter(limits or silences or errors), None)
        failure = (CommandTimeout if silences and not limits else ConnectionFailed)(
            f"{self._address}: cannot connect ({reasons})",
            server=str(self._address),
            phase=Phase.CONNECTING,
            errno=cause.errno if cause is not None else None,
        )
        failure.__cause__ = cause
        return failure

    def close(self) -> None:
        """Give up what is under way."""
        if self._lookup is not None:
            self._lookup.close()
        self._close_socket()

    def _close_socket(self) -> None:
        sock, self.socket = self.socket, None
        if sock is not None:
            sock.close()


def connect(address: Address, deadline: float) -> socket.socket:
    """Connect to `address` before `deadline` (monotonic seconds); the socket that returns does not block.

    :raises ConnectionFailed: when nobody accepts.
    :raises CommandTimeout: when nobody answers in time.
    """
    connector = Connector(address, deadline)
    with contextlib.closing(connector):
        while True:
            sock = connector.step()
            if sock is not None:
                return sock
            remaining = connector.late_at - time.monotonic()
            if remaining <= 0 or not wait_for(connector, write=connector.wants_write, seconds=remaining):
                connector.skip()


def connect_error(code: int, family: int, where: Any) -> OSError:
    """The error of a connect that failed with this number.

    EADDRNOTAVAIL has two meanings: that no local port is free, or that this machine has no address from which it could
    reach that one, as where there is no IPv6. Datagram sockets have their own ports, so they tell which it is.
    """
    if code != errno.EADDRNOTAVAIL:
        return OSError(code, os.strerror(code))
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(where)
    except OSError:
        return OSError(code, os.strerror(code))
    return OwnLimit(code, "all local ports are in use")
