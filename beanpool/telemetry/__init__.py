"""What can be seen of a pool: its log, its listeners, its counters and its snapshots."""

from beanpool.telemetry.listeners import Listeners
from beanpool.telemetry.log import ErrorLog, log_safely, logger
from beanpool.telemetry.observer import AttemptOutcome, JobEnd, Observer
from beanpool.telemetry.observers import FinishedBatch, JobTiming, Observers, TouchedBatch
from beanpool.telemetry.reporter import Reporter
from beanpool.telemetry.stats import SERVER_COUNTS, Counters, ServerStatus, total

__all__ = [
    "SERVER_COUNTS",
    "AttemptOutcome",
    "Counters",
    "ErrorLog",
    "FinishedBatch",
    "JobEnd",
    "JobTiming",
    "Listeners",
    "Observer",
    "Observers",
    "Reporter",
    "ServerStatus",
    "TouchedBatch",
    "log_safely",
    "logger",
    "total",
]
