"""``beanpool job``: all that a server knows of one job, and its body."""

from __future__ import annotations

import argparse
import base64
from typing import Any

from beanpool import NotFound
from beanpool.cli.exits import Exit, usage_errors
from beanpool.cli.pool import open_pool
from beanpool.cli.terminal import complain, say, say_body, to_json


def run(arguments: argparse.Namespace) -> int:
    """Print its statistics and its body; exit code 1 if there is no such job."""
    address = arguments.job
    with open_pool(arguments) as pool, usage_errors():
        job = pool.peek(address.id, server=address.server)
        try:
            statistics = None if job is None else pool.stats_job(address.id, server=address.server)
        except NotFound:
            statistics = None
    if job is None or statistics is None:
        complain(f"there is no job {address}")
        return Exit.NEGATIVE
    if arguments.json:
        record: dict[str, Any] = {"job": f"{job.server}/{int(job.id)}", "server": job.server, **statistics}
        try:
            record["body"] = job.data.decode()
        except UnicodeDecodeError:
            record["body_base64"] = base64.b64encode(job.data).decode()
        say(to_json(record))
        return Exit.OK
    if not arguments.body:
        width = max(map(len, statistics))
        say(f"{'server':{width}}  {job.server}")
        for name, value in statistics.items():
            say(f"{name:{width}}  {value}")
        say(f"{'bytes':{width}}  {len(job.data)}")
        say("")
    say_body(job.data)
    return Exit.OK
