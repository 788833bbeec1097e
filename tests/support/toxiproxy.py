"""Where toxiproxy-server is, and what a test does where it is not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from beanpool.testing.toxiproxy import Stream

STREAMS: tuple[Stream, Stream] = ("upstream", "downstream")

TOOLS = Path(__file__).resolve().parents[2] / ".tools"

HOW_TO_GET = (
    "toxiproxy-server was not found: python3 .ci/provision toxiproxy-server builds it, or name the program in "
    "$TOXIPROXY_SERVER"
)


def find_toxiproxy() -> str | None:
    """The path of toxiproxy-server: $TOXIPROXY_SERVER, then PATH, then what .ci/provision built; else None."""
    named = os.environ.get("TOXIPROXY_SERVER")
    if named:
        return shutil.which(named)
    return shutil.which("toxiproxy-server") or shutil.which("toxiproxy-server", path=str(TOOLS))


def no_toxiproxy() -> str:
    """Why :func:`find_toxiproxy` found none, and what to do about it, in one line."""
    named = os.environ.get("TOXIPROXY_SERVER")
    return f"$TOXIPROXY_SERVER names {named}, which is no program" if named else HOW_TO_GET


def require_toxiproxy() -> str:
    """:func:`find_toxiproxy`, or skip the test; with ``BEANPOOL_REQUIRE_SERVERS=1``, fail it."""
    binary = find_toxiproxy()
    if binary is not None:
        return binary
    if os.environ.get("BEANPOOL_REQUIRE_SERVERS", "") not in ("", "0"):
        pytest.fail(no_toxiproxy(), pytrace=False)
    pytest.skip(no_toxiproxy())
