"""Whether a queue is empty: nothing that a server has not said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beanpool.errors import NotFound

_COUNTED = ("current-jobs-ready", "current-jobs-delayed", "current-jobs-reserved")

Emptiness = tuple[tuple[str, int | None], ...]
"""How many jobs each server that has none now ever had in a tube; None for one that does not know the tube."""


def emptiness_of(answers: Mapping[str, Any]) -> tuple[Emptiness | None, str]:
    """The emptiness of all servers; None, and why, if one is not empty, or has not answered."""
    totals: list[tuple[str, int | None]] = []
    for server, answer in answers.items():
        if isinstance(answer, NotFound):
            totals.append((server, None))
        elif isinstance(answer, BaseException):
            return None, str(answer)
        elif counts := ", ".join(f"{answer[name]} {name[13:]}" for name in _COUNTED if answer[name]):
            return None, f"{server} has {counts}"
        else:
            totals.append((server, answer["total-jobs"]))
    return (tuple(totals), "messages have come meanwhile") if totals else (None, "there are no servers")
