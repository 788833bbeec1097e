"""On which servers a test runs: beanstalkd here; with ``--servers all`` also embedded ones, and ones that are far away.

Most tests know nothing of it. A test is run on others where its folder is named below, and its name is not among those
that say nothing there.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from support.embedded_servers import NOT_EMBEDDED, EmbeddedBeanstalkd
from support.far_servers import NOT_FAR, FarBeanstalkd
from support.servers import BeanstalkdServer

FUNCTIONAL = Path(__file__).resolve().parents[1] / "functional"
ON_EMBEDDED = ("connection", "jobs", "put/failover", "put/test_batch.py", "put/test_many.py", "reserve/test_sweep.py")
ON_FAR = ("jobs", "put/failover", "reserve/batch", "reserve/test_sweep.py")


class ServerKind(Enum):
    """What takes the place of a server, by the class that tests start it with."""

    REAL = BeanstalkdServer
    EMBEDDED = EmbeddedBeanstalkd
    FAR = FarBeanstalkd


def other_kinds(file: Path, test: str, fixtures: set[str]) -> Iterator[ServerKind]:
    """The servers that a test runs on beside the real ones."""
    # Without servers of its own it would say nothing new.
    if "beanstalkd_factory" not in fixtures:
        return
    if _stands_in(file, ON_EMBEDDED) and test not in NOT_EMBEDDED:
        yield ServerKind.EMBEDDED
    # Behind a delay line of its own it is far already.
    if _stands_in(file, ON_FAR) and test not in NOT_FAR and "delay_line" not in fixtures:
        yield ServerKind.FAR


def _stands_in(file: Path, places: tuple[str, ...]) -> bool:
    return any(file.is_relative_to(FUNCTIONAL / place) for place in places)
