"""Servers behind a slicer: one byte at a time, in both directions."""

from __future__ import annotations

from typing import ClassVar

from beanpool.testing.toxiproxy import ProxiedServer, Toxiproxy
from support.proxied_servers import ServerBehindProxy
from support.servers import BeanstalkdServer
from support.toxiproxy import STREAMS


class SlicedBeanstalkd(ServerBehindProxy):
    """A beanstalkd behind a slicer."""

    # The fixture ``toxiproxy_server`` sets it.
    toxiproxy: ClassVar[Toxiproxy]

    def open_line(self, server: BeanstalkdServer) -> ProxiedServer:
        link = self.toxiproxy.link(server)
        for stream in STREAMS:
            link.add("slicer", stream, average_size=1, size_variation=0, delay=1)
        return link


# Megabytes, or deadlines of tenths of a second: byte by byte that takes longer than these tests may.
NOT_SLICED = {
    "test_refused_puts",
    "test_large_bodies",
}
