"""Fixtures for real and scripted servers, and the check that a test leaves nothing behind."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import platform
import random
import secrets
import signal
import sysconfig
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Protocol, Unpack

import pytest
from hypothesis import HealthCheck, settings
from support.connections import Connect
from support.delay_line import DelayLine
from support.ledger import Ledger
from support.processes import children, thread_names
from support.records import Records
from support.scripted import Script, ScriptedConnection, ScriptedServer
from support.server_kinds import ServerKind, kinds_of
from support.servers import (
    BeanstalkdServer,
    ServerFactory,
    ServerOptions,
    beanstalkd_version,
    find_beanstalkd,
    no_beanstalkd,
    require_beanstalkd,
)
from support.sliced_servers import SlicedBeanstalkd
from support.toxiproxy import no_toxiproxy, require_toxiproxy
from support.waiting import wait_until

from beanpool import Connection
from beanpool.testing.failures import NoBeanstalkd
from beanpool.testing.toxiproxy import Toxiproxy

TESTS = Path(__file__).resolve().parent
# What stands on the core has folders of these names, in tests/ or below unit, functional and faults.
FLOORS = ("admin", "cli", "contrib", "discovery", "metrics", "worker")

_LEFTOVERS_END_WITHIN = 10.0


class StartCluster(Protocol):
    """The type of the fixture ``cluster``."""

    def __call__(self, count: int, **options: Unpack[ServerOptions]) -> list[BeanstalkdServer]: ...


class StartScripted(Protocol):
    """The type of the fixture ``scripted_server``."""

    def __call__(self, *scripts: Script, default: Script = ...) -> ScriptedServer: ...


class StartDelayLine(Protocol):
    """The type of the fixture ``delay_line``."""

    def __call__(self, server: BeanstalkdServer, round_trip: float = ..., *, rate: float | None = ...) -> DelayLine: ...


_seed = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers",
        choices=("real", "all", "sliced"),
        default="real",
        help="all: some tests run once more on embedded servers, and on servers that are 0.3 s away; "
        "sliced: the servers send and receive byte by byte",
    )
    parser.addoption(
        "--floors",
        choices=("with", "without", "only"),
        default="with",
        help=f"whether the tests run that may need an extra: those in folders called {', '.join(FLOORS)}",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what runs in its background without SIGINT, and some tests are about it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # How long an example takes says how busy the machine is.
    settings.register_profile(
        "beanpool",
        deadline=None,
        max_examples=int(os.environ.get("BEANPOOL_EXAMPLES", "60")),
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("beanpool")
    # The first call that needs them loads them; on a busy machine that takes longer than some test's deadline.
    for module in ("tenacity", "yaml"):
        importlib.import_module(module)
    named = os.environ.get("BEANPOOL_SEED", "")
    config.stash[_seed] = int(named) if named else secrets.randbits(32)
    # For what else shows it, or repeats by it: reports, and the processes that tests start.
    os.environ["BEANPOOL_SEED"] = str(config.stash[_seed])


def pytest_report_header(config: pytest.Config) -> str:
    binary = find_beanstalkd()
    server = f"beanstalkd {beanstalkd_version(binary)} ({binary})" if binary else no_beanstalkd()
    threads = "free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else "GIL"
    python = f"{platform.python_implementation()} {platform.python_version()} ({threads})"
    return f"beanpool: {server}; {python}; BEANPOOL_SEED={config.stash[_seed]}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    wanted = config.getoption("floors")
    if wanted == "with":
        return None
    folders = collection_path.relative_to(TESTS).parts[: -1 if collection_path.suffix else None]
    on_floor = any(folder in FLOORS for folder in folders)
    # A folder without tests of a floor may have one below.
    ignored = on_floor if wanted == "without" else collection_path.suffix == ".py" and not on_floor
    return ignored or None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = metafunc.config.getoption("servers")
    kinds = list(kinds_of(metafunc.definition.path, metafunc.function.__name__, set(metafunc.fixturenames), wanted))
    if kinds != [ServerKind.REAL]:
        ids = [pytest.HIDDEN_PARAM if kind is ServerKind.REAL else kind.name.lower() for kind in kinds]
        metafunc.parametrize("server_kind", kinds, ids=ids, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What is started last and takes long keeps one worker busy while the others have nothing left to do.
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    # Workers begin with one stretch of the list each: in turns, each gets its part of what is long or alike.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = [item for worker in range(workers) for item in items[worker::workers]]


def pytest_collection_finish() -> None:
    # They are for this run and its workers, not for the runs of pytest that tests start.
    os.environ.pop("PYTEST_ADDOPTS", None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    with skipped_without_beanstalkd():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    with skipped_without_beanstalkd():
        yield


@contextlib.contextmanager
def skipped_without_beanstalkd() -> Iterator[None]:
    try:
        yield
    except NoBeanstalkd:
        require_beanstalkd()
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # pytest's summary merges skips of one place and reason: one line for all tests without a program.
    missing = (no_beanstalkd(), no_toxiproxy())
    if report.skipped and isinstance(report.longrepr, tuple) and report.longrepr[2].endswith(missing):
        report.longrepr = (__file__, 0, report.longrepr[2])
    return report


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """After each test no new thread of beanpool and no new child process may be left."""
    before = set(children())
    threads_before = set(thread_names("beanpool"))
    yield

    def left() -> dict[str, object]:
        threads = [name for name in thread_names("beanpool") if name not in threads_before]
        processes = {pid: command for pid, command in children().items() if pid not in before}
        return {what: found for what, found in (("threads", threads), ("processes", processes)) if found}

    try:
        wait_until(lambda: not left(), "the end of threads and processes", _LEFTOVERS_END_WITHIN)
    except AssertionError:
        pytest.fail(f"the test left behind: {left()}", pytrace=False)


@pytest.fixture(autouse=True)
def unforeseen() -> Iterator[Records]:
    """What a pool's threads logged as an error, and went on: fails the test, unless that has taken it out."""
    with Records("beanpool.pool", logging.ERROR) as records:
        yield records
    if records:
        pytest.fail("\n".join(["a thread of a pool met an unexpected error:", *records.texts()]), pytrace=False)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that repeat with BEANPOOL_SEED, whichever other tests run; the header shows the seed."""
    return random.Random(f"{request.config.stash[_seed]} {request.node.nodeid}")


@pytest.fixture(scope="session")
def toxiproxy_server() -> Iterator[Toxiproxy]:
    """The one toxiproxy-server of the session."""
    with Toxiproxy(require_toxiproxy()) as proxy:
        yield proxy


@pytest.fixture(scope="session", autouse=True)
def slicers(request: pytest.FixtureRequest) -> None:
    """What sliced servers need, before a test looks for what it leaves behind."""
    if request.config.getoption("servers") == "sliced":
        SlicedBeanstalkd.toxiproxy = request.getfixturevalue("toxiproxy_server")


@pytest.fixture
def server_kind(request: pytest.FixtureRequest) -> ServerKind:
    """What the test's servers are."""
    kind: ServerKind = getattr(request, "param", ServerKind.REAL)
    return kind


@pytest.fixture
def beanstalkd_factory(server_kind: ServerKind) -> Iterator[ServerFactory]:
    """Call it with the options of BeanstalkdServer for a started server; all are stopped after the test."""
    factory = ServerFactory(server_kind.value)
    yield factory
    factory.stop()


@pytest.fixture
def beanstalkd(beanstalkd_factory: ServerFactory) -> BeanstalkdServer:
    """A fresh beanstalkd."""
    return beanstalkd_factory()


@pytest.fixture
def cluster(beanstalkd_factory: ServerFactory) -> StartCluster:
    """``cluster(3, wal=True)``: a list of started servers."""
    return beanstalkd_factory.cluster


@pytest.fixture
def delay_line() -> Iterator[StartDelayLine]:
    """Call it with a server for an address at which it is 0.3 s away, or as far as you say; all end after the test."""
    with contextlib.ExitStack() as lines:

        def start(server: BeanstalkdServer, round_trip: float = 0.3, *, rate: float | None = None) -> DelayLine:
            return lines.enter_context(DelayLine(server.host, server.port, round_trip, rate=rate))

        yield start


@pytest.fixture
def scripted_server() -> Iterator[StartScripted]:
    """Call it with scripts for a ScriptedServer; all are stopped and checked after the test."""
    servers: list[ScriptedServer] = []

    def start(*scripts: Script, default: Script = ScriptedConnection.close) -> ScriptedServer:
        servers.append(ScriptedServer(*scripts, default=default))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
    for server in servers:
        server.check()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Call it with a server and options for a Connection; all are closed after the test."""
    connections: list[Connection] = []

    def open_connection(server: BeanstalkdServer | ScriptedServer, **options: Any) -> Connection:
        connections.append(Connection(server.host, server.port, **options))
        return connections[-1]

    yield open_connection
    for connection in connections:
        connection.close()


@pytest.fixture
def ledger() -> Ledger:
    """Empty books."""
    return Ledger()
