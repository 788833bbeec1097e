"""The pool manager: a cluster of servers behind the verbs of one connection."""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from beanpool.checks import check_many, check_on_ambiguous, check_pause, check_seconds, check_wait
from beanpool.cluster_verbs import ClusterVerbs
from beanpool.config import AnyServer, Settings, from_environment, parse_servers
from beanpool.errors import BeanpoolError, NotPicklable
from beanpool.job import Job
from beanpool.job_id import JobId
from beanpool.job_verbs import JobVerbs
from beanpool.own_limits import no_descriptor
from beanpool.patching import check_unpatched
from beanpool.protocol.arguments import (
    DEFAULT_PRIORITY,
    DEFAULT_TTR,
    MAX_UINT32,
    Body,
    check_int,
    check_tube,
    encode_body,
)
from beanpool.protocol.commands import encode_put
from beanpool.put_all import put_all
from beanpool.put_item import EncodedPut, Put, Usual, check_key, encode, encoded
from beanpool.put_lane import Place
from beanpool.put_many import Outcome, PutMany, Settle
from beanpool.putting import PutRequest, put_once
from beanpool.reserve_many import MOST_JOBS
from beanpool.retry import RetryPolicy
from beanpool.tube import Tube

if TYPE_CHECKING:
    from beanpool.producer import Producer


class Unset(enum.Enum):
    """Tells an option that was not given from every value that one can have."""

    UNSET = "unset"


UNSET = Unset.UNSET
_monotonic = time.monotonic


class PoolManager(JobVerbs, ClusterVerbs, NotPicklable):
    """A cluster of beanstalkd servers, shared by any number of threads.

    It has the verbs of a :class:`Connection`: a put goes to one of the servers, a reserve takes a job from
    whichever has one. The constructor does no I/O, and a server that is down is no error. Use it in a ``with``
    block, or call :meth:`close`.

    :param servers: one URL with many hosts (``beanstalk://q1:11300,q2,[::1]:11301/?timeout=2``), or an iterable of
        :class:`Server` objects, ``"host:port"`` texts, URLs of one server and ``(host, port)`` tuples; or one of them.
    :param tube: the tube that puts go to when not told otherwise (default ``default``).
    :param watch: the tubes that reserves take from when not told otherwise (default ``("default",)``).
    :param max_connections: the most connections to each server (default 32). An unfinished job holds one (those of one
        :meth:`reserve_many` share one), so let it be at least the number of threads that work on jobs. While jobs hold
        some, puts and other short commands may open a quarter more, at least one.
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
        servers: AnyServer | Iterable[AnyServer],
        *,
        tube: str | Unset = UNSET,
        watch: str | Iterable[str] | Unset = UNSET,
        max_connections: int | Unset = UNSET,
        connect_timeout: float | Unset | None = UNSET,
        timeout: float | Unset = UNSET,
        health_interval: float | Unset = UNSET,
        retry: Any = None,
        on_ambiguous: str | Unset = UNSET,
        encoding: str | Unset | None = UNSET,
        name: str | Unset | None = UNSET,
    ) -> None:
        check_unpatched()
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
        settings = Settings.build(
            url_options, {option: value for option, value in given_options.items() if value is not UNSET}
        )
        super().__init__(known, settings, RetryPolicy(retry))
        self._used = settings.tube
        self._watched = tuple(settings.watch)
        self._encoding = settings.encoding
        self._resend = settings.on_ambiguous == "resend"

    @classmethod
    def from_env(cls, **options: Any) -> PoolManager:
        """Make a pool of the servers in ``BEANPOOL_URL``, or else ``BEANSTALKD_URL``, or else ``BEANSTALK_URL``.

        :raises ValueError: if none of them is set, or the one that is holds no servers.
        """
        return cls(from_environment(os.environ), **options)

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
        on_ambiguous: str | None = None,
    ) -> JobId:
        """Put a job into the cluster (``put``).

        :param body: ``str`` (if the pool has an encoding) or bytes-like.
        :param priority: 0 (most urgent) to 2**32 - 1.
        :param delay: how long before the job becomes ready (whole seconds).
        :param ttr: how long a worker may take before the job is given to another (whole seconds; 0 counts as 1).
        :param tube: the tube; None for the pool's.
        :param key: jobs with the same key go to the same server, from every process, while that server takes puts;
            each key has one fixed order of fail-over (:meth:`route`). None spreads the jobs over the servers.
        :param timeout: the longest the call may take (seconds); None for the pool's.
        :param on_ambiguous: ``"resend"`` or ``"raise"``; None for what the pool does.
        :returns: the job's id, with its server, and whether an attempt before may have stored the job too.
        :raises NoServerAvailable: if no server took the job in time; it is in none of them.
        :raises PutAmbiguous: if it may or may not be stored.
        :raises JobTooBig: if the body exceeds the ``max-job-size`` of all servers; with a key, that of the key's own.
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
        now = _monotonic()
        failure = None
        if member is not None and member.accepting and member.up:
            # A server that is silent must leave time for another one.
            until = now + (seconds / 2 if resend and topology.single is None else seconds)
            try:
                return put_once(member, request, len(data), tube, until)
            except BeanpoolError as error:
                failure = error
        put = PutRequest(request, len(data), tube, key, now + seconds, resend)
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
        on_ambiguous: str | None = None,
    ) -> list[Outcome]:
        """Put many jobs, in few round trips and to all servers at once.

        What a server does not take goes to the next one of its order within the batch. While puts are stored, the call
        goes on, however many they are; it ends `timeout` after the last of them, or twice that where a server that
        had not been asked, or one that came back, is given its chance.

        :param items: bodies, or :class:`Put` objects with a key, tube and numbers of their own; any iterable. It is
            read as the jobs go out: what is on its way is bounded (80 KiB for each server and tube), and what it gave
            is sent when it makes the batch wait. Its time does not count.
        :param timeout: the longest that the call may wait without a put being stored (seconds); None for the pool's.
        :returns: one outcome per item, in order: a :class:`JobId`, or the exception that :meth:`put` would have
            raised for it. A failed item does not stop its neighbours. The other parameters are those of :meth:`put`.
        :raises Exception: whatever `items` raises, once what it gave before has its outcomes; they are in the
            attribute ``outcomes`` of the exception. So they are in that of an interrupt, where what was on its way
            is :class:`PutAmbiguous`.
        :raises TypeError: for one body (``str`` or bytes-like) instead of an iterable of them.
        """
        check_many("items", items)
        usual = Usual(key, self._used if tube is None else tube, priority, delay, ttr)
        bad = encoded(b"", usual, self._encoding)
        if isinstance(bad, Exception):
            raise bad
        encoding = self._encoding
        return put_all(
            items,
            lambda item: encoded(item, usual, encoding),
            lambda settle: self._batch(settle, timeout, on_ambiguous),
        )

    def _batch(
        self, settle: Settle[Place], timeout: float | None = None, on_ambiguous: str | None = None
    ) -> PutMany[Place]:
        seconds = self._timeout if timeout is None else check_seconds("timeout", timeout)
        resend = self._resend if on_ambiguous is None else check_on_ambiguous(on_ambiguous) == "resend"
        self._start()
        return PutMany(lambda: self._topology, self._putter, seconds, resend, settle)

    def producer(self, linger: float = 0.005, max_batch: int = 500) -> Producer:
        """A buffer for threads that put one job at a time and want the speed of batches; see :class:`Producer`.

        :param linger: how long the first job of a batch may wait for others (seconds; 0 for not at all).
        :param max_batch: how many jobs go out together at most.
        :raises BeanpoolError: if its thread cannot be started.
        """
        # Here, not at the top: concurrent.futures costs 10 ms, and most programs never ask for it.
        try:
            from beanpool.producer import Producer
            from beanpool.sender import Sender
        except OSError as error:
            raise no_descriptor("loading the producer", error) from error

        check_pause("linger", linger)
        check_int("max_batch", max_batch, 1, MAX_UINT32)

        def encode_one(
            body: Body, priority: int, delay: float, ttr: float, tube: str | None, key: str | bytes | None
        ) -> EncodedPut:
            return encode(body, key, self._used if tube is None else tube, priority, delay, ttr, self._encoding)

        self._start()
        return Producer(encode_one, Sender(self._batch, linger, max_batch, self._timeout, self.name))

    def route(self, key: str | bytes) -> tuple[str, ...]:
        """The addresses of the servers in the order in which they are asked to take a put with this key."""
        return tuple(member.address for member in self._topology.order(check_key(key)))

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

    def reserve_many(
        self, limit: int, timeout: float | None = None, *, tubes: str | Iterable[str] | None = None
    ) -> list[Job]:
        """Reserve up to `limit` jobs at once, from all servers at the same time and in few round trips.

        What is ready is taken without waiting. If nothing is, this waits for the first job as :meth:`reserve` does, and
        takes what else is ready then. No more than `limit` jobs are ever reserved, on all servers together.

        Jobs of one server share a connection, which stays out of use until the last of them is finished. If it breaks,
        all of them are lost: see :meth:`Job.delete`, and :meth:`delete_many`, which deletes them as quickly.

        :param limit: how many jobs at most (1 to 100,000).
        :param timeout: how long to wait for the first job (seconds); None for ever. A server that is silent while
            others have given jobs is waited for at most a second, one that is silent while none has, at most the
            pool's timeout; the jobs of the others are returned then.
        :param tubes: the tube, or tubes, to take from; None for those that the pool watches.
        :returns: the jobs; an empty list if none came in time.
        :raises NoServerAvailable: if no server could be asked until then.
        :raises PoolTimeout: if all connections were in use by unfinished jobs.
        :raises PoolClosed: if the pool is closed meanwhile.
        """
        check_int("limit", limit, 1, MOST_JOBS)
        wait = check_wait("timeout", timeout)
        wanted = self._watched if tubes is None else _check_tubes(tubes)
        if not self._started:
            self._start()
        return self._reserver.reserve_many(wanted, limit, wait)

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


def _check_tubes(tubes: Any) -> tuple[str, ...]:
    names = (tubes,) if isinstance(tubes, str) else tuple(tubes)
    if not names:
        raise ValueError("tubes must name at least one tube")
    for name in names:
        check_tube(name, "tubes")
    return names if len(names) == 1 else tuple(sorted(set(names)))
