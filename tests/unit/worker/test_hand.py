"""Tests of whose the jobs in a thread's hand are."""

from __future__ import annotations

import math
from typing import Any, cast

from beanpool import Job
from beanpool.worker.hand import YOUNG, Hand


def jobs(*names: str) -> list[Job]:
    # What they are is nothing to a hand.
    return [cast(Job, name) for name in names]


def names(found: Any) -> Any:
    return found


def test_jobs_come_one_after_another_and_are_the_threads_to_finish() -> None:
    hand = Hand()
    hand.take("tube", jobs("a", "b"))
    assert names(hand.next(1.0)) == "a"
    assert hand.began == 1.0
    assert hand.settle()
    assert names(hand.next(2.0)) == "b"
    assert hand.settle()
    assert hand.next(3.0) is None


def test_what_was_withdrawn_is_not_finished_and_nothing_else_is_begun() -> None:
    hand = Hand()
    hand.take("tube", jobs("a", "b", "c"))
    hand.next(1.0)
    assert names(hand.withdraw()) == ("a", ["b", "c"])
    assert not hand.settle()
    assert hand.next(2.0) is None
    assert names(hand.withdraw()) == (None, [])


def test_a_job_whose_handler_has_ended_is_left_to_its_thread() -> None:
    hand = Hand()
    hand.take("tube", jobs("a", "b"))
    hand.next(1.0)
    assert hand.settle()
    assert names(hand.withdraw()) == (None, ["b"])


def test_the_rest_can_be_taken_out() -> None:
    hand = Hand()
    hand.take("tube", jobs("a", "b", "c"))
    hand.next(1.0)
    assert names(hand.rest()) == ["b", "c"]
    assert hand.settle()
    assert hand.next(2.0) is None


def test_a_job_that_is_worked_on_alone_is_kept_alive_when_it_is_old_enough() -> None:
    hand = Hand()
    [job, other] = jobs("a", "b")
    assert hand.due == -math.inf
    assert hand.begin("tube", job, 1.0, 9.0, kept=False)
    assert hand.due == 1.0 + YOUNG
    assert hand.old_job(1.0 + YOUNG / 2) is None
    assert not hand.kept
    assert hand.old_job(1.0 + YOUNG) is job
    assert hand.kept
    assert hand.has(job)
    assert hand.old_job(9.0) is None
    hand.settle()
    assert not hand.has(job)
    # One that is finished sooner is never looked at.
    assert hand.begin("tube", other, 9.0, None, kept=False)
    hand.settle()
    assert (hand.old_job(99.0), hand.kept) == (None, False)
    # The next one may be worth a look then.
    assert hand.due == 9.0 + YOUNG
    hand.withdraw()
    assert not hand.begin("tube", job, 99.0, None, kept=False)


def test_jobs_of_a_batch_are_kept_alive_by_others() -> None:
    hand = Hand()
    hand.take("tube", jobs("a"))
    hand.next(1.0)
    assert hand.old_job(9.0) is None
