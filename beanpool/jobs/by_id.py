"""Commands on one job, named by its id: which server it lives in, and whether the pool has it in hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from beanpool.cluster import Cluster, ask_one
from beanpool.config import AnyServer
from beanpool.connection import Job, JobId, found_job, results
from beanpool.errors import job_lost, no_server, refusal
from beanpool.protocol import DELETE, KICK_JOB, PEEK, STATS_JOB, Command, Reply, check_id, encode_job
from beanpool.server import Member, PooledConnection, why_another

Answer = TypeVar("Answer")


class JobsById:
    """The jobs of a cluster, by the :class:`JobId` of their put, or by an ``int`` and the name of a server."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def locate(
        self, jid: int, server: AnyServer | None = None, timeout: float | None = None
    ) -> tuple[Member, str | None]:
        """The member that a job's id belongs to, and the server process that gave the id, if that is known.

        :param timeout: how long to wait for servers where a discovery has not yet been asked (seconds); None for the
            cluster's timeout.
        :raises ValueError: if the id may belong to several.
        :raises NoServerAvailable: if there is none.
        """
        check_id(jid)
        cluster = self._cluster
        topology = cluster.topology
        if not topology.members and cluster.is_discovered:
            cluster.start(cluster.deadline(timeout))
            topology = cluster.topology
        instance = None
        if isinstance(jid, JobId):
            if server is not None and topology.find(server) is not topology.find(jid.server):
                raise ValueError(f"server must be left out or be that of the JobId ({jid.server}), not {server!r}")
            server, instance = jid.server, jid.instance
        if server is None:
            if not topology.members:
                raise no_server({}, "can have the job")
            if topology.single is None:
                raise ValueError(
                    f"job id {jid} names a different job on each of the {len(topology.members)} servers: "
                    "pass the JobId that put() returned, or server="
                )
            return topology.single, None
        return topology.get(server), instance

    def deadline(self, timeout: float | None) -> float:
        """When a call that begins now must end (monotonic seconds).

        :param timeout: how long it may take (seconds); None for the cluster's.
        """
        return self._cluster.deadline(timeout)

    def delete(self, jid: Job[Any] | int, server: AnyServer | None, timeout: float | None) -> None:
        """Delete a job."""
        found = self.find(jid, server, timeout)
        if found is not None:
            found.delete(timeout=timeout)
        elif not isinstance(jid, Job):
            self._ask(DELETE, jid, server, timeout, functools.partial(_confirm, DELETE, "DELETED", jid))

    def kick(self, jid: Job[Any] | int, server: AnyServer | None, timeout: float | None) -> None:
        """Make a buried or delayed job ready."""
        if isinstance(jid, Job):
            self._itself(jid, server).kick(timeout=timeout)
        else:
            self._ask(KICK_JOB, jid, server, timeout, functools.partial(_confirm, KICK_JOB, "KICKED", jid))

    def stats(self, jid: Job[Any] | int, server: AnyServer | None, timeout: float | None) -> Any:
        """The statistics of a job."""
        if isinstance(jid, Job):
            return self._itself(jid, server).stats(timeout=timeout)

        def read(connection: PooledConnection, reply: Reply) -> Any:
            return results.document(True, STATS_JOB, connection.channel, reply, job=jid)

        return self._ask(STATS_JOB, jid, server, timeout, read)

    def peek(self, jid: int, server: AnyServer | None, timeout: float | None) -> Job[Any] | None:
        """A copy of a job; None if there is none."""

        def read(connection: PooledConnection, reply: Reply) -> Job[Any] | None:
            return found_job(connection, PEEK, None, jid, connection.channel, reply)

        return self._ask(PEEK, jid, server, timeout, read)

    def _ask(
        self,
        command: Command,
        jid: int,
        server: AnyServer | None,
        timeout: float | None,
        read: Callable[[PooledConnection, Reply], Answer],
    ) -> Answer:
        """Ask a job's server about it.

        :raises JobLost: if it is another process than the one that gave the id.
        """
        until = self.deadline(timeout)
        member, instance = self.locate(jid, server, timeout)
        cluster = self._cluster
        if not cluster.started:
            cluster.start()

        def ask_the_same(connection: PooledConnection, deadline: float) -> Answer:
            reason = why_another(connection, instance) if instance is not None else None
            if reason is not None:
                raise job_lost(jid, member.address, reason)
            return read(connection, connection.channel.exchange(command, encode_job(command, jid), deadline))

        return ask_one(member, until, ask_the_same, None)

    def held(self, jid: int) -> Job[Any] | None:
        """The job in hand that a :class:`JobId` names, also where its server has been removed since."""
        jobs = self._cluster.jobs_in_hand.get(jid.server) if isinstance(jid, JobId) else None
        return jobs.find(jid, jid.instance) if jobs is not None and isinstance(jid, JobId) else None

    def _itself(self, job: Job[Any], server: AnyServer | None) -> Job[Any]:
        """The job, which knows its server.

        :raises ValueError: if `server` is another one.
        """
        if server is not None:
            member = self._cluster.topology.find(server)
            if member is None or member.address != job.server:
                raise ValueError(f"server must be left out or be that of the job ({job.server}), not {server!r}")
        return job

    def find(self, job: Job[Any] | int, server: AnyServer | None, timeout: float | None = None) -> Job[Any] | None:
        """The job, if it is one; else the job in hand with this id.

        :param timeout: as for :meth:`locate`.
        """
        if isinstance(job, Job):
            return self._itself(job, server)
        held = self.held(job) if server is None else None
        if held is not None:
            return held
        member, instance = self.locate(job, server, timeout)
        return member.reservations.find(check_id(job), instance)

    def get(self, job: Job[Any] | int, server: AnyServer | None, command: str) -> Job[Any]:
        """The job, or the one in hand with this id.

        :raises NotFound: if there is none: what the server would say to the command.
        """
        if isinstance(job, Job):
            return self._itself(job, server)
        found = self.find(job, server)
        if found is None:
            member, _ = self.locate(job, server)
            raise refusal(command, "NOT_FOUND", server=member.address, job=job)
        return found


def _confirm(command: Command, success: str, jid: int, connection: PooledConnection, reply: Reply) -> None:
    results.confirm(command, success, connection.channel, reply, job=jid)
