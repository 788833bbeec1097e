"""Errors that come from the limits of this process or machine, and say nothing about a server."""

from __future__ import annotations

import errno
import socket

from beanpool.errors import BeanpoolError

_NUMBERS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def no_descriptor(what: str, error: Exception) -> BeanpoolError:
    """The error of `what` (a subject) that cannot be had because the system has no descriptor for it."""
    return BeanpoolError(
        f"{what} is not possible now: {type(error).__name__}: {error}. If there are too many open files, let this "
        "process have more (ulimit -n), or fewer connections (max_connections)"
    )


class OwnLimit(OSError):
    """The system refused what this process asked it for."""


def is_own_limit(error: BaseException | None) -> bool:
    """Whether `error` comes from this process or machine, and so says nothing about the server."""
    return isinstance(error, OwnLimit) or (isinstance(error, OSError) and error.errno in _NUMBERS)


def out_of_descriptors() -> OSError | None:
    """The error of opening a descriptor now, if any. A look-up that lacks a descriptor raises something else."""
    try:
        socket.socket().close()
    except OSError as error:
        return error if is_own_limit(error) else None
    return None
