"""Commands on servers that SRV records tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.command_line import call_beanpool
from support.name_server import NAME, Zone

if TYPE_CHECKING:
    from conftest import StartCluster

URL = f"beanstalk+srv://{NAME}"


@pytest.mark.usefixtures("as_the_systems")
def test_a_command_waits_for_the_records(cluster: StartCluster, zone: Zone) -> None:
    a, b = cluster(2)
    zone.list(a, b)
    jid = b.control.put(b"x", "from-b")
    done = call_beanpool("tubes", env={"BEANPOOL_URL": URL})
    assert done.returncode == 0, done.stderr
    assert b"from-b" in done.stdout
    assert b.control.state(jid) == "ready"


@pytest.mark.usefixtures("as_the_systems", "zone")
def test_no_records_are_no_servers() -> None:
    done = call_beanpool("--timeout", "1", "--url", URL, "tubes")
    assert (done.returncode, done.stdout) == (69, b""), done.stderr
    assert b"the pool has no servers" in done.stderr
    assert b"-v shows why" in done.stderr


def test_the_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr("beanpool.discovery.dns_srv.load", load)
    done = call_beanpool("--url", URL, "tubes")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"install beanpool[dns]" in done.stderr
