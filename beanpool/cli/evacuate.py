"""``beanpool evacuate``: move all jobs of one server to the others."""

from __future__ import annotations

import argparse
from typing import Any

from beanpool import PoolManager, admin
from beanpool.cli.exits import CommandError, Exit
from beanpool.cli.operation import Counts, Operation, jobs_in, run_operation
from beanpool.cli.pool import reason


def run(arguments: argparse.Namespace) -> int:
    """Move them, tube by tube."""
    server, states = arguments.server, arguments.states

    def look(pool: PoolManager[bytes]) -> tuple[Counts, dict[str, str]]:
        address = _address(pool, server)
        answer: Any = pool.stats_by_server()[address]
        if isinstance(answer, BaseException):
            return {}, {address: reason(address, answer)}
        return {address: jobs_in(answer, states)}, {}

    return run_operation(
        Operation(
            "moved",
            f"Move {'{jobs}'} from server {server} to the others",
            look,
            lambda pool, reins: admin.evacuate(
                pool,
                _address(pool, server),
                states=states,
                key=arguments.key,
                progress=reins.progress,
                stop=reins.stop,
            ),
        ),
        arguments,
    )


def _address(pool: PoolManager[bytes], server: str) -> str:
    found = next((status.address for status in pool.servers if server in (status.address, status.name)), None)
    if found is None:
        known = ", ".join(status.address for status in pool.servers)
        raise CommandError(f"{server} is none of the servers ({known})", code=Exit.USAGE)
    return found
