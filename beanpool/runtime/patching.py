"""Refusing a standard library that gevent or eventlet has replaced: nothing that beanpool promises holds there."""

from __future__ import annotations

import _thread
import queue
import select
import socket

from beanpool.errors import BeanpoolError

_CULPRITS = frozenset({"gevent", "eventlet"})


def check_unpatched() -> None:
    """Look at what beanpool waits with, as it is now.

    :raises BeanpoolError: if any of it is gevent's or eventlet's. It would lose the deadlines, or wait for ever.
    """
    for name, thing in (
        ("socket", socket.socket),
        ("select", select.select),
        ("thread", _thread.start_new_thread),
        ("queue", queue.SimpleQueue),
    ):
        culprit = str(getattr(thing, "__module__", "")).partition(".")[0]
        if culprit in _CULPRITS:
            raise BeanpoolError(
                f"{culprit} has replaced the standard library's {name} in this process, so no deadline would hold and "
                "a call could hang: use beanpool in a process of plain threads (gunicorn: --worker-class gthread; "
                "Celery: --pool threads or prefork), or leave socket, select, thread and queue out of the "
                "monkey-patching"
            )
