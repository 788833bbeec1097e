"""The servers of the demo, processes on loopback: beanstalkd with private write-ahead logs, or embedded ones."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from beanpool.testing.beanstalkd import BeanstalkdServer


class LoggedServer(BeanstalkdServer):
    """A beanstalkd with a write-ahead log.

    :ivar name: its name in the pool.
    :cvar keeps_jobs: whether it has its jobs back when it is started again.
    """

    keeps_jobs = True

    def __init__(self, name: str, program: str) -> None:
        super().__init__(wal=True, binary=program)
        self.name = name


class EmbeddedProcess(BeanstalkdServer):
    """An embedded server in a process of its own; its jobs die with it."""

    keeps_jobs = False

    def __init__(self, name: str) -> None:
        super().__init__(binary=sys.executable)
        self.name = name

    @property
    def _inherits_socket(self) -> bool:
        return True

    def _command(self) -> list[str]:
        # Its beanpool is ours, wherever that comes from, and not one that happens to lie in the working folder.
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        program = ["/usr/bin/env", f"PYTHONPATH={path}", self.binary, "-P", "-m", "beanpool.testing"]
        return [*program, "-l", self.host, "-p", str(self.port)]


@contextlib.contextmanager
def local_servers(program: str | None, names: Sequence[str]) -> Iterator[list[LoggedServer | EmbeddedProcess]]:
    """Run one server per name, beanstalkd or, without a program, embedded; no process and no file is left afterwards.

    :raises ServerFailed: one of them cannot be started.
    """
    servers: list[LoggedServer | EmbeddedProcess] = []
    with contextlib.ExitStack() as stack:
        for name in names:
            servers.append(EmbeddedProcess(name) if program is None else LoggedServer(name, program))
            stack.enter_context(servers[-1])
        yield servers
