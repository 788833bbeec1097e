"""What one call may take: in hand, asked for and to spare are the limit, whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from beanpool.policy.quota import Lot, Quota, divide


@given(number=st.integers(0, 10_000), parts=st.integers(1, 300))
def test_a_number_is_divided_evenly(number: int, parts: int) -> None:
    found = divide(number, parts)
    assert (len(found), sum(found)) == (parts, number)
    assert max(found) - min(found) <= 1
    assert found == sorted(found, reverse=True)
    assert divide(number, 0) == []


class AnyCall(RuleBasedStateMachine):
    """One call over servers that answer, answer in vain, break, and are left to others, in any order."""

    lots = Bundle("lots")

    def __init__(self) -> None:
        super().__init__()
        self.quota = Quota(7)
        # Kept in another way: what the servers were asked for and what came, one number each.
        self.in_hand = self.asked = self.beyond = 0

    @rule(target=lots)
    def a_server_that_was_not_asked_yet(self) -> Lot:
        return self.quota.open()

    @rule(target=lots, count=st.integers(0, 7))
    def jobs_that_came_otherwise(self, count: int) -> Lot:
        if count > self.quota.free:
            with pytest.raises(ValueError):
                self.quota.open(count)
            return self.quota.open()
        self.in_hand += count
        return self.quota.open(count)

    @rule(some=st.lists(lots, unique_by=id))
    def share_out(self, some: list[Lot]) -> None:
        takers = [lot for lot in some if lot.used_up]
        free, before = self.quota.free, [lot.allotted for lot in takers]
        self.quota.allot(takers)
        given_out = [lot.allotted - was for lot, was in zip(takers, before, strict=True)]
        assert given_out == divide(free, len(takers))
        assert not takers or self.quota.free == 0

    @rule(some=st.lists(lots, unique_by=id, max_size=3))
    def ask_all_that_are_left(self, some: list[Lot]) -> None:
        self.quota.allot_beyond(some)
        self.beyond += len(some)

    @rule(lot=lots, count=st.integers(1, 7))
    def ask(self, lot: Lot, count: int) -> None:
        if count > lot.allotted:
            with pytest.raises(ValueError):
                lot.ask(count)
        else:
            lot.ask(count)
            self.asked += count

    @rule(lot=lots, count=st.integers(1, 7))
    def jobs_come(self, lot: Lot, count: int) -> None:
        if count > lot.asked:
            with pytest.raises(ValueError):
                lot.take(count)
        else:
            lot.take(count)
            self.asked -= count
            self.in_hand += count

    @rule(lot=lots)
    def in_vain(self, lot: Lot) -> None:
        if not lot.asked:
            with pytest.raises(ValueError):
                lot.miss()
        else:
            lot.miss()
            self.asked -= 1
            assert lot.exhausted
            assert not lot.allotted

    @rule(lot=lots, count=st.integers(1, 7))
    def jobs_that_came_a_second_time(self, lot: Lot, count: int) -> None:
        if count > lot.in_hand:
            with pytest.raises(ValueError):
                lot.lose(count)
        else:
            lot.lose(count)
            self.in_hand -= count

    @rule(lot=lots)
    def no_time_for_more(self, lot: Lot) -> None:
        lot.stop()

    @rule(lot=consumes(lots))
    def broken_or_left_to_others(self, lot: Lot) -> None:
        self.in_hand -= lot.in_hand
        self.asked -= lot.asked
        self.quota.close(lot)
        assert not lot.asked

    @invariant()
    def in_hand_and_asked_for_and_to_spare_are_the_limit(self) -> None:
        quota = self.quota
        assert (quota.in_hand, quota.asked) == (self.in_hand, self.asked)
        wanted = quota.in_hand + quota.asked
        assert quota.spare == max(0, quota.limit - wanted)
        assert wanted <= quota.limit + self.beyond
        assert quota.surplus == max(0, quota.in_hand - quota.limit)
        assert min(quota.in_hand, quota.asked, quota.spare, quota.free) >= 0
        assert quota.free <= quota.spare


TestAnyCall = AnyCall.TestCase
TestAnyCall.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
