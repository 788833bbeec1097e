"""What servers say, made up: healthy ones, to be changed."""

from __future__ import annotations

from typing import Any

from beanpool import ServerStatus

HEALTHY: dict[str, Any] = {
    "id": "a",
    "version": "1.13",
    "draining": False,
    "max-job-size": 65535,
    "binlog-current-index": 1,
    "current-connections": 10,
    "job-timeouts": 0,
    "total-jobs": 1000,
    "cmd-delete": 900,
    "current-waiting": 1,
    "current-jobs-ready": 0,
    "current-jobs-reserved": 0,
    "current-jobs-delayed": 0,
    "current-jobs-buried": 0,
}
TUBE: dict[str, Any] = {
    "current-jobs-ready": 0,
    "current-jobs-reserved": 0,
    "current-jobs-delayed": 0,
    "current-jobs-buried": 0,
    "current-watching": 1,
    "current-waiting": 0,
    "pause-time-left": 0,
    "total-jobs": 100,
    "cmd-delete": 90,
}


def status(address: str, **changes: Any) -> ServerStatus:
    """A server that is up, but for `changes`."""
    fields: dict[str, Any] = {
        "address": address,
        "name": address,
        "weight": 1.0,
        "state": "up",
        "draining": False,
        "leaving": False,
        "instance": "a",
        "version": "1.13",
        "round_trip": 0.001,
        "last_error": None,
        "since": 1.0,
        "open": 1,
        "idle": 1,
        "leased": 0,
    }
    return ServerStatus(**{**fields, **changes})
