"""docs/celery.md: its project works as it stands."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command_line import call_beanpool, environment_of_a_project
from support.waiting import wait_until

from beanpool import PoolManager

if TYPE_CHECKING:
    from conftest import StartCluster

PAGE = Path(__file__).resolve().parents[4] / "docs" / "celery.md"
CELERY = [sys.executable, "-m", "celery", "-A", "tasks"]


def files() -> dict[str, str]:
    """The files of the project, by their names."""
    return dict(
        re.findall(r"^`(\w+\.py)`:\n\n```py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    )


@contextlib.contextmanager
def started(folder: Path, command: list[str]) -> Iterator[Path]:
    """A worker; its log."""
    log = folder / "log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [*CELERY, *command],
            cwd=folder,
            env=environment_of_a_project({"C_FORCE_ROOT": "1"}),
            stdout=written,
            stderr=written,
        )
    try:
        yield log
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.long
def test_the_project_works(cluster: StartCluster, tmp_path: Path) -> None:
    url = "beanstalk://" + ",".join(server.address for server in cluster(3))
    found = files()
    assert set(found) == {"tasks.py", "send.py"}
    for name, text in found.items():
        (tmp_path / name).write_text(text.replace("beanstalk://localhost:11300", url))
    page = PAGE.read_text(encoding="utf-8")
    (worker,) = re.findall(r"^celery -A tasks (worker .*)$", page, re.MULTILINE)
    with started(tmp_path, worker.split()) as log:
        subprocess.run(
            [sys.executable, "send.py"], cwd=tmp_path, env=environment_of_a_project({}), check=True, timeout=60
        )
        expected = ["hello world", "report 7 is done", "report 8 is done"]
        wait_until(lambda: all(text in log.read_text() for text in expected), "all to be worked on", 60)
        wait_until(lambda: count(url, "buried") == 1, "the rejected one to be buried", 30)
    for command in re.findall(r"^beanpool (.*)$", page, re.MULTILINE):
        done = call_beanpool(*command.split(), env={"BEANPOOL_URL": url})
        assert done.returncode == 0, done.stderr
    # The last of them has kicked it.
    assert (count(url, "ready"), count(url, "buried")) == (1, 0)
    (purge,) = re.findall(r"^celery -A tasks (purge .*)$", page, re.MULTILINE)
    done = subprocess.run(
        [*CELERY, *purge.split()],
        cwd=tmp_path,
        env=environment_of_a_project({}),
        check=True,
        timeout=60,
        capture_output=True,
    )
    assert b"Purged 1 message" in done.stdout


def count(url: str, state: str) -> int:
    with PoolManager(url) as pool:
        return int(pool.stats_tube("celery")[f"current-jobs-{state}"])
