"""Fixtures of the tests under network faults, and the table of what came of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Unpack

import pytest
from chaos.proxies import LinkedServer, ProxiedClusters
from chaos.report import Results
from support.servers import ServerOptions

from beanpool.testing.toxiproxy import Toxiproxy


class StartProxied(Protocol):
    """The type of the fixture ``proxied``."""

    def __call__(self, count: int, **options: Unpack[ServerOptions]) -> list[LinkedServer]: ...


_results = pytest.StashKey[Results]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--chaos-report", metavar="FILE", help="write the table of faults and operations into this file")
    group.addoption("--soak-seconds", type=float, metavar="N", help="how long the soak injects faults (default: 12)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_results] = Results()


def pytest_sessionfinish(session: pytest.Session) -> None:
    # In a worker of xdist, which prints nothing itself.
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["chaos"] = session.config.stash[_results].export()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    exported = getattr(node, "workeroutput", {}).get("chaos")
    if exported:
        node.config.stash[_results].take_in(exported)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    results = config.stash.get(_results, None)
    if not results:
        return
    table = results.table(os.environ["BEANPOOL_SEED"])
    terminalreporter.section("faults and operations")
    terminalreporter.write(table)
    file = config.getoption("chaos_report", default=None) or os.environ.get("BEANPOOL_CHAOS_REPORT")
    if file:
        Path(file).write_text(table)


@pytest.fixture
def results(pytestconfig: pytest.Config) -> Results:
    """Takes what the session's table shows."""
    return pytestconfig.stash.setdefault(_results, Results())


@pytest.fixture
def proxied(toxiproxy_server: Toxiproxy) -> Iterator[StartProxied]:
    """``proxied(4, wal=True)``: a list of started servers, each behind a link of its own."""
    clusters = ProxiedClusters(toxiproxy_server)
    yield clusters
    clusters.stop()
