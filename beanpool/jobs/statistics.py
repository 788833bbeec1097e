"""The statistics of many jobs: pipelined, and of all servers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from beanpool.cluster import Question, ask_each
from beanpool.config import AnyServer
from beanpool.connection import Job, results
from beanpool.errors import BeanpoolError, job_lost, without_frames
from beanpool.protocol import STATS_JOB, Reply, encode_job
from beanpool.server import Member, PooledConnection, why_another

Locate = Callable[[int, AnyServer | None], tuple[Member, str | None]]
"""Tells of a job's id on which member it is, and the server process that gave the id, if that is known."""


def stats_of_jobs(
    locate: Locate, jobs: Iterable[Job[Any] | int], server: AnyServer | None, deadline: float
) -> list[dict[str, Any] | Exception]:
    """The statistics of each job, or why there are none, in order.

    :param deadline: until when all servers have to answer (monotonic seconds).
    """
    outcomes: list[dict[str, Any] | Exception] = []
    places: dict[Member, list[int]] = {}
    questions: dict[Member, list[Question]] = {}
    for place, job in enumerate(jobs):
        try:
            jid, at = (job.id, job.server) if isinstance(job, Job) else (job, server)
            member, instance = locate(jid, at)
        except (TypeError, ValueError, BeanpoolError) as error:
            outcomes.append(without_frames(error))
            continue
        # Until there is an answer.
        outcomes.append(member.unusable("not asked"))
        places.setdefault(member, []).append(place)
        questions.setdefault(member, []).append(_about(int(jid), instance))
    for member, answers in ask_each(questions, deadline).items():
        for place, answer in zip(places[member], answers, strict=True):
            outcomes[place] = answer
    return outcomes


def _about(jid: int, instance: str | None) -> Question:
    def read(connection: PooledConnection, reply: Reply, _: float) -> Any:
        reason = why_another(connection, instance) if instance is not None else None
        if reason is not None:
            raise job_lost(jid, connection.server, reason)
        return results.document(True, STATS_JOB, connection.channel, reply, job=jid)

    return Question(STATS_JOB, encode_job(STATS_JOB, jid), read)
