"""beanstalkd servers behind the proxies of toxiproxy-server."""

from __future__ import annotations

import contextlib
from typing import Unpack

from support.servers import BeanstalkdServer, ServerFactory, ServerOptions, ShortWay

from beanpool.testing.toxiproxy import ProxiedServer as Link
from beanpool.testing.toxiproxy import Toxiproxy


class LinkedServer:
    """A beanstalkd, the link that leads to it, and a control connection that does not use the link."""

    def __init__(self, server: BeanstalkdServer, link: Link) -> None:
        self.server = server
        self.link = link
        self.address = link.address
        self.control = ShortWay(server, link.address)

    def __repr__(self) -> str:
        return f"<{self.server!r} behind {self.link!r}>"

    def kill(self) -> None:
        """SIGKILL the server; the link refuses connections while it is gone."""
        self.control.close()
        self.link.down()
        self.server.kill()

    def start(self) -> None:
        """Start the server again."""
        self.server.start()
        self.link.up()

    def restart(self) -> None:
        """:meth:`kill` and :meth:`start`: another process, with the same log if it keeps one."""
        self.kill()
        self.start()

    def heal(self, *, cut: bool = False) -> None:
        """Whatever was done to it: let it run, reachable and without toxics.

        :param cut: close all connections (see :meth:`Link.renew`).
        """
        self.server.thaw()
        self.server.start()
        if cut:
            self.link.renew()
        else:
            self.link.clear()
            self.link.up()


class ProxiedClusters:
    """Starts servers behind links, and stops them all; the fixture ``proxied`` is one."""

    def __init__(self, proxy: Toxiproxy) -> None:
        self._proxy = proxy
        self._factory = ServerFactory()
        self._servers: list[LinkedServer] = []

    def __call__(self, count: int, **options: Unpack[ServerOptions]) -> list[LinkedServer]:
        """`count` started servers, each behind a link of its own."""
        started = [LinkedServer(server, self._proxy.link(server)) for server in self._factory.cluster(count, **options)]
        self._servers += started
        return started

    def stop(self) -> None:
        """Stop all of it."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._factory.stop)
            while self._servers:
                server = self._servers.pop()
                stack.callback(server.link.close)
                stack.callback(server.control.close)
