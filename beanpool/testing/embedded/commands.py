"""The 25 commands as the server carries them out: a line in, a reply out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from beanpool.protocol import MAX_ID, MAX_UINT32
from beanpool.testing.embedded import documents, replies
from beanpool.testing.embedded.arguments import (
    BadFormat,
    read_all_numbers,
    read_kick_bound,
    read_numbers,
    read_tube,
    split_pause,
)
from beanpool.testing.embedded.dialect import Dialect
from beanpool.testing.embedded.host import Host
from beanpool.testing.embedded.model import Model
from beanpool.testing.embedded.state import Session, StoredJob


@dataclasses.dataclass(frozen=True, slots=True)
class TakeBody:
    """A put: the job's body follows, `size` bytes and a line break."""

    job: StoredJob
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class SkipBytes:
    """A put that is refused: so many bytes are thrown away before the reply."""

    size: int
    reply: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Hang:
    """The connection is closed."""


Outcome = bytes | TakeBody | SkipBytes | Hang | None
"""What a command comes to: a reply, something to do first, or None while a reserve waits."""


class Commands:
    """Carries out the commands of one session."""

    def __init__(self, model: Model, session: Session, host: Host, dialect: Dialect) -> None:
        self._model = model
        self._session = session
        self._host = host
        self._dialect = dialect
        # In beanstalkd's order: the first that the line starts with is meant.
        self._table: tuple[tuple[bytes, str, Callable[[bytes], Outcome]], ...] = (
            (b"put ", "put", self._put),
            (b"peek ", "peek", self._peek),
            (b"peek-ready", "peek-ready", self._peek_ready),
            (b"peek-delayed", "peek-delayed", self._peek_delayed),
            (b"peek-buried", "peek-buried", self._peek_buried),
            (b"reserve-with-timeout ", "reserve-with-timeout", self._reserve_with_timeout),
            (b"reserve-job ", "reserve-job", self._reserve_job),
            (b"reserve", "reserve", self._reserve),
            (b"delete ", "delete", self._delete),
            (b"release ", "release", self._release),
            (b"bury ", "bury", self._bury),
            (b"kick ", "kick", self._kick),
            (b"kick-job ", "kick-job", self._kick_job),
            (b"touch ", "touch", self._touch),
            (b"stats-job ", "stats-job", self._stats_job),
            (b"stats-tube ", "stats-tube", self._stats_tube),
            (b"stats", "stats", self._stats),
            (b"use ", "use", self._use),
            (b"watch ", "watch", self._watch),
            (b"ignore ", "ignore", self._ignore),
            (b"list-tubes-watched", "list-tubes-watched", self._list_tubes_watched),
            (b"list-tube-used", "list-tube-used", self._list_tube_used),
            (b"list-tubes", "list-tubes", self._list_tubes),
            (b"quit", "quit", self._quit),
            (b"pause-tube", "pause-tube", self._pause_tube),
        )

    def run(self, line: bytes) -> Outcome:
        """Carry out the command of a line, given without its line break."""
        if b"\0" in line:
            return replies.BAD_FORMAT
        for start, name, command in self._table:
            if line.startswith(start):
                self._name = name
                try:
                    return command(line[len(start) :])
                except BadFormat:
                    return replies.BAD_FORMAT
        return replies.UNKNOWN_COMMAND

    def _count(self) -> None:
        # Only what is well formed counts, and each command decides when it knows that.
        self._model.commands[self._name] += 1

    def _count_bare(self, rest: bytes) -> None:
        if rest:
            raise BadFormat
        self._count()

    def _job(self, rest: bytes) -> StoredJob | None:
        [job_id] = read_all_numbers(rest, MAX_ID)
        self._count()
        return self._model.jobs.get(job_id)

    # for producers

    def _put(self, rest: bytes) -> Outcome:
        limits = (MAX_UINT32, MAX_UINT32, MAX_UINT32, MAX_UINT32)
        [priority, delay, ttr, size], garbage = read_numbers(rest, *limits)
        self._count()
        if size > self._model.max_job_size:
            return SkipBytes(size + 2, replies.JOB_TOO_BIG)
        if garbage:
            raise BadFormat
        return TakeBody(self._model.announce(self._session, priority, delay, ttr), size)

    def _use(self, rest: bytes) -> Outcome:
        name = read_tube(rest)
        self._count()
        self._model.use(self._session, name)
        return replies.line("USING", name)

    # for workers

    def _reserve(self, rest: bytes) -> Outcome:
        self._count_bare(rest)
        self._model.reserve(self._session, None)
        return None

    def _reserve_with_timeout(self, rest: bytes) -> Outcome:
        seconds = self._dialect.reserve_timeout(rest)
        if seconds is None:
            raise BadFormat
        self._count()
        self._model.reserve(self._session, None if seconds < 0 else seconds)
        return None

    def _reserve_job(self, rest: bytes) -> Outcome:
        job = self._job(rest)
        if job is None or not self._model.reserve_job(self._session, job):
            return replies.NOT_FOUND
        return replies.found("RESERVED", job)

    def _delete(self, rest: bytes) -> Outcome:
        job = self._job(rest)
        return replies.done_or_not_found(job is not None and self._model.delete(self._session, job), "DELETED")

    def _release(self, rest: bytes) -> Outcome:
        job_id, priority, delay = read_all_numbers(rest, MAX_ID, MAX_UINT32, MAX_UINT32)
        self._count()
        job = self._model.jobs.get(job_id)
        done = job is not None and self._model.release(self._session, job, priority, delay)
        return replies.done_or_not_found(done, "RELEASED")

    def _bury(self, rest: bytes) -> Outcome:
        job_id, priority = read_all_numbers(rest, MAX_ID, MAX_UINT32)
        self._count()
        job = self._model.jobs.get(job_id)
        return replies.done_or_not_found(job is not None and self._model.bury(self._session, job, priority), "BURIED")

    def _touch(self, rest: bytes) -> Outcome:
        job = self._job(rest)
        return replies.done_or_not_found(job is not None and self._model.touch(self._session, job), "TOUCHED")

    def _watch(self, rest: bytes) -> Outcome:
        name = read_tube(rest)
        self._count()
        return replies.line("WATCHING", self._model.watch(self._session, name))

    def _ignore(self, rest: bytes) -> Outcome:
        name = read_tube(rest)
        self._count()
        watched = self._model.ignore(self._session, name)
        return replies.line("NOT_IGNORED") if watched is None else replies.line("WATCHING", watched)

    # for everybody

    def _peek(self, rest: bytes) -> Outcome:
        return self._found(self._job(rest))

    def _peek_ready(self, rest: bytes) -> Outcome:
        self._count_bare(rest)
        ready = self._session.used.ready
        return self._found(ready.first if ready else None)

    def _peek_delayed(self, rest: bytes) -> Outcome:
        self._count_bare(rest)
        delayed = self._session.used.delayed
        return self._found(delayed.first if delayed else None)

    def _peek_buried(self, rest: bytes) -> Outcome:
        self._count_bare(rest)
        return self._found(next(iter(self._session.used.buried.values()), None))

    def _kick(self, rest: bytes) -> Outcome:
        bound = read_kick_bound(rest)
        self._count()
        return replies.line("KICKED", self._model.kick(self._session.used, bound))

    def _kick_job(self, rest: bytes) -> Outcome:
        job = self._job(rest)
        return replies.done_or_not_found(job is not None and self._model.kick_job(job), "KICKED")

    def _pause_tube(self, rest: bytes) -> Outcome:
        name, behind = split_pause(rest)
        [seconds] = read_all_numbers(behind, MAX_UINT32)
        self._count()
        tube = self._model.find_tube(read_tube(name))
        if tube is None:
            return replies.NOT_FOUND
        self._model.pause(tube, seconds)
        return replies.line("PAUSED")

    def _stats(self, rest: bytes) -> Outcome:
        self._count_bare(rest)
        return replies.document(documents.server_document(self._model, self._host, self._dialect))

    def _stats_job(self, rest: bytes) -> Outcome:
        job = self._job(rest)
        if job is None:
            return replies.NOT_FOUND
        return replies.document(documents.job_document(self._model, job, self._dialect))

    def _stats_tube(self, rest: bytes) -> Outcome:
        name = read_tube(rest)
        self._count()
        tube = self._model.find_tube(name)
        if tube is None:
            return replies.NOT_FOUND
        return replies.document(documents.tube_document(self._model, tube, self._dialect))

    def _list_tubes(self, rest: bytes) -> Outcome:
        self._count_bare(rest)
        return replies.document(documents.tube_list(self._model.tubes))

    def _list_tube_used(self, rest: bytes) -> Outcome:
        self._count_bare(rest)
        return replies.line("USING", self._session.used.name)

    def _list_tubes_watched(self, rest: bytes) -> Outcome:
        self._count_bare(rest)
        return replies.document(documents.tube_list(self._session.watched))

    def _quit(self, rest: bytes) -> Outcome:
        return Hang()

    @staticmethod
    def _found(job: StoredJob | None) -> bytes:
        return replies.NOT_FOUND if job is None else replies.found("FOUND", job)
