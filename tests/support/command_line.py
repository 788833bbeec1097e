"""The command line: in a process of its own, as a user runs it, or in this one, which is much quicker."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any
from unittest import mock

from beanpool.cli.main import main

COMMAND = [sys.executable, "-P", "-X", "dev", "-W", "error", "-m", "beanpool"]
_VARIABLES = ("BEANPOOL_URL", "BEANSTALKD_URL", "BEANSTALK_URL")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without the variables that name servers, and with `extra`."""
    return {name: value for name, value in os.environ.items() if name not in _VARIABLES} | dict(extra or {})


def environment_of_a_project(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """As :func:`environment`, where Python finds the modules beside a script, as it does for users."""
    return environment({"PYTHONSAFEPATH": "", **(extra or {})})


def run_beanpool(
    *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None, timeout: float = 60.0
) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end.

    :param stdin: what it reads.
    :param env: variables to add.
    :param timeout: seconds; a process that takes longer is killed, and ``subprocess.TimeoutExpired`` raised.
    """
    with tempfile.TemporaryDirectory(prefix="beanpool-") as folder:
        return subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
            cwd=folder,
            env=environment(env),
        )


class _Stream(io.TextIOWrapper):
    """What a command reads or writes in this process; `terminal` is what ``isatty()`` says."""

    def __init__(self, data: bytes, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def written(self) -> bytes:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue()


def call_beanpool(
    *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None, terminal: bool = False
) -> subprocess.CompletedProcess[bytes]:
    """Do in this process what :func:`run_beanpool` does in another one.

    :param terminal: whether what it writes to takes itself for a terminal.
    """
    source = _Stream(stdin, terminal=False)
    output, errors = (_Stream(b"", terminal=terminal) for _ in range(2))
    with (
        mock.patch.dict(os.environ, environment(env), clear=True),
        mock.patch.multiple(sys, stdin=source, stdout=output, stderr=errors),
    ):
        code = main(arguments)
    return subprocess.CompletedProcess(arguments, code, output.written(), errors.written())


class _OfThread:
    """A standard stream that is another one in each thread."""

    def __init__(self, name: str, streams: threading.local) -> None:
        self._name = name
        self._streams = streams

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(self._streams, self._name), name)


def call_at_once(commands: Iterable[Sequence[str]], stdin: bytes = b"") -> list[subprocess.CompletedProcess[bytes]]:
    """Call many commands in this process, a thread each, so that those that wait for a silent server wait together.

    :param stdin: what each of them reads.
    """
    streams = threading.local()

    def call(arguments: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        streams.stdin = _Stream(stdin, terminal=False)
        streams.stdout, streams.stderr = (_Stream(b"", terminal=False) for _ in range(2))
        code = main(arguments)
        return subprocess.CompletedProcess(arguments, code, streams.stdout.written(), streams.stderr.written())

    source, output, errors = (_OfThread(name, streams) for name in ("stdin", "stdout", "stderr"))
    listed = list(commands)
    with (
        mock.patch.dict(os.environ, environment(), clear=True),
        mock.patch.multiple(sys, stdin=source, stdout=output, stderr=errors),
        ThreadPoolExecutor(len(listed)) as executor,
    ):
        return list(executor.map(call, listed))


def call_into_file(file: IO[bytes], *arguments: str) -> tuple[int, str]:
    """Call a command in this process whose standard output is a file or pipe; return its code and its complaints."""
    errors = _Stream(b"", terminal=False)
    output = io.TextIOWrapper(file, encoding="utf-8")
    with (
        mock.patch.dict(os.environ, environment(), clear=True),
        mock.patch.multiple(sys, stdout=output, stderr=errors),
    ):
        code = main(arguments)
    output.close()
    return code, errors.written().decode()


@contextlib.contextmanager
def started_beanpool(
    *arguments: str,
    stdin: int | IO[Any] = subprocess.DEVNULL,
    stdout: int | IO[Any] = subprocess.PIPE,
    stderr: int | IO[Any] = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command and leave it running; killed at the end of the block if it still runs."""
    with (
        tempfile.TemporaryDirectory(prefix="beanpool-") as folder,
        subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            env=environment(env),
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def run_in_terminal(
    *arguments: str, env: Mapping[str, str] | None = None, columns: int = 100, lines: int = 40
) -> tuple[int, bytes]:
    """Run one command with a pseudo-terminal as its standard output; return its exit code and what it wrote there."""
    ours, theirs = os.openpty()
    size = {"COLUMNS": str(columns), "LINES": str(lines), "TERM": "xterm"}
    try:
        with started_beanpool(*arguments, stdout=theirs, env={**size, **(env or {})}) as process:
            os.close(theirs)
            theirs = -1
            output = _read_all(ours)
            return process.wait(60), output
    finally:
        os.close(ours)
        if theirs != -1:
            os.close(theirs)


def _read_all(descriptor: int) -> bytes:
    output = b""
    # Linux reports the end of a pseudo-terminal as an error.
    with contextlib.suppress(OSError):
        while chunk := os.read(descriptor, 65536):
            output += chunk
    return output
