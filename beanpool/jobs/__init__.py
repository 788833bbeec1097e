"""Commands on jobs: by their ids, and on many at once."""

from beanpool.jobs.by_id import JobsById
from beanpool.jobs.delete import DeleteMany
from beanpool.jobs.statistics import stats_of_jobs

__all__ = [
    "DeleteMany",
    "JobsById",
    "stats_of_jobs",
]
