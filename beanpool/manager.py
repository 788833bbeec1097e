"""The pool manager: a cluster of servers behind the verbs of one connection."""

from __future__ import annotations

import enum
import functools
import itertools
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, TypeVar

from beanpool.checks import check_on_ambiguous, check_seconds, check_wait
from beanpool.config import Server, Settings, from_environment, parse_servers
from beanpool.counters import Counters, total
from beanpool.errors import BeanpoolError, JobLost, NotFound, PoolClosed
from beanpool.events import (
    ConnectionClosed,
    ConnectionOpened,
    Event,
    PutMadeAmbiguous,
    PutRerouted,
    ReservationLost,
    RetryScheduled,
    ServerStateChanged,
)
from beanpool.health import Health, ServerState
from beanpool.job import Job
from beanpool.job_home import JobHome
from beanpool.job_id import JobId
from beanpool.listeners import Listeners
from beanpool.log import logger
from beanpool.member import Member
from beanpool.monitor import Monitor
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.arguments import (
    DEFAULT_PRIORITY,
    DEFAULT_TTR,
    MAX_UINT32,
    check_id,
    check_int,
    check_tube,
    encode_body,
)
from beanpool.protocol.commands import encode_bury, encode_pause_tube, encode_put, encode_release
from beanpool.putting import PutRequest, Putter, no_server, put_once
from beanpool.reserving import Reserver
from beanpool.resolving import describe
from beanpool.retry import RetryPolicy
from beanpool.retry_budget import RetryBudget
from beanpool.status import ServerStatus
from beanpool.survey import Answers, add_up, ask_all, ask_one, given
from beanpool.topology import Topology
from beanpool.tube import Tube

Answer = TypeVar("Answer")

# How long commands that are on their way may take when the pool closes (seconds).
_CLOSE_GRACE = 0.25
_WAIT_STEP = 0.2

_log = logger("pool")

_numbers = itertools.count(1)
_pools: weakref.WeakSet[PoolManager] = weakref.WeakSet()


class Unset(enum.Enum):
    """Tells an option that was not given from every value that one can have."""

    UNSET = "unset"


UNSET = Unset.UNSET


class PoolManager:
    """A cluster of beanstalkd servers, shared by any number of threads.

    It has the verbs of a :class:`Connection`: a put goes to one of the servers, a reserve takes a job from
    whichever has one. The constructor does no I/O, and a server that is down is no error. Use it in a ``with``
    block, or call :meth:`close`.

    :param servers: one URL with many hosts (``beanstalk://q1:11300,q2,[::1]:11301/?timeout=2``), or an iterable of
        :class:`Server` objects, ``"host:port"`` texts and URLs of one server.
    :param tube: the tube that puts go to when not told otherwise (default ``default``).
    :param watch: the tubes that reserves take from when not told otherwise (default ``("default",)``).
    :param max_connections: the most connections to each server (default 32).
    :param connect_timeout: the longest wait for a connection and the server's first answer (seconds, default 2).
    :param timeout: the longest time a call may take when not told otherwise (seconds, default 5).
    :param health_interval: how often an idle server is checked (seconds, default 5).
    :param retry: tenacity ``stop`` and ``wait`` objects for calls that found no server (default: until the call's
        deadline, after full-jitter exponential waits).
    :param on_ambiguous: what becomes of a put that may or may not be stored: ``"resend"`` (default) puts it again and
        says so in the result, ``"raise"`` raises :class:`PutAmbiguous`.
    :param encoding: how ``str`` bodies travel (default ``utf-8``); None for ``bytes`` only.
    :param name: the pool's name in logs and threads.
    :raises ValueError: for an option or server that cannot be; :raises TypeError: for one of a wrong type.
    """

    def __init__(
        self,
        servers: str | Server | Iterable[str | Server],
        *,
        tube: str | Unset = UNSET,
        watch: str | Iterable[str] | Unset = UNSET,
        max_connections: int | Unset = UNSET,
        connect_timeout: float | Unset = UNSET,
        timeout: float | Unset = UNSET,
        health_interval: float | Unset = UNSET,
        retry: Any = None,
        on_ambiguous: str | Unset = UNSET,
        encoding: str | Unset | None = UNSET,
        name: str | Unset | None = UNSET,
    ) -> None:
        known, url_options = parse_servers(servers)
        given_options = {
            "tube": tube,
            "watch": watch,
            "max_connections": max_connections,
            "connect_timeout": connect_timeout,
            "timeout": timeout,
            "health_interval": health_interval,
            "on_ambiguous": on_ambiguous,
            "encoding": encoding,
            "name": name,
        }
        self._settings = Settings.build(
            url_options, {option: value for option, value in given_options.items() if value is not UNSET}
        )
        self._policy = RetryPolicy(retry)
        self._used = self._settings.tube
        self._watched = tuple(self._settings.watch)
        self._timeout = self._settings.timeout
        self._encoding = self._settings.encoding
        self._resend = self._settings.on_ambiguous == "resend"
        self.name = self._settings.name or f"pool-{next(_numbers)}"
        self._listeners = Listeners()
        self._begin(known)
        _pools.add(self)

    def _begin(self, servers: tuple[Server, ...]) -> None:
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._started = False
        self._changed = threading.Condition()
        self._counters = Counters()
        self._topology = Topology(tuple(Member(server, self._settings, self) for server in servers))
        # The monitor's thread must not keep an unused pool alive: it looks at it through a weak reference.
        myself = weakref.ref(self)

        def members() -> tuple[Member, ...] | None:
            pool = myself()
            return (*pool._topology.members, *pool._leaving) if pool is not None else None

        self._leaving: tuple[Member, ...] = ()
        self._monitor = Monitor(members, self._settings.health_interval, self.name)
        self._reserver = Reserver(lambda: self._topology, self._timeout, self._monitor.linger, self._home)
        budget = RetryBudget(lambda: sum(member.pool.returns for member in self._topology.members))
        self._putter = Putter(lambda: self._topology, self._policy, self._closing, self, budget)

    @classmethod
    def from_env(cls, **options: Any) -> PoolManager:
        """Make a pool of the servers in ``BEANPOOL_URL``, or else ``BEANSTALKD_URL``, or else ``BEANSTALK_URL``.

        :raises ValueError: if none of them is set, or the one that is holds no servers.
        """
        return cls(from_environment(os.environ), **options)

    def __del__(self) -> None:
        # Only flags: a finalizer may run at any line of any thread. The monitor's thread sees them at its next tick.
        if getattr(self, "_started", False) and not self._closing.is_set():
            self._monitor.abandon()
            warnings.warn(
                f"{self.name} was never closed; use it in a with block", ResourceWarning, stacklevel=2, source=self
            )

    def __repr__(self) -> str:
        servers = ", ".join(f"{member.name} {member.health.state.value}" for member in self._topology.members)
        closed = " (closed)" if self._closing.is_set() else ""
        return f"<PoolManager {self.name}{closed}: {servers}>"

    # Life cycle.

    def __enter__(self) -> PoolManager:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        if self._closing.is_set():
            raise PoolClosed(f"{self.name} is closed")
        self._started = True
        self._monitor.start()

    def close(self, timeout: float = 5) -> None:
        """Close the pool: wake everybody who waits with :class:`PoolClosed`, then close the connections. Idempotent.

        Jobs that are being worked on may be finished for up to `timeout` (seconds); after that their connections are
        closed, and the servers give the jobs to others.
        """
        seconds = check_wait("timeout", timeout) or 0.0
        now = time.monotonic()
        self._closing.set()
        self._reserver.close()
        for member in self._topology.members:
            member.pool.retire()
        for member in self._topology.members:
            member.pool.close(min(now + seconds, now + _CLOSE_GRACE), now + seconds)
        self._monitor.stop(1.0)

    def _after_fork(self) -> None:
        # In a forked child everything starts anew; the sockets are the parent's.
        closed = self._closing.is_set()
        self._monitor.leave_to_parent()
        self._begin(tuple(member.server for member in self._topology.members))
        if closed:
            self._closing.set()

    def _home(self, member: Member) -> JobHome:
        return JobHome(member.pool, self._job_lost)

    # What the parts tell of what they see (see Cluster in member.py and PutObserver in putting.py).

    def member_changed(self, member: Member, before: Health, after: Health) -> None:
        """What is believed about a server has changed."""
        restarted = after.generation > before.generation and after.state is not ServerState.DOWN
        if not restarted and (before.state, before.draining, before.rests_until) == (
            after.state,
            after.draining,
            after.rests_until,
        ):
            return
        with self._lock:
            self._topology = self._topology.refreshed()
        self._reserver.poke()
        self._monitor.wake()
        with self._changed:
            self._changed.notify_all()
        if before.state is not after.state or before.draining != after.draining or restarted:
            self._tell_change(member, before, after, restarted)

    def _tell_change(self, member: Member, before: Health, after: Health, restarted: bool) -> None:
        lasted = max(0.0, after.since - before.since)
        if after.state is ServerState.DOWN and before.state is not ServerState.DOWN:
            self._counters.add("outages_num")
            _log.warning("pool %s: server %s is down: %s", self.name, member.name, after.last_error)
        elif before.state is ServerState.DOWN and after.state is ServerState.UP:
            _log.info("pool %s: server %s is up again after %.1f s", self.name, member.name, lasted)
        if after.draining and not before.draining:
            _log.info("pool %s: server %s is draining: it gets no more puts", self.name, member.name)
        if self._listeners:
            self._listeners.tell(
                ServerStateChanged(
                    self.name,
                    member.address,
                    member.name,
                    before.state.value,
                    after.state.value,
                    after.draining,
                    restarted,
                    after.last_error,
                    lasted,
                )
            )

    def member_starved(self, member: Member) -> None:
        """A caller waits for a connection: one that only waits for jobs can be spared."""
        self._reserver.give_up(member)

    def connection_opened(self, member: Member, instance: str) -> None:
        """A connection stands."""
        if self._listeners:
            self._listeners.tell(ConnectionOpened(self.name, member.address, instance))

    def connection_closed(self, member: Member, because: str) -> None:
        """A connection was given up."""
        if self._listeners:
            self._listeners.tell(ConnectionClosed(self.name, member.address, because))

    def put_rerouted(self, member: Member, instead_of: Member, error: BeanpoolError) -> None:
        """A put went to another server than the first choice."""
        self._counters.add("puts_rerouted")
        if self._listeners:
            self._listeners.tell(PutRerouted(self.name, member.address, instead_of.address, describe(error)))

    def put_ambiguous(self, member: Member, error: BeanpoolError) -> None:
        """A put may or may not be stored."""
        self._counters.add("puts_ambiguous")
        if self._listeners:
            self._listeners.tell(PutMadeAmbiguous(self.name, member.address, describe(error)))

    def retry_scheduled(self, wait: float, error: BaseException | None) -> None:
        """A put will be tried again."""
        self._counters.add("retries_num")
        if self._listeners:
            self._listeners.tell(
                RetryScheduled(self.name, wait, describe(error) if error else "no server took the put")
            )

    def retry_refused(self) -> None:
        """A put was not tried again: too many were, of late."""
        self._counters.add("retries_refused")

    def _job_lost(self, job: Job, reason: str) -> None:
        self._counters.add("jobs_lost")
        if self._listeners:
            self._listeners.tell(ReservationLost(self.name, job.server, job.id, reason))

    def add_listener(self, listener: Callable[[Event], Any]) -> None:
        """Call `listener` with every event (see :mod:`beanpool.events`) from now on.

        It is called in the thread in which the event happens, outside of all locks; what it raises is logged and
        harms nobody.

        :raises TypeError: if it cannot be called.
        """
        self._listeners.add(listener)

    def remove_listener(self, listener: Callable[[Event], Any]) -> None:
        """Call `listener` no longer.

        :raises ValueError: if it was never added.
        """
        self._listeners.remove(listener)

    def get_stats(self) -> dict[str, int]:
        """The pool's own counters since it was made, always all of them, by psycopg_pool's names where they fit.

        - ``pool_max``, ``pool_size``, ``pool_available``: connections to all servers: allowed, open, idle.
        - ``requests_num``, ``requests_queued``, ``requests_waiting``, ``requests_wait_ms``, ``requests_errors``:
          callers who wanted one; how many had to wait, wait now, for how long, and in vain.
        - ``connections_num``, ``connections_ms``, ``connections_errors``, ``connections_lost``: connections that were
          made, the time that took, attempts that failed, and connections that broke.
        - ``returns_bad``: connections that came back broken.
        - ``puts_rerouted``, ``puts_ambiguous``, ``retries_num``, ``retries_refused``, ``jobs_lost``, ``outages_num``:
          what callers felt of the servers' failures.
        """
        members = self._topology.members
        return {**total(member.pool.stats() for member in members), **self._counters.snapshot()}

    # Putting jobs.

    def put(
        self,
        body: str | bytes,
        priority: int = DEFAULT_PRIORITY,
        delay: int = 0,
        ttr: int = DEFAULT_TTR,
        *,
        tube: str | None = None,
        key: str | bytes | None = None,
        timeout: float | None = None,
        on_ambiguous: str | None = None,
    ) -> JobId:
        """Put a job into the cluster (``put``).

        :param body: ``str`` (if the pool has an encoding) or bytes-like.
        :param priority: 0 (most urgent) to 2**32 - 1.
        :param delay: how long before the job becomes ready (seconds).
        :param ttr: how long a worker may take before the job is given to another (seconds, at least 1).
        :param tube: the tube; None for the pool's.
        :param key: jobs with the same key go to the same server, from every process, while that server takes puts;
            each key has one fixed order of fail-over (:meth:`route`). None spreads the jobs over the servers.
        :param timeout: the longest the call may take (seconds); None for the pool's.
        :param on_ambiguous: ``"resend"`` or ``"raise"``; None for what the pool does.
        :returns: the job's id, with its server, and whether an attempt before may have stored the job too.
        :raises NoServerAvailable: if no server took the job in time; it is in none of them.
        :raises PutAmbiguous: if it may or may not be stored.
        :raises JobTooBig: if the body exceeds the server's ``max-job-size``.
        :raises PoolTimeout: if all connections stayed in use.
        """
        data = encode_body(body, self._encoding)
        request = encode_put(data, priority, delay, ttr)
        if tube is None:
            tube = self._used
        else:
            check_tube(tube)
        seconds = self._timeout if timeout is None else check_seconds("timeout", timeout)
        resend = self._resend if on_ambiguous is None else check_on_ambiguous(on_ambiguous) == "resend"
        if not self._started:
            self._start()
        topology = self._topology
        member = topology.next_taker() if key is None else topology.owner(key)
        now = time.monotonic()
        put = PutRequest(request, len(data), tube, key, now + seconds, resend)
        if member is None or not member.accepting or not member.up:
            return self._putter.go_on(put, None, None)
        try:
            # A server that is silent must leave time for another one.
            jid = put_once(member, put, now + seconds / 2 if resend and topology.single is None else put.deadline)
        except BeanpoolError as error:
            failure = error
        else:
            return jid
        return self._putter.go_on(put, member, failure)

    def route(self, key: str | bytes) -> tuple[str, ...]:
        """The addresses of the servers in the order in which they are asked to take a put with this key."""
        return tuple(member.address for member in self._topology.order(_check_key(key)))

    # Reserving jobs.

    def reserve(self, timeout: float | None = None, *, tubes: str | Iterable[str] | None = None) -> Job | None:
        """Reserve a job from whichever server has one; None if none came in time.

        The job's commands go to its own connection, from whichever thread they are called.

        :param timeout: how long to wait (seconds); None for ever.
        :param tubes: the tube, or tubes, to take from; None for those that the pool watches.
        :raises NoServerAvailable: if no server could be asked until then.
        :raises PoolTimeout: if all connections were in use by unfinished jobs.
        :raises PoolClosed: if the pool is closed meanwhile.
        """
        wait = check_wait("timeout", timeout)
        wanted = self._watched if tubes is None else _check_tubes(tubes)
        if not self._started:
            self._start()
        return self._reserver.reserve(wanted, wait)

    def reserve_job(self, jid: int, *, server: str | None = None) -> Job:
        """Reserve the job with this id, be it ready, delayed or buried (``reserve-job``, beanstalkd 1.12 and newer).

        :raises NotFound: if there is none, or it is reserved.
        """
        member, instance = self._locate(jid, server)
        return self._reserver.reserve_job(member, check_id(jid), instance, time.monotonic() + self._timeout)

    # Commands on one job, by its id.

    def delete(self, jid: int, *, server: str | None = None) -> None:
        """Delete a job, by the id that :meth:`put` returned (``delete``).

        :param jid: a :class:`JobId`, or an ``int`` together with `server` (its name or address).
        :raises NotFound: if there is none, or it is reserved by another pool or connection.
        :raises JobLost: if its server was restarted since.
        """
        job = self._job_in_hand(jid, server)
        if job is not None:
            job.delete()
        else:
            self._on_job(jid, server, lambda connection: connection.delete(check_id(jid)))

    def release(self, jid: int, priority: int = DEFAULT_PRIORITY, delay: int = 0, *, server: str | None = None) -> None:
        """Give a job that this pool has reserved back to its tube (``release``); see :meth:`Job.release`.

        :raises NotFound: if it is not reserved by this pool.
        """
        encode_release(check_id(jid), priority, delay)
        self._in_hand(jid, server, "release").release(priority, delay)

    def bury(self, jid: int, priority: int = DEFAULT_PRIORITY, *, server: str | None = None) -> None:
        """Put a job that this pool has reserved aside (``bury``); see :meth:`Job.bury`.

        :raises NotFound: if it is not reserved by this pool.
        """
        encode_bury(check_id(jid), priority)
        self._in_hand(jid, server, "bury").bury(priority)

    def touch(self, jid: int, *, server: str | None = None) -> None:
        """Start the TTR of a job that this pool has reserved anew (``touch``); see :meth:`Job.touch`.

        :raises NotFound: if it is not reserved by this pool.
        """
        self._in_hand(jid, server, "touch").touch()

    def kick_job(self, jid: int, *, server: str | None = None) -> None:
        """Make a buried or delayed job ready (``kick-job``).

        :raises NotFound: if it is neither.
        """
        self._on_job(jid, server, lambda connection: connection.kick_job(check_id(jid)))

    def stats_job(self, jid: int, *, server: str | None = None) -> dict[str, Any]:
        """The statistics of a job (``stats-job``).

        :raises NotFound: if there is none.
        """
        document: dict[str, Any] = self._on_job(jid, server, lambda connection: connection.stats_job(check_id(jid)))
        return document

    def peek(self, jid: int, *, server: str | None = None) -> Job | None:
        """Look at the job with this id without reserving it (``peek``); None if there is none."""
        member, _ = self._locate(jid, server)
        job = self._on_job(jid, server, lambda connection: connection.peek(check_id(jid)))
        return self._reserver.at_home(member, job)

    def _locate(self, jid: int, server: str | None) -> tuple[Member, str | None]:
        """The member that a job's id belongs to, and the server process that gave the id, if that is known."""
        check_id(jid)
        topology = self._topology
        instance = None
        if isinstance(jid, JobId):
            if server is not None and topology.find(server) is not topology.find(jid.server):
                raise ValueError(f"server must be left out or be that of the JobId ({jid.server}), not {server!r}")
            server, instance = jid.server, jid.instance
        if server is None:
            if topology.single is None:
                raise ValueError(
                    f"job id {jid} names a different job on each of the {len(topology.members)} servers: "
                    "pass the JobId that put() returned, or server="
                )
            return topology.single, None
        return self._find(topology, server), instance

    def _on_job(self, jid: int, server: str | None, ask: Callable[[PooledConnection], Answer]) -> Answer:
        member, instance = self._locate(jid, server)
        if not self._started:
            self._start()

        def ask_the_same(connection: PooledConnection, deadline: float) -> Answer:
            if instance is not None and connection.instance != instance:
                raise JobLost(
                    f"job {jid} of {member.address} is lost: its server was restarted, and the id may be another job's",
                    reason="its server was restarted",
                )
            return ask(connection)

        return ask_one(member, time.monotonic() + self._timeout, ask_the_same, None)

    def _job_in_hand(self, jid: int, server: str | None) -> Job | None:
        member, instance = self._locate(jid, server)
        return member.pool.job_in_hand(check_id(jid), instance)

    def _in_hand(self, jid: int, server: str | None, command: str) -> Job:
        job = self._job_in_hand(jid, server)
        if job is None:
            raise NotFound(command, "NOT_FOUND", [])
        return job

    # The pool-wide tubes.

    def use(self, tube: str) -> str:
        """Put into `tube` from now on, in all threads, when not told otherwise; returns its name."""
        check_tube(tube)
        self._used = tube
        return tube

    def using(self) -> str:
        """The tube that puts go to when not told otherwise."""
        return self._used

    def watch(self, tube: str) -> int:
        """Reserve from `tube` too, in all threads, when not told otherwise; returns how many tubes are watched."""
        check_tube(tube)
        with self._lock:
            if tube not in self._watched:
                self._watched = (*self._watched, tube)
            return len(self._watched)

    def ignore(self, tube: str) -> int:
        """Reserve from `tube` no longer; returns how many tubes are watched. The last one stays, and 1 is returned."""
        check_tube(tube)
        with self._lock:
            self._watched = tuple(name for name in self._watched if name != tube) or self._watched
            return len(self._watched)

    def watching(self) -> list[str]:
        """The tubes that reserves take from when not told otherwise."""
        return list(self._watched)

    def tube(self, name: str) -> Tube:
        """A handle on one tube; see :class:`Tube`."""
        return Tube(self, name)

    # Looking at jobs.

    def peek_ready(self, *, tube: str | None = None) -> Job | None:
        """Look at a ready job of the used tube, on whichever server has one (``peek-ready``)."""
        return self._peek(PooledConnection.peek_ready, tube)

    def peek_delayed(self, *, tube: str | None = None) -> Job | None:
        """Look at a delayed job of the used tube, on whichever server has one (``peek-delayed``)."""
        return self._peek(PooledConnection.peek_delayed, tube)

    def peek_buried(self, *, tube: str | None = None) -> Job | None:
        """Look at a buried job of the used tube, on whichever server has one (``peek-buried``)."""
        return self._peek(PooledConnection.peek_buried, tube)

    def _peek(self, peek: Callable[[PooledConnection], Job | None], tube: str | None) -> Job | None:
        answers = self._ask_all(lambda connection, _: peek(connection), tube)
        for job in given(answers, "could be asked for a job"):
            if job is not None:
                member = self._topology.find(job.server)
                return self._reserver.at_home(member, job) if member is not None else None
        return None

    # The whole cluster.

    def tubes(self) -> list[str]:
        """The names of the tubes of all servers that answer, sorted (``list-tubes``)."""
        return sorted({name for names in given(self.tubes_by_server(), "listed its tubes") for name in names})

    def tubes_by_server(self) -> Answers:
        """Every server's own tubes, or its error, by address."""
        return self._ask_all(lambda connection, _: connection.tubes())

    def stats(self) -> dict[str, Any]:
        """The statistics of all servers that answer, added up (``stats``); see :func:`beanpool.survey.add_up`."""
        return add_up(given(self.stats_by_server(), "gave its statistics"))

    def stats_by_server(self) -> Answers:
        """Every server's own statistics, or its error, by address."""
        return self._ask_all(lambda connection, _: connection.stats())

    def stats_tube(self, tube: str) -> dict[str, Any]:
        """The statistics of a tube, added up over the servers that have it (``stats-tube``).

        :raises NotFound: if no server has it.
        """
        return add_up(given(self.stats_tube_by_server(tube), f"gave the statistics of tube {tube}"))

    def stats_tube_by_server(self, tube: str) -> Answers:
        """Every server's own statistics of a tube, or its error, by address."""
        check_tube(tube)
        return self._ask_all(lambda connection, _: connection.stats_tube(tube))

    def pause_tube(self, tube: str, seconds: int) -> None:
        """Let nobody reserve from `tube` for this long, on all servers that have it (``pause-tube``).

        :raises NotFound: if no server has it.
        """
        given(self.pause_tube_by_server(tube, seconds), f"paused tube {tube}")

    def pause_tube_by_server(self, tube: str, seconds: int) -> Answers:
        """As :meth:`pause_tube`; returns None, or the error, by address."""
        encode_pause_tube(tube, seconds)
        return self._ask_all(lambda connection, _: connection.pause_tube(tube, seconds))

    def kick(self, bound: int = 1, *, tube: str | None = None) -> int:
        """Kick up to `bound` jobs of the used tube over all servers (``kick``); returns how many were made ready."""
        return sum(given(self.kick_by_server(bound, tube=tube), "kicked jobs"))

    def kick_by_server(self, bound: int = 1, *, tube: str | None = None) -> Answers:
        """As :meth:`kick`; returns every server's own count, or its error, by address."""
        check_int("bound", bound, 0, MAX_UINT32)
        used = self._used if tube is None else tube
        check_tube(used)
        deadline = time.monotonic() + self._timeout
        answers: Answers = {}
        left = bound
        # One after the other: the bound is one for all.
        for member in self._members():
            answers[member.address] = 0
            if not left:
                continue
            if member.down:
                answers[member.address] = member.unusable("not asked")
                continue
            try:
                kicked = ask_one(member, deadline, functools.partial(_kick, left), used)
            except BeanpoolError as error:
                answers[member.address] = error.with_traceback(None)
            else:
                answers[member.address] = kicked
                left -= kicked
        return answers

    def _members(self) -> tuple[Member, ...]:
        if not self._started:
            self._start()
        return self._topology.members

    def _ask_all(self, ask: Callable[[PooledConnection, float], Any], tube: str | None = None) -> Answers:
        used = self._used if tube is None else tube
        check_tube(used)
        return ask_all(self._members(), self._timeout, ask, used)

    # Membership.

    def add_server(self, server: str | Server) -> None:
        """Let a server join while the pool runs: it takes its share of keys, and waiting reserves wait on it too.

        :raises ValueError: if a server of this name or address is there already.
        """
        (known,), _ = parse_servers([server])
        member = Member(known, self._settings, self)
        with self._lock:
            topology = self._topology
            if topology.find(member.name) is not None or topology.find(member.address) is not None:
                raise ValueError(f"server {member.name} ({member.address}) is in the pool already")
            self._topology = Topology((*topology.members, member))
        self._reserver.poke()
        self._monitor.wake()

    def remove_server(self, server: str) -> None:
        """Let a server go while the pool runs: it gets and gives no more jobs; those in hand can still be finished.

        :param server: its name or address.
        :raises ValueError: if it is not there, or is the last one.
        """
        with self._lock:
            topology = self._topology
            member = self._find(topology, server)
            rest = tuple(other for other in topology.members if other is not member)
            if not rest:
                raise ValueError(f"server {member.name} is the last one of the pool: close the pool instead")
            self._topology = Topology(rest)
            self._leaving = (*(m for m in self._leaving if m.pool.counts()[0]), member)
        self._reserver.poke()
        member.pool.retire()

    def set_weight(self, server: str, weight: float) -> None:
        """Change a server's share of the puts; with 0 it gets no more, and is still reserved from.

        :param server: its name or address.
        """
        checked = Server(weight=weight).weight
        with self._lock:
            member = self._find(self._topology, server)
        member.set_weight(checked)
        with self._lock:
            self._topology = Topology(self._topology.members)

    def _find(self, topology: Topology, server: str) -> Member:
        member = topology.find(server)
        if member is None:
            raise ValueError(f"server must be one of {', '.join(m.name for m in topology.members)}, not {server!r}")
        return member

    def wait(self, min_servers: int = 1, timeout: float | None = None) -> None:
        """Wait until so many servers answer: a check for start-up scripts.

        :param min_servers: how many (1 to the number of servers).
        :param timeout: how long (seconds); None for the pool's.
        :raises NoServerAvailable: if they do not in time; ``errors`` says why, by address.
        """
        members = self._members()
        check_int("min_servers", min_servers, 1, len(members))
        deadline = time.monotonic() + (self._timeout if timeout is None else check_seconds("timeout", timeout))
        while True:
            answers = ask_all(
                members, max(0.001, deadline - time.monotonic()), lambda connection, _: connection.instance
            )
            if sum(not isinstance(answer, BaseException) for answer in answers.values()) >= min_servers:
                return
            remaining = deadline - time.monotonic()
            if self._closing.is_set():
                raise PoolClosed(f"{self.name} is closed")
            if remaining <= 0:
                silent = {address: error for address, error in answers.items() if isinstance(error, BaseException)}
                raise no_server(silent, f"answered, or fewer than {min_servers} did")
            with self._changed:
                self._changed.wait(min(remaining, _WAIT_STEP))

    @property
    def servers(self) -> tuple[ServerStatus, ...]:
        """A snapshot of every server: its state and connections."""
        return tuple(member.status() for member in self._topology.members)


def _kick(bound: int, connection: PooledConnection, _: float) -> int:
    return connection.kick(bound)


def _check_key(key: Any) -> str | bytes:
    if not isinstance(key, str | bytes):
        raise TypeError(f"key must be str or bytes, not {type(key).__name__}")
    return key


def _check_tubes(tubes: Any) -> tuple[str, ...]:
    names = (tubes,) if isinstance(tubes, str) else tuple(tubes)
    if not names:
        raise ValueError("tubes must name at least one tube")
    for name in names:
        check_tube(name, "tubes")
    return names if len(names) == 1 else tuple(sorted(set(names)))


def _start_afresh_in_child() -> None:
    for pool in list(_pools):
        pool._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)
