"""What this process holds: descriptors, threads and children; and running Python in another one."""

from __future__ import annotations

import contextlib
import gc
import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from support.waiting import wait_until

_DESCRIPTORS = Path("/proc/self/fd")
_DESCRIPTORS_TO_TRY = 4096


def open_descriptors() -> dict[int, str]:
    """The open descriptors of this process and what each one is, as far as the system tells."""
    found: dict[int, str] = {}
    if _DESCRIPTORS.is_dir():
        for name in os.listdir(_DESCRIPTORS):
            # The listing's own descriptor is gone when its link is read.
            with contextlib.suppress(FileNotFoundError):
                found[int(name)] = os.readlink(_DESCRIPTORS / name)
        return found
    for number in range(_DESCRIPTORS_TO_TRY):
        with contextlib.suppress(OSError):
            status = os.fstat(number)
            found[number] = f"{stat.filemode(status.st_mode)} {status.st_dev}:{status.st_ino}"
    return found


def thread_names(prefix: str = "") -> list[str]:
    """The sorted names of the running threads that start with `prefix`."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith(prefix))


def children() -> dict[int, str]:
    """The child processes of this process, zombies included, and what each one runs.

    Python's own resource tracker, which lives as long as the process, is left out.
    """
    if not any_child():
        return {}
    return {
        pid: command
        for pid, parent, command in _processes()
        if parent == os.getpid() and "multiprocessing.resource_tracker" not in command
    }


def any_child() -> bool:
    """Whether this process has any child at all, running or not yet reaped; reaps none."""
    if hasattr(os, "waitid"):
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
    return True


def command_lines() -> list[str]:
    """The command lines of all processes on the machine."""
    return [command for _, _, command in _processes()]


def _processes() -> list[tuple[int, int, str]]:
    """Every process: its id, its parent's, and what it runs."""
    # A small system has no ps, and macOS has no /proc.
    return _processes_from_proc() if Path("/proc/self/stat").exists() else _processes_from_ps()


def _processes_from_proc() -> list[tuple[int, int, str]]:
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        # A process may end while it is looked at.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = Path(entry.path, "stat").read_text(errors="replace")
            name, _, rest = status.partition("(")[2].rpartition(")")
            command = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found.append((int(entry.name), int(rest.split()[1]), command.strip() or f"({name})"))
    return found


def _processes_from_ps() -> list[tuple[int, int, str]]:
    with subprocess.Popen(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,command="], stdout=subprocess.PIPE, text=True, errors="replace"
    ) as ps:
        output = ps.communicate()[0]
    found = []
    for line in output.splitlines():
        pid, parent, command = line.split(None, 2)
        if int(pid) != ps.pid:
            found.append((int(pid), int(parent), command))
    return found


@contextlib.contextmanager
def assert_baseline(timeout: float = 5.0) -> Iterator[None]:
    """Assert that after the block this process holds no more descriptors and threads than before it.

    It waits up to `timeout` seconds for that, and does not look when the block raises. Open what is
    to live on (a server's ``control.open()``) before the block.
    """
    descriptors = open_descriptors()
    threads = set(threading.enumerate())
    yield

    def back() -> bool:
        # The frames of an exception that a test has caught hold what it interrupted until they are collected.
        gc.collect()
        return len(open_descriptors()) <= len(descriptors) and not set(threading.enumerate()) - threads

    end = time.monotonic() + timeout
    while not back():
        if time.monotonic() >= end:
            known = set(descriptors.items())
            new = {number: what for number, what in open_descriptors().items() if (number, what) not in known}
            names = sorted(thread.name for thread in set(threading.enumerate()) - threads)
            raise AssertionError(
                f"not back at the baseline after {timeout:g} s: {len(open_descriptors())} descriptors, "
                f"before {len(descriptors)}; new ones: {new}; new threads: {names}"
            )
        with contextlib.suppress(AssertionError):
            wait_until(back, "the baseline", max(0.0, end - time.monotonic()))


def run_python(
    source: str, *arguments: str, environment: Mapping[str, str] | None = None, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run `source` in another interpreter, in its development mode and with warnings as errors.

    The installed beanpool is imported, not the source folder that the tests may have been started in.

    :param environment: variables to add.
    :param timeout: seconds; a process that takes longer is killed, and ``subprocess.TimeoutExpired`` raised.
    """
    with tempfile.TemporaryDirectory(prefix="beanpool-") as folder:
        return subprocess.run(
            [sys.executable, "-P", "-X", "dev", "-W", "error", "-c", source, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )
