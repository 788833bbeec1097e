"""Other clients' own test suites, over beanpool: ``python tests/peers/run.py [--sources DIR] [--pool] [SUITE ...]``.

Their sources are fetched (by pip, or by git where the sdist has no tests, or pip cannot prepare it any more), unless
DIR has them already: a folder for each, named like the package. ``BEANSTALKD_PATH`` names the server. It exits with 1
if the tests that fail are not exactly those that ``differences.py`` gives a reason for.
"""

from __future__ import annotations

import argparse
import contextlib
import doctest
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
SHIMS = HERE / "shims"
sys.path[:0] = [str(HERE.parent), str(SHIMS)]

from support.servers import BeanstalkdServer, find_beanstalkd  # noqa: E402

from peers.differences import DIFFERENCES  # noqa: E402  # The path comes first.

SUITE_TAKES_AT_MOST = 120
# As beanstalkc's own runner has them, which reads print as a statement.
_PRINT = re.compile(r"(?<=[;>] )print ([^;#\n]+?)(?= *(?:;|#|$))", re.MULTILINE)
_PORT_OF_THE_TUTORIAL = "14711"

Results = dict[str, str]
"""Every test of a suite, and why it failed: empty if it did not."""


class Peer(NamedTuple):
    """Another client, and where its tests are from."""

    name: str
    version: str
    repository: str
    """Empty where the sdist has the tests."""
    tag: str
    run: Callable[[Path, Path, bool], Results]
    """Runs its tests: from these sources, in this folder, over a pool or over connections."""


def fetch(peer: Peer, into: Path) -> Path:
    """Return the folder with its sources."""
    target = into / peer.name
    if peer.repository:
        command = ["git", "clone", "-q", "--depth", "1", "--branch", peer.tag, peer.repository, str(target)]
        subprocess.run(command, check=True, timeout=SUITE_TAKES_AT_MOST)
        return target
    pip = [shutil.which("pip") or "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(into)]
    subprocess.run([*pip, f"{peer.name}=={peer.version}"], check=True, timeout=SUITE_TAKES_AT_MOST)
    with tarfile.open(next(into.glob(f"{peer.name}-*.tar.gz"))) as archive:
        archive.extractall(target, filter="data")
    return next(target.iterdir())


def environment(pool: bool, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(SHIMS), str(HERE.parent)])
    mode = {"BEANPOOL_PEER": "pool"} if pool else {}
    return {**os.environ, "PYTHONPATH": path, "BEANSTALKD_PATH": find_beanstalkd() or "beanstalkd", **mode, **more}


def pytest_in(folder: Path, target: str, pool: bool, *options: str, **more: str) -> Results:
    """Run tests in `folder`, with pytest as its users have it, and read what became of each."""
    report = folder / "report.xml"
    (folder / "pytest.ini").write_text("[pytest]\n")
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist"]
    command = [sys.executable, "-P", "-m", "pytest", "-q", *plugins, f"--junitxml={report}", *options, target]
    done = subprocess.run(
        command, cwd=folder, env=environment(pool, **more), capture_output=True, text=True, timeout=SUITE_TAKES_AT_MOST
    )
    if not report.exists():
        raise RuntimeError(f"pytest said\n{done.stdout}{done.stderr}")
    results: Results = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failed = [case.find(kind) for kind in ("failure", "error", "skipped")]
        told = [part.get("message") or part.tag for part in failed if part is not None]
        results[case.get("name", "")] = told[0].splitlines()[0] if told else ""
    return results


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_greenstalk(sources: Path, folder: Path, pool: bool) -> Results:
    text = (sources / "tests" / "test_greenstalk.py").read_text()
    # Its tests start a server each, on a port that somebody else may have.
    text = text.replace("4444", str(free_port())).replace("/tmp/greenstalk-test.sock", str(folder / "b.sock"))
    (folder / "test_greenstalk.py").write_text(text)
    return pytest_in(folder, "test_greenstalk.py", pool)


def run_pystalk(sources: Path, folder: Path, pool: bool) -> Results:
    # Its unit tests are about its own sockets, and its own pool of mocks.
    shutil.copytree(sources / "tests" / "integration", folder / "integration")
    return pytest_in(folder, "integration", pool)


def run_pystalkd(sources: Path, folder: Path, pool: bool) -> Results:
    shutil.copy(sources / "test.py", folder / "test_pystalkd.py")
    with BeanstalkdServer() as server:
        # Its own runner leaves that one out: it waits for a job of a tube that it does not watch, for ever.
        options = ("--deselect", "test_pystalkd.py::TestBeanstalkd::test_timedelta")
        return pytest_in(folder, "test_pystalkd.py", pool, *options, BEANPOOL_PEER_PORT=str(server.port))


def run_beanstalkc(sources: Path, folder: Path, pool: bool) -> Results:
    results: Results = {}
    for name in ("TUTORIAL.mkd", "README.mkd", "test/no-yaml.mkd"):
        text = _PRINT.sub(r"print(\1)", (sources / name).read_text())
        with BeanstalkdServer() as server:
            (folder / "steps").write_text(text.replace(_PORT_OF_THE_TUTORIAL, str(server.port)))
            command = [sys.executable, "-P", str(HERE / "run.py"), "--steps", str(folder / "steps")]
            done = subprocess.run(
                command, env=environment(pool), capture_output=True, text=True, timeout=SUITE_TAKES_AT_MOST, check=True
            )
        results.update({f"{name}: {step}": why for step, why in json.loads(done.stdout)})
    return results


def steps_of(path: Path) -> list[tuple[str, str]]:
    """Carry out the examples of a text; returns each with what it showed if it was to show something else."""
    failed: dict[int, str] = {}

    class Runner(doctest.DocTestRunner):
        def report_failure(self, out: object, test: object, example: doctest.Example, got: str) -> None:
            failed[example.lineno] = f"showed {got.strip()!r}"

        def report_unexpected_exception(
            self, out: object, test: object, example: doctest.Example, exc_info: tuple[object, ...]
        ) -> None:
            failed[example.lineno] = f"raised {exc_info[1]!r}"

    test = doctest.DocTestParser().get_doctest(path.read_text(), {}, path.name, None, 0)
    steps = []
    for number, example in enumerate(test.examples, 1):
        source, _, _ = example.source.partition("  #")
        steps.append((example.lineno, f"{number}. {source.strip()}"))
    # beanstalkc's later texts ask for the same: an exception's module is no part of what it is.
    Runner(verbose=False, optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(test, out=lambda text: None)
    return [(source, failed.get(line, "")) for line, source in steps]


PEERS = {
    peer.name: peer
    for peer in (
        Peer("greenstalk", "2.1.1", "https://github.com/justinmayhew/greenstalk", "v2.1.1", run_greenstalk),
        Peer("pystalk", "0.9.1", "https://github.com/EasyPost/pystalk", "pystalk-0.9.1", run_pystalk),
        Peer("pystalkd", "1.3.0", "", "", run_pystalkd),
        Peer("beanstalkc", "0.4.0", "https://github.com/earl/beanstalkc", "v0.4.0", run_beanstalkc),
    )
}


def judge(peer: Peer, results: Results, pool: bool) -> list[str]:
    """What is not as it is written down, in words."""
    known = DIFFERENCES[peer.name, "pool" if pool else "connection"]
    failed = {test: why for test, why in results.items() if why}
    wrong = [f"{test} failed: {why}" for test, why in failed.items() if test not in known]
    wrong += [
        f"{test} passes: it is no difference any more" for test in known if test in results and test not in failed
    ]
    return wrong + [f"{test} is not in the suite" for test in known if test not in results]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run other clients' test suites over beanpool.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(PEERS)} (default: all)")
    parser.add_argument("--sources", type=Path, metavar="DIR", help="where their sources are, a folder for each")
    parser.add_argument("--pool", action="store_true", help="over a PoolManager of one server, not over Connections")
    parser.add_argument("--steps", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.steps:
        with contextlib.redirect_stderr(io.StringIO()):
            steps = steps_of(arguments.steps)
        print(json.dumps(steps))
        return 0
    wrong = []
    for name in arguments.suites or PEERS:
        peer = PEERS[name]
        with tempfile.TemporaryDirectory(prefix="beanpool-peers-") as temporary:
            folder = Path(temporary)
            sources = arguments.sources / name if arguments.sources else fetch(peer, folder)
            (folder / "run").mkdir()
            results = peer.run(sources, folder / "run", arguments.pool)
        passed = sum(not why for why in results.values())
        print(f"{name} {peer.version}: {passed} of {len(results)}", flush=True)
        for complaint in judge(peer, results, arguments.pool):
            print(f"  {complaint}", flush=True)
            wrong.append(complaint)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
