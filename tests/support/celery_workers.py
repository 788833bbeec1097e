"""The command ``celery`` in processes of its own, and the books that its tasks keep."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from celery import Celery

from beanpool.contrib.kombu import register
from support.servers import BeanstalkdServer
from support.waiting import wait_until

_TESTS = Path(__file__).resolve().parents[1]
_COMMAND = Path(sys.executable).with_name("celery")


class CeleryProject:
    """An application on some servers: ``tests/support/celery_app.py``, its workers and its book.

    :param folder: for what it writes.
    :param backend: the result backend.
    """

    def __init__(self, servers: Sequence[BeanstalkdServer], folder: Path, backend: str) -> None:
        register()
        self.url = "beanstalk://" + ",".join(server.address for server in servers)
        self.app = Celery("tests", broker=self.url, backend=backend, set_as_current=False)
        self.app.conf.broker_transport_options = {"health_interval": 0.5, "timeout": 10}
        self._folder = folder
        self._book = folder / "book"
        self._logs: list[Path] = []
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(_TESTS),
            "C_FORCE_ROOT": "1",
            "TEST_BROKER": self.url,
            "TEST_BACKEND": backend,
            "TEST_BOOK": str(self._book),
        }

    def book(self) -> Counter[str]:
        """The lines of the book, and how often each is there."""
        return Counter(self._book.read_text().splitlines()) if self._book.exists() else Counter()

    def logs(self) -> str:
        """What all workers have logged."""
        return "\n".join(log.read_text(errors="replace") for log in self._logs)

    @contextlib.contextmanager
    def worker(self, pool: str, concurrency: int = 2, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker, with its children in a process group of its own, which ends with the block."""
        log = self._folder / f"worker-{len(self._logs)}.log"
        self._logs.append(log)
        command = [str(_COMMAND), "-A", "support.celery_app", "worker", "-P", pool, "-c", str(concurrency)]
        with (
            log.open("wb") as output,
            subprocess.Popen(
                [*command, "-n", f"w{len(self._logs)}@%h", "-l", "INFO", *options],
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            try:
                yield process
            except BaseException as error:
                error.add_note(f"{log.name}: ...{log.read_text(errors='replace')[-3000:]}")
                raise
            finally:
                kill_group(process)

    def wait_until_ready(self, count: int = 1) -> None:
        """Wait until all workers that were started are ready."""
        wait_until(lambda: self.logs().count("ready.") >= count, "workers to be ready", 60)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a worker and its children, without a warning."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def celery_project(servers: Sequence[BeanstalkdServer], folder: Path, backend: str) -> Iterator[CeleryProject]:
    """A project whose application is closed at the end."""
    project = CeleryProject(servers, folder, backend)
    try:
        yield project
    finally:
        project.app.pool.force_close_all()
        project.app.close()
