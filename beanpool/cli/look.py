"""One look at all servers and their tubes, all at once, for what is shown or judged."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from beanpool import PoolManager, ServerStatus
from beanpool.cli.pool import reason

Stats = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What was seen.

    :ivar at: when (monotonic seconds).
    :ivar servers: as the pool sees them.
    :ivar stats: the statistics of each server that answered, by its address.
    :ivar errors: of those that did not, the reasons.
    :ivar tubes: the statistics of each tube, by its name and by server. This pool is not among those that watch it.
    :ivar ages: of each tube with ready jobs, how long ago the job was put that comes next, on the server where it is
        oldest (seconds).
    """

    at: float
    servers: tuple[ServerStatus, ...]
    stats: Mapping[str, Stats]
    errors: Mapping[str, str]
    tubes: Mapping[str, Mapping[str, Stats]]
    ages: Mapping[str, float]

    def sum(self, counter: str, tube: str) -> int:
        """A counter of a tube, added up over the servers."""
        return sum(stats[counter] for stats in self.tubes[tube].values())


def look(pool: PoolManager[bytes], glob: str = "*") -> Look:
    """Look at all servers; who is silent costs the pool's timeout.

    :param glob: only at tubes that match.
    """
    surveys = pool.survey(glob, head_age=True)
    servers = pool.servers
    own = {status.address: status.open for status in servers}
    watched = pool.watching()
    tubes: dict[str, dict[str, Stats]] = {}
    ages: dict[str, float] = {}
    for server, survey in surveys.items():
        for name, stats in survey.tubes.items():
            others = max(0, stats["current-watching"] - own[server]) if name in watched else stats["current-watching"]
            tubes.setdefault(name, {})[server] = {**stats, "current-watching": others}
        for name, age in survey.head_ages.items():
            ages[name] = max(float(age), ages.get(name, 0.0))
    return Look(
        time.monotonic(),
        servers,
        {server: survey.stats for server, survey in surveys.items() if survey.stats is not None},
        {server: reason(server, survey.error) for server, survey in surveys.items() if survey.error is not None},
        dict(sorted(tubes.items())),
        ages,
    )
