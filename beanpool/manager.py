"""The pool manager: a cluster of servers behind the verbs of one connection."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, Unpack, overload

from beanpool.cluster import (
    CLOSE_GRACE,
    ROUND_TRIP,
    STATISTICS,
    Answers,
    Cluster,
    Question,
    Scope,
    ServerSurvey,
    about_tube,
    about_tubes,
    ask_all,
    ask_for_many,
    for_a_job,
    gather,
    kick_all,
    merge_stats,
    survey_all,
    wait_for_servers,
)
from beanpool.config import (
    DEFAULTS,
    AnyServer,
    PoolOptions,
    Server,
    Settings,
    check_max_connections,
    from_environment,
    parse_servers,
    records_in,
)
from beanpool.connection import BodyT, Connection, Job, JobId
from beanpool.errors import BeanpoolError, NotPicklable, PoolClosed, PoolClosedForPut, PoolTimeout, without_frames
from beanpool.events import Event
from beanpool.jobs import BuryMany, DeleteMany, JobsById, KeptJobs, ReleaseMany, TouchMany, stats_of_jobs
from beanpool.policy import Retry, RetryBudget, RetryPolicy
from beanpool.protocol import (
    DEFAULT_PRIORITY,
    DEFAULT_TTR,
    LIST_TUBES,
    MAX_UINT32,
    PAUSE_TUBE,
    PEEK_BURIED,
    PEEK_DELAYED,
    PEEK_READY,
    Body,
    Command,
    check_id,
    check_int,
    check_tube,
    encode_bare,
    encode_body,
    encode_bury,
    encode_pause_tube,
    encode_put,
    encode_release,
)
from beanpool.put import (
    EncodedPut,
    OnOutcomes,
    Outcome,
    Put,
    PutDefaults,
    PutMany,
    PutRequest,
    Putter,
    Token,
    attempt_outcome,
    check_key,
    encode,
    encoded,
    put_all,
    put_once,
)
from beanpool.reserve import MOST_JOBS, Demand, Order, Reserver, Waker, check_order, check_waker, demand
from beanpool.runtime import Lock, check_unpatched, no_descriptor
from beanpool.server import borrow
from beanpool.telemetry import Observer, ServerStatus
from beanpool.tube import Tube
from beanpool.validation import OnAmbiguous, check_many, check_on_ambiguous, check_pause, check_seconds, check_wait

if TYPE_CHECKING:
    from beanpool.discovery import Discovery
    from beanpool.put.producer import Producer


_monotonic = time.monotonic
_pools: weakref.WeakSet[PoolManager[Any]] = weakref.WeakSet()


class PoolManager(NotPicklable, Generic[BodyT]):
    """A cluster of beanstalkd servers, shared by any number of threads.

    It has the verbs of a :class:`Connection`: a put goes to one of the servers, a reserve takes a job from
    whichever has one. The constructor does no I/O, and a server that is down is no error. Use it in a ``with``
    block, or call :meth:`close`.

    :param servers: one URL with many hosts (``beanstalk://q1:11300;weight=2,q2,[::1]:11301/?timeout=2``), or an
        iterable of :class:`Server` objects, ``"host:port"`` texts, URLs of one server and ``(host, port)`` tuples; or
        one of them. ``beanstalk+srv://_beanstalkd._tcp.example.org`` stands for a :class:`DnsSrv` of that name.
    :param discovery: finds out which servers there are: a :class:`DnsSrv`, a :class:`DnsA`, or a function without
        arguments that returns :class:`Found`. It is asked in a thread of its own, from the first use on, and decides:
        what :meth:`set_servers` and the like change lasts until its next answer (but for :meth:`set_weight`). The
        `servers`, if there are any, are those until its first one. A question that fails, or is answered with no server
        at all, changes nothing.
    :param tube: the tube that puts go to when not told otherwise.
    :param watch: the tubes that reserves take from when not told otherwise.
    :param max_connections: the most connections to each server; :meth:`resize` changes it. An unfinished job holds one
        (those of one :meth:`reserve_many` share one), so let it be at least the number of threads that work on jobs.
        While jobs hold some, puts and other short commands may open a quarter more, at least one.
    :param connect_timeout: the longest wait for a connection and the server's first answer (seconds).
    :param timeout: the longest time a call may take when not told otherwise (seconds).
    :param health_interval: how often an idle server is checked (seconds).
    :param discovery_interval: the shortest and the longest time between two questions to the discovery (seconds);
        between them, the TTL of its answer decides.
    :param drain_for: how long a server that the discovery finds no more is still reserved from, beyond the TTL
        (seconds): others may put jobs there for so long. It leaves when it is empty, too.
    :param retry: tenacity ``stop`` and ``wait`` objects for calls that found no server; None for until the call's
        deadline, after full-jitter exponential waits.
    :param on_ambiguous: what becomes of a put that may or may not be stored: ``"resend"`` puts it again and
        says so in the result, ``"raise"`` raises :class:`PutAmbiguous`.
    :param encoding: how ``str`` bodies travel; None for ``bytes`` only.
    :param name: the pool's name in logs and threads; None for one that is made up.
    :raises ValueError: for an option or server that cannot be; :raises TypeError: for one of a wrong type.
    """

    @overload
    def __init__(
        self: PoolManager[str],
        servers: AnyServer | Iterable[AnyServer] = (),
        *,
        discovery: Discovery | None = None,
        tube: str = "default",
        watch: str | Iterable[str] = ("default",),
        max_connections: int = 32,
        connect_timeout: float | None = 2.0,
        timeout: float = 5.0,
        health_interval: float = 5.0,
        discovery_interval: tuple[float, float] = (30.0, 300.0),
        drain_for: float = 300.0,
        retry: Retry = None,
        on_ambiguous: OnAmbiguous = "resend",
        encoding: str = "utf-8",
        name: str | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: PoolManager[bytes],
        servers: AnyServer | Iterable[AnyServer] = (),
        *,
        discovery: Discovery | None = None,
        encoding: None,
        **options: Unpack[PoolOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: PoolManager[str | bytes],
        servers: AnyServer | Iterable[AnyServer] = (),
        *,
        discovery: Discovery | None = None,
        encoding: str | None,
        **options: Unpack[PoolOptions],
    ) -> None: ...

    def __init__(
        self,
        servers: AnyServer | Iterable[AnyServer] = (),
        *,
        discovery: Discovery | None = None,
        tube: str = DEFAULTS.tube,
        watch: str | Iterable[str] = DEFAULTS.watch,
        max_connections: int = DEFAULTS.max_connections,
        connect_timeout: float | None = DEFAULTS.connect_timeout,
        timeout: float = DEFAULTS.timeout,
        health_interval: float = DEFAULTS.health_interval,
        discovery_interval: tuple[float, float] = DEFAULTS.discovery_interval,
        drain_for: float = DEFAULTS.drain_for,
        retry: Retry = None,
        on_ambiguous: OnAmbiguous = DEFAULTS.on_ambiguous,
        encoding: str | None = DEFAULTS.encoding,
        name: str | None = DEFAULTS.name,
    ) -> None:
        check_unpatched()
        known, url_options, discovery = _sources(servers, discovery)
        keywords = {
            "tube": tube,
            "watch": watch,
            "max_connections": max_connections,
            "connect_timeout": connect_timeout,
            "timeout": timeout,
            "health_interval": health_interval,
            "discovery_interval": discovery_interval,
            "drain_for": drain_for,
            "on_ambiguous": on_ambiguous,
            "encoding": encoding,
            "name": name,
        }
        settings = Settings.build(url_options, keywords)
        self._policy = RetryPolicy(retry)
        self._cluster = Cluster(known, settings, discovery)
        self._timeout = settings.timeout
        self.name: str = self._cluster.name
        self._used = settings.tube
        self._watched = tuple(settings.watch)
        self._encoding = settings.encoding
        self._resend = settings.on_ambiguous == "resend"
        self._jobs = JobsById(self._cluster)
        self._assemble()
        _pools.add(self)

    def _assemble(self) -> None:
        cluster = self._cluster
        self._lock = Lock()
        self._reserver = Reserver(
            cluster.current, self._timeout, cluster.monitor, cluster.background, cluster.reporter.observers
        )
        budget = RetryBudget(
            lambda: sum(member.pool.returns for member in cluster.topology.members),
            lambda: cluster.availability.comebacks,
        )
        self._putter = Putter(
            cluster.current, self._policy, cluster.closing, cluster.reporter, budget, cluster.availability
        )
        cluster.on_change = self._reserver.wake
        cluster.on_starved = self._reserver.give_up

    @overload
    @classmethod
    def from_env(
        cls,
        *,
        tube: str = "default",
        watch: str | Iterable[str] = ("default",),
        max_connections: int = 32,
        connect_timeout: float | None = 2.0,
        timeout: float = 5.0,
        health_interval: float = 5.0,
        discovery_interval: tuple[float, float] = (30.0, 300.0),
        drain_for: float = 300.0,
        retry: Retry = None,
        on_ambiguous: OnAmbiguous = "resend",
        encoding: str = "utf-8",
        name: str | None = None,
    ) -> Self: ...

    @overload
    @classmethod
    def from_env(
        cls,
        *,
        encoding: None,
        **options: Unpack[PoolOptions],
    ) -> PoolManager[bytes]: ...

    @overload
    @classmethod
    def from_env(
        cls,
        *,
        encoding: str | None,
        **options: Unpack[PoolOptions],
    ) -> PoolManager[str | bytes]: ...

    @classmethod
    def from_env(
        cls,
        *,
        tube: str = DEFAULTS.tube,
        watch: str | Iterable[str] = DEFAULTS.watch,
        max_connections: int = DEFAULTS.max_connections,
        connect_timeout: float | None = DEFAULTS.connect_timeout,
        timeout: float = DEFAULTS.timeout,
        health_interval: float = DEFAULTS.health_interval,
        discovery_interval: tuple[float, float] = DEFAULTS.discovery_interval,
        drain_for: float = DEFAULTS.drain_for,
        retry: Retry = None,
        on_ambiguous: OnAmbiguous = DEFAULTS.on_ambiguous,
        encoding: str | None = DEFAULTS.encoding,
        name: str | None = DEFAULTS.name,
    ) -> Any:
        """Make a pool of the servers in ``BEANPOOL_URL``, or else ``BEANSTALKD_URL``, or else ``BEANSTALK_URL``.

        The options are those of the constructor, and come before those of the URL.

        :raises ValueError: if none of them is set, or the one that is holds no servers.
        """
        keywords: dict[str, Any] = {
            "tube": tube,
            "watch": watch,
            "max_connections": max_connections,
            "connect_timeout": connect_timeout,
            "timeout": timeout,
            "health_interval": health_interval,
            "discovery_interval": discovery_interval,
            "drain_for": drain_for,
            "retry": retry,
            "on_ambiguous": on_ambiguous,
            "encoding": encoding,
            "name": name,
        }
        return cls(from_environment(os.environ), **keywords)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._cluster}>"

    # Its life.

    def __enter__(self) -> Self:
        self._cluster.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What went wrong here matters more than jobs in hand: whoever holds one in this frame will not finish it.
        self.close(5 if error is None else CLOSE_GRACE)

    def close(self, timeout: float = 5) -> None:
        """Close the pool: wake everybody who waits with :class:`PoolClosed`, then close the connections. Idempotent.

        Jobs that are being worked on may be finished for up to `timeout` (seconds); after that their connections are
        closed, and the servers give the jobs to others. A put or question that is under way may end within 0.25 s, or
        a few of its server's usual round trips.
        """
        deadline = _monotonic() + (check_wait("timeout", timeout) or 0.0)
        self._cluster.begin_to_close()
        self._putter.end()
        self._reserver.close()
        self._cluster.close(deadline)

    # Putting jobs.

    def put(
        self,
        body: Body,
        priority: int = DEFAULT_PRIORITY,
        delay: float = 0,
        ttr: float = DEFAULT_TTR,
        *,
        tube: str | None = None,
        key: str | bytes | None = None,
        timeout: float | None = None,
        on_ambiguous: OnAmbiguous | None = None,
    ) -> JobId:
        """Put a job into the cluster (``put``).

        :param body: ``str`` (if the pool has an encoding) or bytes-like.
        :param priority: 0 (most urgent) to 2**32 - 1.
        :param delay: how long before the job becomes ready (whole seconds).
        :param ttr: how long a worker may take before the job is given to another (whole seconds; 0 counts as 1).
        :param tube: the tube; None for the pool's.
        :param key: jobs with the same key go to the same server, from every process, while that server takes puts;
            each key has one fixed order of fail-over (:meth:`route`). None spreads the jobs over the servers, but for
            those whose connections are all in use.
        :param timeout: the longest the call may take (seconds); None for the pool's.
        :param on_ambiguous: ``"resend"`` or ``"raise"``; None for what the pool does.
        :returns: the job's id, with its server, and whether an attempt before may have stored the job too.
        :raises PutFailed: if it is not certainly stored, as one of its kinds, which are all that follow.
        :raises PutAmbiguous: if it may or may not be stored.
        :raises NoServerForPut: if no server took the job in time; it is in none of them.
        :raises PoolTimeoutForPut: if all connections stayed in use.
        :raises PoolClosedForPut: if the pool is closed, or was before a server had taken the job.
        :raises JobTooBig: if the body exceeds the ``max-job-size`` of all servers; with a key, that of the key's own.
        :raises PutRefused: if what answers is no beanstalkd.
        """
        data = encode_body(body, self._encoding)
        request = encode_put(data, priority, delay, ttr)
        if tube is None:
            tube = self._used
        else:
            check_tube(tube)
        seconds = self._timeout if timeout is None else check_seconds("timeout", timeout)
        resend = self._resend if on_ambiguous is None else check_on_ambiguous(on_ambiguous) == "resend"
        cluster = self._cluster
        if not cluster.started:
            seconds = self._start_to_put(seconds)
        topology = cluster.topology
        member = topology.next_taker() if key is None else topology.owner(key)
        now = _monotonic()
        failure = None
        if member is not None and member.accepting and member.up:
            # A server that is silent must leave time for another one.
            share = seconds
            if resend and topology.single is None:
                share = seconds / 2
                if share < member.reply_time:
                    share = seconds if seconds < member.reply_time else member.reply_time
            wait = key is not None or topology.single is not None
            try:
                jid = put_once(member, request, len(data), tube, now + share, now + seconds, wait)
            except BeanpoolError as error:
                # That others had all connections is no attempt: it was not waited for.
                failure = error if wait or not isinstance(error, PoolTimeout) else None
            else:
                if member.observers.active:
                    took = _monotonic() - now
                    member.observers.put(member.address, tube, 1, len(data), took, attempt_outcome(jid))
                return jid
        put = PutRequest(request, len(data), tube, key, now + seconds, resend)
        put.began = now
        return self._putter.go_on(put, member, failure)

    def put_many(
        self,
        items: Iterable[Body | Put],
        *,
        tube: str | None = None,
        key: str | bytes | None = None,
        priority: int = DEFAULT_PRIORITY,
        delay: float = 0,
        ttr: float = DEFAULT_TTR,
        timeout: float | None = None,
        on_ambiguous: OnAmbiguous | None = None,
    ) -> list[Outcome]:
        """Put many jobs, in few round trips and to all servers at once.

        What a server does not take goes to the next one of its order within the batch. While puts are stored, the call
        goes on, however many they are; it ends `timeout` after the last of them, or twice that where a server that
        had not been asked, or one that came back, is given its chance.

        :param items: bodies, or :class:`Put` objects with a key, tube and numbers of their own; any iterable. It is
            read as the jobs go out: what is on its way is bounded (64 KiB for each server and tube, and 16 KiB for each
            server that are not sent yet), and what it gave is sent when it makes the batch wait. Its time does not
            count.
        :param timeout: the longest that the call may wait without a put being stored (seconds); None for the pool's.
        :returns: one outcome per item, in order: a :class:`JobId`, or the exception that :meth:`put` would have
            raised for it: a :class:`PutFailed`, or the ``ValueError`` or ``TypeError`` of a bad item. A failed item
            does not stop its neighbours. The other parameters are those of :meth:`put`.
        :raises PoolClosedForPut: if the pool is closed already; `items` is not read then.
        :raises Exception: whatever `items` raises, once what it gave before has its outcomes; they are in the
            attribute ``outcomes`` of the exception. So they are in that of an interrupt, where what was on its way
            is :class:`PutAmbiguous`.
        :raises TypeError: for one body (``str`` or bytes-like) instead of an iterable of them.
        """
        check_many("items", items)
        defaults = PutDefaults(key, self._used if tube is None else tube, priority, delay, ttr)
        bad = encoded(b"", defaults, self._encoding)
        if isinstance(bad, Exception):
            raise bad
        encoding = self._encoding
        return put_all(
            items,
            lambda item: encoded(item, defaults, encoding),
            lambda on_outcomes: self._batch(on_outcomes, timeout, on_ambiguous),
        )

    def _batch(
        self, on_outcomes: OnOutcomes[Token], timeout: float | None = None, on_ambiguous: OnAmbiguous | None = None
    ) -> PutMany[Token]:
        seconds = self._timeout if timeout is None else check_seconds("timeout", timeout)
        resend = self._resend if on_ambiguous is None else check_on_ambiguous(on_ambiguous) == "resend"
        seconds = self._start_to_put(seconds)
        return PutMany(self._cluster.current, self._putter, seconds, resend, on_outcomes)

    def _start_to_put(self, seconds: float) -> float:
        """Begin to use the pool, in so many seconds; returns how many are left."""
        deadline = _monotonic() + seconds
        try:
            self._cluster.start(deadline)
        except PoolClosed as error:
            raise PoolClosedForPut(str(error)) from None
        return max(0.0, deadline - _monotonic())

    def producer(self, linger: float = 0.005, max_batch: int = 500) -> Producer:
        """A buffer for threads that put one job at a time and want the speed of batches; see :class:`Producer`.

        :param linger: how long the first job of a batch may wait for others (seconds; 0 for not at all). A job that
            somebody waits for (by its future's ``result`` or ``exception``, or ``concurrent.futures.wait``) waits for
            nothing but the batch under way; a callback is no wait.
        :param max_batch: how many jobs go out together at most.
        :raises BeanpoolError: if its thread cannot be started.
        """
        # Here, not at the top: concurrent.futures costs 10 ms, and most programs never ask for it.
        try:
            from beanpool.put.producer import Producer
            from beanpool.put.sender import Sender
        except OSError as error:
            raise no_descriptor("loading the producer", error) from error

        check_pause("linger", linger)
        check_int("max_batch", max_batch, 1, MAX_UINT32)

        def encode_one(
            body: Body, priority: int, delay: float, ttr: float, tube: str | None, key: str | bytes | None
        ) -> EncodedPut:
            return encode(body, key, self._used if tube is None else tube, priority, delay, ttr, self._encoding)

        self._cluster.start()
        return Producer(encode_one, Sender(self._batch, linger, max_batch, self._timeout, self.name))

    def route(self, key: str | bytes) -> tuple[str, ...]:
        """The addresses of the servers in the order in which they are asked to take a put with this key."""
        return tuple(member.address for member in self._cluster.topology.order(check_key(key)))

    # Reserving jobs.

    def reserve(
        self,
        timeout: float | None = None,
        *,
        tubes: str | Iterable[str] | None = None,
        order: Order = "any",
        waker: Waker | None = None,
        server: AnyServer | None = None,
    ) -> Job[BodyT] | None:
        """Reserve a job from whichever server has one; None if none came in time.

        The job's commands go to its own connection, from whichever thread they are called.

        With an `order` each tube is asked by itself: there is one round trip for each tube and server until one
        has a job, and while the call waits, one connection to each server for each tube, instead of one to each server.
        The job's ``tube`` is then known without asking for it. More tubes than half of `max_connections` are waited for
        all at once, by one connection to each server: the order is that of what is ready when the call begins, and a
        job that is waited for takes a round trip more, to learn its tube (``stats-job``). If the server does not answer
        that within a second, the job comes all the same, and its ``tube`` is None. Of so many, ``"fair"`` asks a few in
        turn by themselves, then all at once.

        :param timeout: how long to wait (seconds); None for ever.
        :param tubes: the tube, or tubes, to take from; None for those that the pool watches.
        :param order: ``"any"``: whichever tube has a job, the most urgent ones of a server first, and of those the
            oldest. ``"fair"``: the tubes in turns: one that is full keeps no other waiting. ``"strict"``: in the order
            in which they are named: a server gives a job of a tube only when it has none of those before, as far as it
            has told; while a call waits, a job that came within the last round trip may be overtaken.
        :param waker: ends the call early, without a job: see :class:`Waker`.
        :param server: the only server to ask, by its name or address; None for all.
        :raises ValueError: if the server is not one of the pool's, or there is no such order.
        :raises NoServerAvailable: if no server could be asked until then.
        :raises PoolTimeout: if all connections were in use, by unfinished jobs or by other calls, as long as it waited.
        :raises PoolClosed: if the pool is closed meanwhile.
        """
        if waker is not None:
            check_waker(waker)
        wait = check_wait("timeout", timeout)
        wanted: tuple[str, ...] | Demand
        if order != "any" or server is not None:
            wanted = self._demand(tubes, order, server)
        else:
            wanted = self._watched if tubes is None else _check_tubes(tubes)
        if not self._cluster.started:
            self._start_to_reserve(wait)
        return self._reserver.reserve(wanted, wait, waker)

    def reserve_many(
        self,
        limit: int,
        timeout: float | None = None,
        *,
        tubes: str | Iterable[str] | None = None,
        order: Order = "any",
        waker: Waker | None = None,
        server: AnyServer | None = None,
    ) -> list[Job[BodyT]]:
        """Reserve up to `limit` jobs at once, from all servers at the same time and in few round trips.

        What is ready is taken without waiting. If nothing is, this waits for the first job as :meth:`reserve` does, and
        takes what else is ready then. No more than `limit` jobs are ever reserved, on all servers together.

        Jobs of one server share a connection, which stays out of use until the last of them is finished. If it breaks,
        all of them are lost: see :meth:`Job.delete`, and :meth:`delete_many`, which deletes them as quickly.

        :param limit: how many jobs at most (1 to 100,000).
        :param timeout: how long to wait for the first job (seconds); None for ever. A server that is silent while
            others have given jobs is waited for a second, or a few of its usual round trips if these take longer; one
            that is silent while none has, at most the pool's timeout; the jobs of the others are returned then.
        :param tubes: the tube, or tubes, to take from; None for those that the pool watches.
        :param order: as for :meth:`reserve`; what a tube has is taken before the next one is asked. ``"fair"`` begins
            with the one after the last that gave a job, ``"strict"`` with the first. With more tubes than half of
            `max_connections`, the ``tube`` of the jobs of a server that does not say it within a second is None.
        :param waker: ends the call early, with the jobs that are in hand then: see :class:`Waker`.
        :param server: the only server to ask, by its name or address; None for all.
        :raises ValueError: if the server is not one of the pool's, or there is no such order.
        :returns: the jobs; an empty list if none came in time.
        :raises NoServerAvailable: if no server could be asked until then.
        :raises PoolTimeout: if all connections were in use, by unfinished jobs or by other calls, as long as it waited.
        :raises PoolClosed: if the pool is closed meanwhile.
        """
        check_int("limit", limit, 1, MOST_JOBS)
        if waker is not None:
            check_waker(waker)
        wait = check_wait("timeout", timeout)
        wanted: tuple[str, ...] | Demand
        if order != "any" or server is not None:
            wanted = self._demand(tubes, order, server)
        else:
            wanted = self._watched if tubes is None else _check_tubes(tubes)
        if not self._cluster.started:
            self._start_to_reserve(wait)
        return self._reserver.reserve_many(wanted, limit, wait, waker)

    def _demand(
        self, tubes: str | Iterable[str] | None, order: Order, server: AnyServer | None
    ) -> tuple[str, ...] | Demand:
        check_order(order)
        names = self._watched if tubes is None else _check_tubes(tubes, ordered=order != "any")
        address = ""
        if server is not None:
            if not self._cluster.started:
                self._start_to_reserve(0)
            member = self._cluster.topology.get(server)
            # Of several names of one process, one is used.
            address = (member.duplicate_of or member).address
        return demand(names, order, address)

    def _start_to_reserve(self, wait: float | None) -> None:
        # A reserve that waits, waits for servers as well.
        self._cluster.start(_monotonic() + self._timeout if wait == 0 else 0.0)

    def stop_reserving(self) -> None:
        """Let all reserves, those that wait and those to come, return None (:meth:`reserve_many`: an empty list).

        Puts go on, and jobs in hand can be finished: it is how a program begins to end. There is no way back. It may be
        called from any thread and from signal handlers, and more than once; it waits for nothing. A job that comes in
        at the same moment goes back to its tube.
        """
        self._reserver.stop()

    # One server.

    def connection(
        self, server: AnyServer, *, tube: str | None = None, timeout: float | None = None
    ) -> AbstractContextManager[Connection[BodyT]]:
        """Lend a connection to one server for a ``with`` block: a :class:`Connection` with all its verbs.

        It takes one of the pool's connections to that server (``max_connections``) until the end of the block, as an
        unfinished job does, so puts and other commands of the pool may have one more. It has the pool's encoding. Like
        every :class:`Connection` it belongs to one thread at a time. What it uses and watches concerns nobody else. A
        job that was reserved on it, and is not finished at the end of the block, goes back to its tube: its server sees
        the connection close. Jobs from it cannot be used after the block.

        :param server: the server's name or address.
        :param tube: the tube that it uses, and the only one that it watches, at first; None for those of the pool.
        :param timeout: the longest wait for the connection, and then for each reply (seconds); None for the pool's.
        :raises ValueError: if the server is not one of the pool's.
        :raises ConnectionFailed: where the block begins, if the server cannot be reached.
        :raises PoolTimeout: if all connections to it stayed in use.
        :raises PoolClosed: if the pool is closed.
        """
        seconds = self._timeout if timeout is None else check_seconds("timeout", timeout)
        used, watched = self._used, self._watched
        if tube is not None:
            check_tube(tube)
            used, watched = tube, (tube,)
        self._cluster.start(_monotonic() + seconds)
        return borrow(self._cluster.topology.get(server).pool, used, watched, seconds)

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

    def tube(self, name: str) -> Tube[BodyT]:
        """A handle on one tube; see :class:`Tube`."""
        return Tube(self, name)

    # One job. It is named by the JobId of its put, or by an int together with `server`: the name or address of its
    # server. A bare int will do where there is one server only. A Job stands for itself.

    def reserve_job(self, jid: int, *, server: AnyServer | None = None, timeout: float | None = None) -> Job[BodyT]:
        """Reserve the job with this id, be it ready, delayed or buried (``reserve-job``, beanstalkd 1.12 and newer).

        :param timeout: the longest it may take (seconds); None for the pool's.
        :raises NotFound: if there is none, or it is reserved.
        """
        deadline = self._jobs.deadline(timeout)
        member, instance = self._jobs.locate(jid, server, timeout)
        return self._reserver.reserve_job(member, check_id(jid), instance, deadline)

    def delete(self, jid: Job[Any] | int, *, server: AnyServer | None = None, timeout: float | None = None) -> None:
        """Delete a job (``delete``): a :class:`Job` as :meth:`Job.delete` does, any other by its id.

        :param jid: a :class:`Job`, the :class:`JobId` that :meth:`put` returned, or an ``int`` together with `server`
            (its name or address).
        :param timeout: the longest it may take (seconds); None for the pool's.
        :raises NotFound: if there is none, or it is reserved by another pool or connection.
        :raises JobLost: if its reservation is gone, or its server was restarted since.
        """
        self._jobs.delete(jid, server, timeout)

    def delete_many(self, jobs: Iterable[Job[Any] | int], *, timeout: float | None = None) -> list[Exception | None]:
        """Delete many jobs, in few round trips and to all servers at once.

        :param jobs: :class:`Job` objects, of whatever servers and connections, and what :meth:`delete` takes as a job's
            id; any iterable: it is read as the deletes go out.
        :param timeout: how long a server may let a reply wait, once in all (seconds); None for the pool's. What was
            lost has as much again, all together.
        :returns: one outcome per item, in order: None for a job that was deleted, else the exception that
            :meth:`Job.delete` or :meth:`delete` would have raised. A failed item does not stop its neighbours.
        """
        seconds = self._begin_many(jobs, timeout)
        return DeleteMany(self._jobs.locate, self._jobs.held, seconds, self._cluster.reporter.observers).run(jobs)

    def touch_many(self, jobs: Iterable[Job[Any] | int], *, timeout: float | None = None) -> list[Exception | None]:
        """Start the TTR of many jobs that this pool has reserved anew, in few round trips and on all servers at once.

        :param jobs: :class:`Job` objects, of whatever servers and connections, and the ids of jobs in hand.
        :param timeout: how long a server may let a reply wait, once in all (seconds); None for the pool's. One that is
            silent for so long costs its own jobs, as it does with :meth:`Job.touch`, and holds up no other server's.
        :returns: one outcome per item, in order: None for a job that was touched, or is not reserved, else the
            exception that :meth:`Job.touch` or :meth:`touch` would have raised, such as :class:`JobLost`.
        """
        seconds = self._begin_many(jobs, timeout)
        return TouchMany(self._jobs.get, seconds, self._cluster.reporter.observers).run(jobs)

    def release_many(
        self,
        jobs: Iterable[Job[Any] | int],
        *,
        priority: int | None = None,
        delay: float = 0,
        timeout: float | None = None,
    ) -> list[Exception | None]:
        """Give many jobs that this pool has reserved back to their tubes, in few round trips, on all servers at once.

        :param priority: their new priority; None keeps what each has (one more round trip for all of them).
        :param delay: how long before they become ready again (seconds).
        :returns: one outcome per item, in order: None for a job that was released, or is not reserved, else the
            exception that :meth:`Job.release` or :meth:`release` would have raised. `jobs` and `timeout` are those of
            :meth:`touch_many`.
        """
        encode_release(1, 0 if priority is None else priority, delay)
        seconds = self._begin_many(jobs, timeout)
        return ReleaseMany(self._jobs.get, seconds, self._cluster.reporter.observers, priority, delay).run(jobs)

    def bury_many(
        self, jobs: Iterable[Job[Any] | int], *, priority: int | None = None, timeout: float | None = None
    ) -> list[Exception | None]:
        """Put many jobs that this pool has reserved aside, in few round trips and on all servers at once.

        :param priority: their new priority; None keeps what each has (one more round trip for all of them).
        :returns: one outcome per item, in order: None for a job that was buried, or is not reserved, else the
            exception that :meth:`Job.bury` or :meth:`bury` would have raised. `jobs` and `timeout` are those of
            :meth:`touch_many`.
        """
        encode_bury(1, 0 if priority is None else priority)
        seconds = self._begin_many(jobs, timeout)
        return BuryMany(self._jobs.get, seconds, self._cluster.reporter.observers, priority).run(jobs)

    def keep(self, jobs: Job[Any] | Iterable[Job[Any] | int], *, until: float | None = None) -> KeptJobs:
        """Keep jobs that this pool has reserved alive within a ``with`` block: they are touched in the background.

        Each is touched when a third of its TTR has passed, whatever other servers do. The TTR is asked for once
        (``stats-job``), when the job is 0.4 s old: most jobs are finished before.

        :param jobs: a :class:`Job`, or many of them, or of the ids of jobs in hand. More may come in the block.
        :param until: when to stop, lest a job that hangs be kept for ever: a moment of ``time.monotonic()``, as in
            ``time.monotonic() + 60``; None for the end of the block.
        :returns: a context manager; its :attr:`~KeptJobs.lost` tells which jobs were lost all the same.
        :raises ValueError: if `until` has passed, or a job is not a pool's.
        """
        if not isinstance(jobs, Job):
            check_many("jobs", jobs)
        return KeptJobs(self._cluster.keep, self._jobs.get, (jobs,) if isinstance(jobs, Job) else jobs, until)

    def _begin_many(self, jobs: Iterable[Job[Any] | int], timeout: float | None) -> float:
        """Check what a command on many jobs is given, and return its timeout (seconds)."""
        check_many("jobs", jobs)
        seconds = self._timeout if timeout is None else check_seconds("timeout", timeout)
        if not self._cluster.started:
            self._cluster.start(_monotonic() + seconds)
        return seconds

    def release(
        self,
        jid: Job[Any] | int,
        priority: int | None = None,
        delay: float = 0,
        *,
        server: AnyServer | None = None,
        timeout: float | None = None,
    ) -> None:
        """Give a job that this pool has reserved back to its tube (``release``); see :meth:`Job.release`.

        :param jid: as for :meth:`delete`.
        :param priority: its new priority; None keeps the one it has (asked by ``stats-job``).
        :param timeout: the longest it may take (seconds); None for the pool's.
        :raises NotFound: if it is named by its id, and not reserved by this pool.
        """
        encode_release(1, 0 if priority is None else priority, delay)
        self._jobs.get(jid, server, "release").release(priority, delay, timeout=timeout)

    def bury(
        self,
        jid: Job[Any] | int,
        priority: int | None = None,
        *,
        server: AnyServer | None = None,
        timeout: float | None = None,
    ) -> None:
        """Put a job that this pool has reserved aside (``bury``); see :meth:`Job.bury`.

        :param jid: as for :meth:`delete`.
        :param priority: its new priority; None keeps the one it has (asked by ``stats-job``).
        :param timeout: the longest it may take (seconds); None for the pool's.
        :raises NotFound: if it is named by its id, and not reserved by this pool.
        """
        encode_bury(1, 0 if priority is None else priority)
        self._jobs.get(jid, server, "bury").bury(priority, timeout=timeout)

    def touch(self, jid: Job[Any] | int, *, server: AnyServer | None = None, timeout: float | None = None) -> None:
        """Start the TTR of a job that this pool has reserved anew (``touch``); see :meth:`Job.touch`.

        :param jid: as for :meth:`delete`.
        :param timeout: the longest it may take (seconds); None for the pool's.
        :raises NotFound: if it is named by its id, and not reserved by this pool.
        """
        self._jobs.get(jid, server, "touch").touch(timeout=timeout)

    def kick_job(self, jid: Job[Any] | int, *, server: AnyServer | None = None, timeout: float | None = None) -> None:
        """Make a buried or delayed job ready (``kick-job``).

        :param jid: as for :meth:`delete`.
        :param timeout: the longest it may take (seconds); None for the pool's.
        :raises NotFound: if it is neither.
        """
        self._jobs.kick(jid, server, timeout)

    def stats_job(
        self, jid: Job[Any] | int, *, server: AnyServer | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """The statistics of a job (``stats-job``).

        :param jid: as for :meth:`delete`.
        :param timeout: the longest it may take (seconds); None for the pool's.
        :raises NotFound: if there is none.
        """
        document: dict[str, Any] = self._jobs.stats(jid, server, timeout)
        return document

    def stats_jobs(
        self, jobs: Iterable[Job[Any] | int], *, server: AnyServer | None = None, timeout: float | None = None
    ) -> list[dict[str, Any] | Exception]:
        """The statistics of many jobs, in one round trip to all servers at once (``stats-job``).

        :param jobs: jobs, and what :meth:`stats_job` takes as a job's id.
        :param server: where ids are that do not say so.
        :param timeout: how long all of it may take (seconds); None for the pool's.
        :returns: one outcome per item, in order: the statistics, or the exception that :meth:`stats_job` would have
            raised.
        """
        check_many("jobs", jobs)
        deadline = self._cluster.deadline(timeout)
        self._cluster.start(deadline)
        return stats_of_jobs(self._jobs.locate, jobs, server, deadline)

    def peek(self, jid: int, *, server: AnyServer | None = None, timeout: float | None = None) -> Job[BodyT] | None:
        """Look at the job with this id without reserving it (``peek``); None if there is none.

        :param timeout: the longest it may take (seconds); None for the pool's.
        """
        if isinstance(jid, int) and not isinstance(jid, bool) and not jid:
            # No server has ever given it.
            return None
        member, _ = self._jobs.locate(jid, server, timeout)
        return self._reserver.at_home(member, self._jobs.peek(jid, server, timeout))

    # All servers. What is asked of them has a form ``..._by_server``, which hides no missing server. It may take
    # `timeout` seconds (None for the pool's): who has not answered until then is an error in its place.

    def ping(self, *, timeout: float | None = None) -> bool:
        """Make a round trip to every server (``list-tube-used``); True if one answers.

        :raises NoServerAvailable: if none does; ``errors`` says why, by address.
        """
        return bool(gather(self.ping_by_server(timeout=timeout), "answered"))

    def ping_by_server(self, *, timeout: float | None = None) -> Answers:
        """How long every server took to answer (seconds), or its error, by address."""
        return self._ask_all(ROUND_TRIP, timeout)

    def peek_ready(self, *, tube: str | None = None, timeout: float | None = None) -> Job[BodyT] | None:
        """Look at a ready job of the used tube, on whichever server has one (``peek-ready``)."""
        return self._peek(PEEK_READY, tube, timeout)

    def peek_ready_by_server(self, tube: str | None = None, *, timeout: float | None = None) -> Answers:
        """Every server's own ready job of the used tube, None, or its error, by address."""
        return self._peek_by_server(PEEK_READY, tube, timeout)

    def peek_delayed(self, *, tube: str | None = None, timeout: float | None = None) -> Job[BodyT] | None:
        """Look at a delayed job of the used tube, on whichever server has one (``peek-delayed``)."""
        return self._peek(PEEK_DELAYED, tube, timeout)

    def peek_delayed_by_server(self, tube: str | None = None, *, timeout: float | None = None) -> Answers:
        """Every server's own delayed job of the used tube, None, or its error, by address."""
        return self._peek_by_server(PEEK_DELAYED, tube, timeout)

    def peek_buried(self, *, tube: str | None = None, timeout: float | None = None) -> Job[BodyT] | None:
        """Look at a buried job of the used tube, on whichever server has one (``peek-buried``)."""
        return self._peek(PEEK_BURIED, tube, timeout)

    def peek_buried_by_server(self, tube: str | None = None, *, timeout: float | None = None) -> Answers:
        """Every server's own buried job of the used tube, None, or its error, by address."""
        return self._peek_by_server(PEEK_BURIED, tube, timeout)

    def _peek(self, command: Command, tube: str | None, timeout: float | None) -> Job[BodyT] | None:
        answers = gather(self._peek_by_server(command, tube, timeout), "could be asked for a job")
        return next((job for job in answers if job is not None), None)

    def _peek_by_server(self, command: Command, tube: str | None, timeout: float | None) -> Answers:
        used = self._used if tube is None else tube
        check_tube(used)
        answers = self._ask_all(for_a_job(command, used), timeout)
        for member in self._cluster.topology.members:
            job = answers.get(member.address)
            if isinstance(job, Job):
                answers[member.address] = self._reserver.at_home(member, job)
        return answers

    def tubes(self, *, timeout: float | None = None) -> list[str]:
        """The names of the tubes of all servers that answer, sorted (``list-tubes``)."""
        answers = gather(self.tubes_by_server(timeout=timeout), "listed its tubes")
        return sorted({name for names in answers for name in names})

    def tubes_by_server(self, *, timeout: float | None = None) -> Answers:
        """Every server's own tubes, or its error, by address."""
        return self._ask_all(about_tubes(LIST_TUBES, encode_bare(LIST_TUBES), None, self._used, self._watched), timeout)

    def stats(self, *, timeout: float | None = None) -> dict[str, Any]:
        """The statistics of all servers that answer, added up (``stats``): see ``cluster/fan_out.py``."""
        return merge_stats(gather(self.stats_by_server(timeout=timeout), "gave its statistics"))

    def stats_by_server(self, *, timeout: float | None = None) -> Answers:
        """Every server's own statistics, or its error, by address."""
        return self._ask_all(STATISTICS, timeout)

    def stats_tube(self, tube: str, *, timeout: float | None = None) -> dict[str, Any]:
        """The statistics of a tube, added up over the servers that have it (``stats-tube``).

        :raises NotFound: if no server has it.
        """
        answers = self.stats_tube_by_server(tube, timeout=timeout)
        return merge_stats(gather(answers, f"gave the statistics of tube {tube}"))

    def stats_tube_by_server(self, tube: str, *, timeout: float | None = None) -> Answers:
        """Every server's own statistics of a tube, or its error, by address."""
        return self._ask_all(about_tube(tube, *self._of_ours([tube])), timeout)

    def stats_tubes(
        self, names: Iterable[str], *, timeout: float | None = None
    ) -> dict[str, dict[str, Any] | BeanpoolError]:
        """The statistics of many tubes, each added up over the servers that have it, in one round trip.

        :param names: of the tubes.
        :returns: for each name the statistics, or the error that :meth:`stats_tube` would have raised.
        :raises NoServerAvailable: if no server answered.
        """
        by_server = self.stats_tubes_by_server(names, timeout=timeout)
        answers = gather(by_server, "gave the statistics of tubes")
        found: dict[str, dict[str, Any] | BeanpoolError] = {}
        for name in answers[0]:
            own = {
                address: answer if isinstance(answer, BaseException) else answer[name]
                for address, answer in by_server.items()
            }
            try:
                found[name] = merge_stats(gather(own, f"gave the statistics of tube {name}"))
            except BeanpoolError as error:
                found[name] = without_frames(error)
        return found

    def stats_tubes_by_server(self, names: Iterable[str], *, timeout: float | None = None) -> Answers:
        """Every server's own statistics of many tubes, by address: a dict of the statistics, or the error, by name.

        A server that answered nothing is an error in its place. All servers are asked all at once.

        :param names: of the tubes.
        """
        tubes = (names,) if isinstance(names, str) else tuple(names)
        for tube in tubes:
            check_tube(tube, "names")
        ours = self._of_ours(tubes)
        deadline = self._cluster.deadline(timeout)
        questions = {tube: about_tube(tube, *ours) for tube in tubes}
        return ask_for_many(self._cluster.members(deadline), questions, deadline)

    def survey(
        self,
        tubes: str | Iterable[str] = "*",
        *,
        most: int | None = None,
        head_age: bool = False,
        timeout: float | None = None,
    ) -> dict[str, ServerSurvey]:
        """Look at all servers and their tubes at once, for whoever shows how they are; returns by address what each
        has said.

        A server that is silent costs the call its timeout, and has an error in what is returned; the others are asked
        about everything meanwhile. A tube takes its server two or three commands, in four round trips for all of them
        (``list-tubes`` and ``stats``, ``stats-tube``, ``peek-ready``, ``stats-job``).

        :param tubes: which tubes: names, or patterns with ``*`` and ``?``.
        :param most: about how many tubes each server is asked at most, the first by pattern and name; None for all.
        :param head_age: whether to find out the age of the job that is reserved next from each tube. Its body is read
            for that, as beanstalkd has no other way.
        :param timeout: how long all of it may take (seconds); None for the pool's.
        """
        patterns = (tubes,) if isinstance(tubes, str) else tuple(tubes)
        if most is not None:
            check_int("most", most, 0, MAX_UINT32)
        scope = Scope(patterns, most, head_age, self._used)
        return survey_all(self._cluster.members(), scope, self._cluster.deadline(timeout))

    def pause_tube(self, tube: str, seconds: float, *, timeout: float | None = None) -> None:
        """Let nobody reserve from `tube` for this long, on all servers that have it (``pause-tube``).

        :raises NotFound: if no server has it.
        """
        gather(self.pause_tube_by_server(tube, seconds, timeout=timeout), f"paused tube {tube}")

    def pause_tube_by_server(self, tube: str, seconds: float, *, timeout: float | None = None) -> Answers:
        """As :meth:`pause_tube`; returns None, or the error, by address."""
        request = encode_pause_tube(tube, seconds)
        return self._ask_all(about_tubes(PAUSE_TUBE, request, tube, *self._of_ours([tube])), timeout)

    def kick(self, bound: int = 1, *, tube: str | None = None, timeout: float | None = None) -> int:
        """Kick up to `bound` jobs of the used tube over all servers (``kick``); returns how many were made ready.

        Delayed jobs are kicked only if no server that answers has buried ones. Each server is asked for a thousand at a
        time: it answers nobody else meanwhile.
        """
        return sum(gather(self.kick_by_server(bound, tube=tube, timeout=timeout), "kicked jobs"))

    def kick_by_server(self, bound: int = 1, *, tube: str | None = None, timeout: float | None = None) -> Answers:
        """As :meth:`kick`; returns every server's own count, or its error, by address."""
        check_int("bound", bound, 0, MAX_UINT32)
        used = self._used if tube is None else tube
        check_tube(used)
        deadline = self._cluster.deadline(timeout)
        return kick_all(self._cluster.members(deadline), deadline, bound, used)

    def _ask_all(self, question: Question, timeout: float | None) -> Answers:
        deadline = self._cluster.deadline(timeout)
        return ask_all(self._cluster.members(deadline), deadline, question)

    def _of_ours(self, tubes: Iterable[str]) -> tuple[str | None, tuple[str, ...] | None]:
        """What a connection has to use and watch while it is asked about these tubes."""
        # What this pool uses and watches exists, as for a Connection, also if nothing was put into it yet.
        used, watched = self._used, self._watched
        return (used, watched) if any(tube == used or tube in watched for tube in tubes) else (None, None)

    # Which servers there are.

    @property
    def servers(self) -> tuple[ServerStatus, ...]:
        """A snapshot of every server: its state and connections."""
        return tuple(member.status() for member in self._cluster.topology.members)

    def add_server(self, server: AnyServer) -> None:
        """Let a server join while the pool runs: it takes its share of keys, and waiting reserves wait on it too.

        :raises ValueError: if a server of this name or address is there already.
        """
        self._cluster.add_server(server)

    def remove_server(self, server: AnyServer) -> None:
        """Let a server go while the pool runs: it gets and gives no more jobs; those in hand can still be finished.

        Puts that wait for a connection to it go to another server.

        :param server: its name or address.
        :raises ValueError: if it is not there, or is the last one.
        """
        self._cluster.remove_server(server)

    def set_servers(
        self, servers: AnyServer | Iterable[AnyServer], *, drain: bool = True, drain_for: float = 0.0
    ) -> None:
        """Let exactly these be the servers from now on, in one step: for whoever finds out which servers there are.

        A key of a server that leaves, or joins, goes from its old server to its new one: no put goes by way of a third
        one, as it would if servers came and went one after the other. A server that is there already, by the same name
        and address, keeps its connections, and takes its weight from here. A name may get another address: then its
        keys go there. Jobs in hand can be finished on their connections, whatever becomes of their server.

        A server that is left out gets no puts any more. It is still reserved from, as ``leaving`` in :attr:`servers`,
        until a check of its health finds that it has no job at all (ready, delayed, reserved or buried); or has been
        down for ten minutes. Naming it again lets it stay.

        It may be called at any time, from any thread, also before the first use. It waits for nothing.

        :param servers: as for the constructor, but without options; an empty list for none. Without servers, or with
            none but leaving ones, puts fail with :class:`NoServerAvailable` when their time is over, and reserves
            wait for servers to be added.
        :param drain: False lets those that are left out go at once, as :meth:`remove_server` does.
        :param drain_for: how long they are reserved from in any case (seconds): as long as other processes may take
            until they put nothing there any more.
        :raises ValueError: for a server that cannot be, or one that is there twice.
        :raises PoolClosed: if the pool is closed.
        """
        self._cluster.set_servers(servers, drain, check_pause("drain_for", drain_for))

    def set_weight(self, server: AnyServer, weight: float) -> None:
        """Change a server's share of the puts; with 0 it gets no more, and is still reserved from.

        With a discovery it holds for as long as that finds the server, whatever weight it finds.

        :param server: its name or address.
        """
        self._cluster.set_weight(server, weight)

    def resize(self, max_connections: int) -> None:
        """Change `max_connections`, the limit of connections to each server, while the pool runs.

        Raised, it lets those who wait for a connection have one at once. Lowered, it closes idle connections; those in
        use are closed when they come back, and unfinished jobs keep theirs.

        :raises ValueError: if it is less than 1.
        """
        self._cluster.resize(check_max_connections(max_connections))

    def wait(self, min_servers: int = 1, timeout: float | None = None) -> None:
        """Wait until so many servers answer: a check for start-up scripts.

        :param min_servers: how many (1 to the number of servers; any number where a discovery finds them).
        :param timeout: how long (seconds); None for the pool's.
        :raises NoServerAvailable: if they do not in time; ``errors`` says why, by address.
        """
        deadline = self._cluster.deadline(timeout)
        self._cluster.start(deadline)
        # None may be there yet, and with a discovery more may come.
        most = MAX_UINT32 if self._cluster.is_discovered else max(1, self._cluster.server_count())
        check_int("min_servers", min_servers, 1, most)
        wait_for_servers(self._cluster, min_servers, deadline)

    def healthy(self, min_servers: int = 1) -> bool:
        """Whether at least so many servers answer, as far as is known: a check for load balancers and supervisors.

        It asks nobody, and so costs nothing: the pool's own checks and calls have found that out. A pool that was not
        used before begins to check its servers now (see `health_interval`), and is healthy when they have answered;
        one that is closed is not.

        :param min_servers: how many (1 or more). Servers that are leaving count, as they give jobs.
        """
        check_int("min_servers", min_servers, 1, MAX_UINT32)
        try:
            members = self._cluster.members()
        except PoolClosed:
            return False
        return sum(member.answers for member in members) >= min_servers

    # What can be seen of it.

    def add_listener(self, listener: Callable[[Event], Any]) -> None:
        """Call `listener` with every event (see :mod:`beanpool.events`) from now on.

        It is called in the thread in which the event happens, outside of all locks; what it raises is logged and
        harms nobody.

        :raises TypeError: if it cannot be called.
        """
        self._cluster.reporter.listeners.add(listener)

    def remove_listener(self, listener: Callable[[Event], Any]) -> None:
        """Call `listener` no longer.

        :raises ValueError: if it was never added.
        """
        self._cluster.reporter.listeners.remove(listener)

    def add_observer(self, observer: Observer) -> None:
        """Tell `observer` from now on of the commands on jobs and their times; see :class:`Observer`.

        :raises TypeError: if it lacks a method of an :class:`Observer`.
        """
        self._cluster.reporter.observers.add(observer)

    def remove_observer(self, observer: Observer) -> None:
        """Tell `observer` no longer.

        :raises ValueError: if it was never added.
        """
        self._cluster.reporter.observers.remove(observer)

    def get_stats(self) -> dict[str, int]:
        """The pool's own counters since it was made, always all of them, by psycopg_pool's names where they fit.

        - ``pool_max``, ``pool_size``, ``pool_available``: connections to all servers: allowed, open, idle.
        - ``requests_num``, ``requests_queued``, ``requests_waiting``, ``requests_wait_ms``, ``requests_errors``:
          callers who wanted one; how many had to wait, wait now, for how long, and in vain.
        - ``connections_num``, ``connections_ms``, ``connections_errors``, ``connections_lost``: connections that were
          made, the time that took, attempts that failed, and connections that broke.
        - ``returns_bad``: connections that came back broken.
        - ``puts``, ``reserved``, ``deleted``, ``released``, ``buried``, ``touched``: jobs for which a server has
          acknowledged that, on any connection of the pool, singly or in batches. What the pool does by itself is
          among them: a job that it reserved and gave back, one that it reserves again to finish a lost delete.
        - ``in_hand``: unfinished jobs, now.
        - ``put_errors``, ``put_attempts_failed``: puts that ended with an error, and attempts that failed; of most
          of these another server has taken the put.
        - ``puts_rerouted``, ``puts_ambiguous``, ``retries_num``, ``retries_refused``, ``jobs_lost``, ``outages_num``:
          what callers felt of the servers' failures.
        """
        return self._cluster.stats()

    def get_stats_by_server(self) -> dict[str, dict[str, int]]:
        """Those of the counters of :meth:`get_stats` that are a server's, of each server by its address.

        They begin anew with a server that was removed and is added again; in the sums of :meth:`get_stats` what was
        counted before stays.
        """
        return {member.address: member.stats() for member in self._cluster.topology.members}


def _start_afresh_in_child() -> None:
    # After the clusters, which have registered before.
    for pool in list(_pools):
        pool._assemble()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)


def _sources(
    servers: AnyServer | Iterable[AnyServer], discovery: Discovery | None
) -> tuple[tuple[Server, ...], dict[str, Any], Discovery | None]:
    """The servers to begin with, the options that came with them, and what finds out which there are."""
    if discovery is not None and not callable(discovery):
        raise TypeError(f"discovery must be a function that returns Found, not {type(discovery).__name__}")
    records = records_in(servers)
    if records is None:
        return *parse_servers(servers, at_least_one=discovery is None), discovery
    if discovery is not None:
        raise ValueError("the URL names records of servers: there is no place for another discovery beside it")
    # Here: most pools have none.
    from beanpool.discovery import DnsSrv

    name, options = records
    return (), options, DnsSrv(name)


def _check_tubes(tubes: Any, *, ordered: bool = False) -> tuple[str, ...]:
    names = (tubes,) if isinstance(tubes, str) else tuple(tubes)
    if not names:
        raise ValueError("tubes must name at least one tube")
    for name in names:
        check_tube(name, "tubes")
    if len(names) == 1:
        return names
    return tuple(dict.fromkeys(names)) if ordered else tuple(sorted(set(names)))
