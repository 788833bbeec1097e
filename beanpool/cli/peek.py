"""``beanpool peek``: look at the jobs of a tube without taking them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from beanpool import Connection, Job, JobId, NotFound, PoolManager
from beanpool.admin import StoredJob, jobs
from beanpool.cli.each_server import on_each_server
from beanpool.cli.exits import Exit, usage_errors
from beanpool.cli.job_table import say_jobs, say_listing
from beanpool.cli.pool import code_for, open_pool, say_missing, split_answers
from beanpool.cli.terminal import complain
from beanpool.protocol import check_tube

# The fields of a stored job, and the names of ``stats-job``.
_NUMBERS = {
    "priority": "pri",
    "ttr": "ttr",
    "time_left": "time-left",
    "age": "age",
    "reserves": "reserves",
    "timeouts": "timeouts",
    "releases": "releases",
    "buries": "buries",
    "kicks": "kicks",
}


def run(arguments: argparse.Namespace) -> int:
    """Print the next job of each state on each server, or with ``--max`` as many as that; exit code 1 without any."""
    with open_pool(arguments) as pool, usage_errors():
        if arguments.limit is None:
            found, missing = _next_jobs(pool, arguments.tube, arguments.states)
            shown = say_jobs(found, arguments)
        else:
            listing = jobs(pool, arguments.tube, arguments.states, arguments.limit)
            shown, missing = say_listing(listing, arguments)
    say_missing(missing, to_errors=True)
    if not shown:
        complain(f"no {', '.join(arguments.states)} jobs in tube {arguments.tube}")
    return code_for(missing, Exit.OK if shown else Exit.NEGATIVE)


def _next_jobs(pool: PoolManager[bytes], tube: str, states: tuple[str, ...]) -> tuple[list[StoredJob], dict[str, str]]:
    """The job of each state that comes next on each server, and the servers that did not answer."""
    check_tube(tube)

    def look(server: str, connection: Connection[bytes]) -> list[StoredJob]:
        connection.use(tube)
        with connection.pipeline() as peeks:
            for state in states:
                getattr(peeks, f"peek_{state}")()
        jobs = [job for job in peeks.results if isinstance(job, Job)]
        origin = str(connection.stats()["id"])
        with connection.pipeline() as questions:
            for job in jobs:
                questions.stats_job(job.id)
        return [
            _stored(JobId(job.id, server, origin), job.data, answer)
            for job, answer in zip(jobs, questions.results, strict=True)
            # Somebody may have taken it in between.
            if not isinstance(answer, NotFound)
        ]

    answers, missing = split_answers(on_each_server(pool, look))
    return [job for found in answers.values() for job in found], missing


def _stored(jid: JobId, data: bytes, statistics: Mapping[str, Any]) -> StoredJob:
    numbers = {field: statistics[name] for field, name in _NUMBERS.items()}
    return StoredJob(id=jid, tube=statistics["tube"], state=statistics["state"], data=data, **numbers)
