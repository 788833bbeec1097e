"""Commands on one job, named by its id: which server it lives in, and whether the pool has it in hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from beanpool.cluster import Cluster, ask_one
from beanpool.config import AnyServer
from beanpool.connection import Job, JobId, found_job, results
from beanpool.errors import NotFound, job_lost
from beanpool.protocol import PEEK, STATS_JOB, Command, Reply, check_id, encode_job
from beanpool.server import Member, PooledConnection, why_another

Answer = TypeVar("Answer")


class JobsById:
    """The jobs of a cluster, by the :class:`JobId` of their put, or by an ``int`` and the name of a server."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def locate(self, jid: int, server: AnyServer | None = None) -> tuple[Member, str | None]:
        """The member that a job's id belongs to, and the server process that gave the id, if that is known.

        :raises ValueError: if the id may belong to several.
        """
        check_id(jid)
        topology = self._cluster.topology
        instance = None
        if isinstance(jid, JobId):
            if server is not None and topology.find(server) is not topology.find(jid.server):
                raise ValueError(f"server must be left out or be that of the JobId ({jid.server}), not {server!r}")
            server, instance = jid.server, jid.instance
        if server is None:
            if topology.single is None:
                raise ValueError(
                    f"job id {jid} names a different job on each of the {len(topology.members)} servers: "
                    "pass the JobId that put() returned, or server="
                )
            return topology.single, None
        return topology.get(server), instance

    def confirm(self, command: Command, success: str, jid: int, server: AnyServer | None) -> None:
        """Carry out a command on a job that is not in hand.

        :param success: the status of the reply to it.
        """

        def read(connection: PooledConnection, reply: Reply) -> None:
            results.confirm(command, success, connection.channel, reply)

        self._ask(command, jid, server, read)

    def stats(self, jid: int, server: AnyServer | None) -> Any:
        """The statistics of a job."""

        def read(connection: PooledConnection, reply: Reply) -> Any:
            return results.document(True, STATS_JOB, connection.channel, reply)

        return self._ask(STATS_JOB, jid, server, read)

    def peek(self, jid: int, server: AnyServer | None) -> Job | None:
        """A copy of a job; None if there is none."""

        def read(connection: PooledConnection, reply: Reply) -> Job | None:
            return found_job(connection, PEEK, None, jid, connection.channel, reply)

        return self._ask(PEEK, jid, server, read)

    def _ask(
        self, command: Command, jid: int, server: AnyServer | None, read: Callable[[PooledConnection, Reply], Answer]
    ) -> Answer:
        """Ask a job's server about it.

        :raises JobLost: if it is another process than the one that gave the id.
        """
        member, instance = self.locate(jid, server)
        cluster = self._cluster
        if not cluster.started:
            cluster.start()

        def ask_the_same(connection: PooledConnection, deadline: float) -> Answer:
            reason = why_another(connection, instance) if instance is not None else None
            if reason is not None:
                raise job_lost(jid, member.address, reason)
            return read(connection, connection.channel.exchange(command, encode_job(command, jid), deadline))

        return ask_one(member, time.monotonic() + cluster.timeout, ask_the_same, None)

    def held(self, jid: int) -> Job | None:
        """The job in hand that a :class:`JobId` names, also where its server has been removed since."""
        jobs = self._cluster.jobs_in_hand.get(jid.server) if isinstance(jid, JobId) else None
        return jobs.find(jid, jid.instance) if jobs is not None and isinstance(jid, JobId) else None

    def find(self, jid: int, server: AnyServer | None) -> Job | None:
        """The job in hand with this id."""
        job = self.held(jid) if server is None else None
        if job is not None:
            return job
        member, instance = self.locate(jid, server)
        return member.reservations.find(check_id(jid), instance)

    def get(self, jid: int, server: AnyServer | None, command: str) -> Job:
        """The job in hand with this id.

        :raises NotFound: if there is none: what the server would say to the command.
        """
        job = self.find(jid, server)
        if job is None:
            raise NotFound(command, "NOT_FOUND", [])
        return job
