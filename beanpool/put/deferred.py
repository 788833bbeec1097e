"""The puts of a batch that no server takes: they wait, with pauses, for one that comes back."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Generic

from beanpool.errors import BeanpoolError, without_frames
from beanpool.policy import StallBudget
from beanpool.put.candidates import Candidates
from beanpool.put.failover import AnotherRound, NotStored, PutRequest, Putter
from beanpool.put.lane import Item, Retry, Token, as_retry
from beanpool.put.outcomes import Outcome, Outcomes


class Deferred(Generic[Token]):
    """Puts for which no server is there that could be asked.

    :param stall: how long the batch may wait in vain.
    :param resend: whether an item that may or may not be stored is put again.
    """

    def __init__(
        self,
        putter: Putter,
        stall: StallBudget,
        resend: bool,
        candidates: Candidates[Token],
        outcomes: Outcomes[Token],
    ) -> None:
        self._putter = putter
        self._stall = stall
        self._resend = resend
        self._candidates = candidates
        self._outcomes = outcomes
        self.puts: list[Retry[Token]] = []
        """All of them."""
        # Since when nobody has been asked.
        self._pausing_since = 0.0

    def add(self, item: Item[Token]) -> None:
        """Let it wait, unless it is too large for all servers: then it is given up."""
        retry = as_retry(item)
        if self._putter.is_too_big_for_all(retry.attempts, retry.put.size):
            self._outcomes.give_up(retry)
        else:
            self.puts.append(retry)

    def take_all(self) -> list[Retry[Token]]:
        """Take them out."""
        puts, self.puts = self.puts, []
        return puts

    def retry(self, put_again: Callable[[], None]) -> None:
        """Wait for servers, and try again; what is deferred then is given up.

        :param put_again: takes all of them out, puts them once more, and waits for what comes of it.
        """
        if self._putter.all_drain():
            self._ask_who_drains()
        self._pausing_since = time.monotonic()
        with contextlib.suppress(NotStored):
            self._putter.rounds(
                functools.partial(self._another_round, put_again), self._pausing_since + self._stall.left
            )
        if self.puts:
            self._stall.spend(time.monotonic() - self._pausing_since)
        for retry in self.take_all():
            self._outcomes.give_up(retry)

    def _ask_who_drains(self) -> None:
        """Only another process takes a put then: one put finds out whether there is one, and speaks for all."""
        retry = self.puts.pop(0)
        started = time.monotonic()
        request = PutRequest(*retry.put, started + self._stall.left, self._resend)
        request.attempts = retry.attempts
        outcome: Outcome
        try:
            outcome = self._putter.go_on(request, None, None)
        except BeanpoolError as error:
            outcome = without_frames(error)
            self._stall.spend(time.monotonic() - started)
        self._outcomes.say([(retry.token, outcome)])
        if self._putter.all_drain():
            for left in self.take_all():
                self._outcomes.give_up(left)

    def _another_round(self, put_again: Callable[[], None]) -> None:
        self._stall.spend(time.monotonic() - self._pausing_since)
        self._candidates.begin_round()
        for retry in self.puts:
            retry.asked.clear()
        put_again()
        self._pausing_since = time.monotonic()
        if self.puts:
            raise AnotherRound
