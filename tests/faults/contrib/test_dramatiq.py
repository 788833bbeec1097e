"""The ``dramatiq`` command with two processes, on three servers, when a server and a worker process are killed.

``BEANPOOL_MESSAGES=1000 pytest -s tests/faults/contrib/test_dramatiq.py`` prints what it cost.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dramatiq
import pytest
from support.command_line import environment
from support.waiting import wait_until

from beanpool.contrib.dramatiq import BeanpoolBroker

if TYPE_CHECKING:
    from conftest import StartCluster

MESSAGES = int(os.environ.get("BEANPOOL_MESSAGES", "200"))

APPLICATION = """
    import os, time
    import dramatiq
    from beanpool.contrib.dramatiq import BeanpoolBroker

    dramatiq.set_broker(BeanpoolBroker(timeout=2.0, health_interval=0.5))
    book = os.open(os.environ["BOOK"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @dramatiq.actor(max_retries=2, min_backoff=1, max_backoff=1)
    def work(number, failures):
        message = dramatiq.middleware.CurrentMessage.get_current_message()
        retries = message.options.get("retries", 0)
        failed = retries < failures
        # So that something is always being worked on.
        time.sleep(0.02)
        os.write(book, f"{number} {os.getpid()} {'failed' if failed else 'done'}\\n".encode())
        if failed:
            raise RuntimeError("on purpose")

    dramatiq.get_broker().add_middleware(dramatiq.middleware.CurrentMessage())
"""


class Supervisor:
    """Keeps the command running, as a service manager would: it ends when one of its processes does."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._environment = environment({"BEANPOOL_URL": url, "BOOK": str(self.book)})
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def book(self) -> Path:
        return self._folder / "book"

    @property
    def log(self) -> Path:
        return self._folder / "log"

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def look(self) -> None:
        """Start it, unless it runs."""
        if self.running:
            return
        self.starts += 1
        command = [sys.executable, "-m", "dramatiq", "application", "--path", str(self._folder)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--processes", "2", "--threads", "4", "--worker-shutdown-timeout", "3000"],
                env=self._environment,
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )

    def entries(self) -> list[tuple[int, int, str]]:
        """What the actors wrote down: the message, the process, and what came of it."""
        if not self.book.exists():
            return []
        fields = [line.split() for line in self.book.read_text().splitlines()]
        return [(int(number), int(pid), outcome) for number, pid, outcome in fields]

    def stop(self) -> None:
        """End it, all its processes included."""
        assert self.process is not None
        # With which exit code is nothing to go by: it may have been started a moment ago.
        self.process.terminate()
        self.process.wait(30)


@contextlib.contextmanager
def supervised(folder: Path, url: str) -> Iterator[Supervisor]:
    (folder / "application.py").write_text(textwrap.dedent(APPLICATION))
    supervisor = Supervisor(folder, url)
    supervisor.look()
    try:
        yield supervisor
    finally:
        supervisor.stop()


@pytest.mark.long
def test_nothing_is_lost_when_a_server_and_a_worker_are_killed(cluster: StartCluster, tmp_path: Path) -> None:
    servers = cluster(3, wal=True)
    url = "beanstalk://" + ",".join(server.address for server in servers)
    broker = BeanpoolBroker(url)
    dramatiq.set_broker(broker)
    # Of ten messages one is delayed, two are retried once, and one fails to the end.
    failures = {number: {3: 1, 6: 1, 9: 9}.get(number % 10, 0) for number in range(MESSAGES)}

    @dramatiq.actor
    def work(number: int, failures: int) -> None: ...

    def send(numbers: range) -> None:
        for number in numbers:
            work.send_with_options(args=(number, failures[number]), delay=1000 if number % 10 == 5 else None)

    def all_ended() -> bool:
        supervisor.look()
        done = {number for number, _, outcome in supervisor.entries() if outcome == "done"}
        return len(done) == sum(fails < 9 for fails in failures.values()) and buried() >= MESSAGES // 10

    def buried() -> int:
        return sum(server.control.counter("current-jobs-buried") for server in servers)

    with contextlib.closing(broker), supervised(tmp_path, url) as supervisor:
        send(range(MESSAGES // 2))
        wait_until(lambda: len(supervisor.entries()) > MESSAGES // 5, "a part of the work")
        # Until then dramatiq does not look whether one of its processes has ended.
        wait_until(lambda: supervisor.log.read_text().count("ready for action") == 2, "both processes")
        servers[0].kill()
        send(range(MESSAGES // 2, MESSAGES))
        servers[0].start()
        seen = len(supervisor.entries())
        wait_until(lambda: len(supervisor.entries()) > seen, "some more of it")
        os.kill(supervisor.entries()[-1][1], signal.SIGKILL)
        wait_until(lambda: not supervisor.running, "dramatiq to end without one of its processes")
        wait_until(all_ended, "the end of all messages", 60)
        broker.join("default", timeout=30_000)
        supervisor.stop()
        ends = collections.Counter(number for number, _, outcome in supervisor.entries() if outcome == "done")
        tries = collections.Counter(number for number, _, outcome in supervisor.entries() if outcome == "failed")
        dead = [number for number, fails in failures.items() if fails == 9]
        duplicates = {
            "done": sum(count - 1 for count in ends.values()),
            "failed": sum(count - min(3, failures[number]) for number, count in tries.items()),
            "dead letters": buried() - len(dead),
        }
        log = supervisor.log.read_text()
    print(f"\n{MESSAGES} messages, {supervisor.starts} starts of dramatiq, worked on more than once: {duplicates}")
    # A dead letter was tried three times, and is in a server.
    assert all(tries[number] >= 3 for number in dead)
    # A server's end costs what eight threads had at work, a process's end what its four had; one that fails is tried
    # three times and then buried.
    assert sum(duplicates.values()) <= (8 + 4) * 4
    assert "You've found a bug" not in log
