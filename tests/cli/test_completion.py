"""What shells are told on a Tab."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support.command_line import COMMAND, call_beanpool, environment
from support.servers import BeanstalkdServer

argcomplete = pytest.importorskip("argcomplete")

NOBODY = "127.0.0.1:1"


def completions(line: str, folder: Path) -> list[str]:
    """What a shell gets for a line with the cursor at its end."""
    output = folder / "completions"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(output),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    # Without the checks of the development mode: argcomplete closes no files before it ends the process.
    command = [COMMAND[0], "-P", "-m", "beanpool"]
    done = subprocess.run(command, env=environment(asked), capture_output=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == (b"", b"")
    return [word.strip() for word in output.read_text().splitlines()] if output.exists() else []


def test_commands_and_options(tmp_path: Path) -> None:
    assert completions("beanpool ev", tmp_path) == ["evacuate"]
    assert "--dry-run" in completions("beanpool clear mail --", tmp_path)


def test_tubes_come_from_the_servers_that_the_line_names(beanstalkd: BeanstalkdServer, tmp_path: Path) -> None:
    for tube in ("mail-in", "mail-out", "post"):
        beanstalkd.control.put(b"x", tube)
    url = f"beanpool --url {beanstalkd.url} "
    assert completions(f"{url}peek mail", tmp_path) == ["mail-in", "mail-out"]
    assert completions(f"{url}move post mail-o", tmp_path) == ["mail-out"]


def test_without_a_server_there_is_nothing_and_no_noise(tmp_path: Path) -> None:
    assert completions(f"beanpool --url beanstalk://{NOBODY} peek mail", tmp_path) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_read_their_code(shell: str) -> None:
    done = call_beanpool("completion", shell)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"beanpool" in done.stdout
    program = shutil.which(shell)
    if program is not None:
        read = subprocess.run([program, "-n"], input=done.stdout, capture_output=True, timeout=30, check=False)
        assert (read.returncode, read.stderr) == (0, b"")


def test_bash_completes_a_line(beanstalkd: BeanstalkdServer, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    beanstalkd.control.put(b"x", "mail-in")
    program = tmp_path / "beanpool"
    program.write_text(f'#!/bin/sh\nexec {COMMAND[0]} -P -m beanpool "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(beanpool completion bash)"
        COMP_LINE='beanpool peek ma' COMP_POINT=16 COMP_TYPE=9 COMP_CWORD=2
        COMP_WORDS=(beanpool peek ma)
        _python_argcomplete beanpool ma peek
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    path = {"PATH": f"{tmp_path}:{environment()['PATH']}", "BEANPOOL_URL": beanstalkd.url}
    done = subprocess.run(
        [bash, "--norc", "-c", script], env=environment(path), capture_output=True, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (b"mail-in", b"")
