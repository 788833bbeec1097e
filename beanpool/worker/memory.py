"""How much memory this process has."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_STATM = Path("/proc/self/statm")


def resident_memory() -> int:
    """The memory of this process that is in RAM (bytes); where the system has no ``/proc``, the most that ever was."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # macOS counts bytes, the others count kilobytes.
        return most if sys.platform == "darwin" else most * 1024
