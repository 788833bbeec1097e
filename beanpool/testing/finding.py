"""Where the programs are that tests start."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

_HOW_TO_GET_BEANSTALKD = (
    "beanstalkd was not found: install it (apt-get install beanstalkd, dnf install beanstalkd, "
    "brew install beanstalkd, apk add beanstalkd) or name the program in $BEANSTALKD"
)

_USUAL_FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/opt/homebrew/bin", "/opt/local/bin")


def find_beanstalkd() -> str | None:
    """The path of the beanstalkd program: $BEANSTALKD, then PATH, then the usual folders; None if there is none."""
    named = os.environ.get("BEANSTALKD")
    if named:
        return shutil.which(named)
    return shutil.which("beanstalkd") or shutil.which("beanstalkd", path=os.pathsep.join(_USUAL_FOLDERS))


def no_beanstalkd() -> str:
    """Why :func:`find_beanstalkd` found none, and what to do about it, in one line."""
    named = os.environ.get("BEANSTALKD")
    return f"$BEANSTALKD names {named}, which is no program" if named else _HOW_TO_GET_BEANSTALKD


@functools.cache
def beanstalkd_version(binary: str) -> str:
    """What ``beanstalkd -v`` says, without the program's name: "1.12"."""
    output = subprocess.run([binary, "-v"], capture_output=True, text=True, timeout=10, check=False).stdout
    return output.strip().removeprefix("beanstalkd").strip() or "unknown"
