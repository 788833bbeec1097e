"""The functional tests once more, with every server behind a slicer: any fragmentation reads the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from chaos.proxies import require_toxiproxy
from chaos.report import Results

TESTS = Path(__file__).resolve().parents[1]

# In parts that workers share: every kind of command, alone, pipelined, and in a wait.
TESTS_BY_TURN = (
    (
        "tests/functional/connection/test_commands.py",
        "tests/functional/connection/test_reserve.py",
        "tests/functional/connection/test_job.py",
    ),
    (
        "tests/functional/connection/test_pipeline.py",
        "tests/functional/reserve/test_sweep.py",
        "tests/functional/put/failover/test_routing.py",
        "tests/functional/put/failover/test_ids.py",
    ),
)
# Megabytes, or deadlines of tenths of a second: byte by byte that takes longer than these tests may.
NOT_IN_PIECES = (
    "tests/functional/connection/test_pipeline.py::TestBreaks",
    "tests/functional/connection/test_commands.py::TestCommands::test_refused_puts",
    "tests/functional/connection/test_pipeline.py::TestResults::test_large_bodies",
)


def run(tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run these tests behind the slicer."""
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "pytest_timeout",
                "-p",
                "chaos.sliced",
                "-q",
                "--tb=short",
                "-p",
                "no:cacheprovider",
            ),
            *(f"--deselect={test}" for test in NOT_IN_PIECES),
            *tests,
        ],
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("tests", TESTS_BY_TURN, ids=lambda tests: Path(tests[0]).stem)
def test_the_functional_tests_pass_byte_by_byte(tests: Sequence[str], results: Results) -> None:
    require_toxiproxy()
    done = run(tests)
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr
    failed = re.findall(r"^FAILED (\S+::\S+)", done.stdout, re.MULTILINE)
    assert len(failed) <= 3, done.stdout[-6000:]
    if failed:
        # A slow machine is late; a parser that cannot put pieces together fails again.
        again = run(failed)
        assert again.returncode == 0, again.stdout[-6000:] + again.stderr[-2000:]
    passed = len(failed) + sum(int(number) for number in re.findall(r"(\d+) passed", done.stdout))
    assert passed > 30
    results.figures(
        "functional tests behind a slicer of one byte", f"{passed} passed, {len(failed)} at the second attempt", passed
    )
