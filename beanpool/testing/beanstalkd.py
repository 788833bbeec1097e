"""Real beanstalkd servers on loopback, each on a port that nobody can take from it.

The test process binds the port and hands the listening socket over as descriptor 3, in the way of
systemd's socket activation. A build of beanstalkd without that binds the port itself. In both cases
:class:`ClaimedPort` keeps the port while the server is down.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from beanpool.testing.embedded.binding import ClaimedPort, bind
from beanpool.testing.failures import NoBeanstalkd, ServerFailed
from beanpool.testing.parent_death import ParentDeathGuard
from beanpool.testing.raw_client import RawClient, Target, close_all
from beanpool.testing.service import Service
from beanpool.testing.waiting import wait_until
from beanpool.testing.write_ahead_log import merge

_HOW_TO_GET_BEANSTALKD = (
    "install it (apt-get install beanstalkd, dnf install beanstalkd, "
    "brew install beanstalkd, apk add beanstalkd) or name the program in $BEANSTALKD"
)

_USUAL_FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/opt/homebrew/bin", "/opt/local/bin")
_PORT_ATTEMPTS = 20


def find_beanstalkd() -> str | None:
    """The path of the beanstalkd program: $BEANSTALKD, then PATH, then the usual folders; None if there is none."""
    named = os.environ.get("BEANSTALKD")
    if named:
        return shutil.which(named)
    return shutil.which("beanstalkd") or shutil.which("beanstalkd", path=os.pathsep.join(_USUAL_FOLDERS))


def no_beanstalkd() -> str:
    """Why :func:`find_beanstalkd` found none, and what to do about it, in one line."""
    named = os.environ.get("BEANSTALKD")
    reason = f"$BEANSTALKD names {named}, which is no program" if named else "beanstalkd was not found"
    return f"{reason}: {_HOW_TO_GET_BEANSTALKD}"


@functools.cache
def beanstalkd_version(binary: str) -> str:
    """What ``beanstalkd -v`` says, without the program's name: "1.12"."""
    output = subprocess.run([binary, "-v"], capture_output=True, text=True, timeout=10, check=False).stdout
    return output.strip().removeprefix("beanstalkd").strip() or "unknown"


def _found_beanstalkd() -> str:
    binary = find_beanstalkd()
    if binary is None:
        raise NoBeanstalkd(no_beanstalkd())
    return binary


@functools.cache
def takes_listening_socket(binary: str) -> bool:
    """Whether this build serves on a listening socket that it inherits; tried once, with one round trip."""
    server = BeanstalkdServer(binary=binary)
    try:
        server._start_process(hand_over=True)
        server.wait_ready()
    except ServerFailed:
        return False
    finally:
        server.stop()
    return True


class BeanstalkdServer(Service):
    """One beanstalkd process. As a context manager it is started and, at the end, stopped.

    ``kill``, ``terminate`` and ``restart`` keep the address and the write-ahead log; ``stop`` is the
    end of both. All methods may be called from any thread.

    :param host: the loopback address to listen on: ``127.0.0.1`` or ``::1``.
    :param unix: listen on a Unix socket in a private folder instead.
    :param wal: keep a write-ahead log (``-b``) in a private folder.
    :param merge_log: before every start put the log's files together, so that the server has nothing to compact: while
        it compacts, it is not safe from ``kill`` (see :mod:`beanpool.testing.write_ahead_log`).
    :param max_job_size: bytes (``-z``).
    :param args: further arguments of the program.
    :param nofile: its limit of descriptors (``RLIMIT_NOFILE``).
    :param address_space: its limit of memory in bytes (``RLIMIT_AS``).
    :param binary: the program; by default what :func:`find_beanstalkd` finds.
    :raises NoBeanstalkd: if there is none.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        unix: bool = False,
        wal: bool = False,
        merge_log: bool = True,
        max_job_size: int | None = None,
        args: Sequence[str] = (),
        nofile: int | None = None,
        address_space: int | None = None,
        binary: str | None = None,
    ) -> None:
        self.binary = binary or _found_beanstalkd()
        self.host = host
        self.port = 0
        self.path: str | None = None
        self.max_job_size = max_job_size
        self._merge_log = merge_log
        self._args = tuple(args)
        self._nofile = nofile
        self._address_space = address_space
        self._lock = threading.RLock()
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._claim: ClaimedPort | None = None
        self._clients: list[RawClient] = []
        self._frozen = False
        self._stopped = False
        self._guard = ParentDeathGuard()
        self._folder = self._guard.folder
        try:
            self.wal_dir: Path | None = None
            if wal:
                self.wal_dir = self._folder / "wal"
                self.wal_dir.mkdir()
            if unix:
                self.path = str(self._folder / "socket")
            else:
                self._choose_port()
        except BaseException:
            self._guard.close()
            raise
        self.control = self.raw()
        _live.add(self)

    @property
    def target(self) -> Target:
        """What a socket connects to: ``(host, port)`` or the path."""
        return (self.host, self.port) if self.path is None else self.path

    @property
    def address(self) -> str:
        """The address as beanpool writes it: ``127.0.0.1:4711``, ``[::1]:4711``, ``unix:/folder/socket``."""
        return self.control.address

    @property
    def url(self) -> str:
        """The address as a URL: ``beanstalk://127.0.0.1:4711``, ``beanstalk+unix:///folder/socket``."""
        return f"beanstalk://{self.address}" if self.path is None else f"beanstalk+unix://{self.path}"

    @property
    def running(self) -> bool:
        """Whether the process lives (a frozen one does)."""
        with self._lock:
            return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the running process; ``ServerFailed`` when it does not run."""
        with self._lock:
            if self._process is None:
                raise ServerFailed(f"beanstalkd at {self.address} is not running")
            return self._process.pid

    @property
    def log(self) -> str:
        """What the process, or the ones before it, wrote to stderr (nothing under a descriptor limit)."""
        try:
            return (self._folder / "stderr").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def __repr__(self) -> str:
        return f"<beanstalkd at {self.address}{'' if self.running else ', not running'}>"

    def raw(self, timeout: float = 5.0) -> RawClient:
        """Another raw connection to this server; it is closed when the server ends."""
        client = RawClient(self.target, timeout)
        self._clients.append(client)
        return client

    def start(self, *, wait: bool = True) -> None:
        """Start the process and, with `wait`, return once it has answered a command.

        :raises ServerFailed: if it ends or does not answer.
        """
        with self._lock:
            if self._stopped:
                raise ServerFailed(f"beanstalkd at {self.address} was stopped for good")
            if self.running:
                return
            if self.wal_dir is not None and self._merge_log:
                merge(self.wal_dir)
            if self.path is not None:
                Path(self.path).unlink(missing_ok=True)
            elif self._inherits_socket:
                self._start_process(hand_over=True)
                if wait:
                    self.wait_ready()
                return
            for attempt in range(1, _PORT_ATTEMPTS + 1):
                self._start_process(hand_over=False)
                if not wait:
                    return
                try:
                    self.wait_ready()
                    return
                except ServerFailed:
                    self.kill()
                    # Where the port cannot be kept, somebody else may have got it for a moment.
                    if self._claim is None or self._claim.kept or attempt == _PORT_ATTEMPTS:
                        raise

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Return once this process has answered ``stats``.

        :raises ServerFailed: if it ends, or is silent for `timeout` seconds.
        """
        with self._lock:
            process = self._process
        if process is None:
            raise ServerFailed(f"beanstalkd at {self.address} is not running")
        end = time.monotonic() + timeout

        def answers() -> bool:
            ended = process.poll()
            if ended is not None:
                raise ServerFailed(f"beanstalkd at {self.address} ended with status {ended}: {self.log.strip()}")
            try:
                with RawClient(self.target, max(0.01, end - time.monotonic())) as client:
                    return client.stats().get("pid") == str(process.pid)
            except OSError:
                return False

        try:
            wait_until(answers, "an answer", timeout)
        except AssertionError:
            raise ServerFailed(f"beanstalkd at {self.address} was silent for {timeout:g} s") from None

    def kill(self) -> None:
        """SIGKILL; returns once the process is gone and a connect is refused."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM (a frozen process is thawed for it); returns once the process is gone."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """``kill`` and ``start``: a new process at the same address, with the same write-ahead log."""
        with self._lock:
            self.kill()
            self.start()

    def freeze(self) -> None:
        """SIGSTOP; returns once the process stands still. Connects go on succeeding, nothing is answered."""
        with self._lock:
            process = self._process
            if process is None:
                raise ServerFailed(f"beanstalkd at {self.address} is not running")
            if self._frozen:
                return
            process.send_signal(signal.SIGSTOP)
            if process.returncode is None:
                _, status = os.waitpid(process.pid, os.WUNTRACED)
                if not os.WIFSTOPPED(status):
                    process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode is not None:
                raise ServerFailed(f"beanstalkd at {self.address} ended with status {process.returncode}")
            self._frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        with self._lock:
            if self._process is not None and self._frozen:
                self._process.send_signal(signal.SIGCONT)
            self._frozen = False

    def drain(self) -> None:
        """SIGUSR1: no new jobs until the next restart; returns once the server says so (1.12 and newer say)."""
        os.kill(self.pid, signal.SIGUSR1)
        wait_until(lambda: self.control.stats().get("draining", "true") == "true", f"{self.address} to drain")

    def stop(self) -> None:
        """The end: kill and reap the process, close its clients, give up the port, remove the private folder."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._end(signal.SIGKILL)
            self._stopped = True
            if self._claim is not None:
                self._claim.give_up()
            self._guard.close()
            _live.discard(self)

    @property
    def _inherits_socket(self) -> bool:
        return takes_listening_socket(self.binary)

    def _choose_port(self) -> None:
        self._claim = ClaimedPort(self.host)
        self.port = self._claim.number

    def _bind(self, port: int) -> socket.socket:
        return bind(self.host, port)

    def _listen(self) -> socket.socket:
        listening = self._bind(self.port)
        # The options that beanstalkd gives its own listening socket; accepted connections inherit them.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.setblocking(False)
        listening.listen(1024)
        return listening

    def _command(self) -> list[str]:
        where = ["-l", self.host, "-p", str(self.port)] if self.path is None else ["-l", f"unix:{self.path}"]
        wal = [] if self.wal_dir is None else ["-b", str(self.wal_dir)]
        size = [] if self.max_job_size is None else ["-z", str(self.max_job_size)]
        return [self.binary, *where, *wal, *size, *self._args]

    def _start_process(self, *, hand_over: bool) -> None:
        # The shell moves the listening socket from stdin to descriptor 3: no code runs between fork and exec, and only
        # the shell knows the process id that LISTEN_PID must name.
        script = []
        if self._nofile is not None:
            script.append(f"ulimit -n {self._nofile} || exit 1")
        if self._address_space is not None:
            script.append(f"ulimit -v {self._address_space // 1024} || exit 1")
        script.append('LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&0 </dev/null' if hand_over else 'exec "$@"')
        with contextlib.ExitStack() as stack:
            listening = stack.enter_context(self._listen()) if hand_over else None
            # At its descriptor limit beanstalkd logs in a loop: that would fill the disk.
            stderr = os.devnull if self._nofile is not None else str(self._folder / "stderr")
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", "\n".join(script), "beanstalkd", *self._command()],
                stdin=subprocess.DEVNULL if listening is None else listening.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=stack.enter_context(open(stderr, "ab")),
                process_group=self._guard.group,
            )
            self._frozen = False

    def _end(self, number: signal.Signals) -> None:
        if os.getpid() != self._owner:
            return
        with self._lock:
            close_all(self._clients)
            if self._process is not None:
                self._process.send_signal(number)
                if number != signal.SIGKILL:
                    self.thaw()
                try:
                    self._process.wait(10.0)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
                self._process = None
            self._frozen = False


_live: set[BeanstalkdServer] = set()


@atexit.register
def _stop_the_rest() -> None:
    for server in list(_live):
        server.stop()
