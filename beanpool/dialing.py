"""Opening a socket to a server without ever blocking in it.

:class:`Dialing` tries each resolved address in turn and is driven by readiness, so one thread can open
many connections at once; :func:`dial` drives one to its end under a deadline.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from beanpool.address import Address
from beanpool.errors import CommandTimeout, ConnectionFailed, Phase
from beanpool.readiness import wait_for
from beanpool.resolving import Lookup, Target, describe, lookup_timeout


class _Socket(socket.socket):
    """Closes itself without a warning when nobody holds it any more: that is how a dropped job is given back."""

    __slots__ = ()

    # The one in C, which needs nothing that an interrupted constructor may not have set; bound here, for when the
    # interpreter ends there may be no module left to find it in.
    def __del__(self, close: Callable[[socket.SocketType], None] = socket.SocketType.close) -> None:
        close(self)


class Dialing:
    """One attempt to connect to a server: its addresses in turn, the first that accepts wins."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lookup: Lookup | None = Lookup(address)
        self._targets: list[Target] = []
        self._last_error: OSError | None = None
        self.socket: socket.socket | None = None
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
        """Go as far as is possible without waiting; return the socket once it is connected.

        :raises ConnectionFailed: when every address has refused.
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
                    raise self._refused()
                family, where = self._targets.pop()
                sock = self.socket = self._open(family)
                if sock is None:
                    continue
                code = self._connect(sock, where)
            else:
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0 and not _is_writable(sock):
                    return None
            if code == 0:
                self.socket = None
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                return sock
            if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
                return None
            self._last_error = OSError(code, os.strerror(code))
            self.close()

    def _open(self, family: int) -> socket.socket | None:
        try:
            sock = _Socket(family, socket.SOCK_STREAM)
        except OSError as error:
            self._last_error = error
            return None
        sock.setblocking(False)
        return sock

    def _connect(self, sock: socket.socket, where: Any) -> int:
        try:
            return sock.connect_ex(where)
        except OSError as error:
            return error.errno or errno.EINVAL

    def _refused(self) -> ConnectionFailed:
        reason = self._last_error
        error = ConnectionFailed(
            f"{self._address}: cannot connect ({describe(reason) if reason else 'no address to try'})",
            server=str(self._address),
            phase=Phase.CONNECTING,
            errno=reason.errno if reason else None,
        )
        error.__cause__ = reason
        return error

    def skip(self) -> None:
        """Give up the address that is being tried: it has had its share of the time."""
        self._last_error = OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        self.close()

    @property
    def targets_left(self) -> int:
        """How many addresses are still to be tried, the current one included."""
        if self._lookup is not None:
            return 1
        return len(self._targets) + (self.socket is not None)

    def close(self) -> None:
        """Give up what is under way."""
        if self._lookup is not None:
            self._lookup.close()
        sock, self.socket = self.socket, None
        if sock is not None:
            sock.close()


def _is_writable(sock: socket.socket) -> bool:
    return wait_for(sock, write=True, read=False, seconds=0)


def dial(address: Address, deadline: float) -> socket.socket:
    """Connect to `address` before `deadline` (monotonic seconds); the socket that returns does not block.

    Several addresses of one name share the time, so a black hole among them does not take all of it.

    :raises ConnectionFailed: when nobody accepts.
    :raises CommandTimeout: when nobody answers in time.
    """
    dialing = Dialing(address)
    with contextlib.closing(dialing):
        while True:
            sock = dialing.step()
            if sock is not None:
                return sock
            remaining = deadline - time.monotonic()
            share = remaining / dialing.targets_left
            if remaining > 0 and wait_for(dialing, write=dialing.wants_write, seconds=share):
                continue
            if not dialing.wants_write:
                raise lookup_timeout(address)
            dialing.skip()
            if remaining <= 0 or not dialing.targets_left:
                raise connect_timeout(address)


def connect_timeout(address: Address) -> CommandTimeout:
    """The error of a server that did not accept in time."""
    return CommandTimeout(
        f"{address}: no answer to the attempt to connect in the time allowed",
        server=str(address),
        phase=Phase.CONNECTING,
    )
