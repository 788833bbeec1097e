"""The attempts of a batch are told together; those of one that never ends, every second."""

from __future__ import annotations

import time

import pytest

from beanpool import AttemptOutcome, Observer
from beanpool.config import Server, Settings
from beanpool.put.item import EncodedPut
from beanpool.put.lane import Run
from beanpool.put.observing import AttemptTally
from beanpool.server.member import Member
from beanpool.telemetry import Observers, Reporter


class Owner:
    """Stands for the cluster."""

    def member_changed(self, *_: object) -> None: ...

    def member_doubted(self, *_: object) -> None: ...

    def member_starved(self, *_: object) -> None: ...

    def member_emptied(self, *_: object) -> None: ...


class Notes(Observer):
    def __init__(self) -> None:
        self.puts: list[tuple[str, int, int, float, AttemptOutcome]] = []

    def put(self, server: str, tube: str, count: int, size: int, seconds: float, outcome: AttemptOutcome) -> None:
        assert server == "q1:11300"
        self.puts.append((tube, count, size, seconds, outcome))


def run_of(*bodies: bytes, tube: str = "mails") -> Run[int]:
    return [((number, EncodedPut(body, len(body), tube, None)), body) for number, body in enumerate(bodies)]


def test_one_call_for_each_tube_and_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    member = Member(Server("q1"), Settings(), Owner(), Reporter("p"))
    observers, notes = Observers("p"), Notes()
    unobserved: AttemptTally[int] = AttemptTally(observers)
    observers.add(notes)
    tally: AttemptTally[int] = AttemptTally(observers)
    for _ in range(2):
        unobserved.add(member, "stored", run_of(b"x"))
        tally.add(member, "stored", run_of(b"a", b"bb"))
    tally.add(member, "refused", run_of(b"ccc"))
    tally.add(member, "stored", run_of(b"", tube="faxes"))
    now = 5.5
    unobserved.tell()
    assert notes.puts == []
    tally.tell()
    assert notes.puts == [
        ("mails", 4, 6, 0.5, "stored"),
        ("mails", 1, 3, 0.5, "refused"),
        ("faxes", 1, 0, 0.5, "stored"),
    ]
    tally.tell()
    assert len(notes.puts) == 3, "once"
    now = 6.5
    tally.add(member, "stored", run_of(b"d"))
    assert len(notes.puts) == 3
    now = 6.6
    tally.add(member, "stored", run_of(b"e"))
    ((*what, seconds, outcome),) = notes.puts[3:]
    assert (what, outcome) == (["mails", 2, 2], "stored")
    assert seconds == pytest.approx(1.1)
