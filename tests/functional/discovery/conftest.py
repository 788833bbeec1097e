"""A name server, and the records of a test's servers. All of it needs dnspython, which is an extra."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.name_server import NameServer, Zone

if importlib.util.find_spec("dns") is None and os.environ.get("BEANPOOL_REQUIRE_SERVERS", "") in ("", "0"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    """dnsmasq, with no records yet."""
    from support.name_server import NameServer

    with NameServer() as server:
        yield server


@pytest.fixture
def zone(name_server: NameServer, monkeypatch: pytest.MonkeyPatch) -> Zone:
    """Records for servers; the system finds their names there, too."""
    from support.name_server import SystemNames, Zone

    return Zone(name_server, SystemNames(name_server.resolver(), monkeypatch))


@pytest.fixture
def as_the_systems(name_server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets dnspython take the name server for the system's."""
    resolver = name_server.resolver()
    monkeypatch.setattr("dns.resolver.Resolver", lambda: resolver)
