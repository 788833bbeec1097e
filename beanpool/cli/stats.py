"""``beanpool stats``: counters, summed and per server."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from beanpool.cli.exits import Exit, usage_errors
from beanpool.cli.pool import code_for, open_pool, say_missing, split_answers
from beanpool.cli.screen import say_table
from beanpool.cli.tables import count
from beanpool.cli.terminal import complain, say, to_json
from beanpool.cluster import merge_stats

Stats = dict[str, Any]

_USEFUL = (
    "current-jobs-urgent",
    "current-jobs-ready",
    "current-jobs-reserved",
    "current-jobs-delayed",
    "current-jobs-buried",
    "total-jobs",
    "job-timeouts",
    "cmd-put",
    "cmd-delete",
    "current-tubes",
    "current-using",
    "current-watching",
    "current-waiting",
    "current-connections",
    "current-producers",
    "current-workers",
    "pause",
    "pause-time-left",
    "draining",
    "uptime",
    "version",
)


def run(arguments: argparse.Namespace) -> int:
    """Print the counters; exit code 1 if no server has the tube."""
    with open_pool(arguments) as pool:
        if arguments.tube is None:
            answers, missing = split_answers(pool.stats_by_server())
        else:
            with usage_errors():
                answers, missing = split_answers(pool.stats_tube_by_server(arguments.tube))
    total = merge_stats(list(answers.values()))
    if arguments.json:
        say(to_json({"total": total, "servers": answers, "missing": missing}))
    elif answers:
        say_table(_rows(total, answers, every=arguments.all))
        say_missing(missing)
    else:
        say_missing(missing)
        complain(f"no server has a tube {arguments.tube}")
    return code_for(missing, Exit.OK if answers else Exit.NEGATIVE)


def _rows(total: Stats, answers: Mapping[str, Stats], *, every: bool) -> list[list[str]]:
    present = dict.fromkeys(name for stats in answers.values() for name in stats)
    names = list(present) if every else [name for name in _USEFUL if name in present]
    head = ["", "total", *answers]
    return [head, *([name, *(_cell(stats.get(name)) for stats in (total, *answers.values()))] for name in names)]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return count(value) if type(value) is int else str(value)
