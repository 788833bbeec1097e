"""Jobs that were looked at: a line each, cut to the window, or a line of JSON."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice

from beanpool.admin import Listing, StoredJob
from beanpool.cli.pool import reason
from beanpool.cli.screen import say_table
from beanpool.cli.tables import Styled, count, seconds
from beanpool.cli.terminal import complain, say, say_body, to_json
from beanpool.errors import no_server

_HEAD = ("job", "tube", "state", "priority", "ttr", "left", "age", "bytes", "body")
_LEFT = {_HEAD.index(name) for name in ("job", "tube", "state", "body")}
_CUT = (_HEAD.index("body"), _HEAD.index("tube"))
_STYLES = {"buried": "red", "delayed": "yellow", "reserved": "cyan"}
# So many are looked at before the widths of a table are known.
_AT_ONCE = 500
# A terminal shows no more of a body in one line; a pipe gets as much.
_MOST_SHOWN = 200


def say_jobs(jobs: Iterable[StoredJob], arguments: argparse.Namespace) -> int:
    """Print them as ``--json`` and ``--body`` say; returns how many there were."""
    shown = 0
    if arguments.json or arguments.body:
        for job in jobs:
            shown += 1
            if arguments.json:
                say(to_json(job_record(job)))
            else:
                say_body(job.data)
        return shown
    found = iter(jobs)
    while portion := list(islice(found, _AT_ONCE)):
        shown += len(portion)
        say_table([_HEAD, *_rows(portion)], left=_LEFT, flexible=_CUT)
    return shown


def say_listing(listing: Listing, arguments: argparse.Namespace) -> tuple[int, dict[str, str]]:
    """Print the jobs of a listing; returns how many there were, and the servers that it lacks, with the reasons.

    :raises NoServerAvailable: no server answered.
    """
    with closing(listing):
        shown = say_jobs(listing, arguments)
    errors = {server: outcome.error for server, outcome in listing.outcomes.items() if outcome.error is not None}
    if len(errors) == len(listing.outcomes):
        raise no_server(errors, "answered")
    for server, outcome in listing.outcomes.items():
        if outcome.skipped:
            complain(f"{server}: {count(outcome.skipped)} more jobs were not found")
    return shown, {server: reason(server, error) for server, error in errors.items()}


def job_record(job: StoredJob) -> dict[str, object]:
    """A job for programs: what an export has, and its address in one word."""
    return {"job": f"{job.server}/{int(job.id)}", **job.as_record(), "bytes": len(job.data)}


def _rows(jobs: Iterable[StoredJob]) -> Iterator[list[str]]:
    for job in jobs:
        yield [
            f"{job.server}/{int(job.id)}",
            job.tube,
            Styled(job.state, _STYLES.get(job.state, "")),
            str(job.priority),
            f"{job.ttr}s",
            seconds(float(job.time_left)) if job.state in ("delayed", "reserved") else "-",
            seconds(float(job.age)) if job.age else "0s",
            count(len(job.data)),
            job.data[:_MOST_SHOWN].decode("utf-8", "backslashreplace"),
        ]
