"""Fixtures for tests of a Channel."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from support.channels import Connect
from support.scripted import ScriptedServer
from support.servers import BeanstalkdServer

from beanpool import channel as channel_module
from beanpool.channel import Channel


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Call it with a server for a channel to it; all are closed after the test."""
    channels: list[Channel] = []

    def open_channel(server: ScriptedServer | BeanstalkdServer) -> Channel:
        sock = socket.create_connection((server.host, server.port), 5)
        sock.settimeout(None)
        channels.append(Channel(sock, server.address))
        return channels[-1]

    yield open_channel
    for channel in channels:
        channel.close("the test is over")


@pytest.fixture(params=[True, False], ids=["kernel-timeouts", "python-timeouts"])
def both_kinds_of_timeout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has no usable SO_RCVTIMEO, Python's own timeouts do the same."""
    if not request.param:
        monkeypatch.setattr(channel_module, "_HAS_KERNEL_TIMEOUTS", False)
        monkeypatch.setattr(channel_module, "_DONT_WAIT", 0)
