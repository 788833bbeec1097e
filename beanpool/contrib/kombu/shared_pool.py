"""The pools of this process: one for each cluster and set of options, whoever connects to it."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from beanpool import PoolManager
from beanpool.contrib.kombu.finishing import Finisher

# Beside those that hold messages: for the waits on queues, and for puts.
_SPARE_CONNECTIONS = 16


class SharedPool:
    """A pool, and those who use it: it is closed with the last of them.

    :param key: what it is found by.
    """

    def __init__(self, key: str, servers: str | list[str], options: dict[str, Any]) -> None:
        self.pool: PoolManager[bytes] = PoolManager(servers, encoding=None, **options)
        self.finisher = Finisher(self.pool)
        self._key = key
        self._users = 1
        # A limit that somebody has set is not ours to raise.
        self._fixed = "max_connections" in options or (isinstance(servers, str) and "max_connections=" in servers)
        self._limit = int(self.pool.get_stats()["pool_max"] / max(1, len(self.pool.servers)))
        self._prefetched: dict[int, int] = {}

    def hold_at_most(self, who: int, count: int) -> None:
        """Let there be connections enough for `count` unacknowledged messages of somebody, beside those of others."""
        with _registry.lock:
            if count:
                self._prefetched[who] = count
            else:
                self._prefetched.pop(who, None)
            wanted = sum(self._prefetched.values()) + _SPARE_CONNECTIONS
            if self._fixed or wanted <= self._limit:
                return
            self._limit = wanted
        self.pool.resize(wanted)

    def release(self) -> None:
        """Say that one of its users needs it no longer."""
        with _registry.lock:
            self._users -= 1
            if self._users:
                return
            if _registry.pools.get(self._key) is self:
                del _registry.pools[self._key]
        self.finisher.close()
        self.pool.close(0)


class _Registry:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        # Weakly: connections that were dropped and not closed take their pool along.
        self.pools: weakref.WeakValueDictionary[str, SharedPool] = weakref.WeakValueDictionary()


_registry = _Registry()


def share(servers: str | list[str], options: dict[str, Any]) -> SharedPool:
    """The pool of this process for these servers and options; :meth:`SharedPool.release` it afterwards.

    :raises ValueError: for a server or an option that cannot be.
    """
    key = repr((servers, options))
    with _registry.lock:
        shared = _registry.pools.get(key)
        if shared is None:
            shared = _registry.pools[key] = SharedPool(key, servers, options)
        else:
            shared._users += 1
        return shared


def _start_afresh_in_child() -> None:
    # Who was a user in the parent has a pool that begins anew in the child by itself; others get one of their own.
    global _registry
    for shared in list(_registry.pools.values()):
        shared.finisher.start_afresh()
    _registry = _Registry()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)
