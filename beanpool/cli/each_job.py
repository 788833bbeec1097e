"""A command on jobs that are named one by one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

from beanpool import BeanpoolError, Connection, NotFound, Pipeline, PoolManager
from beanpool.cli.arguments import JobAddress, job_address
from beanpool.cli.each_server import on_each_server
from beanpool.cli.exits import CommandError, Exit, usage_errors
from beanpool.cli.pool import open_pool, reason
from beanpool.cli.terminal import complain, say, to_json
from beanpool.errors import ConnectionFailed

Ask = Callable[[Pipeline, int], object]

# So many are asked for at a time, of all servers at once: it is said of them what came of it before others are.
_AT_ONCE = 500


def for_each_job(arguments: argparse.Namespace, words: str, ask: Ask, refusal: str) -> int:
    """Ask it of each of ``arguments.jobs``; with ``--dry-run`` look whether they are there.

    :param ask: adds the command on a job.
    :param words: what is done: ``"deleted"``.
    :param refusal: what a job is for which the server answers ``NOT_FOUND``, though it may be there.
    :returns: 0 if all were found, 1 if not, 3 if a server did not answer.
    """
    code = Exit.OK
    with open_pool(arguments) as pool:
        # Before anything is done: a server that is none.
        with usage_errors():
            jobs = [(job, _server_of(pool, job)) for job in _named(arguments.jobs)]
        silent: dict[str, BeanpoolError] = {}
        for start in range(0, len(jobs), _AT_ONCE):
            portion = jobs[start : start + _AT_ONCE]
            for (job, server), error in zip(portion, _ask(pool, portion, ask, silent, arguments), strict=True):
                if isinstance(error, ConnectionFailed):
                    # It has had its time, once.
                    silent.setdefault(server, error)
                found = isinstance(error, NotFound)
                if error is not None:
                    code = max(code, Exit.NEGATIVE if found else Exit.INCOMPLETE)
                _say(job, words, f"not found, or {refusal}" if found else error, arguments)
        if len(silent) and len(silent) == len({server for _, server in jobs}):
            return Exit.UNAVAILABLE
    return code


def _ask(
    pool: PoolManager[bytes],
    jobs: list[tuple[JobAddress, str]],
    ask: Ask,
    silent: dict[str, BeanpoolError],
    arguments: argparse.Namespace,
) -> list[BeanpoolError | None]:
    """What went wrong with each job."""
    places: dict[str, list[int]] = {}
    for place, (_, server) in enumerate(jobs):
        places.setdefault(server, []).append(place)

    def ask_one(server: str, connection: Connection[bytes]) -> list[Any]:
        with connection.pipeline() as pipeline:
            for place in places[server]:
                jid = jobs[place][0].id
                if arguments.dry_run:
                    pipeline.stats_job(jid)
                else:
                    ask(pipeline, jid)
        return pipeline.results

    answers: dict[str, Any] = silent | on_each_server(
        pool, ask_one, [server for server in places if server not in silent]
    )
    errors: list[BeanpoolError | None] = [None] * len(jobs)
    for server, numbers in places.items():
        answer = answers[server]
        outcomes = [answer] * len(numbers) if isinstance(answer, BeanpoolError) else answer
        for place, outcome in zip(numbers, outcomes, strict=True):
            errors[place] = outcome if isinstance(outcome, BeanpoolError) else None
    return errors


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


def _server_of(pool: PoolManager[bytes], job: JobAddress) -> str:
    """The address of its server."""
    known = [status.address for status in pool.servers]
    if job.server is None:
        if len(known) > 1:
            raise ValueError(f"job {job} may be on any of {len(known)} servers: name it as SERVER/{job.id}")
        return known[0]
    for status in pool.servers:
        if job.server in (status.address, status.name):
            return status.address
    raise ValueError(f"{job.server} is none of the servers ({', '.join(known)})")


def _say(job: JobAddress, words: str, problem: BeanpoolError | str | None, arguments: argparse.Namespace) -> None:
    if arguments.json:
        done = problem is None and not arguments.dry_run
        say(to_json({"job": str(job), words: done, "error": None if problem is None else str(problem)}))
    elif problem is None:
        say(f"{job} {f'would be {words}' if arguments.dry_run else words}")
    else:
        why = problem if isinstance(problem, str) else reason(job.server or "", problem)
        complain(f"{job}: {why}")
