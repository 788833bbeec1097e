"""A reserve: a sweep, then one wait on all servers."""

from beanpool.reserve.batch import MOST_JOBS
from beanpool.reserve.reserver import Reserver
from beanpool.reserve.waker import Waker, check_waker

__all__ = [
    "MOST_JOBS",
    "Reserver",
    "Waker",
    "check_waker",
]
