"""Addresses at which nobody answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from support.scripted import ScriptedServer, stall


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The address of a server that accepts, and never answers."""
    with ScriptedServer(default=stall()) as server:
        yield server.address


@pytest.fixture
def refused() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"
