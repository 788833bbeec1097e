"""A connection of a pool, lent out for a while with the verbs of a plain one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from beanpool.connection import Connection, Held, Job
from beanpool.errors import ConnectionFailed, Phase, UnexpectedResponse
from beanpool.net import Channel
from beanpool.protocol import Command, Reply
from beanpool.server.connection_pool import ConnectionPool
from beanpool.server.pooled_connection import PooledConnection

_GIVEN_BACK = "it was given back to its pool"

Answer = TypeVar("Answer")


@contextlib.contextmanager
def borrow(pool: ConnectionPool, used: str, watched: tuple[str, ...], timeout: float) -> Iterator[Connection[Any]]:
    """Lend a connection of `pool` for a block.

    :param used: the tube that it uses at first.
    :param watched: the tubes that it watches at first.
    :param timeout: the longest wait for it, and then for each reply (seconds).
    """
    connection = BorrowedConnection(pool, used, watched, timeout)
    try:
        connection.reconnect()
        yield connection
    except Exception:
        connection.give_back()
        raise
    except BaseException:
        # The interrupt may have come between a reply and what it is to be known by.
        connection.give_back(clean=False)
        raise
    connection.give_back()


class BorrowedConnection(Connection):
    """A plain connection over the channel of one that is checked out of a pool.

    When it is given back, the pool goes on with that channel, and with the tubes that it uses and watches by then.
    If a job is still reserved on it, or nobody knows what was done last, the channel is closed instead: then the
    server itself gives the jobs to others.
    """

    def __init__(self, pool: ConnectionPool, used: str, watched: tuple[str, ...], timeout: float) -> None:
        self._prepare(pool.address, True, pool.connect_timeout, timeout, pool.encoding)
        self.used, self.watched = used, watched
        self._pool = pool
        self._checked_out: PooledConnection | None = None
        self._failure: ConnectionFailed | UnexpectedResponse | None = None
        self._unsettled = False
        """Whether a command was begun, and its end was not seen: its reply may not have been taken in."""
        self._given_back = False

    @property
    def closed_because(self) -> str:
        """Why it is closed, in words; empty while it is open."""
        return _GIVEN_BACK if self._given_back else super().closed_because

    def connect(self) -> None:
        """As :meth:`reconnect`, if it is closed."""
        if self.closed:
            self.reconnect()

    def _make_channel(self) -> Channel:
        if self._given_back:
            raise ConnectionFailed(
                f"{self.server}: the connection cannot be opened again: {_GIVEN_BACK}",
                server=self.server,
                phase=Phase.CLOSED,
            )
        self._let_go(clean=False)
        checked_out = self._checked_out = self._pool.acquire_for_long(time.monotonic() + self.timeout, self.watched)
        self._epoch += 1
        self._held = Held()
        self._unsettled = False
        self.used, self.watched = checked_out.used, checked_out.watched
        self._channel = checked_out.channel
        self._wanted = True
        return checked_out.channel

    # What is done on it is watched: nothing that is in doubt must go back.

    def reserve(self, timeout: float | None = None) -> Job[Any] | None:
        """Reserve the next job of the watched tubes; see :meth:`Connection.reserve`."""
        with self._watching():
            return super().reserve(timeout)

    def _ask(
        self,
        command: Command,
        request: bytes,
        read: Callable[[Channel, Reply], Answer],
        deadline: float | None = None,
    ) -> Answer:
        with self._watching():
            return super()._ask(command, request, read, deadline)

    @contextlib.contextmanager
    def _exclusive_channel(self) -> Iterator[Channel]:
        with self._watching(), super()._exclusive_channel() as channel:
            yield channel

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        self._unsettled = True
        try:
            yield
        except (ConnectionFailed, UnexpectedResponse) as error:
            self._failure = error
            raise
        except Exception:
            # A refusal: its reply was taken in.
            self._unsettled = False
            raise
        self._unsettled = False

    # Its end.

    def give_back(self, clean: bool = True) -> None:
        """Let the pool have its connection back; this one is closed from then on. Idempotent.

        :param clean: whether all that was done on it is known here.
        """
        self._given_back = True
        self._wanted = False
        guard = self._guard
        if guard.acquire(blocking=False):
            try:
                self._let_go(clean)
            finally:
                guard.release()
            return
        # Another thread has a command under way, and closes it. Its place in the pool is free once it is collected.
        self._checked_out = None
        if self._channel is not None:
            self._channel.interrupt(_GIVEN_BACK)

    def _let_go(self, clean: bool) -> None:
        checked_out, failure = self._checked_out, self._failure
        self._checked_out = self._failure = self._channel = None
        if checked_out is None:
            return
        if failure is not None:
            self._pool.checkin(checked_out, broken=failure)
        elif self._held or self._unsettled or not clean:
            self._pool.discard(checked_out, "it was given back with jobs in hand, or in the middle of something")
        else:
            checked_out.used, checked_out.watched = self.used, self.watched
            checked_out.lent = False
            self._pool.checkin(checked_out)
