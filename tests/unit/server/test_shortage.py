"""When callers go short of connections so that it is worth a word, and when it is not."""

from __future__ import annotations

from beanpool.server.shortage import Demand, Shortage

LIMIT = 32


class Pool:
    """A shortage, and the looks at it, half a second apart."""

    def __init__(self) -> None:
        self.shortage = Shortage()
        self.now = 100.0
        self.returns = 0

    def look(self, waiting: int, *, held: int = 0, returned: bool = True, later: float = 0.5) -> Demand | None:
        self.now += later
        self.returns += returned
        return self.shortage.look(self.now, LIMIT, held, waiting, self.returns)


def test_a_wait_at_two_looks_in_a_row_is_told_once() -> None:
    pool = Pool()
    pool.shortage.note(LIMIT + 8)
    assert pool.look(3) is None
    assert pool.look(5, held=30) == Demand(LIMIT, 30, LIMIT + 8, 40)
    for _ in range(1000):
        assert pool.look(5) is None


def test_again_only_when_it_was_over_for_a_minute() -> None:
    pool = Pool()
    told = []
    for quiet in (59.0, 0.9, 61.0):
        told.append([pool.look(1), pool.look(1)])
        assert pool.look(0) is None
        assert pool.look(0, later=quiet) is None
    assert [[demand is not None for demand in two] for two in told] == [[False, True], [False, False], [False, False]]
    assert pool.look(1) is None
    assert pool.look(1) is not None


def test_a_wait_that_is_over_at_the_next_look_is_how_a_pool_works() -> None:
    pool = Pool()
    for _ in range(10):
        pool.shortage.note(LIMIT + 100)
        assert pool.look(3) is None
        assert pool.look(0) is None
    pool.look(1)
    demand = pool.look(1)
    assert demand is not None
    assert demand.wanted == LIMIT + 1, "what others wanted before counts no more"


def test_a_server_that_is_silent_keeps_callers_waiting_whatever_the_limit_is() -> None:
    pool = Pool()
    assert pool.look(3) is None
    for _ in range(10):
        assert pool.look(8, returned=False) is None


def test_jobs_that_hold_all_connections_for_long() -> None:
    pool = Pool()
    assert pool.look(1, held=LIMIT, returned=False) is None
    assert pool.look(1, held=LIMIT, returned=False) == Demand(LIMIT, LIMIT, LIMIT + 1, 40)


def test_reserves_that_do_not_wait_and_are_refused() -> None:
    pool = Pool()
    assert not pool.shortage.of_interest
    for expected in (None, Demand(LIMIT, LIMIT, LIMIT + 1, 40)):
        pool.shortage.note(LIMIT + 1, refused=True)
        assert pool.shortage.of_interest
        assert pool.look(0, held=LIMIT) == expected
    assert pool.shortage.of_interest, "whether it is over is to be seen"
    assert pool.look(0) is None
    assert pool.look(0, later=61) is None
    assert not pool.shortage.of_interest
