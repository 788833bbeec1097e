"""Resolves host names in a thread of their own: a name server may take longer than the caller's deadline."""

from __future__ import annotations

import collections
import contextlib
import encodings.idna  # noqa: F401  # Python forgets for good how to look up names if it fails to load that then.
import os
import socket
import threading
from typing import Any

from beanpool.errors import CommandTimeout, ConnectionFailed, Phase, describe
from beanpool.net.address import Address
from beanpool.runtime import OwnLimit, out_of_descriptors

Target = tuple[int, Any]
"""The family of an address and what ``connect`` takes for it."""

# How many answers are kept, for when no thread can be started.
_MOST_REMEMBERED = 1000


class _Completion:
    """A pipe that becomes readable when a look-up is done. Each of its ends is closed once, whichever threads do it."""

    def __init__(self) -> None:
        self._reader: list[int] = []
        self._writer: list[int] = []
        reader, writer = os.pipe()
        self._reader.append(reader)
        self._writer.append(writer)

    def fileno(self) -> int:
        """The descriptor to wait on; -1 once it is closed."""
        try:
            return self._reader[0]
        except IndexError:
            return -1

    def set(self) -> None:
        """Make it readable."""
        _close(self._writer)

    def close(self) -> None:
        """Let go of the descriptors."""
        _close(self._writer)
        _close(self._reader)

    def __del__(self) -> None:
        self.close()


def _close(descriptor: list[int]) -> None:
    # Popping is atomic: two threads never close the same number, which could be another socket's by then.
    with contextlib.suppress(IndexError):
        os.close(descriptor.pop())


class _Query:
    """A question to the name server that is under way; all look-ups of the same name share it."""

    def __init__(self, address: Address) -> None:
        self.done = False
        self.targets: list[Target] = []
        self.error: BaseException | None = None
        self._address = address
        self._completions: collections.deque[_Completion] = collections.deque()
        self._thread = threading.Thread(target=self._run, name=f"beanpool-lookup-{address.host}", daemon=True)

    def start(self) -> None:
        """Ask, in a thread of its own.

        :raises RuntimeError: if no thread can be started.
        """
        self._thread.start()

    @property
    def under_way(self) -> bool:
        """Whether an answer is still to be expected: not if its thread has ended in the middle, or has not begun."""
        return not self.done and self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.targets = _ask(self._address)
            _remember(self._address, self.targets)
        except BaseException as error:
            # Any error: the callers get it as the reason.
            self.error = out_of_descriptors() or error
        finally:
            self.done = True
            if _under_way.get(self._address) is self:
                _under_way.pop(self._address, None)
            while self._completions:
                self._completions.popleft().set()

    def notify(self, completion: _Completion) -> None:
        """Set `completion` at the end; now, if the query is over."""
        self._completions.append(completion)
        if not self.under_way:
            completion.set()


# Without a lock, which an interrupt or a fork could leave locked: at worst the same question is asked twice.
_under_way: dict[Address, _Query] = {}
_remembered: dict[Address, list[Target]] = {}


def _ask(address: Address, flags: int = 0) -> list[Target]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def _remember(address: Address, targets: list[Target]) -> None:
    if len(_remembered) >= _MOST_REMEMBERED:
        _remembered.clear()
    _remembered[address] = targets


class Lookup:
    """Resolves one address. Numeric addresses and Unix sockets are known at once, names are resolved in another thread.

    A server that moved is found at the next connect: an earlier answer is used only where no thread can be started, as
    in a process that ends.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._query: _Query | None = None
        self._completion: _Completion | None = None
        self._targets: list[Target] = []
        self._error: BaseException | None = None
        if address.path is not None:
            self._targets = [(socket.AF_UNIX, address.path)]
            return
        try:
            self._targets = _ask(address, 0 if address.host == "localhost" else socket.AI_NUMERICHOST)
        except (OSError, UnicodeError, LookupError):
            self._share_query()

    def _share_query(self) -> None:
        query = _under_way.get(self._address)
        if query is None or not query.under_way:
            query = _Query(self._address)
            try:
                query.start()
            except RuntimeError as error:
                self._targets = _remembered.get(self._address, [])
                self._error = None if self._targets else OwnLimit(f"no thread for the look-up can be started: {error}")
                return
            # Only now: a query without a thread would never be answered.
            _under_way[self._address] = query
        self._query = query

    @property
    def done(self) -> bool:
        """Whether :meth:`result` answers without waiting."""
        return self._query is None or not self._query.under_way

    def result(self) -> list[Target]:
        """The addresses, once :attr:`done`.

        :raises ConnectionFailed: if the name has none.
        """
        self.close()
        error, targets = self._error, self._targets
        if self._query is not None:
            error, targets = self._query.error, self._query.targets
        if error is None and targets:
            return targets
        raise ConnectionFailed(
            f"{self._address}: no address for the host name ({describe(error) if error else 'the look-up has ended'})",
            server=str(self._address),
            phase=Phase.RESOLVING,
        ) from error

    def fileno(self) -> int:
        """A descriptor that is readable once the look-up is done.

        :raises ConnectionFailed: if the system gives none.
        """
        if self._completion is None and self._query is not None:
            try:
                self._completion = _Completion()
            except OSError as error:
                raise ConnectionFailed(
                    f"{self._address}: no descriptor to wait for the name server with ({describe(error)})",
                    server=str(self._address),
                    phase=Phase.RESOLVING,
                    errno=error.errno,
                ) from error
            self._query.notify(self._completion)
        return self._completion.fileno() if self._completion is not None else -1

    def close(self) -> None:
        """Let go of the descriptors."""
        if self._completion is not None:
            self._completion.close()


def lookup_timeout(address: Address) -> CommandTimeout:
    """The error of a name server that did not answer in time."""
    return CommandTimeout(
        f"{address}: the name server did not answer in the time allowed",
        server=str(address),
        phase=Phase.RESOLVING,
    )


if hasattr(os, "register_at_fork"):
    # The threads that ask are the parent's.
    os.register_at_fork(after_in_child=_under_way.clear)
