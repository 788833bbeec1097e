"""``beanpool tubes``: every tube of every server, with its jobs."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Mapping
from typing import Any

from beanpool import NotFound
from beanpool.cli.exits import Exit
from beanpool.cli.pool import code_for, open_pool, reason, say_missing, split_answers
from beanpool.cli.screen import say_table
from beanpool.cli.tables import count
from beanpool.cli.terminal import say, to_json

# Heads of the table, and the counters of ``stats-tube`` below them.
_COLUMNS = {
    "ready": "current-jobs-ready",
    "reserved": "current-jobs-reserved",
    "delayed": "current-jobs-delayed",
    "buried": "current-jobs-buried",
    "using": "current-using",
    "watching": "current-watching",
    "waiting": "current-waiting",
}


def run(arguments: argparse.Namespace) -> int:
    """Print the tubes; exit code 1 if a glob was given and no tube matches it."""
    with open_pool(arguments) as pool:
        answers, missing = split_answers(pool.tubes_by_server())
        for server in missing:
            # It has had its time, and shall not have it again.
            pool.remove_server(server)
        names = sorted({tube for tubes in answers.values() for tube in tubes})
        if arguments.glob is not None:
            names = [name for name in names if fnmatch.fnmatchcase(name, arguments.glob)]
        told, failed = split_answers(pool.stats_tubes_by_server(names)) if names else ({}, {})
        missing |= failed
    having: dict[str, dict[str, Any]] = {name: {} for name in names}
    for server, found in told.items():
        for name, stats in found.items():
            if not isinstance(stats, BaseException):
                having[name][server] = stats
            elif not isinstance(stats, NotFound):
                missing.setdefault(server, reason(server, stats))
    # A tube can vanish after it was listed.
    tubes = {name: _counters(stats) for name, stats in having.items() if stats}
    if arguments.json:
        say(to_json({"tubes": tubes, "missing": missing}))
    else:
        rows = [["tube", *_COLUMNS, "servers"]]
        rows += [
            [name, *(count(counters[head]) for head in _COLUMNS), str(len(counters["servers"]))]
            for name, counters in tubes.items()
        ]
        say_table(rows, flexible=(0,))
        say_missing(missing)
    return code_for(missing, Exit.NEGATIVE if arguments.glob is not None and not tubes else Exit.OK)


def _counters(having: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The sums over the servers that have the tube."""
    sums = {head: sum(stats[counter] for stats in having.values()) for head, counter in _COLUMNS.items()}
    return sums | {"servers": list(having)}
