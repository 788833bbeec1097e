"""What measures a pool is told: every command on jobs, once for each batch and server, with its time."""

from __future__ import annotations

from typing import Literal

AttemptOutcome = Literal["stored", "buried", "refused", "not_sent", "ambiguous"]
"""What an attempt to put came to. The job is stored; or it is stored and buried, as the server had no memory to queue
it; or the server has refused it; or it was not sent in full, so it is not stored; or no complete reply came to what was
sent, so it may or may not be stored."""

JobEnd = Literal["deleted", "released", "buried"]
"""How a job was finished."""


class Observer:
    """The base of observers: it does nothing. Override what you want to be told of.

    A call comes in the thread that carries out the command, after the command, outside of all locks, and that thread
    waits for it: be quick. What it raises is logged once, and disturbs nothing. Servers are given by address.
    """

    def put(self, server: str, tube: str, count: int, size: int, seconds: float, outcome: AttemptOutcome) -> None:
        """An attempt to put `count` jobs on a server has ended. What another server takes is another attempt.

        :param size: of the bodies, all together (bytes).
        :param seconds: how long it took, with the wait for a connection.
        """

    def reserved(self, server: str, tube: str | None, count: int, waited: float) -> None:
        """Jobs were reserved by one call.

        :param tube: None where it is not known without asking: the call was for several tubes.
        :param waited: how long ago the call began (seconds).
        """

    def finished(self, server: str, tube: str | None, how: JobEnd, count: int, held: float, seconds: float) -> None:
        """Jobs that were in hand are finished.

        :param tube: None where it is not known without asking, or the jobs of a batch are of several tubes.
        :param held: how long they were reserved here (seconds; the mean of those of a batch).
        :param seconds: how long the command, or the batch, took.
        """

    def touched(self, server: str, count: int, seconds: float, ok: bool) -> None:
        """The TTR of jobs was to begin anew.

        :param seconds: how long that took.
        :param ok: whether it did; else the reservation is lost, or the server did not answer.
        """

    def connected(self, server: str, seconds: float, error: Exception | None) -> None:
        """An attempt to connect has ended.

        :param seconds: how long it took until the server had said who it is.
        :param error: why there is no connection; None if there is one.
        """


CALLS = ("put", "reserved", "finished", "touched", "connected")
