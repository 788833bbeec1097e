"""What tests of puts ask of a pool and of its servers, and the body that no error may repeat."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from beanpool import PoolManager
from support.servers import BeanstalkdServer

# The commands on one job, by its id.
BY_ID: dict[str, Callable[..., object]] = {
    "delete": PoolManager.delete,
    "release": PoolManager.release,
    "bury": PoolManager.bury,
    "touch": PoolManager.touch,
    "kick_job": PoolManager.kick_job,
    "stats_job": PoolManager.stats_job,
    "peek": PoolManager.peek,
    "reserve_job": PoolManager.reserve_job,
}

SECRET = "the body, which is nobody else's business"


def key_of(pool: PoolManager, address: str) -> str:
    """A key that belongs to the server at `address`."""
    return next(key for key in map(str, range(1000)) if pool.route(key)[0] == address)


def state_of(pool: PoolManager, address: str) -> str:
    return next(status.state for status in pool.servers if status.address == address)


def ready(server: BeanstalkdServer, tube: str = "default") -> int:
    return server.control.counter("current-jobs-ready", tube)


def told_of(error: BaseException | None) -> list[str]:
    """Where an error, or one that it came from, repeats the body."""
    found: list[str] = []
    todo = [error]
    seen: set[int] = set()
    while todo:
        current = todo.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        texts = [str(current), repr(current), repr(current.args), repr(vars(current))]
        found.extend(text for text in texts if SECRET in text)
        found.extend(line for line in traceback.format_exception_only(current) if SECRET in line)
        todo += [current.__cause__, current.__context__]
        todo += getattr(current, "attempts", ())
        todo += getattr(current, "errors", {}).values()
    return found
