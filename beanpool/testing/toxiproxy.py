"""toxiproxy-server, Shopify's proxy for network faults, between a test's client and its servers.

Only what a test needs of its HTTP interface, with nothing beside the standard library.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from typing import Any, Literal, Protocol

from beanpool.testing.embedded.binding import ClaimedPort
from beanpool.testing.failures import ServerFailed
from beanpool.testing.parent_death import ParentDeathGuard
from beanpool.testing.service import Service
from beanpool.testing.waiting import wait_until

Stream = Literal["upstream", "downstream"]

LOOPBACK = "127.0.0.1"
# A toxic that delays is removed only when what it holds has gone through.
_CALL_TIMEOUT = 30.0
_START_TIMEOUT = 10.0

_HOW_TO_GET = (
    "toxiproxy-server was not found: go install github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0 builds it as a "
    "program called server; name that in $TOXIPROXY_SERVER"
)


class _Upstream(Protocol):
    host: str
    port: int


def find_toxiproxy() -> str | None:
    """The path of toxiproxy-server: $TOXIPROXY_SERVER, else on PATH; None if there is none."""
    named = os.environ.get("TOXIPROXY_SERVER")
    return shutil.which(named or "toxiproxy-server")


def no_toxiproxy() -> str:
    """Why :func:`find_toxiproxy` found none, and what to do about it, in one line."""
    named = os.environ.get("TOXIPROXY_SERVER")
    return f"$TOXIPROXY_SERVER names {named}, which is no program" if named else _HOW_TO_GET


class Toxiproxy(Service):
    """A toxiproxy-server on a free port of loopback. As a context manager it is started and stopped.

    :param binary: the program; by default what :func:`find_toxiproxy` finds.
    :param seed: of its own random numbers (jitter, toxicity); by default the program's.
    :raises ServerFailed: if there is none.
    """

    def __init__(self, binary: str | None = None, *, seed: int | None = None) -> None:
        found = binary or find_toxiproxy()
        if found is None:
            raise ServerFailed(no_toxiproxy())
        self.binary = found
        self._seed = () if seed is None else ("-seed", str(seed))
        self._port = 0
        self._made = 0
        self._proxied: list[ProxiedServer] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = ParentDeathGuard()
        self._log = self._guard.folder / "log"

    def start(self) -> None:
        """Start the process, and return when it answers.

        :raises ServerFailed: if it ends or does not answer.
        """
        port = ClaimedPort(LOOPBACK)
        self._port = port.number
        command = (self.binary, "-host", LOOPBACK, "-port", str(self._port), *self._seed)
        try:
            with open(self._log, "ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "LOG_LEVEL": "error"},
                    process_group=self._guard.group,
                )
            wait_until(self._answers, "an answer of toxiproxy-server", _START_TIMEOUT)
        except BaseException as error:
            log_text = self._log.read_text(errors="replace").strip() if self._log.exists() else ""
            self.stop()
            if isinstance(error, (OSError, AssertionError)):
                raise ServerFailed(f"{self.binary} did not start: {log_text or error}") from error
            raise
        finally:
            port.give_up()

    def link(self, server: _Upstream) -> ProxiedServer:
        """A proxy before `server`, whose address the client is given instead of the server's."""
        self._made += 1
        upstream = f"[{server.host}]:{server.port}" if ":" in server.host else f"{server.host}:{server.port}"
        link = ProxiedServer(self, f"link-{self._made}", upstream, ClaimedPort(LOOPBACK))
        self._proxied.append(link)
        link._create()
        return link

    @property
    def port(self) -> int:
        """The port of its HTTP interface."""
        return self._port

    def stop(self) -> None:
        """End the process and give up its ports."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        while self._proxied:
            self._proxied.pop().forget()
        self._guard.close()

    def ask(self, method: str, path: str, document: dict[str, Any] | None = None) -> None:
        """One call of its HTTP interface.

        :raises ServerFailed: if it refuses; the message holds its reason.
        """
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=_CALL_TIMEOUT)
        try:
            connection.request(method, path, None if document is None else json.dumps(document))
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        finally:
            connection.close()
        if answer.status >= 300:
            raise ServerFailed(f"toxiproxy-server answered {method} {path} with {answer.status}: {text.strip()}")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise ServerFailed(f"{self.binary} ended: {self._log.read_text(errors='replace').strip()}")
        try:
            self.ask("GET", "/version")
        except ConnectionError:
            return False
        return True


class ProxiedServer:
    """The network between a client and one server; made by :meth:`Toxiproxy.link`. Any thread may call.

    :ivar host: where the client connects to.
    :ivar port: and the port.
    """

    def __init__(self, proxy: Toxiproxy, name: str, upstream: str, port: ClaimedPort) -> None:
        self.name = name
        self.host, self.port = LOOPBACK, port.number
        self._proxy = proxy
        self._upstream = upstream
        self._port = port
        self._lock = threading.Lock()
        self._toxics: list[str] = []

    def __repr__(self) -> str:
        return f"<{self.name} at {self.address}: {', '.join(self._toxics) or 'no toxic'}>"

    @property
    def address(self) -> str:
        """``127.0.0.1:4711``."""
        return f"{self.host}:{self.port}"

    def add(self, kind: str, stream: Stream = "downstream", toxicity: float = 1.0, **attributes: int) -> None:
        """Add a toxic, for the connections that there are and those to come: ``add("latency", latency=100)``.

        :param kind: ``latency``, ``bandwidth``, ``slow_close``, ``timeout``, ``reset_peer``, ``slicer`` or
            ``limit_data``; Toxiproxy's own page says which attributes they have.
        :param stream: ``upstream`` for what the client sends, ``downstream`` for what it receives.
        :param toxicity: the part of the connections that it is for, 0 to 1.
        """
        with self._lock:
            name = f"{kind}-{stream}-{len(self._toxics)}"
            toxic = {"name": name, "type": kind, "stream": stream, "toxicity": toxicity, "attributes": attributes}
            self._proxy.ask("POST", f"/proxies/{self.name}/toxics", toxic)
            self._toxics.append(name)

    @contextlib.contextmanager
    def toxic(self, kind: str, stream: Stream = "downstream", **attributes: int) -> Iterator[None]:
        """As :meth:`add`, for a block; all toxics end with it."""
        self.add(kind, stream, **attributes)
        try:
            yield
        finally:
            self.clear()

    def clear(self) -> None:
        """Remove all toxics. The connections that a ``timeout`` held are closed by that."""
        with self._lock:
            while self._toxics:
                self._proxy.ask("DELETE", f"/proxies/{self.name}/toxics/{self._toxics.pop()}")

    def down(self) -> None:
        """Close all connections and refuse new ones."""
        self._proxy.ask("POST", f"/proxies/{self.name}", {"enabled": False})

    def up(self) -> None:
        """Take connections again."""
        self._proxy.ask("POST", f"/proxies/{self.name}", {"enabled": True})

    def cut(self) -> None:
        """Close all connections, once."""
        with self._lock:
            self.down()
            self.up()

    def renew(self) -> None:
        """Close all connections, and begin anew without toxics.

        Toxiproxy 2.12 can wait for ever when a toxic is removed that holds data for a client that has gone. It need
        not be removed from a proxy that is no more.
        """
        with self._lock:
            self._toxics.clear()
            self._proxy.ask("DELETE", f"/proxies/{self.name}")
            self._create()

    def close(self) -> None:
        """End the proxy and its connections, and give up the port."""
        self._proxy.ask("DELETE", f"/proxies/{self.name}")
        self.forget()

    def forget(self) -> None:
        """Give up the port; the proxy itself ends with its server."""
        self._port.give_up()

    def _create(self) -> None:
        document = {"name": self.name, "listen": self.address, "upstream": self._upstream}
        self._proxy.ask("POST", "/proxies", document)
