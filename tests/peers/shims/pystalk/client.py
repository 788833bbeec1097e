"""pystalk's client, as thin as it can be."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from peers.opened import opened, url_of

from beanpool import CommandFailed, ConnectionFailed


class BeanstalkError(Exception):
    """pystalk's one error for every refusal, and for what is None here."""

    def __init__(self, message: str | bytes) -> None:
        self.message = message.decode() if isinstance(message, bytes) else message
        super().__init__(self.message)


class BeanstalkConnectionError(BeanstalkError):
    """pystalk's error of a connection."""


class Job(NamedTuple):
    job_id: int
    job_data: str | bytes
    held: Any
    """A pool gives back what nobody holds any more."""


def _id(job: Any) -> int:
    return job.job_id if isinstance(job, Job) else job


def _told(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def translated(*arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except CommandFailed as error:
            raise BeanstalkError(error.status) from error
        except ConnectionFailed as error:
            raise BeanstalkConnectionError(str(error)) from error

    return translated


class BeanstalkClient:
    def __init__(
        self, host: str, port: int = 11300, socket_timeout: float | None = None, auto_decode: bool = False
    ) -> None:
        self.host, self.port = host, port
        self.socket_timeout = socket_timeout
        self.auto_decode = auto_decode
        self.current_tube = "default"
        self.watchlist = {"default"}
        self._initial_watch = True
        self._opened: Any = None

    @property
    def _there(self) -> Any:
        if self._opened is None:
            self._opened = opened(url_of(self.host, self.port))
            if self.current_tube != "default":
                self._opened.use(self.current_tube)
            for tube in self.watchlist:
                self._opened.watch(tube)
            if "default" not in self.watchlist:
                self._opened.ignore("default")
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _job(self, job: Any, missing: str) -> Job:
        if job is None:
            raise BeanstalkError(missing)
        return Job(job.id, job.data.decode() if self.auto_decode else job.data, job)

    @_told
    def put_job(self, data: str | bytes, pri: int = 65536, delay: int = 0, ttr: int = 120) -> Any:
        return b"INSERTED", self._there.put(data, pri, delay, ttr)

    def put_job_into(self, tube: str, data: str | bytes, **numbers: int) -> Any:
        with self.using(tube) as inserter:
            return inserter.put_job(data, **numbers)

    @contextlib.contextmanager
    def using(self, tube: str) -> Iterator[BeanstalkClient]:
        before = self.current_tube
        self.use(tube)
        try:
            yield self
        finally:
            self.use(before)

    @_told
    def use(self, tube: str) -> None:
        self._there.use(tube)
        self.current_tube = tube

    @_told
    def watch(self, tube: str) -> None:
        self._there.watch(tube)
        self.watchlist = self.watchlist | {tube}
        if self._initial_watch and tube != "default":
            self.ignore("default")
        self._initial_watch = False

    @_told
    def ignore(self, tube: str) -> None:
        self._there.ignore(tube)
        # A KeyError for one that is not watched, as there.
        rest = set(self.watchlist)
        rest.remove(tube)
        self.watchlist = rest

    @_told
    def reserve_job(self, timeout: float = 5) -> Job:
        if self.socket_timeout is not None and timeout >= self.socket_timeout:
            raise ValueError("reserve_job() waits for longer than the socket does")
        return self._job(self._there.reserve(timeout), "TIMED_OUT")

    def reserve_iter(self) -> Iterator[Job]:
        with contextlib.suppress(BeanstalkError):
            while True:
                yield self.reserve_job(0)

    @_told
    def delete_job(self, job: Any) -> None:
        self._there.delete(_id(job))

    @_told
    def bury_job(self, job: Any, pri: int = 65536) -> None:
        self._there.bury(_id(job), pri)

    @_told
    def release_job(self, job: Any, pri: int = 65536, delay: int = 0) -> None:
        self._there.release(_id(job), pri, delay)

    @_told
    def kick_job(self, job: Any) -> None:
        self._there.kick_job(_id(job))

    @_told
    def kick_jobs(self, bound: int) -> Any:
        return self._there.kick(bound)

    @_told
    def peek_ready(self) -> Job:
        return self._job(self._there.peek_ready(), "NOT_FOUND")

    @_told
    def peek_delayed(self) -> Job:
        return self._job(self._there.peek_delayed(), "NOT_FOUND")

    @_told
    def peek_buried(self) -> Job:
        return self._job(self._there.peek_buried(), "NOT_FOUND")

    def peek_ready_iter(self) -> Iterator[Job]:
        with contextlib.suppress(BeanstalkError):
            while True:
                yield self.peek_ready()

    @_told
    def stats_job(self, job: Any) -> Any:
        return self._there.stats_job(_id(job))

    @_told
    def stats_tube(self, tube: str) -> Any:
        return self._there.stats_tube(tube)

    @_told
    def list_tubes(self) -> Any:
        return self._there.tubes()

    @_told
    def pause_tube(self, tube: str, delay: int = 3600) -> None:
        self._there.pause_tube(tube, delay)

    def unpause_tube(self, tube: str) -> None:
        self.pause_tube(tube, 0)
