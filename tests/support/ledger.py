"""The books of a test: every put, delivery and delete, compared at the end with what the servers hold."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Literal

from beanpool.testing.raw_client import RawClient, StoredJob
from support.waiting import wait_until

_SHOWN = 5

Outcome = Literal["pending", "acked", "refused", "ambiguous"]


@dataclasses.dataclass
class _Entry:
    outcome: Outcome = "pending"
    reason: str = ""
    servers: set[str] = dataclasses.field(default_factory=set)
    job_ids: set[tuple[str, int]] = dataclasses.field(default_factory=set)
    extra_copies: float = 0
    deliveries: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    deleted: int = 0
    failed_deletes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Report:
    """What the books say. ``violations`` is empty when every promise was kept."""

    acked: int = 0
    refused: int = 0
    ambiguous: int = 0
    pending: int = 0
    deliveries: int = 0
    deleted: int = 0
    failed_deletes: int = 0
    stored: int = 0
    redelivered: int = 0
    maybe_duplicate: int = 0
    reserved: dict[str, int] = dataclasses.field(default_factory=dict)
    violations: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"puts: {self.acked} acknowledged ({self.maybe_duplicate} maybe twice), {self.refused} refused, "
            f"{self.ambiguous} ambiguous, {self.pending} without an outcome",
            f"deliveries: {self.deliveries} ({self.redelivered} bodies more than once); "
            f"deletes: {self.deleted} done, {self.failed_deletes} failed; left in the servers: {self.stored}",
        ]
        if not self.violations:
            return "\n".join([*lines, "all promises kept"])
        return "\n".join(
            [*lines, f"{len(self.violations)} broken promises:", *(f"  {text}" for text in self.violations)]
        )


class Ledger:
    """Records from any thread; :meth:`reconcile` draws the balance.

    A body comes from :meth:`token` and is the key of everything else; it may be given back as ``str``
    or as bytes. A server is named by its address.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._prefix = uuid.uuid4().hex[:8]
        self._entries: dict[bytes, _Entry] = {}
        self._foreign: list[bytes] = []

    def token(self, size: int = 0) -> bytes:
        """A new body that no other has: ASCII, at least `size` bytes long."""
        with self._lock:
            body = f"token-{self._prefix}-{len(self._entries)}.".encode().ljust(size, b"x")
            self._entries[body] = _Entry()
            return body

    def tokens(self, count: int, size: int = 0) -> list[bytes]:
        """`count` new bodies."""
        return [self.token(size) for _ in range(count)]

    def _entry(self, body: bytes | str) -> _Entry:
        return self._entries[body.encode() if isinstance(body, str) else body]

    def acked(
        self, body: bytes | str, server: object, job_id: int | None = None, maybe_duplicate: bool | int = False
    ) -> None:
        """The put returned.

        :param server: its address (anything whose ``str()`` is the address).
        :param maybe_duplicate: what the put said; a number declares at most so many extra copies.
        """
        with self._lock:
            entry = self._entry(body)
            entry.outcome = "acked"
            entry.servers.add(str(server))
            if job_id is not None:
                entry.job_ids.add((str(server), int(job_id)))
            entry.extra_copies += float("inf") if maybe_duplicate is True else int(maybe_duplicate)

    def refused(self, body: bytes | str, reason: object = "") -> None:
        """The put was reported as refused or as not sent: it is in no server."""
        with self._lock:
            entry = self._entry(body)
            entry.outcome = "refused"
            entry.reason = str(reason)

    def ambiguous(self, body: bytes | str, attempts: int = 1) -> None:
        """The put was reported as ambiguous: it may be stored, at most `attempts` times."""
        with self._lock:
            entry = self._entry(body)
            entry.outcome = "ambiguous"
            entry.extra_copies += attempts - 1

    def delivered(self, body: bytes | str, server: object, job_id: int) -> None:
        """A reserve returned a job with this body."""
        with self._lock:
            key = body.encode() if isinstance(body, str) else bytes(body)
            if key not in self._entries:
                self._foreign.append(key)
            else:
                self._entries[key].deliveries.append((str(server), int(job_id)))

    def deleted(self, body: bytes | str) -> None:
        """The delete of a delivered job returned."""
        with self._lock:
            self._entry(body).deleted += 1

    def delete_failed(self, body: bytes | str, error: object = "") -> None:
        """The delete of a delivered job raised."""
        with self._lock:
            self._entry(body).failed_deletes.append(str(error))

    def _count(self, outcome: Outcome) -> int:
        return sum(entry.outcome == outcome for entry in self._entries.values())

    @property
    def acked_count(self) -> int:
        """How many puts were acknowledged so far."""
        with self._lock:
            return self._count("acked")

    @property
    def deleted_count(self) -> int:
        """How many bodies were deleted so far, each counted once."""
        with self._lock:
            return sum(entry.deleted > 0 for entry in self._entries.values())

    def outstanding(self) -> list[bytes]:
        """The acknowledged bodies that were not deleted yet, for a test that waits until all work is done."""
        with self._lock:
            return [body for body, entry in self._entries.items() if entry.outcome == "acked" and not entry.deleted]

    def reconcile(
        self,
        controls: Iterable[RawClient],
        *,
        storage_lost: Collection[str] = (),
        exactly_once: bool = False,
        quiet: float = 1.0,
    ) -> Report:
        """:meth:`audit`, raising ``AssertionError`` with the whole report if a promise was broken."""
        report = self.audit(controls, storage_lost=storage_lost, exactly_once=exactly_once, quiet=quiet)
        if report.violations:
            raise AssertionError(str(report))
        return report

    def audit(
        self,
        controls: Iterable[RawClient],
        *,
        storage_lost: Collection[str] = (),
        exactly_once: bool = False,
        quiet: float = 1.0,
    ) -> Report:
        """Empty the servers through their control connections and compare with the books.

        Call it when producers and workers have ended; every server has to be up.

        :param storage_lost: addresses of servers that were killed without a write-ahead log: what they
            acknowledged may be gone.
        :param exactly_once: a second delivery of one body is a broken promise too (in a run without faults).
        :param quiet: seconds within which no job may be reserved any more.
        """
        clients = list(controls)
        report = Report()
        report.reserved = _reserved(clients, quiet)
        stored = [(client.address, job) for client in clients for job in client.drain_all()]
        with self._lock:
            self._balance(report, clients, stored, set(storage_lost), exactly_once)
        return report

    def _balance(
        self,
        report: Report,
        clients: list[RawClient],
        stored: list[tuple[str, StoredJob]],
        storage_lost: set[str],
        exactly_once: bool,
    ) -> None:
        entries = self._entries
        report.acked, report.refused = self._count("acked"), self._count("refused")
        report.ambiguous, report.pending = self._count("ambiguous"), self._count("pending")
        report.deliveries = sum(len(entry.deliveries) for entry in entries.values())
        report.redelivered = sum(len(entry.deliveries) > 1 for entry in entries.values())
        report.deleted = sum(entry.deleted for entry in entries.values())
        report.failed_deletes = sum(len(entry.failed_deletes) for entry in entries.values())
        report.maybe_duplicate = sum(entry.outcome == "acked" and entry.extra_copies > 0 for entry in entries.values())
        report.stored = len(stored)

        copies_stored: dict[bytes, list[tuple[str, int]]] = {}
        for address, job in stored:
            copies_stored.setdefault(job.body, []).append((address, job.id))
        broken: dict[str, list[str]] = {}

        def note(promise: str, detail: str) -> None:
            broken.setdefault(promise, []).append(detail)

        for body, entry in entries.items():
            name = body.partition(b".")[0].decode()
            left = copies_stored.get(body, [])
            seen = {*entry.deliveries, *left}
            if entry.outcome == "acked":
                excused = bool(entry.servers & storage_lost)
                if not seen and not excused and not _still_held(clients, body, entry.job_ids):
                    note("I1 acknowledged, but lost", f"{name}, acknowledged by {_listed(entry.servers)}")
            elif entry.outcome == "refused":
                if seen:
                    note("I2 refused, but stored", f"{name} at {_places(seen)}; the refusal: {entry.reason}")
            elif entry.outcome == "pending" and seen:
                note("I2 put without a recorded outcome, but stored", f"{name} at {_places(seen)}")
            if entry.outcome in ("acked", "ambiguous"):
                if len(seen) > 1 + entry.extra_copies:
                    allowed = 1 + int(entry.extra_copies)
                    note("I3 more copies than declared", f"{name}: {_places(seen)}, declared at most {allowed}")
                resurrected = [place for place in left if entry.deleted >= len(set(entry.deliveries)) > 0]
                if resurrected and set(resurrected) <= set(entry.deliveries):
                    note("I3 deleted, but still stored", f"{name} at {_places(resurrected)}")
                if exactly_once and len(entry.deliveries) > 1:
                    note("I3 delivered more than once", f"{name}: {_places(entry.deliveries)}")
        for address, count in report.reserved.items():
            if count:
                note("I4 still reserved, with nobody at work", f"{count} at {address}")
        if self._foreign:
            sizes = Counter(len(body) for body in self._foreign)
            note("I6 delivered, but never put", ", ".join(f"{n} of {size} bytes" for size, n in sizes.items()))

        for promise, details in broken.items():
            more = "" if len(details) <= _SHOWN else f"; and {len(details) - _SHOWN} more"
            report.violations.append(f"{promise} ({len(details)}): " + "; ".join(details[:_SHOWN]) + more)


def _reserved(clients: list[RawClient], quiet: float) -> dict[str, int]:
    latest: dict[str, int] = {}

    def none_reserved() -> bool:
        latest.update({client.address: client.counter("current-jobs-reserved") for client in clients})
        return not any(latest.values())

    try:
        wait_until(none_reserved, "no reserved job", quiet)
    except AssertionError:
        pass  # The report says it, together with everything else.
    return latest


def _still_held(clients: list[RawClient], body: bytes, job_ids: set[tuple[str, int]]) -> bool:
    """Whether a job that the drain could not take, being reserved, holds this body."""
    return any(client.peek(number) == body for client in clients for at, number in job_ids if at == client.address)


def _places(places: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{address} job {number}" for address, number in sorted(places))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
