"""Looking up host names off the thread that needs the answer: a name server may take longer than any deadline."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from beanpool.address import Address
from beanpool.errors import CommandTimeout, ConnectionFailed, Phase
from beanpool.locks import Lock

Target = tuple[int, Any]
"""The family of an address and what ``connect`` takes for it."""


def describe(error: BaseException) -> str:
    """The type of `error` and its text: never an empty reason."""
    text = str(error)
    name = type(error).__name__
    return f"{name}: {text}" if text else name


class _Query:
    """A question to the name server that is under way; all who ask the same share it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.done = threading.Event()
        self.targets: list[Target] = []
        self.error: BaseException | None = None
        self._heirs: list[Callable[[], None]] = []

    def run(self) -> None:
        """Ask. In a thread of its own."""
        try:
            self.targets = _ask(self.address)
        except (OSError, UnicodeError) as error:
            self.error = error
        with _lock:
            _under_way.pop(self.address, None)
            self.done.set()
            heirs = list(self._heirs)
        for notify in heirs:
            notify()

    def when_done(self, notify: Callable[[], None]) -> bool:
        """Call `notify` at the end; false if that is over already. Hold the module's lock."""
        if self.done.is_set():
            return False
        self._heirs.append(notify)
        return True


_lock = Lock()
_under_way: dict[Address, _Query] = {}


def _ask(address: Address, flags: int = 0) -> list[Target]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


class Lookup:
    """Where an address is now. Numbers and Unix sockets are known at once; names are asked for in another thread.

    Nothing is cached: a server that moved is found at the next connect.
    """

    # Here too: the finalizer also runs when an interrupt came before the first line of __init__.
    _reader = _writer = -1

    def __init__(self, address: Address) -> None:
        self._address = address
        self._query: _Query | None = None
        self._targets: list[Target] = []
        if address.path is not None:
            self._targets = [(socket.AF_UNIX, address.path)]
            return
        if address.host != "localhost":
            try:
                self._targets = _ask(address, socket.AI_NUMERICHOST)
                return
            except (OSError, UnicodeError):
                pass
        else:
            with contextlib.suppress(OSError):
                self._targets = _ask(address)
                return
        with _lock:
            query = _under_way.get(address)
            if query is None:
                query = _under_way[address] = _Query(address)
                threading.Thread(target=query.run, name=f"beanpool-lookup-{address.host}", daemon=True).start()
            self._query = query

    @property
    def done(self) -> bool:
        """Whether :meth:`result` answers without waiting."""
        return self._query is None or self._query.done.is_set()

    def result(self) -> list[Target]:
        """The addresses, once :attr:`done`.

        :raises ConnectionFailed: if the name has none.
        """
        self.close()
        if self._query is None:
            return self._targets
        error = self._query.error
        if error is not None:
            raise ConnectionFailed(
                f"{self._address}: no address for the host name ({describe(error)})",
                server=str(self._address),
                phase=Phase.RESOLVING,
            ) from error
        return self._query.targets

    def fileno(self) -> int:
        """A descriptor that is readable once the look-up is done."""
        if self._reader < 0 and self._query is not None:
            self._reader, self._writer = os.pipe()
            with _lock:
                pending = self._query.when_done(self._notify)
            if not pending:
                self._notify()
        return self._reader

    def _notify(self) -> None:
        with _lock:
            if self._writer >= 0:
                with contextlib.suppress(OSError):
                    os.write(self._writer, b"d")

    def close(self) -> None:
        """Let go of the descriptors."""
        with _lock:
            descriptors, self._reader, self._writer = (self._reader, self._writer), -1, -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    def __del__(self) -> None:
        for descriptor in (self._reader, self._writer):
            if descriptor >= 0:
                os.close(descriptor)


def lookup_timeout(address: Address) -> CommandTimeout:
    """The error of a name server that did not answer in time."""
    return CommandTimeout(
        f"{address}: the name server did not answer in the time allowed",
        server=str(address),
        phase=Phase.RESOLVING,
    )


def _forget_in_child() -> None:
    global _lock
    _lock = Lock()
    _under_way.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
