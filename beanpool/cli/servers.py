"""``beanpool servers``: every server, as a pool sees it and as it sees itself."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

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
        answers = pool.stats_by_server()
        trips = pool.ping_by_server() if any(isinstance(answer, dict) for answer in answers.values()) else {}
        servers = pool.servers
    missing = {
        server: reason(server, answer) for server, answer in answers.items() if isinstance(answer, BaseException)
    }
    if arguments.json:
        for status in servers:
            answer, trip = answers[status.address], trips.get(status.address)
            record = dataclasses.asdict(status) | {
                "round_trip": trip if isinstance(trip, float) else None,
                "answered": isinstance(answer, dict),
                "error": missing.get(status.address),
                "stats": answer if isinstance(answer, dict) else None,
            }
            say(to_json(record))
    else:
        rows = [["server", "state", "weight", "answers in", "version", "up for", "conns", *_STATES]]
        for status in servers:
            answer, trip = answers[status.address], trips.get(status.address)
            stats: dict[str, Any] = answer if isinstance(answer, dict) else {}
            state: str = "draining" if stats.get("draining") in (True, "true") else status.state
            if not stats and state == "up":
                state = "silent"
            name = status.address if status.name == status.address else f"{status.name} {status.address}"
            rows.append(
                [
                    name,
                    Styled(state, _COLORS.get(state, "yellow")),
                    f"{status.weight:g}",
                    f"{trip * 1000:.1f} ms" if isinstance(trip, float) else "-",
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
