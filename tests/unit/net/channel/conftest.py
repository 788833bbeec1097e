"""Fixtures for tests of a Channel."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from support.channels import Connect
from support.scripted import ScriptedServer
from support.servers import BeanstalkdServer

from beanpool.net.channel import Channel


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Call it with a server for a channel to it; all are closed after the test."""
    channels: list[Channel] = []

    def open_channel(server: ScriptedServer | BeanstalkdServer, *, narrow: bool = False) -> Channel:
        sock = socket.socket()
        if narrow:
            # Before it is connected: what is offered to the peer then is all that there will be.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((server.host, server.port))
        channels.append(Channel(sock, server.address))
        return channels[-1]

    yield open_channel
    for channel in channels:
        channel.close("the test is over")
