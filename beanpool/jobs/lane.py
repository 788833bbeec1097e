"""One connection of a batch of job commands: what is to be done on it, and what was answered."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Iterator, Sequence

from beanpool.connection import Job
from beanpool.errors import BeanpoolError, ConnectionFailed, UnexpectedResponse, job_lost, without_frames
from beanpool.net import Exchange, Failure
from beanpool.protocol import DELETE, STATS_JOB, Command, Reply, encode_job
from beanpool.server import Lease, Member, PooledConnection, RecoveredDeletes, why_another


class Lane(Exchange[int]):
    """One connection and the jobs that it carries commands for; the tokens are positions in the lane."""

    __slots__ = ("command", "error", "failures", "ids", "places", "refusals", "sent")

    connection: PooledConnection
    command: Command

    def __init__(self, connection: PooledConnection) -> None:
        super().__init__(connection)
        self.places: list[int] = []
        self.ids: list[int] = []
        self.sent: Sequence[int] = ()
        """The positions that the last commands were sent for; as many as are answered have their answers."""
        self.refusals: dict[int, BeanpoolError] = {}
        self.failures: dict[int, Failure] = {}
        """Why some have no answer, and whether they may have been carried out all the same."""
        self.error: BeanpoolError | None = None
        """Why the lane has ended before its time."""

    def begin(self, command: Command, positions: Sequence[int], requests: Sequence[bytes], patience: float) -> None:
        """Send all requests, as far as they go at once; :meth:`collect` sends on.

        :param patience: how long the server may let a reply wait (seconds).
        """
        # In this order, for an interrupt in between: nothing of it is answered.
        self.answered = 0
        self.command = command
        self.sent = positions
        self.patience = patience
        try:
            self.send(command, positions, requests)
        except (ConnectionFailed, UnexpectedResponse) as error:
            self.end(error)

    def collect(self) -> None:
        """Take in the answers that are there."""
        channel, command = self.connection.channel, self.command
        replies = channel.collect(command) if command is STATS_JOB else channel.collect_done(command)
        try:
            for requests, reply in self.receive(replies):
                if isinstance(reply, Reply):
                    self.take(requests[0][0], reply)
        except (ConnectionFailed, UnexpectedResponse) as error:
            self.end(error)

    def take(self, position: int, reply: Reply) -> None:
        """Note an answer that is not one of a run of the usual ones."""
        if reply.status != self.command.success:
            self.refusals[position] = self.connection.refuse(self.command, reply, job=self.ids[position])

    def end(self, error: BeanpoolError) -> None:
        """The connection is gone."""
        # A traceback would hold the frame that has the lane, and with it the jobs, in a circle.
        self.error = without_frames(error)
        self.failures = dict(self.fail(error))


class JobLane(Lane):
    """A connection on which jobs are reserved."""

    __slots__ = ("granted", "jobs", "lease", "lost", "numbers", "pinned")

    def __init__(self, lease: Lease[PooledConnection]) -> None:
        super().__init__(lease.connection)
        self.lease = lease
        self.jobs: list[Job] = []
        self.numbers: set[int] = set()
        self.pinned = False
        self.granted = False
        """Whether its turn on the connection came in time."""
        self.lost: set[int] = set()
        """The positions of those that were not found where they should be reserved."""

    def add(self, place: int, job: Job) -> bool:
        """Take in one more job; false if it is here already."""
        jid = job.number
        if jid in self.numbers:
            return False
        self.numbers.add(jid)
        self.jobs.append(job)
        self.places.append(place)
        self.ids.append(jid)
        return True

    def done(self) -> Iterator[int]:
        """The positions of those that the last command was carried out for."""
        refusals = self.refusals
        return (position for position in self.sent[: self.answered] if position not in refusals)

    def undone(self, but: set[int]) -> Iterator[tuple[int, Failure]]:
        """The positions of those that were neither refused nor are among others, after the connection has broken.

        Each comes with its error.
        """
        for position in range(len(self.jobs)):
            if self.error is not None and position not in but and position not in self.refusals:
                yield position, self.failures.get(position) or self.failure(self.error, sent=False)


JobById = tuple[int, int, Member, str | None]
"""The place and the id of a job that is not in hand, its member, and the server process that gave the id, if known."""


class OpeningLane(Lane, abc.ABC):
    """A connection that is opened, if need be, while others are at work.

    :param until: when it gives up (monotonic seconds).
    """

    __slots__ = ("_until", "began_at", "opening")

    def __init__(self, connection: PooledConnection, until: float) -> None:
        super().__init__(connection)
        self.began_at = time.monotonic()
        self.opening = connection.channel_state is None
        """Whether it does not stand yet."""
        self._until = until

    @property
    def pending(self) -> bool:
        """Whether replies are due."""
        return self.error is None and (self.opening or bool(self.due))

    @property
    def late_at(self) -> float:
        """When it will have been silent for too long (monotonic seconds): at once if another thread has closed it."""
        if not self.opening:
            return super().late_at
        return self.connection.give_up_at if self.connection.fileno() >= 0 else 0.0

    def start(self) -> None:
        """Connect, or send what is to be sent."""
        if not self.opening:
            self._opened()
            return
        self.connection.begin_connecting(self._until)
        self.connection.begin_probe(self._time_left())
        self.collect()

    def _time_left(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def collect(self) -> None:
        """Go as far as is possible without waiting."""
        if not self.opening:
            self._collect()
            return
        try:
            reply = self.connection.step()
            if reply is None:
                return
            self.connection.identify(reply)
        except BeanpoolError as error:
            self.end(error)
            return
        self.opening = False
        self._opened()

    def end(self, error: BeanpoolError) -> None:
        """The connection is gone."""
        if self.opening:
            self.error = without_frames(error)
        else:
            super().end(error)

    @abc.abstractmethod
    def _opened(self) -> None:
        """Send what is to be sent."""

    def _collect(self) -> None:
        super().collect()


class LaneById(OpeningLane):
    """A connection for deletes of jobs that are known by their ids.

    :param entries: the jobs, all of this member.
    :param patience: how long the server may let a reply wait (seconds).
    """

    __slots__ = ("_entries", "_patience", "member", "refused")

    def __init__(
        self, member: Member, connection: PooledConnection, entries: Sequence[JobById], patience: float
    ) -> None:
        super().__init__(connection, time.monotonic() + patience)
        self.member = member
        self.refused: dict[int, BeanpoolError] = {}
        """By their places, those that are not asked for: why."""
        self._entries = entries
        self._patience = patience

    def _opened(self) -> None:
        for place, jid, member, instance in self._entries:
            reason = why_another(self.connection, instance) if instance is not None else None
            if reason is not None:
                self.refused[place] = job_lost(jid, member.address, reason)
            else:
                self.places.append(place)
                self.ids.append(jid)
        if self.ids:
            delete_all(self, self._patience)

    def end(self, error: BeanpoolError) -> None:
        """The connection is gone."""
        super().end(error)
        if self.opening and self.error is not None:
            self.refused = dict.fromkeys((place for place, *_ in self._entries), self.error)


class RecoveryLane(OpeningLane):
    """A connection for deletes of jobs that lost theirs."""

    __slots__ = ("_steps", "recovered", "replies")

    def __init__(self, recovered: RecoveredDeletes, connection: PooledConnection, until: float) -> None:
        super().__init__(connection, until)
        self.recovered = recovered
        self._steps = recovered.steps(connection)
        self.replies: list[Reply] = []
        """Those to the step that is under way."""

    def _opened(self) -> None:
        self._go_on(lambda: next(self._steps))

    def _collect(self) -> None:
        try:
            for _, reply in self.receive(self.connection.channel.collect(self.command)):
                if isinstance(reply, Reply):
                    self.replies.append(reply)
        except (ConnectionFailed, UnexpectedResponse) as error:
            self.end(error)
            return
        if not self.due:
            replies, self.replies = self.replies, []
            self._go_on(lambda: self._steps.send(replies))

    def _go_on(self, step: Callable[[], tuple[Command, Sequence[Job]]]) -> None:
        try:
            command, jobs = step()
            while not jobs:
                command, jobs = self._steps.send([])
        except StopIteration:
            return
        except BeanpoolError as error:
            self.end(error)
            return
        self.ids = [job.number for job in jobs]
        self.begin(command, range(len(jobs)), [encode_job(command, jid) for jid in self.ids], self._time_left())


def delete_all(lane: Lane, patience: float) -> None:
    """Send the deletes of all of a lane's jobs.

    :param patience: how long the server may let a reply wait (seconds).
    """
    lane.begin(DELETE, range(len(lane.ids)), [b"delete %d\r\n" % jid for jid in lane.ids], patience)
