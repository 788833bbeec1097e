"""A real Prometheus, and its promtool, where they are installed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.waiting import wait_until

_LISTENING = re.compile(rb'msg="Listening on" address=(\S+)')


def _find(program: str) -> str | None:
    return shutil.which(os.environ.get(program.upper(), program))


def require_prometheus(program: str = "prometheus") -> str:
    """The path of the program; skips the test where there is none."""
    found = _find(program)
    if found is None:
        pytest.skip("prometheus and promtool were not found: python3 .ci/provision prometheus gets them")
    return found


def check_metrics(text: bytes) -> None:
    """Have promtool read and judge what is exported, where there is one."""
    if _find("promtool") is not None:
        told = promtool("check", "metrics", stdin=text)
        assert (told.returncode, told.stdout, told.stderr) == (0, b"", b"")


def promtool(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run promtool to its end."""
    return subprocess.run(
        [require_prometheus("promtool"), *arguments], input=stdin, capture_output=True, timeout=60, check=False
    )


def read_url(url: str, **headers: str) -> bytes:
    """The answer to a GET."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        body: bytes = answer.read()
        return body


class Prometheus:
    """A Prometheus that scrapes."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The time series that an expression comes to now."""
        answer = json.loads(read_url(f"{self._url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"))
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def has_scraped(self, targets: int) -> bool:
        """Whether it has scraped so many targets three times."""
        try:
            counts = self.query("count_over_time(up[1m]) and up == 1")
        except urllib.error.HTTPError as error:
            # It says so while it starts.
            error.close()
            return False
        return len(counts) == targets and all(float(count["value"][1]) >= 3 for count in counts)


@contextlib.contextmanager
def prometheus(folder: Path, targets: Iterable[str], interval: str = "200ms") -> Iterator[Prometheus]:
    """Start one that scrapes `targets` (``host:port``), and wait until it has done so a few times."""
    program = require_prometheus()
    config = folder / "prometheus.yml"
    jobs = [
        {"job_name": target, "static_configs": [{"targets": [target]}], "scrape_timeout": interval}
        for target in targets
    ]
    config.write_text(json.dumps({"global": {"scrape_interval": interval}, "scrape_configs": jobs}))
    arguments = [
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with subprocess.Popen(
        [program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                found = _LISTENING.search(line)
                if found:
                    break
            else:
                raise AssertionError("Prometheus has ended")
            # It would stand still once the pipe is full.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            server = Prometheus(f"http://{found[1].decode()}")
            wait_until(lambda: server.has_scraped(len(jobs)), "Prometheus to scrape all targets three times", 30)
            yield server
        finally:
            process.kill()
