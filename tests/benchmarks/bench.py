"""A run of benchmarks: how much effort it makes, and the servers that its cases share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.placement import one_core
from benchmarks.raw import RawPipeline
from support.servers import BeanstalkdServer, ServerFactory


@dataclass(frozen=True)
class Effort:
    """How long a run may take, as factors of what a case does by itself.

    :param rounds: of the rounds.
    :param operations: of the operations in a round.
    :param servers: the most servers in one case.
    """

    rounds: float
    operations: float
    servers: int


FULL = Effort(1.0, 1.0, 200)
QUICK = Effort(0.4, 0.5, 50)
SMOKE = Effort(0.0, 0.01, 4)


class Bench:
    """The servers of a run, and the sizes of its cases. A context manager: at the end all servers are stopped."""

    def __init__(self, effort: Effort, rounds: int | None = None) -> None:
        self.effort = effort
        self._rounds = rounds
        self._factory = ServerFactory()
        self._pipelines: dict[BeanstalkdServer, RawPipeline] = {}

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        for pipeline in self._pipelines.values():
            pipeline.close()
        self._factory.stop()

    def rounds(self, usual: int) -> int:
        """How many rounds a case makes that makes `usual` ones in a full run."""
        return self._rounds or max(2, round(usual * self.effort.rounds))

    def operations(self, usual: int) -> int:
        """How many operations a slice has that has `usual` ones in a full run."""
        return max(12, round(usual * self.effort.operations))

    def sizes(self, usual: tuple[int, ...]) -> tuple[int, ...]:
        """The numbers of servers, as far as this run goes."""
        return tuple(size for size in usual if size <= self.effort.servers)

    def servers(self, count: int) -> list[BeanstalkdServer]:
        """So many servers; the first ones are always the same."""
        while len(self._factory.servers) < count:
            self._factory()
        return self._factory.servers[:count]

    @contextlib.contextmanager
    def pinned(self, count: int) -> Iterator[list[BeanstalkdServer]]:
        """So many servers, on one core with this thread and those that it starts."""
        servers = self.servers(count)
        with one_core([server.pid for server in servers]):
            yield servers

    def fill(self, servers: list[BeanstalkdServer]) -> Callable[[int], None]:
        """A ``prepare`` of a contender that reserves: puts that many jobs, spread evenly, and a few more each.

        Those few more leave no server empty, in whatever order the jobs are taken.
        """

        def fill(count: int) -> None:
            for server in servers:
                self._pipeline(server).puts(_share(count, servers))

        return fill

    def drain_the_rest(self, servers: list[BeanstalkdServer]) -> Callable[[int], None]:
        """A ``clean_up`` after :meth:`fill`: leaves no job, and sees that as many were taken as should have been."""

        def drain(count: int) -> None:
            self._drain(servers, _share(count, servers) * len(servers) - count)

        return drain

    def drain_all(self, servers: list[BeanstalkdServer]) -> Callable[[int], None]:
        """A ``clean_up`` of a contender that puts: leaves no job, and sees that none is missing."""
        return lambda count: self._drain(servers, count)

    def _drain(self, servers: list[BeanstalkdServer], expected: int) -> None:
        found = sum(self._pipeline(server).drain() for server in servers)
        if found != expected:
            raise RuntimeError(f"{found} jobs were left in the servers, and {expected} should have been")

    def _pipeline(self, server: BeanstalkdServer) -> RawPipeline:
        if server not in self._pipelines:
            self._pipelines[server] = RawPipeline(server)
        return self._pipelines[server]


def _share(count: int, servers: list[BeanstalkdServer]) -> int:
    return -(-count // len(servers)) + len(servers)
