"""Which server, in what state, how often again: pure decisions, without I/O, clocks or locks."""

from beanpool.policy.discovery_pace import next_question
from beanpool.policy.health import (
    Failure,
    Health,
    ServerState,
    answered,
    failed,
    patience,
    refused_to_store,
    rested,
    worked,
)
from beanpool.policy.pace import Pace
from beanpool.policy.put_outcome import Attempts, is_duplicate, is_over, may_be_stored, outcome
from beanpool.policy.quota import Lot, Quota
from beanpool.policy.rendezvous import Rendezvous
from beanpool.policy.retry import Retry, RetryBudget, RetryPolicy
from beanpool.policy.round_robin import weighted_round_robin
from beanpool.policy.schedule import Schedule
from beanpool.policy.stall_budget import StallBudget
from beanpool.policy.touch_schedule import YOUNG, TouchSchedule

__all__ = [
    "Attempts",
    "Failure",
    "Health",
    "Lot",
    "Pace",
    "Quota",
    "Rendezvous",
    "Retry",
    "RetryBudget",
    "RetryPolicy",
    "Schedule",
    "ServerState",
    "StallBudget",
    "TouchSchedule",
    "YOUNG",
    "answered",
    "failed",
    "is_duplicate",
    "is_over",
    "may_be_stored",
    "next_question",
    "outcome",
    "patience",
    "refused_to_store",
    "rested",
    "weighted_round_robin",
    "worked",
]
