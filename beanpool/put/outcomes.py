"""What became of the puts of a batch: said to whoever has begun it, to the observers and to the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Literal

from beanpool.connection import JobId
from beanpool.errors import BeanpoolError
from beanpool.policy import is_duplicate
from beanpool.put.failover import Putter, attempt_outcome, named
from beanpool.put.lane import Lane, Retry, Run, Token
from beanpool.put.observing import AttemptTally
from beanpool.server import Member

Outcome = JobId | Exception
"""What became of one item: the stored job's id, or the error of this item alone."""

OnOutcomes = Callable[[Sequence[tuple[Token, Outcome]]], None]
"""Is given outcomes, each with the token that was given with its put."""


class Outcomes(Generic[Token]):
    """Notes the attempts of a batch, and says what became of its puts.

    :param resend: whether an item that may or may not be stored is put again.
    :param on_outcomes: is given the outcomes as they come.
    """

    def __init__(self, putter: Putter, resend: bool, on_outcomes: OnOutcomes[Token]) -> None:
        self._putter = putter
        self._resend = resend
        self.say: OnOutcomes[Token] = on_outcomes
        """Gives outcomes to whoever has begun the batch."""
        self.attempts: AttemptTally[Token] = AttemptTally(putter.reporter.observers)
        """Those that have ended."""

    def stored(
        self,
        lane: Lane[Token],
        run: Run[Token],
        stored: Sequence[tuple[Token, JobId]],
        outcome: Literal["stored", "buried"] = "stored",
    ) -> None:
        """A server has these."""
        if lane.has_retries:
            self._declare(lane.member, run, stored)
        self.say(stored)
        self.attempts.add(lane.member, outcome, run)

    def _declare(self, member: Member, run: Run[Token], stored: Sequence[tuple[Token, JobId]]) -> None:
        """Say of those that were tried before what their attempts have left behind."""
        for (item, _), (_, jid) in zip(run, stored, strict=True):
            if isinstance(item, Retry) and item.attempts:
                jid.maybe_duplicate = is_duplicate(named(item.attempts))
                self._putter.report_rerouted(member, item.attempts)

    def note(self, retry: Retry[Token], member: Member, error: BeanpoolError) -> bool:
        """Add an attempt to those of its put; returns whether the put ends with it."""
        self.attempts.add(member, attempt_outcome(error), [(retry, b"")])
        return self._putter.note(retry.attempts, member, error, retry.put.key, self._resend)

    def give_up(self, retry: Retry[Token]) -> None:
        """A put has failed for good."""
        self._putter.reporter.put_failed()
        self.say([(retry.token, self._putter.failure(retry.attempts, retry.put.key, retry.put.size))])
