"""``beanpool ping``: how long each server takes to answer."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

from beanpool.cli.each_server import on_each_server, round_trip
from beanpool.cli.exits import Exit
from beanpool.cli.pool import open_pool, reason
from beanpool.cli.screen import say_table
from beanpool.cli.tables import Styled
from beanpool.cli.terminal import say, to_json


def run(arguments: argparse.Namespace) -> int:
    """Make a round trip to each; with ``--wait`` try until all answer. 3 if some do not, 69 if none does."""
    deadline = time.monotonic() + arguments.wait
    with open_pool(arguments) as pool:
        while True:
            began = time.monotonic()
            answers = on_each_server(pool, lambda _, connection: round_trip(connection))
            failed = sum(isinstance(answer, BaseException) for answer in answers.values())
            now = time.monotonic()
            if not failed or now >= deadline:
                break
            time.sleep(min(max(0.0, began + arguments.interval - now), deadline - now))
    _say_answers(answers, as_json=arguments.json)
    return Exit.UNAVAILABLE if failed == len(answers) else (Exit.INCOMPLETE if failed else Exit.OK)


def _say_answers(answers: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        for server, answer in answers.items():
            silent = isinstance(answer, BaseException)
            error = reason(server, answer) if silent else None
            say(to_json({"server": server, "seconds": None if silent else answer, "error": error}))
        return
    rows = [["server", "answer"]]
    for server, answer in answers.items():
        if isinstance(answer, BaseException):
            rows.append([server, Styled(reason(server, answer), "red")])
        else:
            rows.append([server, Styled(f"{answer * 1000:.2f} ms", "green")])
    say_table(rows, left=(0, 1), flexible=(1, 0))
