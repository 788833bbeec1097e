"""Which faults come when: a schedule that follows from its seed, and who carries it out."""

from __future__ import annotations

import collections
import dataclasses
import functools
import random
import threading
import time
from collections.abc import Callable, Sequence

from chaos.proxies import LinkedServer
from support.toxiproxy import STREAMS

ALL = -1
"""Stands for all servers."""


@dataclasses.dataclass(frozen=True, order=True)
class Planned:
    """One fault of a schedule. Times are seconds since the start."""

    at: float
    until: float
    server: int
    kind: str
    number: int
    """Of what the kind needs: bytes, milliseconds."""

    def __str__(self) -> str:
        where = "all servers" if self.server == ALL else f"server {self.server}"
        return f"{self.at:8.3f} to {self.until:8.3f} s: {self.kind} ({self.number}) on {where}"


Begin = Callable[[LinkedServer, int], object]


def _far(server: LinkedServer, number: int) -> None:
    for stream in STREAMS:
        server.link.add("latency", stream, latency=number // 2)


KINDS: dict[str, Begin] = {
    **{
        f"{kind} {stream}": functools.partial(
            lambda server, number, kind, stream, attribute, more: server.link.add(
                kind, stream, **{attribute: number, **more}
            ),
            kind=kind,
            stream=stream,
            attribute=attribute,
            more=more,
        )
        for stream in STREAMS
        for kind, attribute, more in (
            ("latency", "latency", {"jitter": 50}),
            ("bandwidth", "rate", {}),
            ("slicer", "delay", {"average_size": 1, "size_variation": 0}),
            ("limit_data", "bytes", {}),
            ("reset_peer", "timeout", {}),
            ("slow_close", "delay", {}),
        )
    },
    **{
        f"black hole {stream}": functools.partial(
            lambda server, number, stream: server.link.add("timeout", stream, timeout=0), stream=stream
        )
        for stream in STREAMS
    },
    "far": _far,
    "link down": lambda server, number: server.link.down(),
    "link cut": lambda server, number: server.link.cut(),
    "kill -9": lambda server, number: server.kill(),
    "kill -9 behind a link that stays": lambda server, number: server.server.kill(),
    "SIGSTOP": lambda server, number: server.server.freeze(),
    "drain": lambda server, number: server.server.drain(),
}
NUMBERS = {
    "far": (300, 300),
    "latency": (50, 1500),
    "bandwidth": (2, 50),
    "slicer": (0, 200),
    "limit_data": (0, 3000),
}
# A server that is merely slow is nothing that passes in a moment.
_FAR_FOR = (3.0, 8.0)


def make_schedule(seed: int, seconds: float, servers: int) -> list[Planned]:
    """The faults of a run: one to a server at a time, one server always well, but for moments when all are gone."""
    rng = random.Random(f"{seed} {seconds} {servers}")
    planned: list[Planned] = []
    busy_until = [0.0] * servers
    at = 1.0
    while (at := at + rng.expovariate(1.5)) < seconds - 1.0:
        free = [server for server in range(servers) if busy_until[server] <= at]
        until = min(at + rng.choice((0.05, 0.3, 0.8, 1.5, 3.0)) * rng.uniform(0.5, 1.5), seconds)
        if len(free) == servers and rng.random() < 0.05:
            until = min(until, at + 1.0)
            planned.append(Planned(at, until, ALL, "link down", 0))
            busy_until = [until] * servers
        elif len(free) > 1:
            server, kind = rng.choice(free), rng.choice(list(KINDS))
            number = rng.randint(*NUMBERS.get(kind.split()[0], (0, 300)))
            if kind == "far":
                until = min(at + rng.uniform(*_FAR_FOR), seconds)
            planned.append(Planned(at, until, server, kind, number))
            busy_until[server] = until
    return planned


class Injector:
    """Does to the servers what the schedule says."""

    def __init__(self, servers: Sequence[LinkedServer], planned: Sequence[Planned]) -> None:
        self._servers = servers
        steps = [(fault.at, 1, fault) for fault in planned] + [(fault.until, 0, fault) for fault in planned]
        self._steps = sorted(steps)
        self.injected: collections.Counter[str] = collections.Counter()

    def run(self, stop: threading.Event) -> None:
        """Go through the schedule; at the end everything is well."""
        started = time.monotonic()
        for at, begins, fault in self._steps:
            if stop.wait(max(0.0, started + at - time.monotonic())):
                break
            for server in self._servers if fault.server == ALL else [self._servers[fault.server]]:
                if begins:
                    KINDS[fault.kind](server, fault.number)
                else:
                    self._heal(server, fault)
            self.injected[fault.kind] += begins
        for server in self._servers:
            server.heal(cut=True)

    def _heal(self, server: LinkedServer, fault: Planned) -> None:
        if fault.kind == "drain":
            server.control.close()
            server.server.restart()
        server.heal(cut=True)
