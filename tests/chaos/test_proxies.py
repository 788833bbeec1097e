"""The fixture itself: its toxics do what the tests take them for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.processes import assert_baseline
from support.waiting import wait_until

from beanpool.testing.raw_client import RawClient

if TYPE_CHECKING:
    from chaos.conftest import StartProxied

ROOT = Path(__file__).resolve().parents[2]


def test_a_link_passes_everything_on_and_the_truth_goes_past_it(proxied: StartProxied) -> None:
    (server,) = proxied(1)
    with RawClient((server.link.host, server.link.port)) as client:
        assert client.put(b"x") == 1
        assert server.control.peek(1) == b"x"
        assert server.control.address == server.address == client.address
        server.link.down()
        with pytest.raises(OSError):
            client.stats()
        with pytest.raises(ConnectionRefusedError):
            client.stats()
        assert server.control.peek(1) == b"x"
        server.link.up()
        assert client.peek(1) == b"x"


def test_the_port_of_a_link_that_is_down_is_nobody_elses(proxied: StartProxied) -> None:
    (server,) = proxied(1)
    server.link.down()
    with socket.socket() as other, pytest.raises(OSError):
        other.bind((server.link.host, server.link.port))
        other.listen()
    server.link.up()


def test_toxics_leave_no_descriptor_behind(proxied: StartProxied) -> None:
    (server,) = proxied(1)
    with assert_baseline():
        for _ in range(5):
            with server.link.toxic("latency", latency=1):
                pass


@pytest.mark.parametrize(
    ("kind", "stream", "attributes", "stored"),
    [
        ("timeout", "downstream", {"timeout": 0}, True),
        ("limit_data", "downstream", {"bytes": 5}, True),
        ("reset_peer", "downstream", {"timeout": 0}, True),
        ("timeout", "upstream", {"timeout": 0}, False),
        ("limit_data", "upstream", {"bytes": 20}, False),
        ("reset_peer", "upstream", {"timeout": 0}, False),
    ],
)
def test_what_a_toxic_does_to_a_put(
    proxied: StartProxied, kind: str, stream: str, attributes: dict[str, int], stored: bool
) -> None:
    (server,) = proxied(1)
    with RawClient((server.link.host, server.link.port), timeout=0.3) as client:
        client.open()
        client.stats()
        server.link.add(kind, "upstream" if stream == "upstream" else "downstream", **attributes)
        with pytest.raises(OSError):
            client.command("put 0 0 60 30", b"x" * 30)
        if stored:
            wait_until(lambda: server.control.peek(1), "the job", 2)
        server.link.clear()
        wait_until(lambda: server.control.other_connections() == 0, "the end of the connection", 2)
        assert (server.control.peek(1) is not None) == stored


def test_without_the_program_tests_skip_with_one_line_or_fail(tmp_path: Path) -> None:
    for required, expected in (("", "2 skipped"), ("1", "2 errors")):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-p", "pytest_timeout", "-p", "no:cacheprovider", "-q"),
                *(f"{__file__}::{name}" for name in LINK_TESTS),
            ],
            env={
                **os.environ,
                "TOXIPROXY_SERVER": str(tmp_path / "none"),
                "BEANPOOL_REQUIRE_SERVERS": required,
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert expected in done.stdout.splitlines()[-1], done.stdout
        assert done.stdout.count("which is no program") == (1 if not required else done.stdout.count("which is no"))


LINK_TESTS = (
    test_the_port_of_a_link_that_is_down_is_nobody_elses.__name__,
    test_toxics_leave_no_descriptor_behind.__name__,
)
