"""A socket on an address of this machine."""

from __future__ import annotations

import os
import socket

from beanpool.testing.failures import ServerFailed


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound and does not listen; port 0 lets the kernel choose.

    :raises ServerFailed: if the address cannot be had; the message says which, and why.
    """
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
