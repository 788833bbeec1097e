"""Nothing that a test starts outlives the process that started it, however that ends."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

# Its standard input ends when this process does. The shell is in the group itself, so it goes too. The system sends
# SIGHUP to a group that lost its parent while one of its processes was stopped.
_CLEAR_AWAY = 'trap "" HUP; read -r _; rm -rf "$0"; kill -9 0'


class ParentDeathGuard:
    """A private folder, and a process group for what works in it: if this process dies, both are cleared away.

    PR_SET_PDEATHSIG would end a server with the *thread* that started it, and needs code between fork and exec.

    :ivar folder: the folder.
    :ivar group: the process group, another one than this process's: Ctrl-C is not for it.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="beanpool-"))
        try:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _CLEAR_AWAY, self.folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self.group = self._shell.pid

    def close(self) -> None:
        """Remove the folder; the caller has ended the processes. Idempotent."""
        self._shell.kill()
        self._shell.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)
