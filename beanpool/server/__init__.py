"""One server of a cluster: its connections, its reserved jobs, its health."""

from beanpool.server.borrowed_connection import borrow
from beanpool.server.connection_pool import close_all
from beanpool.server.lease import Lease
from beanpool.server.member import Member
from beanpool.server.partial_release import PartialRelease
from beanpool.server.pool_counters import PoolCounters
from beanpool.server.pooled_connection import PooledConnection
from beanpool.server.recovery import RecoveredDeletes, Recovery, why_another
from beanpool.server.reservations import InHand
from beanpool.server.ticket import Ticket
from beanpool.server.touch_round import TouchRound

__all__ = [
    "InHand",
    "Lease",
    "Member",
    "PartialRelease",
    "PoolCounters",
    "PooledConnection",
    "RecoveredDeletes",
    "Recovery",
    "Ticket",
    "TouchRound",
    "borrow",
    "close_all",
    "why_another",
]
