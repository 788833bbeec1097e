"""``beanpool take``: reserve, print, then delete or give back."""

from __future__ import annotations

import argparse
import base64
import contextlib
import time
from typing import Any

from beanpool import BeanpoolError, Job, PoolManager
from beanpool.cli.exits import Exit, usage_errors
from beanpool.cli.pool import open_pool
from beanpool.cli.terminal import say, say_body, to_json

_SPARE_CONNECTIONS = 2


def run(arguments: argparse.Namespace) -> int:
    """Print up to ``--max`` jobs; exit code 1 if there was none."""
    # A job that is given back would be the next one taken, so those are held until the end, a connection each.
    settings = {} if arguments.fate == "delete" else {"max_connections": arguments.limit + _SPARE_CONNECTIONS}
    with open_pool(arguments, **settings) as pool:
        return Exit.OK if _take(pool, arguments) else Exit.NEGATIVE


def _take(pool: PoolManager[bytes], arguments: argparse.Namespace) -> int:
    deadline = time.monotonic() + arguments.wait
    held: list[Job[bytes]] = []
    taken = 0
    try:
        while taken < arguments.limit:
            with usage_errors():
                job = pool.reserve(_time_left(deadline), tubes=[arguments.tube])
            if job is None:
                break
            held.append(job)
            taken += 1
            _print(job, arguments)
            if arguments.fate == "delete":
                job.delete()
                held.pop()
        for job in list(held):
            if arguments.fate == "bury":
                job.bury()
            else:
                job.release()
            held.remove(job)
    finally:
        for job in held:
            # A server that cannot be told takes its job back when the connection closes.
            with contextlib.suppress(BeanpoolError):
                job.release()
    return taken


def _time_left(deadline: float) -> float | None:
    left = deadline - time.monotonic()
    return None if left == float("inf") else max(0.0, left)


def _print(job: Job[bytes], arguments: argparse.Namespace) -> None:
    if not arguments.json:
        say_body(job.data)
        return
    fields: dict[str, Any] = {"server": job.server, "id": job.id, "tube": arguments.tube}
    try:
        fields["body"] = job.data.decode()
    except UnicodeDecodeError:
        fields["body_base64"] = base64.b64encode(job.data).decode()
    say(to_json(fields))
