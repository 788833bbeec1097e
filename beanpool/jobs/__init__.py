"""Commands on jobs: by their ids, and on many at once."""

from beanpool.jobs.by_id import JobsById
from beanpool.jobs.delete import DeleteMany
from beanpool.jobs.give_up import BuryMany, ReleaseMany
from beanpool.jobs.keep import KeptJobs
from beanpool.jobs.statistics import stats_of_jobs
from beanpool.jobs.touch import TouchMany

__all__ = [
    "BuryMany",
    "DeleteMany",
    "JobsById",
    "KeptJobs",
    "ReleaseMany",
    "TouchMany",
    "stats_of_jobs",
]
