"""greenstalk's API over beanpool, as thin as it can be."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from peers.opened import opened, url_of

from beanpool import Buried, DeadlineSoon, Draining, Job, JobTooBig, NotFound, UnexpectedResponse
from beanpool.errors import refusal
from beanpool.protocol.commands import PUT, RELEASE, USE
from beanpool.protocol.parser import Parser

DEFAULT_TUBE = "default"
DEFAULT_PRIORITY = 2**16
DEFAULT_TTR = 60

Address = tuple[str, int] | str
TBody = TypeVar("TBody", str, bytes)

BuriedError, DeadlineSoonError, DrainingError = Buried, DeadlineSoon, Draining
JobTooBigError, NotFoundError, UnknownResponseError = JobTooBig, NotFound, UnexpectedResponse
__all__ = ["Job"]


class TimedOutError(Exception):
    """Where beanpool returns None."""


class NotIgnoredError(Exception):
    """Where beanpool returns 1, as beanstalkc does."""


def _found(job: Any) -> Any:
    if job is None:
        raise NotFound("peek", "NOT_FOUND", [])
    return job


def _id(job: Any) -> Any:
    return job if isinstance(job, int) else job.id


class Client(Generic[TBody]):
    def __init__(
        self,
        address: Address | socket.socket,
        encoding: str | None = "utf-8",
        use: str = DEFAULT_TUBE,
        watch: str | Iterable[str] = DEFAULT_TUBE,
    ) -> None:
        if isinstance(address, socket.socket):
            raise TypeError("beanpool makes its own sockets")
        url = f"beanstalk+unix://{address}" if isinstance(address, str) else url_of(*address)
        self._there = opened(url, encoding=encoding)
        self.encoding = encoding
        if use != DEFAULT_TUBE:
            self._there.use(use)
        tubes = [watch] if isinstance(watch, str) else list(watch)
        for tube in tubes:
            if tube != DEFAULT_TUBE:
                self._there.watch(tube)
        if DEFAULT_TUBE not in tubes:
            self._there.ignore(DEFAULT_TUBE)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._there, name)

    def __enter__(self) -> Client[TBody]:
        return self

    def __exit__(self, *_: object) -> None:
        self._there.close()

    def put(self, body: TBody, priority: int = DEFAULT_PRIORITY, delay: int = 0, ttr: int = DEFAULT_TTR) -> Any:
        return self._there.put(body, priority, delay, ttr)

    def reserve(self, timeout: float | None = None) -> Any:
        job = self._there.reserve(timeout)
        if job is None:
            raise TimedOutError
        return job

    def delete(self, job: Any) -> None:
        self._there.delete(_id(job))

    def release(self, job: Any, priority: int = DEFAULT_PRIORITY, delay: int = 0) -> None:
        self._there.release(_id(job), priority, delay)

    def bury(self, job: Any, priority: int = DEFAULT_PRIORITY) -> None:
        self._there.bury(_id(job), priority)

    def touch(self, job: Any) -> None:
        self._there.touch(_id(job))

    def peek(self, jid: int) -> Any:
        return _found(self._there.peek(jid))

    def peek_ready(self) -> Any:
        return _found(self._there.peek_ready())

    def peek_delayed(self) -> Any:
        return _found(self._there.peek_delayed())

    def peek_buried(self) -> Any:
        return _found(self._there.peek_buried())

    def ignore(self, tube: str) -> int:
        if self._there.watching() == [tube]:
            raise NotIgnoredError
        ignored: int = self._there.ignore(tube)
        return ignored


def _parse_response(line: bytes, _: bytes) -> Any:
    """What beanpool's parser makes of a line that greenstalk's own tests give to greenstalk's."""
    for command in (USE, PUT, RELEASE):
        parser = Parser()
        parser.feed(line)
        try:
            reply = parser.next(command)
        except UnexpectedResponse:
            if command is RELEASE:
                raise
            continue
        if reply is not None and reply.status == "BURIED":
            raise refusal(command.name, reply.status, [str(reply.number)] if reply.number else [])
        return reply
    return None


_parse_chunk: Callable[[bytes, int], Any] = lambda data, size: None  # noqa: E731  # It has no such part.
