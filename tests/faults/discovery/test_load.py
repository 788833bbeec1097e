"""Servers that join and leave by their records while a pool is at work: nothing is lost, and the right keys move."""

from __future__ import annotations

import itertools
import re
import time
from typing import TYPE_CHECKING

from faults.changing_servers import KeyedLoad, Owners, Placed, owners_of
from support.ledger import Ledger
from support.name_server import Zone
from support.waiting import wait_until

from beanpool import PoolManager

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import StartCluster

# More by hand.
PUTS_PER_PHASE = 300
KEYS = [f"key {number}" for number in range(300)]


def test_nothing_is_lost_and_no_key_goes_by_way_of_a_third_server(
    cluster: StartCluster, zone: Zone, ledger: Ledger
) -> None:
    a, b, c, d = servers = cluster(4)
    # One joins, one leaves, the name server is silent for a while, and one leaves for another.
    phases = [[a, b], [a, b, c], [b, c], [b, c], [c, d]]
    owners = [owners_of([zone.address(server) for server in phase], KEYS) for phase in phases]
    zone.list(*phases[0])
    seen_after: list[float] = []

    with zone.pool(timeout=1, health_interval=0.1, patience=0.3) as pool:
        pool.wait(2)
        load = KeyedLoad(pool, ledger, KEYS)
        with load.running(producers=2, workers=1):
            load.await_puts(PUTS_PER_PHASE)
            for before, phase in itertools.pairwise(phases):
                wanted = {zone.address(server) for server in phase}
                with load.changing():
                    if phase == before:
                        zone.server.freeze()
                        failed = pool.get_stats()["discovery_errors"]
                        wait_until(lambda: pool.get_stats()["discovery_errors"] > failed, "the silence to be noticed")  # noqa: B023  # It is not called later.
                        zone.server.thaw()
                    else:
                        zone.list(*phase)
                        listed_at = time.monotonic()
                        wait_until(lambda: staying(pool) == wanted, "the change")  # noqa: B023  # It is not called later.
                        seen_after.append(time.monotonic() - listed_at)
                load.await_puts(PUTS_PER_PHASE)
        assert len(pool.servers) == len(phases[-1])
        rerouted = pool.get_stats()["puts_rerouted"]
    astray = load.astray(owners)
    report = ledger.reconcile([server.control for server in servers], exactly_once=True)
    moved = [sum(old[key] != new[key] for key in KEYS) for old, new in itertools.pairwise(owners)]
    print(
        f"keys moved: {moved} of {len(KEYS)}; puts astray: {len(astray)} of {len(load.placed)}; "
        f"rerouted: {rerouted}; seen after {', '.join(f'{seconds:.2f}' for seconds in seen_after)} s; {report}"
    )
    assert not [put for put in astray if not lacked_a_name(put, owners)]
    # All that moved went to the one that joined, and came from the one that left.
    joined, left = zone.address(c), zone.address(a)
    assert {owners[1][key] for key in KEYS if owners[0][key] != owners[1][key]} == {joined}
    assert {owners[1][key] for key in KEYS if owners[1][key] != owners[2][key]} == {left}
    assert moved[2] == 0


def lacked_a_name(put: Placed, owners: Sequence[Owners]) -> bool:
    """Whether a put needed a new connection to its key's own server, and the name of that was not found in time.

    On a busy machine that happens while the name server is silent.
    """
    rerouted = put.rerouted
    return (
        rerouted is not None
        and rerouted.instead_of in put.homes(owners)
        and re.search("the name server did not answer|no address for the host name", rerouted.reason) is not None
    )


def staying(pool: PoolManager) -> set[str]:
    return {status.address for status in pool.servers if not status.leaving}
