"""``beanpool route``: which servers are asked, in which order, to take a job with a key."""

from __future__ import annotations

import argparse

from beanpool.cli.exits import Exit
from beanpool.cli.pool import open_pool
from beanpool.cli.terminal import printable, say, to_json


def run(arguments: argparse.Namespace) -> int:
    """Print them; no server is asked."""
    with open_pool(arguments) as pool:
        for key in arguments.keys:
            order = pool.route(key)
            if arguments.json:
                say(to_json({"key": key, "servers": order}))
            elif len(arguments.keys) > 1:
                say(printable(f"{key}  {' '.join(order)}"))
            else:
                for server in order:
                    say(server)
    return Exit.OK
