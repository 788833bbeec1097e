"""``beanpool servers``: every server, as a pool sees it and as it sees itself."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from beanpool.cli.each_server import on_each_server, round_trip
from beanpool.cli.exits import Exit
from beanpool.cli.pool import code_for, open_pool, reason, say_missing
from beanpool.cli.screen import say_table
from beanpool.cli.tables import Styled, count, seconds
from beanpool.cli.terminal import say, to_json

_STATES = ("ready", "reserved", "delayed", "buried")
_COLORS = {"up": "green", "suspect": "yellow", "down": "bold red"}


def run(arguments: argparse.Namespace) -> int:
    """Print them; a server that does not answer is one of the answers, and makes the exit code 3."""
    with open_pool(arguments) as pool:
        answers = on_each_server(pool, lambda _, connection: (connection.stats(), round_trip(connection)))
        servers = pool.servers
    missing = {
        server: reason(server, answer) for server, answer in answers.items() if isinstance(answer, BaseException)
    }
    answered: dict[str, tuple[dict[str, Any], float]] = {
        server: answer for server, answer in answers.items() if not isinstance(answer, BaseException)
    }
    if arguments.json:
        for status in servers:
            found = answered.get(status.address)
            record = dataclasses.asdict(status) | {
                "round_trip": None if found is None else found[1],
                "answered": found is not None,
                "error": missing.get(status.address),
                "stats": None if found is None else found[0],
            }
            say(to_json(record))
    else:
        rows = [["server", "state", "weight", "answers in", "version", "up for", "conns", *_STATES]]
        for status in servers:
            stats, trip = answered.get(status.address) or ({}, None)
            state: str = "draining" if stats.get("draining") in (True, "true") else status.state
            if not stats and state == "up":
                state = "silent"
            name = status.address if status.name == status.address else f"{status.name} {status.address}"
            rows.append(
                [
                    name,
                    Styled(state, _COLORS.get(state, "yellow")),
                    f"{status.weight:g}",
                    "-" if trip is None else f"{trip * 1000:.1f} ms",
                    str(stats.get("version", "-")),
                    seconds(float(stats["uptime"])) if stats else "-",
                    *(
                        count(stats[name]) if stats else "-"
                        for name in ("current-connections", *(f"current-jobs-{state}" for state in _STATES))
                    ),
                ]
            )
        say_table(rows, left=(0, 1), flexible=(0,))
        say_missing(missing)
    if len(missing) == len(servers):
        return Exit.UNAVAILABLE
    return code_for(missing)
