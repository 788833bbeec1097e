"""``python -m beanpool.testing``: an embedded server in a process of its own."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import BeanstalkdServer
from support.waiting import wait_until

import beanpool.testing.beanstalkd
from beanpool import Connection
from beanpool.testing.raw_client import RawClient

COMMAND = (sys.executable, "-P", "-m", "beanpool.testing")


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], RawClient]]:
    with subprocess.Popen([*COMMAND, "-p", "0", *arguments], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            announced = re.fullmatch(r"listening on (\S+) port (\d+)\n", process.stderr.readline())
            assert announced
            with RawClient((announced[1], int(announced[2])), 10) as client:
                yield process, client
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_end(number: signal.Signals) -> None:
    with serving("-z", "10") as (process, client):
        assert client.stats()["pid"] == str(process.pid)
        assert client.command("put 0 0 60 11", b"x" * 11) == b"JOB_TOO_BIG"
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_signal_lets_it_drain() -> None:
    with serving() as (process, client):
        client.put(b"job")
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: client.stats()["draining"] == "true", "it to drain", 10)
        assert client.command("put 0 0 60 1", b"x") == b"DRAINING"
        assert client.reserve() is not None


def test_it_takes_the_options_of_the_program(tmp_path: Path) -> None:
    with serving("-b", str(tmp_path), "-f0", "-F", "-s", "4096", "-VV", "--version", "1.12") as (process, client):
        assert client.stats()["version"] == "1.12"
        assert client.command("reserve-with-timeout x") == b"TIMED_OUT"
        process.terminate()
        assert process.stderr is not None
        assert process.stderr.read() == (
            f"python -m beanpool.testing: -b {tmp_path} is ignored: jobs live as long as this process\n"
        )
    shown = subprocess.run([*COMMAND, "-v"], capture_output=True, text=True, check=True, timeout=60)
    assert re.match(r"beanstalkd 1\.13 ", shown.stdout)
    assert list(tmp_path.iterdir()) == []


def test_it_listens_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "b.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    with subprocess.Popen([*COMMAND, "-l", f"unix:{path}"], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == f"listening on unix:{path}\n"
            with Connection.from_url(f"beanstalk+unix://{path}") as connection:
                assert (connection.put("x"), connection.stats()["version"]) == (1, "1.13")
            process.terminate()
            assert process.wait(20) == 0
            assert not path.exists()
        finally:
            process.kill()
    (tmp_path / "file").touch()
    for bad, reason in (("file", "Address already in use"), ("no/b.sock", "No such file or directory")):
        done = subprocess.run(
            [*COMMAND, "-l", f"unix:{tmp_path / bad}"], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 69
        assert done.stderr.endswith(f": cannot listen on unix:{tmp_path / bad}: {reason}\n")
    assert (tmp_path / "file").exists()


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run([*COMMAND, "-p", str(port)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 69
    assert done.stderr.endswith(f": cannot listen on 127.0.0.1 port {port}: Address already in use\n")
    assert len(done.stderr.splitlines()) == 1


def test_it_takes_the_place_of_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "beanstalkd"
    program.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    # It serves on the socket that it inherits, if it is given the time that Python takes to start.
    monkeypatch.setattr(beanpool.testing.beanstalkd, "takes_listening_socket", lambda binary: True)
    server = BeanstalkdServer(binary=str(program), max_job_size=10)
    try:
        server.start(wait=False)
        server.wait_ready(60)
        port = server.port
        server.control.put(b"job")
        server.drain()
        server.freeze()
        server.thaw()
        server.kill()
        server.start(wait=False)
        server.wait_ready(60)
        assert (server.port, server.control.counter("total-jobs")) == (port, 0)
    finally:
        server.stop()
