"""One server, one thread: the API of beanstalkc."""

from beanpool.connection import results
from beanpool.connection.body_type import BodyT
from beanpool.connection.connection import Connection
from beanpool.connection.handshake import IDENTIFY, identity, tube_changes, unanswered
from beanpool.connection.job import Job, JobState
from beanpool.connection.job_batch import (
    broke,
    end,
    gone,
    is_broken,
    lease_of,
    lose,
    ran_out,
    recovered,
    recovery_of,
    reserved_at,
    state_of,
    supersede,
)
from beanpool.connection.job_id import JobId, new_job_id
from beanpool.connection.job_making import found_job, reserved_job
from beanpool.connection.pipeline import Pipeline
from beanpool.connection.results import YamlParsing
from beanpool.connection.session import Held
from beanpool.connection.turns import take_turns, turn

__all__ = [
    "IDENTIFY",
    "BodyT",
    "Connection",
    "Held",
    "Job",
    "JobId",
    "JobState",
    "Pipeline",
    "YamlParsing",
    "broke",
    "end",
    "found_job",
    "gone",
    "identity",
    "is_broken",
    "new_job_id",
    "lease_of",
    "lose",
    "ran_out",
    "recovered",
    "recovery_of",
    "reserved_at",
    "reserved_job",
    "results",
    "state_of",
    "supersede",
    "tube_changes",
    "turn",
    "take_turns",
    "unanswered",
]
