"""The sockets to servers that this process has made, so that a forked child can close every one of them.

A child that keeps a copy of a socket keeps the connection open when its parent closes it: the parent's jobs would stay
reserved for as long as the child lives. So no socket is ever made without being registered, not even between two steps:
a fork waits for that.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator

# A connection is probed after this silence, then this often (seconds), and is closed after so many probes without an
# answer. Some load balancers and NATs forget a connection that was silent for some minutes, some after one.
KEEP_ALIVE_AFTER = 30
_KEEP_ALIVE_EVERY = 10
_KEEP_ALIVE_TIMES = 3
# By another name on macOS.
_IDLE_OPTION = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))


class Socket(socket.socket):
    """A socket that closes without a warning when nothing refers to it: that is how a dropped job is given back."""

    __slots__ = ()

    # The one in C, which needs nothing that an interrupted constructor may not have set; bound here, for when the
    # interpreter ends there may be no module left to find it in.
    def __del__(self, close: Callable[[socket.SocketType], None] = socket.SocketType.close) -> None:
        close(self)


_made: weakref.WeakSet[Socket] = weakref.WeakSet()
# Held while a socket is made, and by who forks. One that is entered again: a signal's handler may fork.
_making = threading.RLock()


def new_socket(family: int) -> Socket:
    """A stream socket that never blocks.

    :raises OSError: if the system gives none.
    """
    with _making:
        sock = Socket(family, socket.SOCK_STREAM)
        _made.add(sock)
    sock.setblocking(False)
    return sock


def tune(sock: socket.socket) -> None:
    """Make a connected socket send at once, and probe a silent peer (keep-alive)."""
    if sock.family == getattr(socket, "AF_UNIX", None):
        return
    # The connection may be broken already. Then its first use raises.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for level, option, value in _keep_alive():
            sock.setsockopt(level, option, value)


def _keep_alive() -> Iterator[tuple[int, int, int]]:
    yield socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
    if _IDLE_OPTION is not None:
        yield socket.IPPROTO_TCP, _IDLE_OPTION, KEEP_ALIVE_AFTER
    for name, value in (("TCP_KEEPINTVL", _KEEP_ALIVE_EVERY), ("TCP_KEEPCNT", _KEEP_ALIVE_TIMES)):
        if hasattr(socket, name):
            yield socket.IPPROTO_TCP, getattr(socket, name), value


def _let_go() -> None:
    # By name: in a child it is another lock than the one that was taken, if it was renewed before.
    _making.release()


def _leave_to_parent() -> None:
    """In a forked child: closing a descriptor sends nothing."""
    global _making
    _making = threading.RLock()
    for sock in list(_made):
        sock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lambda: _making.acquire(), after_in_parent=_let_go, after_in_child=_leave_to_parent)
