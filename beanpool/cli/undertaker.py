"""A process that outlives this one for a moment, and clears away what it has left behind."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

# Its standard input ends when this process does, however that ends. The shell is in the group itself, so it goes too.
_LAST_WILL = 'read -r _; rm -rf "$0"; kill -9 0'


@contextlib.contextmanager
def undertaker(directory: Path) -> Iterator[int]:
    """Yield a process group: if this process dies in the block, its processes are killed and `directory` is removed.

    Who leaves the block alive has ended them before.

    :raises OSError: if there is no shell.
    """
    with subprocess.Popen(
        ["/bin/sh", "-c", _LAST_WILL, directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    ) as process:
        try:
            yield process.pid
        finally:
            process.kill()
