"""What a run was made on, as far as it matters for its figures."""

from __future__ import annotations

import platform
import sysconfig
from pathlib import Path

from benchmarks.peers import versions
from benchmarks.placement import CAN_PIN, all_cores
from support.servers import beanstalkd_version, require_beanstalkd


def facts() -> str:
    """One line: cores, Python, server and the other clients' versions."""
    lock = ", free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    cores = len(all_cores())
    parts = [
        f"{cores} core{'s' * (cores != 1)} ({_processor()})",
        f"{platform.system()} {platform.machine()}",
        f"{platform.python_implementation()} {platform.python_version()}{lock}",
        f"beanstalkd {beanstalkd_version(require_beanstalkd())}",
        *(f"{name} {version}" for name, version in versions().items()),
    ]
    if not CAN_PIN:
        parts.append("client and servers could not be pinned to one core")
    return ", ".join(parts)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
