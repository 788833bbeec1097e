"""A socket on an address of this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import stat

from beanpool.testing.failures import ServerFailed

UNIX = "unix:"


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
