"""A name server, and the records of a test's servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.discovery import collect_ignore_glob, name_server, zone

if TYPE_CHECKING:
    from support.name_server import NameServer

__all__ = ["as_the_systems", "collect_ignore_glob", "name_server", "zone"]


@pytest.fixture
def as_the_systems(name_server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets dnspython take the name server for the system's."""
    resolver = name_server.resolver()
    monkeypatch.setattr("dns.resolver.Resolver", lambda: resolver)
