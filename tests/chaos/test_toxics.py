"""Every toxic on every operation, in both directions: the promise, the server's own truth, and the ledger."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from chaos.operations import DEADLINE, OPERATIONS, PATIENT, Operation, Put, Stage, settle, witnesses
from chaos.proxies import LinkedServer
from chaos.report import Results
from support.lag import LagProbe
from support.ledger import Ledger
from support.threads import background
from support.toxiproxy import STREAMS

from beanpool.testing.toxiproxy import Stream

if TYPE_CHECKING:
    from chaos.conftest import StartProxied


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is done to a server's link.

    :param works: no operation may notice more than delay.
    :param arrives: whether all of a put reaches the server, where that is certain.
    :param cut: whether the connections have to be closed before it can be ended.
    """

    name: str
    apply: Callable[[LinkedServer], object]
    works: bool = False
    arrives: bool | None = None
    cut: bool = False


def toxic(
    kind: str, stream: Stream, *, works: bool = False, ambiguous: bool = True, cut: bool = False, **attributes: int
) -> Fault:
    settings = ", ".join(f"{value}" for value in attributes.values())
    arrives = (stream == "downstream") if ambiguous and not works else None
    return Fault(
        f"{kind}({settings}) {stream}",
        lambda server: server.link.add(kind, stream, **attributes),
        works,
        arrives,
        cut,
    )


def faults() -> list[Fault]:
    found = []
    for stream in STREAMS:
        found += [
            toxic("latency", stream, works=True, latency=300, jitter=200),
            # What is on its way to the server when the toxic ends still arrives.
            toxic("latency", stream, ambiguous=False, cut=stream == "downstream", latency=3000),
            toxic("bandwidth", stream, works=True, rate=4),
            toxic("slicer", stream, works=True, average_size=1, size_variation=0, delay=10),
            toxic("slow_close", stream, works=True, delay=1000),
            toxic("timeout", stream, timeout=0),
            toxic("timeout", stream, timeout=300),
            toxic("reset_peer", stream, timeout=0),
            toxic("reset_peer", stream, timeout=200),
            toxic("limit_data", stream, bytes=5),
        ]
    return [
        *found,
        Fault("down", lambda server: server.link.down(), arrives=False),
        Fault("down and up", lambda server: server.link.cut()),
    ]


@pytest.mark.parametrize("fault", faults(), ids=lambda fault: fault.name)
def test_every_operation(fault: Fault, proxied: StartProxied, ledger: Ledger, results: Results) -> None:
    """Each operation has a pool of its own, so that none profits from what another one has noticed."""
    sick, healthy = servers = proxied(2)
    with contextlib.ExitStack() as stack:
        lag = stack.enter_context(LagProbe())
        stack.enter_context(witnesses(ledger, servers))
        operations: list[Operation] = []
        for number, kind in enumerate(OPERATIONS):
            stage = Stage(sick, healthy, f"tube-{number}", ledger, lag, deadline=PATIENT if fault.works else DEADLINE)
            stack.enter_context(stage.pool)
            operations.append(kind(stage))
            operations[-1].prepare()
        fault.apply(sick)
        outcomes = {}
        calls = [background(functools.partial(_timed, operation.run, fault.works)) for operation in operations]
        try:
            for operation, call in zip(operations, calls, strict=True):
                outcomes[operation.name], took = call.result(20.0)
                results.cell(fault.name, operation.name, f"{outcomes[operation.name]} {took:.2f} s")
        finally:
            sick.heal(cut=fault.cut)
        if fault.works:
            assert [stage.states() for stage in (operation.stage for operation in operations)] == [[]] * len(operations)
        for operation in operations:
            if isinstance(operation, Put) and fault.arrives is not None:
                assert operation.stage.jobs_on_sick() == fault.arrives
                assert outcomes[operation.name] != "elsewhere" or not fault.arrives
            operation.judge(outcomes[operation.name], fault.works)
        for operation in operations:
            operation.stage.recover()
    settle(ledger, servers)


def _timed(run: Callable[[bool], str], works: bool) -> tuple[str, float]:
    started = time.monotonic()
    outcome = run(works)
    return outcome, time.monotonic() - started
