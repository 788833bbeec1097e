"""Asking which tubes jobs are from, where the connection that brought them watches several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from beanpool.cluster import Question, ask_each
from beanpool.connection import Job, results
from beanpool.protocol import STATS_JOB, Reply, encode_job
from beanpool.server import Member, PooledConnection


def name_tubes(jobs: Iterable[Job[Any]], members: Iterable[Member], deadline: float) -> None:
    """Set the `tube` of the jobs that have none; of those whose servers do not answer in time it stays None.

    :param members: the servers that the jobs are on.
    :param deadline: monotonic seconds.
    """
    unnamed: dict[str, list[Job[Any]]] = {}
    for job in jobs:
        if job.tube is None:
            unnamed.setdefault(job.server, []).append(job)
    asked = {member: unnamed[member.address] for member in members if member.address in unnamed}
    answers = ask_each({member: [_about(job.number) for job in of_one] for member, of_one in asked.items()}, deadline)
    for member, of_one in asked.items():
        _name(of_one, answers[member])


def _name(jobs: Sequence[Job[Any]], answers: Sequence[Any]) -> None:
    for job, answer in zip(jobs, answers, strict=True):
        if not isinstance(answer, BaseException):
            job.tube = str(answer["tube"])


def _about(jid: int) -> Question:
    def read(connection: PooledConnection, reply: Reply, _: float) -> Any:
        return results.document(True, STATS_JOB, connection.channel, reply, job=jid)

    return Question(STATS_JOB, encode_job(STATS_JOB, jid), read)
