"""On which servers a test runs.

The option ``--servers`` says it. ``real`` is beanstalkd here. With ``all``, some tests run once more on embedded
servers, and on some that are far away; with ``sliced``, tests run on servers behind a slicer instead. The tests know
nothing of it: they run on others where their folder is named below, and their name is not among those that say nothing
there.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from support.embedded_servers import NOT_EMBEDDED, EmbeddedBeanstalkd
from support.far_servers import NOT_FAR, FarBeanstalkd
from support.servers import BeanstalkdServer
from support.sliced_servers import NOT_SLICED, SlicedBeanstalkd

FUNCTIONAL = Path(__file__).resolve().parents[1] / "functional"
ON_EMBEDDED = ("connection", "jobs", "put/failover", "put/test_batch.py", "put/test_many.py", "reserve/test_sweep.py")
ON_FAR = ("jobs", "put/failover", "reserve/batch", "reserve/test_sweep.py")


class ServerKind(Enum):
    """What takes the place of a server, by the class that tests start it with."""

    REAL = BeanstalkdServer
    EMBEDDED = EmbeddedBeanstalkd
    FAR = FarBeanstalkd
    SLICED = SlicedBeanstalkd


def kinds_of(file: Path, test: str, fixtures: set[str], wanted: str) -> Iterator[ServerKind]:
    """The servers that a test runs on."""
    # Without servers of its own it would say nothing new.
    if "beanstalkd_factory" not in fixtures or not file.is_relative_to(FUNCTIONAL):
        wanted = "real"
    if wanted == "sliced" and test not in NOT_SLICED:
        yield ServerKind.SLICED
        return
    yield ServerKind.REAL
    if wanted == "all":
        if _stands_in(file, ON_EMBEDDED) and test not in NOT_EMBEDDED:
            yield ServerKind.EMBEDDED
        # Behind a delay line of its own it is far already.
        if _stands_in(file, ON_FAR) and test not in NOT_FAR and "delay_line" not in fixtures:
            yield ServerKind.FAR


def _stands_in(file: Path, places: tuple[str, ...]) -> bool:
    return any(file.is_relative_to(FUNCTIONAL / place) for place in places)
