"""``beanpool evacuate``: move all jobs of one server to the others."""

from __future__ import annotations

import argparse

from beanpool import PoolManager, admin
from beanpool.cli.each_server import on_each_server
from beanpool.cli.exits import CommandError, Exit
from beanpool.cli.operation import Counts, Operation, jobs_in, run_operation
from beanpool.cli.pool import split_answers


def run(arguments: argparse.Namespace) -> int:
    """Move them, tube by tube."""
    server, states = arguments.server, arguments.states

    def look(pool: PoolManager[bytes]) -> tuple[Counts, dict[str, str]]:
        address = _address(pool, server)
        if not any(status.weight > 0 for status in pool.servers if status.address != address):
            raise CommandError(f"{address} cannot be emptied: no other server takes puts", code=Exit.USAGE)
        answers, missing = split_answers(on_each_server(pool, lambda _, connection: connection.stats(), [address]))
        return {address: jobs_in(answers[address], states)}, missing

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
