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

# Of jobs that are given back so many are taken at once.
_AT_ONCE = 500


def run(arguments: argparse.Namespace) -> int:
    """Print up to ``--max`` jobs; exit code 1 if there was none."""
    with open_pool(arguments) as pool:
        take = _take_and_delete if arguments.fate == "delete" else _take_and_give_back
        return Exit.OK if take(pool, arguments) else Exit.NEGATIVE


def _take_and_delete(pool: PoolManager[bytes], arguments: argparse.Namespace) -> int:
    deadline = time.monotonic() + arguments.wait
    taken = 0
    # One by one: what is not printed yet is left to others.
    while taken < arguments.limit:
        with usage_errors():
            job = pool.reserve(_time_left(deadline), tubes=[arguments.tube])
        if job is None:
            break
        taken += 1
        try:
            _print(job, arguments)
        except BaseException:
            _release(pool, [job])
            raise
        job.delete()
    return taken


def _take_and_give_back(pool: PoolManager[bytes], arguments: argparse.Namespace) -> int:
    deadline = time.monotonic() + arguments.wait
    held: list[Job[bytes]] = []
    try:
        # A job that is given back would be the next one taken, so they are held until the end.
        while len(held) < arguments.limit:
            wanted = min(_AT_ONCE, arguments.limit - len(held))
            with usage_errors():
                jobs = pool.reserve_many(wanted, _time_left(deadline), tubes=[arguments.tube])
            if not jobs:
                break
            held += jobs
            for job in jobs:
                _print(job, arguments)
    except BaseException:
        _release(pool, held)
        raise
    outcomes = pool.bury_many(held) if arguments.fate == "bury" else pool.release_many(held)
    for error in outcomes:
        if error is not None:
            raise error
    return len(held)


def _release(pool: PoolManager[bytes], jobs: list[Job[bytes]]) -> None:
    # A server that cannot be told takes its jobs back when the connection closes.
    with contextlib.suppress(BeanpoolError):
        pool.release_many(jobs)


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
