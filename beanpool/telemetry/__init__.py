"""What can be seen of a pool: its log, its listeners, its counters and its snapshots."""

from beanpool.telemetry.log import ErrorLog, log_safely, logger
from beanpool.telemetry.reporter import Reporter
from beanpool.telemetry.stats import SERVER_COUNTS, Counters, ServerStatus, total

__all__ = [
    "SERVER_COUNTS",
    "Counters",
    "ErrorLog",
    "Reporter",
    "ServerStatus",
    "log_safely",
    "logger",
    "total",
]
