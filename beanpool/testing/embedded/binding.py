"""A socket on an address of this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys

from beanpool.testing.failures import ServerFailed

UNIX = "unix:"


class ClaimedPort:
    """A port that nobody else is given, as far as the system lets one keep it: bound, and never listening.

    While its server is down, a connect is refused, and the server comes back to the same port.

    :ivar number: the port.
    :ivar kept: whether it is kept. Elsewhere than on Linux a bound socket would keep the server itself from the port.
    """

    def __init__(self, host: str, port: int = 0) -> None:
        self._claim = bind(host, port)
        self.number: int = self._claim.getsockname()[1]
        self.kept = sys.platform == "linux"
        if not self.kept:
            self._claim.close()

    def give_up(self) -> None:
        """Let others have it. Idempotent."""
        self._claim.close()


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound and does not listen; port 0 lets the kernel choose.

    :param host: a name or an address, or ``unix:`` and the path of a socket, as beanstalkd writes it.
    :raises ServerFailed: if the address cannot be had; the message says which, and why.
    """
    if host.startswith(UNIX):
        return _bind_unix(host.removeprefix(UNIX))
    try:
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
        except BaseException:
            bound.close()
            raise
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise ServerFailed(f"cannot listen on {host} port {port}: {reason}") from error
    return bound


def _bind_unix(path: str) -> socket.socket:
    try:
        # As beanstalkd does: what is left of the last start must not be in the way of this one.
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bound.bind(path)
        except BaseException:
            bound.close()
            raise
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise ServerFailed(f"cannot listen on {UNIX}{path}: {reason}") from error
    return bound
