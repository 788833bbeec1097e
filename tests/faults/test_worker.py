"""Workers in processes of their own, while a server and a worker are killed: the books must balance.

``JOBS`` is what the run has time for. By hand, thousands are as good: ``BEANPOOL_WORKER_JOBS=20000 pytest -s ...``
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command_line import started_beanpool
from support.servers import BeanstalkdServer
from support.waiting import wait_until

from beanpool import PoolManager, Put

if TYPE_CHECKING:
    from conftest import StartCluster

JOBS = int(os.environ.get("BEANPOOL_WORKER_JOBS", "300"))
PROCESSES = 2
THREADS = 4
TRIES = 3
TTR = 1
TUBE = "orders"
# Each run of a handler leaves a line when it begins, and one when it ends well. A line is one write.
TASKS = f"""
import os, time

book = os.open(os.environ["BOOK"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
marks = os.environ["MARKS"]


def note(what, job):
    os.write(book, f"{{what}} {{job.body}}\\n".encode())


def is_first(job):
    try:
        os.close(os.open(os.path.join(marks, job.body), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def work(job):
    kind = job.body.partition("-")[0]
    note("began", job)
    time.sleep({TTR} * 1.6 if kind == "long" else 0.004)
    if kind == "never" or (kind == "once" and is_first(job)):
        raise ValueError(kind)
    note("ended", job)
"""


def kind_of(number: int) -> str:
    """5 % fail once, 2 % always, 2 % run longer than their TTR."""
    place = number * 37 % 100
    return "once" if place < 5 else "never" if place < 7 else "long" if place < 9 else "well"


def counts(servers: list[BeanstalkdServer], state: str) -> int:
    total = 0
    for server in servers:
        with contextlib.suppress(AssertionError, OSError):
            total += server.control.counter(f"current-jobs-{state}", TUBE)
    return total


class Book:
    """What the handlers have written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[Counter[str], Counter[str]]:
        """How often each job was begun, and how often it ended well."""
        began: Counter[str] = Counter()
        ended: Counter[str] = Counter()
        for line in self._path.read_text().splitlines() if self._path.exists() else ():
            what, body = line.split()
            (began if what == "began" else ended)[body] += 1
        return began, ended


@pytest.mark.parametrize("batch", [1, 20])
def test_nothing_is_lost_when_a_server_and_a_worker_are_killed(
    cluster: StartCluster, tmp_path: Path, batch: int
) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    marks = tmp_path / "marks"
    marks.mkdir()
    book = Book(tmp_path / "book")
    environment = {"PYTHONPATH": str(tmp_path), "BOOK": str(tmp_path / "book"), "MARKS": str(marks)}
    servers = cluster(3, wal=True)
    url = "beanstalk://" + ",".join(server.address for server in servers) + "/?health_interval=0.3"
    options = f"--threads {THREADS} --tries {TRIES} --backoff 0 --batch {batch} --grace 20".split()
    arguments = ["-u", url, "worker", "tasks:work", TUBE, *options]
    bodies = {f"{kind_of(number)}-{number}" for number in range(JOBS)}
    with PoolManager(url) as pool:
        outcomes = pool.put_many((Put(body, ttr=TTR) for body in sorted(bodies)), tube=TUBE)
        assert not any(isinstance(outcome, Exception) for outcome in outcomes)
        with contextlib.ExitStack() as stack:

            def start(name: str) -> subprocess.Popen[bytes]:
                beats = ("--heartbeat-file", str(tmp_path / name))
                return stack.enter_context(
                    started_beanpool(
                        *arguments, *beats, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                    )
                )

            workers = [start(f"worker {number}") for number in range(PROCESSES)]
            wait_until(lambda: book.read()[1].total() > JOBS / 4, "a part of the jobs", 60)
            servers[0].kill()
            workers[0].kill()
            wait_until(lambda: book.read()[1].total() > JOBS / 2, "half of the jobs", 60)
            servers[0].start()
            workers[0].wait()
            workers[0] = start("another worker")

            def settled() -> bool:
                done = set(book.read()[1])
                left = sum(counts(servers, state) for state in ("ready", "reserved", "delayed"))
                return left == 0 and all(body in done for body in bodies if not body.startswith("never"))

            wait_until(settled, "the end of all jobs", 60 + JOBS / 100)
            # Before it beats, a signal would end it as any other program.
            wait_until((tmp_path / "another worker").exists, "the new worker to have begun", 60)
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            assert [worker.wait(30) for worker in workers] == [0] * PROCESSES
        began, ended = book.read()
        buried = []
        while (job := pool.peek_buried(tube=TUBE)) is not None:
            buried.append(job.body)
            job.delete()
    # Every job is done or buried, and nothing else is: not even one that was lost and came back.
    never = {body for body in bodies if body.startswith("never")}
    assert set(ended) == bodies - never
    assert sorted(buried) == sorted(never)
    # What was in hand when it happened ran once more, and nothing else did.
    expected = {body: TRIES if body in never else 2 if body.startswith("once") else 1 for body in bodies}
    more = {body: began[body] - expected[body] for body in bodies if began[body] != expected[body]}
    print(f"batch={batch}: {JOBS} jobs, {began.total()} runs, {len(more)} jobs ran more often than they had to")
    assert set(more.values()) <= {1, 2}
    in_hand = (PROCESSES + 1) * THREADS * batch
    assert len(more) <= in_hand
