"""docs/dramatiq.md: its project works as it stands."""

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

PAGE = Path(__file__).resolve().parents[4] / "docs" / "dramatiq.md"


def files() -> dict[str, str]:
    """The files of the project, by their names."""
    return dict(
        re.findall(r"^`(\w+\.py)`:\n\n```py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    )


@contextlib.contextmanager
def started(folder: Path, url: str) -> Iterator[Path]:
    """The workers; their log."""
    log = folder / "log"
    command = [sys.executable, "-m", "dramatiq", "tasks", "--processes", "1", "--threads", "2", "--path", "."]
    with log.open("wb") as written:
        process = subprocess.Popen(
            command, cwd=folder, env=environment_of_a_project({"BEANPOOL_URL": url}), stdout=written, stderr=written
        )
    try:
        yield log
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.long
def test_the_project_works(cluster: StartCluster, tmp_path: Path) -> None:
    url = "beanstalk://" + ",".join(server.address for server in cluster(3))
    found = files()
    assert set(found) == {"tasks.py", "send.py"}
    for name, text in found.items():
        (tmp_path / name).write_text(text)
    with started(tmp_path, url) as log:
        subprocess.run(
            [sys.executable, "send.py"],
            cwd=tmp_path,
            env=environment_of_a_project({"BEANPOOL_URL": url}),
            check=True,
            timeout=60,
        )
        expected = {"hello world", "hello you, a second later", "report 7 is done"}
        wait_until(lambda: expected <= set(log.read_text().splitlines()), "all to be worked on")
        wait_until(lambda: dead_letters(url) == 1, "the dead letter to be buried")
    for command in re.findall(r"^beanpool (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        done = call_beanpool(*command.split(), env={"BEANPOOL_URL": url})
        assert done.returncode == 0, done.stderr
    # The last of them has kicked it.
    assert dead_letters(url) == 0


def dead_letters(url: str) -> int:
    with PoolManager(url) as pool:
        return int(pool.stats_tube("dramatiq.reports")["current-jobs-buried"])
