"""A thread-safe, connection-pooled client for clusters of beanstalkd servers.

Importing it opens nothing, starts no thread and configures no logging.
"""

from typing import TYPE_CHECKING

from beanpool.cluster import ServerSurvey
from beanpool.config import Server
from beanpool.connection import Connection, Job, JobId, Pipeline
from beanpool.errors import (
    BeanpoolError,
    BeanstalkcException,
    Buried,
    CommandFailed,
    CommandTimeout,
    ConnectionFailed,
    DeadlineSoon,
    Draining,
    JobLost,
    JobTooBig,
    NoServerAvailable,
    NoServerForPut,
    NotFound,
    OutOfMemory,
    PoolClosed,
    PoolClosedForPut,
    PoolTimeout,
    PoolTimeoutForPut,
    PutAmbiguous,
    PutFailed,
    PutRefused,
    ReentrantCall,
    SocketError,
    UnexpectedResponse,
)
from beanpool.events import (
    ConnectionClosed,
    ConnectionOpened,
    ConnectionsShort,
    DiscoveryFailed,
    DiscoveryRecovered,
    Event,
    PutMadeAmbiguous,
    PutRerouted,
    ReservationLost,
    RetryScheduled,
    ServersChanged,
    ServerStateChanged,
)
from beanpool.jobs import KeptJobs
from beanpool.manager import PoolManager
from beanpool.net import DEFAULT_HOST, DEFAULT_PORT
from beanpool.protocol import DEFAULT_PRIORITY, DEFAULT_TTR, DEFAULT_TUBE_NAME
from beanpool.put import Put
from beanpool.reserve import Order, Waker
from beanpool.telemetry import AttemptOutcome, JobEnd, Observer, ServerStatus
from beanpool.tube import Tube
from beanpool.validation import OnAmbiguous

if TYPE_CHECKING:
    from beanpool.discovery import Discovery, DnsA, DnsSrv, Found
    from beanpool.put.producer import Producer

__version__: str
"""The version of the package; read when it is first asked for."""

__all__ = [
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "DEFAULT_PRIORITY",
    "DEFAULT_TTR",
    "DEFAULT_TUBE_NAME",
    "AttemptOutcome",
    "BeanpoolError",
    "BeanstalkcException",
    "Buried",
    "CommandFailed",
    "CommandTimeout",
    "Connection",
    "ConnectionClosed",
    "ConnectionFailed",
    "ConnectionOpened",
    "ConnectionsShort",
    "DeadlineSoon",
    "Discovery",
    "DiscoveryFailed",
    "DiscoveryRecovered",
    "DnsA",
    "DnsSrv",
    "Draining",
    "Event",
    "Found",
    "Job",
    "JobEnd",
    "JobId",
    "JobLost",
    "JobTooBig",
    "KeptJobs",
    "NoServerAvailable",
    "NoServerForPut",
    "NotFound",
    "Observer",
    "OnAmbiguous",
    "Order",
    "OutOfMemory",
    "Pipeline",
    "PoolClosed",
    "PoolClosedForPut",
    "PoolManager",
    "PoolTimeout",
    "PoolTimeoutForPut",
    "Producer",
    "Put",
    "PutAmbiguous",
    "PutFailed",
    "PutMadeAmbiguous",
    "PutRefused",
    "PutRerouted",
    "ReentrantCall",
    "ReservationLost",
    "RetryScheduled",
    "Server",
    "ServerStateChanged",
    "ServerStatus",
    "ServerSurvey",
    "ServersChanged",
    "SocketError",
    "Tube",
    "UnexpectedResponse",
    "Waker",
]

if not TYPE_CHECKING:  # To type checkers it would be any name's.

    def __getattr__(name: str) -> object:
        # Here, not at the top: each takes long to load, or is what most programs never need.
        if name == "Producer":
            from beanpool.put.producer import Producer

            globals()[name] = Producer
            return Producer
        if name in ("Discovery", "DnsA", "DnsSrv", "Found"):
            from beanpool import discovery

            return globals().setdefault(name, getattr(discovery, name))
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import metadata

        try:
            version = globals()[name] = metadata.version(__name__)
        except metadata.PackageNotFoundError as error:
            raise AttributeError(f"{__name__} is not installed, so nobody knows its {name}") from error
        return version
