"""A name server, and the records of a test's servers."""

from __future__ import annotations

from support.discovery import collect_ignore_glob, name_server, zone

__all__ = ["collect_ignore_glob", "name_server", "zone"]
