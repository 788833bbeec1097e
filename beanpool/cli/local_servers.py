"""Server processes on loopback, the servers of the demo: beanstalkd with private write-ahead logs, or embedded ones."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from beanpool import BeanpoolError, Connection
from beanpool.cli.undertaker import undertaker

LOOPBACK = "127.0.0.1"
USUAL_FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/local/bin")
START_LIMIT = 10.0
# The socket comes in as standard input, because a shell can move it to descriptor 3 without code running between
# fork and exec, and only the shell knows the process id that LISTEN_PID must name.
_WITH_INHERITED_SOCKET = 'LISTEN_PID=$$ exec "$0" "$@" 3<&0 </dev/null'


class ServerNotStarted(Exception):
    """A beanstalkd process ended, or did not answer, when it was started."""


def find_beanstalkd(environ: Mapping[str, str] = os.environ, folders: Sequence[str] = USUAL_FOLDERS) -> str | None:
    """Return the path of the beanstalkd program: ``$BEANSTALKD``, else on ``PATH``, else in `folders`; else ``None``.

    ``$BEANSTALKD`` is a decision: when it names nothing that can be run, no other place is tried.
    """
    if chosen := environ.get("BEANSTALKD"):
        return shutil.which(chosen, path=environ.get("PATH", ""))
    return shutil.which("beanstalkd", path=environ.get("PATH", "")) or shutil.which(
        "beanstalkd", path=os.pathsep.join(folders)
    )


class LocalServer:
    """One beanstalkd process on a loopback port of its own, which it gets back at every start.

    :param group: the process group that it belongs to; 0 for one of its own.
    :ivar name: its name in the pool.
    :ivar host: the loopback address.
    :ivar port: the port, chosen by the kernel.
    :cvar keeps_jobs: whether it has its jobs back when it is started again.
    """

    keeps_jobs = True

    def __init__(self, name: str, program: str, directory: Path, group: int = 0) -> None:
        self.name = name
        self.host = LOOPBACK
        self._program = program
        self._group = group
        self._log = directory / f"{name}.log"
        self._wal = directory / name
        self._wal.mkdir()
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("LISTEN_")}
        self._process: subprocess.Popen[bytes] | None = None
        # Bound and not listening, for as long as this object lives: connections are refused while the server is dead,
        # and nobody else is given the port.
        self._claim: socket.socket | None = _bind(0)
        self.port: int = self._claim.getsockname()[1]

    def start(self) -> None:
        """Start the process and return when it answers.

        :raises ServerNotStarted: it ended, or did not answer within 10 seconds.
        """
        reason = ""
        # A beanstalkd without systemd support ignores the inherited socket, finds its port taken and ends. Where a
        # second socket cannot be bound to a claimed port (macOS), the claim has to go first.
        for spawn in (self._spawn_with_socket, self._spawn, self._spawn_unclaimed, self._spawn_unclaimed):
            try:
                self._process = spawn()
            except OSError as error:
                reason = str(error)
                continue
            if self._answers(self._process):
                return
            self.kill()
            reason = self._last_words()
        raise ServerNotStarted(f"{self._program} did not start on {self.host}:{self.port}: {reason}")

    def kill(self) -> None:
        """End the process with SIGKILL, as a crash would; does nothing when there is none."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the process and give up the port."""
        self.kill()
        self._release_claim()

    def _spawn_with_socket(self) -> subprocess.Popen[bytes]:
        with _bind(self.port) as listener:
            listener.listen(1024)
            command = ["sh", "-c", _WITH_INHERITED_SOCKET, *self._command()]
            return self._popen(command, stdin=listener, extra={"LISTEN_FDS": "1"})

    def _spawn(self) -> subprocess.Popen[bytes]:
        return self._popen(self._command(), stdin=None, extra={})

    def _spawn_unclaimed(self) -> subprocess.Popen[bytes]:
        self._release_claim()
        return self._spawn()

    def _command(self) -> list[str]:
        return [self._program, "-l", self.host, "-p", str(self.port), "-b", str(self._wal)]

    def _popen(
        self, command: list[str], *, stdin: socket.socket | None, extra: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if stdin is None else stdin.fileno(),
                stdout=log,
                stderr=log,
                env=self._environ | extra,
                # Not the demo's: Ctrl-C is for the demo alone, which then ends its servers in its own order.
                process_group=self._group,
            )

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + START_LIMIT
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with Connection(self.host, self.port, connect_timeout=START_LIMIT, timeout=START_LIMIT) as connection:
                    connection.using()
                return True
            except BeanpoolError:
                time.sleep(0.005)
        return False

    def _last_words(self) -> str:
        lines = self._log.read_text("utf-8", "replace").splitlines() if self._log.exists() else []
        return lines[-1] if lines else "no answer"

    def _release_claim(self) -> None:
        if self._claim is not None:
            self._claim.close()
            self._claim = None


class EmbeddedProcess(LocalServer):
    """One embedded server in a process of its own; its jobs die with it."""

    keeps_jobs = False

    def __init__(self, name: str, directory: Path, group: int = 0) -> None:
        super().__init__(name, sys.executable, directory, group)
        # Its beanpool is ours, wherever that comes from, and not one that happens to lie in the working folder.
        self._environ["PYTHONPATH"] = os.pathsep.join(folder or os.getcwd() for folder in sys.path)

    def _command(self) -> list[str]:
        return [self._program, "-P", "-m", "beanpool.testing", "-l", self.host, "-p", str(self.port)]


@contextlib.contextmanager
def local_servers(program: str | None, names: Sequence[str]) -> Iterator[list[LocalServer]]:
    """Run one server per name, beanstalkd or, without a program, embedded; no process and no file is left afterwards.

    Not even if this process is killed meanwhile.

    :raises ServerNotStarted: one of them cannot be started.
    """
    with contextlib.ExitStack() as stack:
        directory = tempfile.TemporaryDirectory(prefix="beanpool-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(directory))
        group = stack.enter_context(undertaker(folder))
        servers = []
        for name in names:
            server: LocalServer = (
                EmbeddedProcess(name, folder, group) if program is None else LocalServer(name, program, folder, group)
            )
            stack.callback(server.close)
            server.start()
            servers.append(server)
        yield servers


def _bind(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((LOOPBACK, port))
    except BaseException:
        bound.close()
        raise
    return bound
