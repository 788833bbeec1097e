"""Celery's own command while a server and a worker are killed: the books must balance.

``TASKS`` is what the run has time for. By hand, thousands are as good: ``BEANPOOL_CELERY_TASKS=1000 pytest -s ...``
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import StartCluster
from support.celery_workers import CeleryProject, celery_project, kill_group
from support.waiting import wait_until

from beanpool import PoolManager

TASKS = int(os.environ.get("BEANPOOL_CELERY_TASKS", "150"))
CONCURRENCY = 4
# With the default multiplier of the application, each worker.
IN_HAND = 4 * CONCURRENCY + CONCURRENCY


def send(project: CeleryProject, number: int) -> str:
    """Send one task, and return the line that it leaves."""
    name = f"task-{number}"
    kind = number % 10
    if kind == 3:
        project.app.send_task("again", (name,))
    elif kind == 5:
        project.app.send_task("work", (name,), countdown=1)
    elif kind == 7:
        project.app.send_task("work", (name,), priority=number % 10, expires=600)
    elif kind == 9:
        project.app.send_task("reject", (name,))
        return f"rejected {name}"
    else:
        project.app.send_task("work", (name, 0.02))
    return name


@pytest.mark.long
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_no_task_is_lost_when_a_server_and_a_worker_are_killed(
    cluster: StartCluster, tmp_path: Path, pool: str, record_property: Callable[[str, object], None]
) -> None:
    servers = cluster(3, wal=True)
    with (
        celery_project(servers, tmp_path, "cache+memory://") as project,
        PoolManager(project.url) as look,
        project.worker(pool, CONCURRENCY) as first,
        project.worker(pool, CONCURRENCY),
    ):
        expected: set[str] = set()
        project.wait_until_ready(2)
        if pool == "prefork":
            # It takes the process that works on it along.
            project.app.send_task("die", ("killer",))
            expected.add("killer")
        for number in range(TASKS):
            if number == TASKS // 3:
                servers[0].kill()
            if number == TASKS * 2 // 3:
                kill_group(first)
                servers[0].start()
            expected.add(send(project, number))
        wait_until(lambda: expected <= set(project.book()), "all tasks", 90)
        states = ("ready", "reserved", "delayed")
        wait_until(
            lambda: not any(look.stats_tube("celery")[f"current-jobs-{state}"] for state in states), "the end", 60
        )
        book = project.book()
        rejected = sum(line.startswith("rejected") for line in expected)
        duplicates = book.total() - len(expected)
        record_property("duplicates", duplicates)
        print(f"{pool}: {len(expected)} tasks, {duplicates} duplicates, {look.stats_tube('celery')}")

        assert set(book) == expected
        # What was held when the server was killed, and when the worker was; and a put without an answer.
        assert duplicates <= 3 * IN_HAND + 1
        assert look.stats_tube("celery")["current-jobs-buried"] >= rejected
