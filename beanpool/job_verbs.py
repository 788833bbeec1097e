"""A cluster's commands on one job, named by its id."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from beanpool.checks import check_many
from beanpool.cluster import Cluster
from beanpool.config import AnyServer
from beanpool.delete_many import DeleteMany
from beanpool.errors import NotFound, job_lost
from beanpool.job import Job
from beanpool.job_id import JobId
from beanpool.member import Member
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.arguments import DEFAULT_PRIORITY, check_id
from beanpool.protocol.commands import encode_bury, encode_release
from beanpool.recovery import why_another
from beanpool.survey import ask_one

Answer = TypeVar("Answer")


class JobVerbs(Cluster):
    """Commands on one job. It is named by the :class:`JobId` of its put, or by an ``int`` together with `server`: the
    name or address of its server. A bare ``int`` will do where there is one server only.
    """

    def reserve_job(self, jid: int, *, server: AnyServer | None = None) -> Job:
        """Reserve the job with this id, be it ready, delayed or buried (``reserve-job``, beanstalkd 1.12 and newer).

        :raises NotFound: if there is none, or it is reserved.
        """
        member, instance = self._locate(jid, server)
        return self._reserver.reserve_job(member, check_id(jid), instance, time.monotonic() + self._timeout)

    def delete(self, jid: int, *, server: AnyServer | None = None) -> None:
        """Delete a job, by the id that :meth:`put` returned (``delete``).

        :param jid: a :class:`JobId`, or an ``int`` together with `server` (its name or address).
        :raises NotFound: if there is none, or it is reserved by another pool or connection.
        :raises JobLost: if its server was restarted since.
        """
        job = self._job_in_hand(jid, server)
        if job is not None:
            job.delete()
        else:
            self._on_job(jid, server, lambda connection: connection.delete(check_id(jid)))

    def delete_many(self, jobs: Iterable[Job | int]) -> list[Exception | None]:
        """Delete many jobs, in few round trips and to all servers at once.

        :param jobs: :class:`Job` objects, of whatever servers and connections, and what :meth:`delete` takes as a job's
            id; any iterable: it is read as the deletes go out.
        :returns: one outcome per item, in order: None for a job that was deleted, else the exception that
            :meth:`Job.delete` or :meth:`delete` would have raised. A failed item does not stop its neighbours. A server
            may let a reply wait for the pool's timeout, once in all; what was lost has as much again, all together.
        """
        check_many("jobs", jobs)
        if not self._started:
            self._start()
        return DeleteMany(lambda jid: self._locate(jid, None), self._held, self._timeout).run(jobs)

    def release(
        self, jid: int, priority: int = DEFAULT_PRIORITY, delay: float = 0, *, server: AnyServer | None = None
    ) -> None:
        """Give a job that this pool has reserved back to its tube (``release``); see :meth:`Job.release`.

        :raises NotFound: if it is not reserved by this pool.
        """
        encode_release(check_id(jid), priority, delay)
        self._in_hand(jid, server, "release").release(priority, delay)

    def bury(self, jid: int, priority: int = DEFAULT_PRIORITY, *, server: AnyServer | None = None) -> None:
        """Put a job that this pool has reserved aside (``bury``); see :meth:`Job.bury`.

        :raises NotFound: if it is not reserved by this pool.
        """
        encode_bury(check_id(jid), priority)
        self._in_hand(jid, server, "bury").bury(priority)

    def touch(self, jid: int, *, server: AnyServer | None = None) -> None:
        """Start the TTR of a job that this pool has reserved anew (``touch``); see :meth:`Job.touch`.

        :raises NotFound: if it is not reserved by this pool.
        """
        self._in_hand(jid, server, "touch").touch()

    def kick_job(self, jid: int, *, server: AnyServer | None = None) -> None:
        """Make a buried or delayed job ready (``kick-job``).

        :raises NotFound: if it is neither.
        """
        self._on_job(jid, server, lambda connection: connection.kick_job(check_id(jid)))

    def stats_job(self, jid: int, *, server: AnyServer | None = None) -> dict[str, Any]:
        """The statistics of a job (``stats-job``).

        :raises NotFound: if there is none.
        """
        document: dict[str, Any] = self._on_job(jid, server, lambda connection: connection.stats_job(check_id(jid)))
        return document

    def peek(self, jid: int, *, server: AnyServer | None = None) -> Job | None:
        """Look at the job with this id without reserving it (``peek``); None if there is none."""
        if isinstance(jid, int) and not isinstance(jid, bool) and not jid:
            # No server has ever given it.
            return None
        member, _ = self._locate(jid, server)
        job = self._on_job(jid, server, lambda connection: connection.peek(check_id(jid)))
        return self._reserver.at_home(member, job)

    def _locate(self, jid: int, server: AnyServer | None) -> tuple[Member, str | None]:
        """The member that a job's id belongs to, and the server process that gave the id, if that is known."""
        check_id(jid)
        topology = self._topology
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
        return self._find(topology, server), instance

    def _on_job(self, jid: int, server: AnyServer | None, ask: Callable[[PooledConnection], Answer]) -> Answer:
        member, instance = self._locate(jid, server)
        if not self._started:
            self._start()

        def ask_the_same(connection: PooledConnection, deadline: float) -> Answer:
            reason = why_another(connection, instance) if instance is not None else None
            if reason is not None:
                raise job_lost(jid, member.address, reason)
            return ask(connection)

        return ask_one(member, time.monotonic() + self._timeout, ask_the_same, None)

    def _held(self, jid: int) -> Job | None:
        """The job in hand that a :class:`JobId` names, also where its server has been removed since."""
        jobs = self._jobs_in_hand.get(jid.server) if isinstance(jid, JobId) else None
        return jobs.find(jid, jid.instance) if jobs is not None and isinstance(jid, JobId) else None

    def _job_in_hand(self, jid: int, server: AnyServer | None) -> Job | None:
        job = self._held(jid) if server is None else None
        if job is not None:
            return job
        member, instance = self._locate(jid, server)
        return member.pool.in_hand.find(check_id(jid), instance)

    def _in_hand(self, jid: int, server: AnyServer | None, command: str) -> Job:
        job = self._job_in_hand(jid, server)
        if job is None:
            raise NotFound(command, "NOT_FOUND", [])
        return job
