"""The real toxiproxy-server, driven by toxiproxy-python, and beanstalkd servers behind its proxies.

toxiproxy-python keeps the server's address in class attributes, sets no timeout, obeys proxy variables, takes
most errors for success and puts names into URLs as they are. :class:`Toxiproxy` mends that by giving the
library another HTTP session while it runs, so there is one at a time in a process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Self, Unpack

import pytest
import requests
import toxiproxy.api
from support.servers import BeanstalkdServer, ServerFactory, ServerOptions
from support.waiting import wait_until

from beanpool.testing.raw_client import RawClient

Stream = Literal["upstream", "downstream"]
STREAMS: tuple[Stream, Stream] = ("upstream", "downstream")

TOOLS = Path(__file__).resolve().parents[2] / ".tools"
# A toxic that delays is removed only when what it holds has gone through.
_CALL_TIMEOUT = 30.0
_PASSED_ON = (400, 404, 409)

HOW_TO_GET = (
    "toxiproxy-server was not found: python3 .ci/provision toxiproxy-server builds it, or name the program in "
    "$TOXIPROXY_SERVER"
)


class ToxiproxyFailed(RuntimeError):
    """toxiproxy-server did not do what it was asked for."""


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


def _hold_port() -> socket.socket:
    """A bound socket that never listens: nobody else gets the port while the server on it is away."""
    holder = socket.socket()
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
    except BaseException:
        holder.close()
        raise
    return holder


class _Session:
    """What toxiproxy-python takes for the module ``requests``."""

    def __init__(self) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        # A connection that is kept would be a descriptor that a test did not open.
        self._session.headers["Connection"] = "close"
        self._lock = threading.Lock()

    def _ask(self, method: str, url: str, **arguments: Any) -> requests.Response:
        with self._lock:
            answer = self._session.request(method, url, timeout=_CALL_TIMEOUT, **arguments)
        # The others become exceptions in the library; it reads the body of these as if all were well.
        if answer.status_code >= 400 and answer.status_code not in _PASSED_ON:
            raise ToxiproxyFailed(f"{method} {url} was answered with {answer.status_code}: {answer.text.strip()}")
        return answer

    def get(self, url: str, **arguments: Any) -> requests.Response:
        return self._ask("GET", url, **arguments)

    def post(self, url: str, **arguments: Any) -> requests.Response:
        return self._ask("POST", url, **arguments)

    def delete(self, url: str, **arguments: Any) -> requests.Response:
        return self._ask("DELETE", url, **arguments)

    def close(self) -> None:
        self._session.close()


class Toxiproxy:
    """A running toxiproxy-server on a free port of loopback. One at a time in a process.

    :param binary: the program; by default what :func:`require_toxiproxy` finds.
    :param seed: of its own random numbers (jitter, toxicity).
    """

    _running: Toxiproxy | None = None

    def __init__(self, binary: str | None = None, *, seed: int = 1) -> None:
        self.binary = binary or require_toxiproxy()
        self._seed = seed
        self._session = _Session()
        self._links = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log = Path(tempfile.mkdtemp(prefix="toxiproxy-"), "log")
        self._api = toxiproxy.Toxiproxy()
        self._replaced: tuple[Any, str, int] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process; returns once it has answered.

        :raises ToxiproxyFailed: if it ends or does not answer, or another one is in use.
        """
        if Toxiproxy._running is not None:
            raise ToxiproxyFailed("toxiproxy-python knows one server per process, and one is in use")
        holder = _hold_port()
        port = holder.getsockname()[1]
        if sys.platform != "linux":
            # There a bound socket would keep the server's own socket from the port.
            holder.close()
        try:
            with open(self._log, "ab") as log:
                # The shell outlives nobody: its stdin ends when this process does, however that ends.
                self._process = subprocess.Popen(
                    [
                        "/bin/sh",
                        "-c",
                        '"$@" </dev/null & read -r _; kill -9 $!; wait',
                        "toxiproxy",
                        *(self.binary, "-host", "127.0.0.1", "-port", str(port), "-seed", str(self._seed)),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "LOG_LEVEL": "error"},
                    start_new_session=True,
                )
            consumer = toxiproxy.api.APIConsumer
            self._replaced = (toxiproxy.api.requests, consumer.host, consumer.port)
            toxiproxy.api.requests = self._session
            self._api.update_api_consumer("127.0.0.1", port)
            Toxiproxy._running = self
            wait_until(self._answers, "an answer of toxiproxy-server", 10.0)
        except BaseException as error:
            self.stop()
            if isinstance(error, AssertionError):
                raise ToxiproxyFailed(f"{self.binary} does not answer") from None
            raise
        finally:
            holder.close()

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise ToxiproxyFailed(f"{self.binary} ended: {self._log.read_text(errors='replace').strip()}")
        try:
            return bool(self.version)
        except requests.ConnectionError:
            return False

    @property
    def version(self) -> str:
        """What it says that it is: "2.12.0"; "git" if it was built without a release's flags."""
        answer = toxiproxy.api.APIConsumer.get("/version")
        return str(answer.json()["version"])

    def link(self, host: str, port: int) -> Link:
        """A new proxy on a port of its own, to this server."""
        with self._lock:
            self._links += 1
            name = f"link-{self._links}"
        holder = _hold_port()
        listen = f"127.0.0.1:{holder.getsockname()[1]}"
        if sys.platform != "linux":
            holder.close()
        try:
            return Link(lambda: self._api.create(f"{host}:{port}", name, listen=listen), holder)
        except BaseException:
            holder.close()
            raise

    def stop(self) -> None:
        """End the process and give toxiproxy-python its old state back. Idempotent."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(10.0)
            self._process = None
        self._session.close()
        if self._replaced is not None:
            toxiproxy.api.requests = self._replaced[0]
            self._api.update_api_consumer(*self._replaced[1:])
            self._replaced = None
            Toxiproxy._running = None
        shutil.rmtree(self._log.parent, ignore_errors=True)


class Link:
    """One proxy: the network between a client and one server. Any thread may call."""

    def __init__(self, create: Callable[[], Any], holder: socket.socket) -> None:
        self._create = create
        self._proxy = create()
        self._holder = holder
        self.host, _, port = self._proxy.listen.rpartition(":")
        self.port = int(port)
        self._lock = threading.Lock()
        self._names: list[str] = []

    @property
    def address(self) -> str:
        """The address that a client connects to."""
        return f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"<Link at {self.address}: {', '.join(self._names) or 'no toxic'}>"

    def add(self, kind: str, stream: Stream = "downstream", toxicity: float = 1.0, **attributes: int) -> str:
        """Add a toxic, for connections that are there and those to come; returns its name.

        :param kind: ``latency``, ``bandwidth``, ``slow_close``, ``timeout``, ``reset_peer``, ``slicer``,
            ``limit_data``.
        :param stream: ``upstream`` for what the client sends, ``downstream`` for what it receives.
        """
        with self._lock:
            name = f"{kind}-{stream}-{len(self._names)}"
            self._proxy.add_toxic(type=kind, stream=stream, name=name, toxicity=toxicity, attributes=attributes)
            self._names.append(name)
            return name

    @contextlib.contextmanager
    def toxic(self, kind: str, stream: Stream = "downstream", **attributes: int) -> Iterator[None]:
        """As :meth:`add`, for a block; all toxics of the link end with it."""
        self.add(kind, stream, **attributes)
        try:
            yield
        finally:
            self.clear()

    def clear(self) -> None:
        """Remove all toxics. (The connections that a ``timeout`` held are closed by that.)"""
        with self._lock:
            while self._names:
                self._proxy.destroy_toxic(self._names.pop())

    def renew(self) -> None:
        """Close every connection, and begin anew without toxics.

        Toxiproxy 2.12 can wait for ever when a toxic is removed that holds data for a client that has gone. It need
        not be removed from a proxy that is no more.
        """
        with self._lock:
            self._names.clear()
            self._proxy.destroy()
            self._proxy = self._create()

    def down(self) -> None:
        """Close every connection, and refuse new ones."""
        self._proxy.disable()

    def up(self) -> None:
        """Accept connections again."""
        self._proxy.enable()

    def cut(self) -> None:
        """Close every connection, once."""
        with self._lock:
            self._proxy.disable()
            self._proxy.enable()

    def remove(self) -> None:
        """The end of the proxy, its connections and its port."""
        self._proxy.destroy()
        self._holder.close()


class Truth(RawClient):
    """A connection past the proxy. It says that it is at the proxy's address, as all that beanpool reports does."""

    def __init__(self, server: BeanstalkdServer, address: str) -> None:
        super().__init__(server.target)
        self._address = address

    @property
    def address(self) -> str:
        """The address by which beanpool knows the server."""
        return self._address


class ProxiedServer:
    """A beanstalkd, the link that leads to it, and a control connection that does not use the link."""

    def __init__(self, server: BeanstalkdServer, link: Link) -> None:
        self.server = server
        self.link = link
        self.address = link.address
        self.control = Truth(server, link.address)

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
        self._servers: list[ProxiedServer] = []

    def __call__(self, count: int, **options: Unpack[ServerOptions]) -> list[ProxiedServer]:
        """`count` started servers, each behind a link of its own."""
        started = [
            ProxiedServer(server, self._proxy.link(server.host, server.port))
            for server in self._factory.cluster(count, **options)
        ]
        self._servers += started
        return started

    def stop(self) -> None:
        """Stop all of it."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._factory.stop)
            while self._servers:
                server = self._servers.pop()
                stack.callback(server.link.remove)
                stack.callback(server.control.close)
