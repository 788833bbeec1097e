"""Fixtures for tests of programs that use beanpool: ``pytest_plugins = ["beanpool.testing.pytest_plugin"]``.

Nothing loads it by itself: it belongs into the ``conftest.py`` at the root of the tests that want it.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from beanpool.testing.beanstalkd import beanstalkd_version, find_beanstalkd, no_beanstalkd
from beanpool.testing.cluster import Cluster, LocalServer, new_server
from beanpool.testing.failures import NoBeanstalkd
from beanpool.testing.toxiproxy import Toxiproxy, find_toxiproxy, no_toxiproxy
from beanpool.testing.watched_pool import WatchedPool

_MARKER = "beanstalkd"
_OPTIONS = {"servers", "max_job_size", "embedded", "wal"}
_LONGEST_NAME = 150


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(servers=3, max_job_size=None, embedded=None, wal=False): how many servers beanstalkd_cluster has, "
        "the bytes that a job may have, whether they are embedded ones (None: where there is no beanstalkd), and "
        "whether they keep a write-ahead log, and so their jobs at a restart (skips where there is no beanstalkd)",
    )


def pytest_runtest_setup() -> None:
    """Let freezegun, if it is loaded by now, leave beanpool its clock: no deadline comes while that stands still."""
    freezegun = sys.modules.get("freezegun")
    if freezegun is not None:
        freezegun.configure(extend_ignore_list=["beanpool"])


def pytest_report_header() -> str:
    """Say which servers the tests get."""
    binary = find_beanstalkd()
    if binary is None:
        return f"beanpool: embedded servers ({no_beanstalkd()})"
    return f"beanpool: beanstalkd {beanstalkd_version(binary)} ({binary})"


@pytest.fixture
def beanstalkd(request: pytest.FixtureRequest) -> Iterator[LocalServer]:
    """A fresh server, running: beanstalkd where there is one, else an embedded one."""
    options = _marked(request)
    options.pop("servers", None)
    with _skipped_without_beanstalkd():
        server = new_server(**options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def beanstalkd_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three fresh servers, or as many as ``@pytest.mark.beanstalkd(servers=...)`` says."""
    options = _marked(request)
    with _skipped_without_beanstalkd():
        cluster = Cluster(options.pop("servers", 3), **options)
    with cluster:
        yield cluster


@pytest.fixture
def beanpool_pool(request: pytest.FixtureRequest) -> Iterator[WatchedPool]:
    """A pool over the test's cluster, if it has one, else over its server; it puts into and watches a tube of its own.

    The test fails if it leaves a job reserved.
    """
    if "beanstalkd_cluster" in request.fixturenames:
        servers = request.getfixturevalue("beanstalkd_cluster").addresses
    else:
        servers = [request.getfixturevalue("beanstalkd").address]
    tube = tube_name(request.node.name)
    with WatchedPool(servers, tube=tube, watch=(tube,), timeout=5.0, connect_timeout=2.0) as pool:
        yield pool
        left = pool.unfinished
        if left:
            # Else the pool waits for them.
            pool.close(timeout=0)
    if left:
        jobs = ", ".join(f"{job.id} of {job.server}" for job in left)
        pytest.fail(f"the test left {len(left)} of its jobs reserved: {jobs}", pytrace=False)


@pytest.fixture(scope="session")
def toxiproxy() -> Iterator[Toxiproxy]:
    """A toxiproxy-server: ``toxiproxy.link(beanstalkd)`` stands between a client and a server; skips without one.

    With ``BEANPOOL_REQUIRE_SERVERS=1`` in the environment it fails without one.
    """
    if find_toxiproxy() is None:
        _skip(no_toxiproxy())
    with Toxiproxy() as proxy:
        yield proxy


@contextlib.contextmanager
def _skipped_without_beanstalkd() -> Iterator[None]:
    """For what no embedded server can do."""
    try:
        yield
    except NoBeanstalkd as missing:
        _skip(str(missing))


def _skip(reason: str) -> NoReturn:
    if os.environ.get("BEANPOOL_REQUIRE_SERVERS", "") not in ("", "0"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def tube_name(test: str) -> str:
    """The tube of a test: its name and the worker of pytest-xdist, as far as the protocol allows it."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    return f"{worker}.{re.sub('[^A-Za-z0-9_.+/;$()-]', '_', test)[:_LONGEST_NAME]}"


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    marker = request.node.get_closest_marker(_MARKER)
    options = dict(marker.kwargs) if marker else {}
    if (marker and marker.args) or not options.keys() <= _OPTIONS:
        raise pytest.UsageError(f"the marker {_MARKER} takes the keyword arguments {', '.join(sorted(_OPTIONS))}")
    return options
