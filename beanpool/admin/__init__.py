"""Operating a cluster: look, clear, move, empty.

Each operation works on all servers at once, and returns by server what came of it: a server that fails is a result, and
not an exception.
"""

from beanpool.admin.clear import clear
from beanpool.admin.copies import KeyOf
from beanpool.admin.evacuate import evacuate
from beanpool.admin.exporting import export_jobs
from beanpool.admin.find import find
from beanpool.admin.importing import import_jobs
from beanpool.admin.kick import Kickable, kick_all
from beanpool.admin.listing import Listing, jobs
from beanpool.admin.move import move
from beanpool.admin.outcome import STATES, AnyState, OnProgress, Outcome, Progress, State, Stop, total
from beanpool.admin.stored_job import StoredJob

__all__ = [
    "STATES",
    "AnyState",
    "Kickable",
    "KeyOf",
    "Listing",
    "OnProgress",
    "Outcome",
    "Progress",
    "State",
    "Stop",
    "StoredJob",
    "clear",
    "evacuate",
    "export_jobs",
    "find",
    "import_jobs",
    "jobs",
    "kick_all",
    "move",
    "total",
]
