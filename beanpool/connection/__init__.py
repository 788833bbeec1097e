"""One server, one thread: the API of beanstalkc."""

from beanpool.connection import results
from beanpool.connection.body_type import BodyT
from beanpool.connection.connection import Connection
from beanpool.connection.handshake import IDENTIFY, identity, tube_changes, unanswered
from beanpool.connection.job import Job, JobState
from beanpool.connection.job_batch import (
    disconnect,
    is_broken,
    lease_of,
    lose,
    lose_to_ttr,
    mark_deleted,
    recovery_of,
    report_lost,
    reserved_at,
    set_state,
    state_of,
    supersede,
)
from beanpool.connection.job_id import JobId, new_job_id
from beanpool.connection.job_making import found_job, reserved_job
from beanpool.connection.pipeline import Pipeline
from beanpool.connection.results import YamlParsing
from beanpool.connection.session import Held
from beanpool.connection.turns import Line, Turns, Wish, has_interrupted, leave_line, let_go, take_turns, try_turn

__all__ = [
    "IDENTIFY",
    "BodyT",
    "Connection",
    "Held",
    "Job",
    "JobId",
    "JobState",
    "Line",
    "Pipeline",
    "Turns",
    "Wish",
    "YamlParsing",
    "disconnect",
    "found_job",
    "has_interrupted",
    "identity",
    "is_broken",
    "lease_of",
    "leave_line",
    "let_go",
    "lose",
    "lose_to_ttr",
    "mark_deleted",
    "new_job_id",
    "recovery_of",
    "report_lost",
    "reserved_at",
    "reserved_job",
    "results",
    "set_state",
    "state_of",
    "supersede",
    "take_turns",
    "tube_changes",
    "try_turn",
    "unanswered",
]
