"""How long a batch may wait in vain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beanpool.policy.stall_budget import StallBudget

T = 4.0


def test_each_server_leaves_time_for_the_next() -> None:
    budget = StallBudget(T)
    waits = []
    for _ in range(4):
        waits.append(budget.patience(1 / 2, fresh=False))
        budget.spend(waits[-1])
    assert waits == [2.0, 1.0, 0.5, 0.25]


def test_one_that_has_not_failed_is_asked_when_others_have_used_up_the_time() -> None:
    budget = StallBudget(T)
    budget.spend(T)
    assert budget.left == 0
    assert budget.patience(1.0, fresh=False) == 0
    assert budget.patience(1 / 2, fresh=True) == T / 4


@pytest.mark.parametrize("spent", [1.0, T, 2 * T])
def test_a_put_that_is_stored_gives_all_of_it_back(spent: float) -> None:
    budget = StallBudget(T)
    budget.spend(spent)
    budget.renew()
    assert budget.left == T
    assert budget.patience(1.0, fresh=False) == T


def test_the_time_of_the_source_is_not_the_batchs() -> None:
    budget = StallBudget(T)
    budget.spend(3.0)
    budget.rest(1.0)
    assert budget.left == 2.0
    budget.rest(100.0)
    assert budget.left == T


@given(
    st.lists(st.tuples(st.sampled_from([1.0, 1 / 2, 1 / 3]), st.booleans(), st.floats(0, 1)), max_size=200),
    st.floats(0.01, 1000),
)
def test_whatever_is_waited_for_it_ends_after_two_timeouts(
    waits: list[tuple[float, bool, float]], timeout: float
) -> None:
    budget = StallBudget(timeout)
    total = 0.0
    for share, fresh, part in waits:
        waited = budget.patience(share, fresh) * part
        budget.spend(waited)
        total += waited
    assert total <= 2 * timeout * (1 + 1e-9)


def test_a_server_that_is_far_has_the_time_of_its_round_trips_as_long_as_it_is_fresh() -> None:
    budget = StallBudget(1.0)
    assert budget.patience(1 / 2, fresh=True, fair=0.7) == 0.7
    assert budget.patience(1 / 2, fresh=True, fair=9.0) == 1.0, "never more than all"
    assert budget.patience(1 / 2, fresh=False, fair=0.7) == 0.5
    budget.spend(1.8)
    assert budget.patience(1 / 2, fresh=True, fair=0.7) == pytest.approx(0.2)
