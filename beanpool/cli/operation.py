"""An operation on many jobs: looked at first, asked about, shown while it runs, and reported server by server."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TextIO

from beanpool import PoolManager
from beanpool.admin import Outcome, total
from beanpool.cli.consent import ask, check_can_ask
from beanpool.cli.exits import CommandError, Exit, usage_errors
from beanpool.cli.pool import open_pool, reason, say_missing, split_answers
from beanpool.cli.progress import OnProgress, shown_progress
from beanpool.cli.screen import say_table
from beanpool.cli.stop_signals import StopSignals
from beanpool.cli.tables import Styled, count, seconds
from beanpool.cli.terminal import complain, say, to_json
from beanpool.errors import CommandFailed, no_server

Outcomes = Mapping[str, Outcome]
Counts = dict[str, dict[str, int]]
"""Jobs by server and state."""


class Reins(NamedTuple):
    """What an operation is given: how to say how far it is, and what ends it early."""

    progress: OnProgress | None
    stop: Callable[[], bool]


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """What a command is about to do to jobs.

    :param words: what is done to them, for reports: ``"moved"``.
    :param sentence: the same for questions, with a place for the jobs: ``"Move {jobs} from tube a to tube b"``.
    :param look: counts the jobs, and names the servers that did not answer, with the reason.
    :param act: does it.
    :param deletes: whether jobs are deleted, so that it asks first.
    """

    words: str
    sentence: str
    look: Callable[[PoolManager[bytes]], tuple[Counts, dict[str, str]]]
    act: Callable[[PoolManager[bytes], Reins], Outcomes]
    deletes: bool = True


def run_operation(operation: Operation, arguments: argparse.Namespace) -> int:
    """Do it, or with ``--dry-run`` say what would be done; returns the exit code."""
    if operation.deletes:
        check_can_ask(arguments)
    with open_pool(arguments) as pool, usage_errors():
        if arguments.dry_run:
            return _say_counts(operation, *operation.look(pool), arguments)
        if operation.deletes and not arguments.yes:
            counts, missing = operation.look(pool)
            say_missing(missing, to_errors=True)
            ask(f"{_sentence(operation, counts)}?")
        return act(pool, operation, arguments)


def act(pool: PoolManager[bytes], operation: Operation, arguments: argparse.Namespace) -> int:
    """Do it with a pool, and report; returns the exit code. The first Ctrl-C ends it between two portions."""
    with StopSignals() as signals, shown_progress() as progress:
        outcomes = operation.act(pool, Reins(progress, lambda: signals.received is not None))
    return report(outcomes, operation.words, signals.received, as_json=arguments.json)


def count_in_tube(tube: str, states: tuple[str, ...]) -> Callable[[PoolManager[bytes]], tuple[Counts, dict[str, str]]]:
    """What counts the jobs of a tube in these states."""

    def look(pool: PoolManager[bytes]) -> tuple[Counts, dict[str, str]]:
        answers, missing = split_answers(pool.stats_tube_by_server(tube))
        return {server: jobs_in(stats, states) for server, stats in answers.items()}, missing

    return look


def jobs_in(stats: Mapping[str, Any], states: tuple[str, ...]) -> dict[str, int]:
    """The jobs by state, of the statistics of a tube or server."""
    return {state: stats[f"current-jobs-{state}"] for state in states}


def _sentence(operation: Operation, counts: Counts) -> str:
    sums: dict[str, int] = {}
    for states in counts.values():
        for state, number in states.items():
            sums[state] = sums.get(state, 0) + number
    parts = ", ".join(f"{count(number)} {state}" for state, number in sums.items() if number)
    jobs = f"{count(sum(sums.values()))} jobs" + (f" ({parts})" if parts else "")
    return operation.sentence.format(jobs=jobs)


def _say_counts(operation: Operation, counts: Counts, missing: Mapping[str, str], arguments: argparse.Namespace) -> int:
    if arguments.json:
        say(to_json({"dry_run": True, "servers": counts, "missing": missing}))
    else:
        say(f"{_sentence(operation, counts)}: nothing was done (--dry-run)")
        states = list(dict.fromkeys(state for found in counts.values() for state in found))
        if counts:
            say_table(
                [
                    ["server", *states],
                    *([server, *(count(found.get(state, 0)) for state in states)] for server, found in counts.items()),
                ],
                flexible=(0,),
            )
        say_missing(missing)
    return Exit.INCOMPLETE if missing else Exit.OK


def report(outcomes: Outcomes, words: str, received: int | None, *, as_json: bool, to_errors: bool = False) -> int:
    """Say what came of it; returns the exit code.

    :param words: what was done to the jobs: ``"moved"``.
    :param received: the signal that ended it early.
    :param to_errors: whether standard output has other things on it, so that this belongs on standard error.
    """
    whole = total(outcomes)
    if as_json:
        servers = {server: _as_record(outcome) for server, outcome in outcomes.items()}
        record = {"total": _as_record(whole), "servers": servers, "interrupted": received is not None}
        print(to_json(record), file=sys.stderr if to_errors else sys.stdout, flush=True)
    else:
        _say_outcomes(outcomes, whole, words, sys.stderr if to_errors else sys.stdout)
        if received is not None:
            complain(f"interrupted after {count(whole.done)} jobs", "Run it again to go on with the rest.")
    return _exit_code(outcomes, received)


def _as_record(outcome: Outcome) -> dict[str, Any]:
    record = dataclasses.asdict(dataclasses.replace(outcome, error=None))
    record["seconds"] = round(outcome.seconds, 3)
    return record | {"error": None if outcome.error is None else str(outcome.error)}


def _say_outcomes(outcomes: Outcomes, whole: Outcome, words: str, stream: TextIO) -> None:
    counted = [name for name in ("duplicates", "skipped", "unsure") if getattr(whole, name)]
    rows = [["server", words, *counted, "time"]]
    shown = [*outcomes.items(), *([("total", whole)] if len(outcomes) > 1 else [])]
    for server, outcome in shown:
        numbers = [Styled(count(value), "yellow" if value else "") for value in map(outcome.__getattribute__, counted)]
        name = server or "(none)"
        rows.append(
            [
                Styled(name, "red") if outcome.error is not None and server in outcomes else name,
                count(outcome.done),
                *numbers,
                seconds(outcome.seconds),
            ]
        )
    say_table(rows, flexible=(0,), stream=stream)
    for server, outcome in outcomes.items():
        if outcome.error is not None:
            complain(f"{server or 'no server'}: {reason(server, outcome.error)}")
    if whole.unsure:
        complain(
            f"{count(whole.unsure)} deletes were sent and not answered",
            "Those jobs may be there twice now. Look before you run it again.",
        )


def _exit_code(outcomes: Outcomes, received: int | None) -> int:
    if received is not None:
        return 128 + received
    errors = {server: outcome.error for server, outcome in outcomes.items() if outcome.error is not None}
    if not errors:
        return Exit.OK
    if all(isinstance(error, CommandFailed | ValueError) for error in errors.values()):
        return Exit.NEGATIVE
    if (len(errors) == len(outcomes) or "" in errors) and not any(
        outcome.done or outcome.unsure for outcome in outcomes.values()
    ):
        unreachable = no_server(errors, "could be asked")
        raise CommandError(str(unreachable).partition(":")[0], code=Exit.UNAVAILABLE)
    return Exit.INCOMPLETE
