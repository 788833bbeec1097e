"""Servers that SRV records tell."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

from beanpool.config import Server
from beanpool.discovery.found import Found
from beanpool.net import check_srv_name
from beanpool.runtime import load
from beanpool.validation import check_seconds

_MOST_DOUBLINGS = 8


class DnsSrv:
    """The targets of the SRV records of a name: ``_beanstalkd._tcp.example.org``. Needs the extra ``dns`` (dnspython).

    A server is called by its target and port, which is what keys are hashed with; its address is looked up at every
    connect. So it keeps its keys when it gets another address. A record's weight is the server's share of the puts
    among the targets of the best priority, and a weight of 0 counts as 1. Targets of other priorities get no puts and
    are reserved from: they get puts when no target of a better priority is listed any more.

    :param name: the name of the records; relative to the system's search list, unless it ends with a dot.
    :param timeout: how long to wait for the answer, over all name servers and tries (seconds). One try has 2 s, or what
        the system says; more after questions that nobody has answered.
    :param resolver: a ``dns.resolver.Resolver`` with its name servers and their port; None for those of the system, as
        they are at each time.
    :raises ImportError: if dnspython is not installed.
    :raises ValueError: for a name or a time that cannot be; :raises TypeError: for one of a wrong type.
    """

    def __init__(self, name: str, *, timeout: float = 5.0, resolver: Any = None) -> None:
        self._name = check_srv_name(name)
        self._timeout = check_seconds("timeout", timeout)
        self._resolver = resolver
        self._in_vain = 0
        # Here, where the caller sees that it is missing.
        _dnspython()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    def __call__(self) -> Found:
        """Ask for the records.

        :raises Exception: dnspython's own, if there is no answer, or none with such records.
        """
        answer = self._ask() if self._resolver is None else self._resolve(self._resolver)
        # Names are the same in either case, but not to a hash.
        records = [
            Record(record.target.to_text(omit_final_dot=True).lower(), record.port, record.priority, record.weight)
            for record in answer
        ]
        return Found(servers_of(records), float(answer.chaining_result.minimum_ttl))

    def _ask(self) -> Any:
        """Ask the system's name servers."""
        resolver = _dnspython().Resolver()
        usual = resolver.timeout
        # One that takes longer than a try would never be heard, nor would one behind another that is silent.
        resolver.timeout = min(self._timeout, usual * 2**self._in_vain)
        resolver.rotate = resolver.rotate or self._in_vain > 0
        began = time.monotonic()
        try:
            answer = self._resolve(resolver)
        except load("dns.exception").Timeout:
            self._in_vain = min(self._in_vain + 1, _MOST_DOUBLINGS)
            raise
        if time.monotonic() - began < usual:
            self._in_vain = 0
        return answer

    def _resolve(self, resolver: Any) -> Any:
        return resolver.resolve(self._name, "SRV", lifetime=self._timeout, search=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One SRV record."""

    target: str
    port: int
    priority: int
    weight: int


def servers_of(records: Iterable[Record]) -> tuple[Server, ...]:
    """The servers that the records tell, in an order that does not depend on theirs.

    The best priority is the lowest number. A target that is there twice is taken by its best priority, and the weights
    that it has there are added up. The target ``.`` says that there is no such service.
    """
    best: dict[tuple[str, int], tuple[int, int]] = {}
    for record in records:
        if record.target in ("", "."):
            continue
        known = best.get((record.target, record.port))
        weight = max(1, record.weight)
        if known is None or record.priority < known[0]:
            best[record.target, record.port] = record.priority, weight
        elif record.priority == known[0]:
            best[record.target, record.port] = record.priority, known[1] + weight
    first = min((priority for priority, _ in best.values()), default=0)
    return tuple(
        Server(target, port, weight=weight if priority == first else 0)
        for (target, port), (priority, weight) in sorted(best.items())
    )


def _dnspython() -> Any:
    try:
        return load("dns.resolver")
    except ImportError as error:
        raise ImportError("SRV records need dnspython: install beanpool[dns]", name="dns") from error
