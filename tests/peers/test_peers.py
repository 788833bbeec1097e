"""Other clients' suites over beanpool, where their sources are at hand, and the page that names what differs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from peers.differences import DIFFERENCES

ROOT = Path(__file__).resolve().parents[2]
SOURCES = os.environ.get("BEANPOOL_PEER_SOURCES", "")


@pytest.mark.skipif(not SOURCES, reason="BEANPOOL_PEER_SOURCES names no folder with other clients' sources")
@pytest.mark.parametrize("mode", ["connection", "pool"])
@pytest.mark.parametrize("suite", sorted({suite for suite, _ in DIFFERENCES}))
def test_nothing_fails_but_what_has_a_reason(suite: str, mode: str) -> None:
    command = [sys.executable, str(ROOT / "tests/peers/run.py"), "--sources", SOURCES, suite]
    done = subprocess.run(
        command + ["--pool"] * (mode == "pool"), capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_the_page_names_every_difference() -> None:
    page = (ROOT / "docs/peers.md").read_text()
    for (suite, mode), known in DIFFERENCES.items():
        for test, reason in known.items():
            row = f"| {suite} | {mode} | `{test}` | {reason} |"
            everywhere = f"| {suite} | both | `{test}` | {reason} |"
            assert row in page or everywhere in page, f"docs/peers.md has no row\n{row}"
