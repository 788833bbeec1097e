"""Which thread may take jobs of which tubes: concurrency limits, breakers, and how many jobs are taken in all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable

from beanpool.worker.breaker import CLOSED, Breaker, Circuit


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """What a tube allows.

    :ivar concurrency: how many jobs, or batches, may be in hand at once; None for any number.
    """

    tube: str
    concurrency: int | None = None
    breaker: Breaker | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """What a thread may ask the servers for.

    :ivar tubes: none of them: for nothing now.
    :ivar until: when it should ask again which tubes (monotonic seconds); None if it is told.
    """

    tubes: tuple[str, ...]
    until: float | None = None


class _Tube:
    """A tube, and who has a place in it."""

    __slots__ = ("breaker", "circuit", "concurrency", "name", "taken", "trial")

    def __init__(self, rule: Rule) -> None:
        self.name = rule.tube
        self.concurrency: float = math.inf if rule.concurrency is None else rule.concurrency
        self.breaker = rule.breaker
        self.circuit: Circuit = CLOSED
        self.taken = 0
        self.trial: Seat | None = None
        """Who has the only place of an open circuit."""

    def has_room(self, now: float) -> bool:
        """Whether one more may take a job of it."""
        if self.taken >= self.concurrency:
            return False
        if self.breaker is None:
            return True
        if self.circuit.is_open:
            return self.trial is None and now >= self.circuit.until
        return self.taken < self.circuit.room(self.breaker)


class Seat:
    """One thread, as :class:`Places` knows it.

    :param wake: makes its wait end, so that it asks again for tubes; called outside of all locks.
    """

    __slots__ = ("places", "told", "wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.places: list[_Tube] = []
        self.told = False
        """Whether its wait was ended already."""


class Places:
    """Knows who has places in which tubes. Whoever waits for a job has a place in each tube that it waits for.

    It does no I/O, knows no clock and takes no lock: the caller has one. Most methods return the seats whose wait must
    be ended, because there are other tubes for them now.

    :param rules: one for each tube.
    :param jobs: how many jobs may be taken in all; None for any number.
    """

    def __init__(self, rules: Iterable[Rule], jobs: int | None = None) -> None:
        rules = tuple(rules)
        self._tubes = {rule.tube: _Tube(rule) for rule in rules}
        self.rule = jobs is not None or any(rule.concurrency or rule.breaker for rule in rules)
        """Whether there is anything to decide: else all threads may always take jobs of all tubes."""
        self._left: float = math.inf if jobs is None else jobs
        """How many jobs may still be asked for."""
        self._asked = 0
        """How many were granted to batches that do not know yet whether they are there."""
        self._waiting: dict[Seat, None] = {}
        """Those who wait, the longest waiting first."""

    @property
    def exhausted(self) -> bool:
        """Whether all jobs that may be taken were taken."""
        return not self._left and not self._asked and not any(seat.places for seat in self._waiting)

    # What a thread does.

    def enter(self, seat: Seat, now: float) -> Wish:
        """Begin a wait, or go on with one that has brought nothing: take a place in each tube that has one.

        A place that it has already is kept, so that two who wait never wake each other for ever.
        """
        seat.told = False
        self._waiting[seat] = None
        had_any = bool(seat.places)
        seat.places = [tube for tube in seat.places if self._keeps(seat, tube)]
        until = None
        for tube in self._tubes.values():
            if tube.circuit.is_open and now < tube.circuit.until:
                until = tube.circuit.until if until is None else min(until, tube.circuit.until)
            elif (had_any or self._left) and tube not in seat.places and tube.has_room(now):
                self._seat(seat, tube)
        self._left += had_any - bool(seat.places)
        return Wish(tuple(tube.name for tube in seat.places), until)

    def _keeps(self, seat: Seat, tube: _Tube) -> bool:
        if not tube.circuit.is_open or tube.trial is seat:
            return True
        tube.taken -= 1
        return False

    def _seat(self, seat: Seat, tube: _Tube) -> None:
        tube.taken += 1
        seat.places.append(tube)
        if tube.circuit.is_open:
            tube.trial = seat

    def give_up(self, seat: Seat) -> list[Seat]:
        """End a wait that has brought no job, for good; nothing is to be done for who does not wait."""
        return self._end_wait(seat, None) if seat in self._waiting else []

    def took(self, seat: Seat, tube: str) -> list[Seat]:
        """End a wait with a job of this tube: only the place in that one is kept."""
        return self._end_wait(seat, self._tubes[tube])

    def _end_wait(self, seat: Seat, kept: _Tube | None) -> list[Seat]:
        del self._waiting[seat]
        told = []
        if kept is None and seat.places:
            self._left += 1
            told = self._tell_one_without_a_job()
        left = [tube for tube in seat.places if tube is not kept]
        seat.places = [kept] if kept is not None else []
        for tube in left:
            told += self._leave(seat, tube)
        if seat.told:
            # What it was told of is somebody else's now.
            told += self._tell_one_without_a_job()
            for tube in self._tubes.values():
                told += self._tell_one_without(tube)
        return told

    def _leave(self, seat: Seat, tube: _Tube) -> list[Seat]:
        tube.taken -= 1
        if tube.trial is seat:
            tube.trial = None
        return self._tell_one_without(tube)

    def more(self, wanted: int) -> int:
        """Ask for up to so many jobs more, for who has one of a batch; returns how many may be."""
        granted = int(min(wanted, self._left))
        self._left -= granted
        self._asked += granted
        return granted

    def took_more(self, granted: int, taken: int) -> list[Seat]:
        """So many of those that :meth:`more` has granted were there."""
        self._asked -= granted
        self._left += granted - taken
        return [seat for _ in range(granted - taken) for seat in self._tell_one_without_a_job()]

    def done(self, seat: Seat) -> list[Seat]:
        """Leave the place that was kept: the job, or all of its batch, is no longer in hand."""
        places, seat.places = seat.places, []
        return [other for tube in places for other in self._leave(seat, tube)]

    # What becomes of jobs.

    def succeeded(self, tube: str) -> list[Seat]:
        """A handler did not fail."""
        known = self._tubes[tube]
        if known.circuit is CLOSED:
            return []
        known.circuit, known.trial = CLOSED, None
        return self._tell(len(self._waiting), lambda other: known not in other.places)

    def failed(self, tube: str, now: float) -> list[Seat]:
        """A handler failed."""
        known = self._tubes[tube]
        if known.breaker is None:
            return []
        was, known.circuit = known.circuit, known.circuit.failed(known.breaker, now)
        if known.circuit is was or not known.circuit.is_open:
            return []
        # Who waits for it must not get one of its jobs, and all must know when to look again.
        return self._tell(len(self._waiting), lambda _: True)

    def outage(self, tube: str, now: float) -> float | None:
        """How long the tube will be left alone (seconds), if it is; 0 while one job tries."""
        circuit = self._tubes[tube].circuit
        return max(0.0, circuit.until - now) if circuit.is_open else None

    def _tell_one_without(self, tube: _Tube) -> list[Seat]:
        return self._tell(1, lambda seat: tube not in seat.places) if self._waiting else []

    def _tell_one_without_a_job(self) -> list[Seat]:
        return self._tell(1, lambda seat: not seat.places) if self._waiting and self._left < math.inf else []

    def _tell(self, most: int, whom: Callable[[Seat], bool]) -> list[Seat]:
        told: list[Seat] = []
        for seat in self._waiting:
            if len(told) >= most:
                break
            if not seat.told and whom(seat):
                seat.told = True
                told.append(seat)
        return told
