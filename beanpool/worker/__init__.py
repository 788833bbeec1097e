"""A program that works off tubes: threads, retries, time limits, and an end that loses nothing."""

from beanpool.worker.backoff import Backoff
from beanpool.worker.breaker import Breaker
from beanpool.worker.current import current_job
from beanpool.worker.events import JobBuried, JobDone, JobGivenBack, JobLost, JobRetried, JobStarted, WorkerEvent
from beanpool.worker.outcome import Bury, Retry, TimeLimitExceeded
from beanpool.worker.settings import Settings
from beanpool.worker.worker import Worker

__all__ = [
    "Backoff",
    "Breaker",
    "Bury",
    "JobBuried",
    "JobDone",
    "JobGivenBack",
    "JobLost",
    "JobRetried",
    "JobStarted",
    "Retry",
    "Settings",
    "TimeLimitExceeded",
    "Worker",
    "WorkerEvent",
    "current_job",
]
