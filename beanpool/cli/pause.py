"""``beanpool pause`` and ``beanpool resume``: let nobody reserve from a tube for a while, on all servers."""

from __future__ import annotations

import argparse

from beanpool.cli.exits import Exit, usage_errors
from beanpool.cli.pool import code_for, open_pool, say_missing, split_answers
from beanpool.cli.tables import seconds
from beanpool.cli.terminal import complain, say, to_json


def run(arguments: argparse.Namespace) -> int:
    """Pause the tube, or end its pause; exit code 1 if no server has it."""
    tube, pause = arguments.tube, arguments.seconds
    with open_pool(arguments) as pool, usage_errors():
        if arguments.dry_run:
            answers, missing = split_answers(pool.stats_tube_by_server(tube))
        else:
            answers, missing = split_answers(pool.pause_tube_by_server(tube, pause))
    done = not arguments.dry_run
    if arguments.json:
        record = {"tube": tube, "pause": pause, "done": done, "servers": list(answers), "missing": missing}
        say(to_json(record))
    elif answers:
        action = f"paused for {seconds(float(pause))}" if pause else "resumed"
        say(f"{tube} {action if done else f'would be {action}'} on {', '.join(answers)}")
    if not arguments.json:
        if not answers:
            complain(f"no server has a tube {tube}")
        say_missing(missing, to_errors=True)
    return code_for(missing, Exit.OK if answers else Exit.NEGATIVE)
