"""One connection of a batch of job commands: what is to be done on it, and what was answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from beanpool.connection import Job
from beanpool.errors import BeanpoolError, ConnectionFailed, UnexpectedResponse, without_frames
from beanpool.net import Exchange, Failure
from beanpool.protocol import STATS_JOB, Command, Reply
from beanpool.server import Lease, PooledConnection


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
