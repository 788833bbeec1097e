"""Commands on jobs: by their ids, and on many at once."""

from beanpool.jobs.by_id import JobsById
from beanpool.jobs.delete import DeleteMany

__all__ = [
    "DeleteMany",
    "JobsById",
]
