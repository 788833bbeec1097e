"""A command on jobs that are named one by one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

from beanpool import BeanpoolError, JobLost, NotFound, PoolManager
from beanpool.cli.arguments import JobAddress, job_address
from beanpool.cli.exits import CommandError, Exit, usage_errors
from beanpool.cli.pool import open_pool, reason
from beanpool.cli.terminal import complain, say, to_json
from beanpool.errors import ConnectionFailed

Act = Callable[[PoolManager[bytes], JobAddress], Any]


def for_each_job(arguments: argparse.Namespace, words: str, act: Act, refusal: str) -> int:
    """Do it to each of ``arguments.jobs``; with ``--dry-run`` look whether they are there.

    :param words: what is done: ``"deleted"``.
    :param refusal: what a job is for which the server answers ``NOT_FOUND``, though it may be there.
    :returns: 0 if all were found, 1 if not, 3 if a server did not answer.
    """
    code = Exit.OK
    with open_pool(arguments) as pool:
        jobs = list(_named(arguments.jobs))
        # Before anything is done: a server that is none.
        with usage_errors():
            for job in jobs:
                _check_server(pool, job)
        silent: dict[str | None, BeanpoolError] = {}
        for job in jobs:
            error = silent.get(job.server) or _try(pool, job, _look if arguments.dry_run else act)
            if isinstance(error, ConnectionFailed):
                # It has had its time, once.
                silent[job.server] = error
            found = isinstance(error, NotFound | JobLost)
            if error is not None:
                code = max(code, Exit.NEGATIVE if found else Exit.INCOMPLETE)
            _say(job, words, f"not found, or {refusal}" if found else error, arguments)
        if len(silent) and len(silent) == len({job.server for job in jobs}):
            return Exit.UNAVAILABLE
    return code


def _named(jobs: list[str]) -> Iterator[JobAddress]:
    for text in jobs:
        if text != "-":
            yield _parsed(text)
            continue
        for line in sys.stdin.buffer:
            if line.strip():
                # What is no text is no job either, and is named in the refusal.
                yield _parsed(line.strip().decode("utf-8", "backslashreplace"))


def _parsed(text: str) -> JobAddress:
    try:
        return job_address(text)
    except argparse.ArgumentTypeError as error:
        raise CommandError(f"a job {error}", code=Exit.USAGE) from None


def _check_server(pool: PoolManager[bytes], job: JobAddress) -> None:
    known = [status.address for status in pool.servers]
    if job.server is None:
        if len(known) > 1:
            raise ValueError(f"job {job} may be on any of {len(known)} servers: name it as SERVER/{job.id}")
    elif not any(job.server in (status.address, status.name) for status in pool.servers):
        raise ValueError(f"{job.server} is none of the servers ({', '.join(known)})")


def _look(pool: PoolManager[bytes], job: JobAddress) -> None:
    pool.stats_job(job.id, server=job.server)


def _try(pool: PoolManager[bytes], job: JobAddress, act: Act) -> BeanpoolError | None:
    try:
        act(pool, job)
    except BeanpoolError as error:
        return error
    return None


def _say(job: JobAddress, words: str, problem: BeanpoolError | str | None, arguments: argparse.Namespace) -> None:
    if arguments.json:
        done = problem is None and not arguments.dry_run
        say(to_json({"job": str(job), words: done, "error": None if problem is None else str(problem)}))
    elif problem is None:
        say(f"{job} {f'would be {words}' if arguments.dry_run else words}")
    else:
        why = problem if isinstance(problem, str) else reason(job.server or "", problem)
        complain(f"{job}: {why}")
