"""The embedded server: a port, a thread, and what tests do to a server."""

from __future__ import annotations

import os
import threading
import weakref

from beanpool.testing.embedded.binding import ClaimedPort, bind
from beanpool.testing.embedded.dialect import DEFAULT_VERSION, DIALECTS
from beanpool.testing.embedded.loop import Loop
from beanpool.testing.failures import ServerFailed
from beanpool.testing.service import Service

DEFAULT_MAX_JOB_SIZE = 65535
"""Bytes; beanstalkd's own default."""
_END_TIMEOUT = 10.0
BACKLOG = 1024
"""Connections that may wait to be accepted; as many as beanstalkd lets."""


class EmbeddedServer(Service):
    """A beanstalkd in this process, for tests: a thread that speaks protocol 1.13 on a loopback port.

    It behaves as the real server does, which the project's tests hold it to, with three exceptions: it has no
    write-ahead log, so that jobs live as long as it runs; it listens on TCP only; and its clock can be moved on. As a
    context manager it is started and, at the end, stopped. All methods may be called from any thread.

    :param host: the address to listen on: ``127.0.0.1`` or ``::1``.
    :param port: the port; 0 lets the kernel choose one.
    :param max_job_size: bytes.
    :param version: the version of beanstalkd to be, ``1.12`` or ``1.13``.
    :raises ServerFailed: if the address cannot be bound; the message says which, and why.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        max_job_size: int = DEFAULT_MAX_JOB_SIZE,
        version: str = DEFAULT_VERSION,
    ) -> None:
        if version not in DIALECTS:
            raise ValueError(f"version must be one of {', '.join(DIALECTS)}, not {version!r}")
        self.host = host
        self.max_job_size = max_job_size
        self._dialect = DIALECTS[version]
        self._lock = threading.RLock()
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None
        self._claim = ClaimedPort(self.host, port)
        self.port = self._claim.number
        _servers.add(self)

    @property
    def address(self) -> str:
        """The address as beanpool writes it: ``127.0.0.1:4711``, ``[::1]:4711``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as a URL: ``beanstalk://127.0.0.1:4711``."""
        return f"beanstalk://{self.address}"

    @property
    def running(self) -> bool:
        """Whether it serves (a frozen one does)."""
        with self._lock:
            return self._thread is not None and self._thread.is_alive()

    def __repr__(self) -> str:
        return f"<EmbeddedServer at {self.address}{'' if self.running else ', not running'}>"

    def start(self) -> None:
        """Serve, with no job and no tube but ``default``; return when a connect succeeds.

        :raises ServerFailed: if the address cannot be bound any more.
        """
        with self._lock:
            if self.running:
                return
            listening = bind(self.host, self.port)
            try:
                listening.listen(BACKLOG)
            except BaseException:
                listening.close()
                raise
            self._loop = Loop(listening, self.max_job_size, self._dialect)
            # A test that forgets to stop it must not keep the process alive.
            self._thread = threading.Thread(target=self._loop.run, name=f"embedded beanstalkd {self.port}", daemon=True)
            self._thread.start()

    def kill(self) -> None:
        """End at once: every connection is closed, every job is gone, and a connect is refused."""
        with self._lock:
            if self._loop is not None and self._thread is not None:
                self._loop.end()
                self._thread.join(_END_TIMEOUT)
                if self._thread.is_alive():
                    raise ServerFailed(f"the embedded server at {self.address} did not end")
            self._loop = self._thread = None

    def restart(self) -> None:
        """:meth:`kill` and :meth:`start`: another server at the same address, with no jobs."""
        with self._lock:
            self.kill()
            self.start()

    def stop(self) -> None:
        """:meth:`kill`, and give up the port."""
        with self._lock:
            self.kill()
            self._claim.give_up()

    def freeze(self) -> None:
        """Stand still, as after SIGSTOP: connects go on succeeding, nothing is answered, no time-out happens."""
        self._set_frozen(True)

    def thaw(self) -> None:
        """Go on."""
        self._set_frozen(False)

    def drain(self) -> None:
        """Take no new jobs until the next restart, as after SIGUSR1."""
        loop = self._running_loop()
        loop.call(lambda: setattr(loop.model, "draining", True))

    def advance(self, seconds: float) -> None:
        """Move the server's clock on, and return when everything has happened that was due in that time.

        Delays, reservations, pauses and the timeouts of waiting reserves end in their order, as if the time had passed.

        :param seconds: how far; at least 0.
        """
        if seconds < 0:
            raise ValueError(f"seconds must be at least 0, not {seconds}")
        loop = self._running_loop()
        loop.call(lambda: loop.advance(seconds))

    def _set_frozen(self, frozen: bool) -> None:
        loop = self._running_loop()
        loop.call(lambda: setattr(loop, "frozen", frozen))

    def _running_loop(self) -> Loop:
        with self._lock:
            if self._loop is None:
                raise ServerFailed(f"the embedded server at {self.address} is not running")
            return self._loop

    def _forget_after_fork(self) -> None:
        """In a child: close the parent's sockets, so that a connection ends when the parent ends it."""
        if self._loop is not None:
            self._loop.abandon()
        self._claim.give_up()
        self._loop = self._thread = None


_servers: weakref.WeakSet[EmbeddedServer] = weakref.WeakSet()


def _forget_all_after_fork() -> None:
    for server in list(_servers):
        server._lock = threading.RLock()
        server._forget_after_fork()


os.register_at_fork(after_in_child=_forget_all_after_fork)
