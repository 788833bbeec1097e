"""A name server, and the records of a test's servers: fixtures, which need dnspython. That is an extra."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.name_server import NameServer, Zone

__all__ = ["collect_ignore_glob", "name_server", "zone"]

collect_ignore_glob: list[str] = []
if importlib.util.find_spec("dns") is None and os.environ.get("BEANPOOL_REQUIRE_SERVERS", "") in ("", "0"):
    collect_ignore_glob.append("test_*.py")


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
