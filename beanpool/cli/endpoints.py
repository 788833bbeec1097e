"""Answers over HTTP, for who watches a command that runs on: metrics for Prometheus, health for supervisors."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from beanpool.cli.exits import CommandError, Exit
from beanpool.cli.listen_address import ListenAddress

_PATIENCE = 10.0
"""How long a client may take for its request, or to take the answer (seconds)."""
_WORTH_COMPRESSING = 2000


class Answer(NamedTuple):
    """What is answered."""

    text: bytes
    status: int = 200
    kind: str = "text/plain; charset=utf-8"


Endpoint = Callable[[str], Answer]
"""Given the client's ``Accept`` header, returns the answer."""


class _Server(socketserver.ThreadingTCPServer):
    # Not http.server's own, which looks up the name of its address: that takes seconds where no name server answers.
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: ListenAddress, endpoints: Mapping[str, Endpoint]) -> None:
        self.endpoints = endpoints
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        super().__init__((address.host, address.port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that have gone, or have sent nonsense."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = _PATIENCE

    def do_GET(self) -> None:
        """Answer."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer without the text."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        endpoint = self.server.endpoints.get(self.path.partition("?")[0])
        if endpoint is None:
            paths = "".join(f"{path}\n" for path in self.server.endpoints)
            answer = Answer(f"There is:\n{paths}".encode(), 200 if self.path == "/" else 404)
        else:
            answer = endpoint(self.headers.get("Accept") or "")
        text = answer.text
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        if len(text) > _WORTH_COMPRESSING and "gzip" in self.headers.get("Accept-Encoding", ""):
            self.send_header("Content-Encoding", "gzip")
            text = gzip.compress(text, compresslevel=1)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if with_body:
            self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Write no access log."""


@contextlib.contextmanager
def serving(address: ListenAddress, endpoints: Mapping[str, Endpoint]) -> Iterator[str]:
    """Answer in threads of its own while the block runs; gives it the URL.

    :param endpoints: by path.
    """
    try:
        server = _Server(address, endpoints)
    except OSError as error:
        raise CommandError(f"cannot listen on {address}: {error.strerror or error}", code=Exit.USAGE) from error
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="beanpool-http", daemon=True)
        thread.start()
        try:
            port = server.socket.getsockname()[1]
            yield f"http://{ListenAddress(address.host or 'localhost', port)}"
        finally:
            server.shutdown()
            thread.join()
