"""Errors that tell of the limits of this process or machine, and nothing of a server."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from beanpool.errors import BeanpoolError

_NUMBERS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def no_descriptor(what: str, error: Exception) -> BeanpoolError:
    """The error of `what` (a subject) that cannot be had because the system has no descriptor for it."""
    return BeanpoolError(
        f"{what} is not possible now: {type(error).__name__}: {error}. If there are too many open files, let this "
        "process have more (ulimit -n), or fewer connections (max_connections)"
    )


class OwnLimit(OSError):
    """What this process wanted of its system, and did not get."""


def is_own_limit(error: BaseException | None) -> bool:
    """Whether `error` says nothing of the server that it came up with."""
    return isinstance(error, OwnLimit) or (isinstance(error, OSError) and error.errno in _NUMBERS)


def of_a_connect(code: int, family: int, where: Any) -> OSError:
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


def out_of_descriptors() -> OSError | None:
    """The error that a new descriptor costs at the moment, if any: a look-up that lacks one says something else."""
    try:
        socket.socket().close()
    except OSError as error:
        return error if is_own_limit(error) else None
    return None
