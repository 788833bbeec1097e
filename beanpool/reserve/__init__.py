"""A reserve: a sweep, then one wait on all servers."""

from beanpool.reserve.batch import MOST_JOBS
from beanpool.reserve.reserver import Reserver
from beanpool.reserve.tube_order import Demand, Order, check_order, demand
from beanpool.reserve.waker import Waker, check_waker

__all__ = [
    "MOST_JOBS",
    "Demand",
    "Order",
    "Reserver",
    "Waker",
    "check_order",
    "check_waker",
    "demand",
]
