"""Puts while servers are killed and started again."""

from __future__ import annotations

import functools
import itertools
import time
from typing import TYPE_CHECKING

from support.ledger import Ledger
from support.pools import pool_of
from support.threads import run_together
from support.waiting import wait_until

from beanpool import BeanpoolError, PutAmbiguous

if TYPE_CHECKING:
    from conftest import StartCluster


class TestUnderFire:
    def test_kills_and_restarts_lose_nothing_that_was_acknowledged(self, cluster: StartCluster, ledger: Ledger) -> None:
        servers = cluster(3, wal=True)
        end = time.monotonic() + 2.0

        def produce() -> None:
            while time.monotonic() < end:
                body = ledger.token(100)
                try:
                    jid = pool.put(body)
                except PutAmbiguous as error:
                    ledger.ambiguous(body, len(error.attempts))
                except BeanpoolError as error:
                    ledger.refused(body, error)
                else:
                    ledger.acked(body, jid.server, jid, jid.maybe_duplicate)

        def gone_on(before: int) -> bool:
            return ledger.acked_count > before + 50 or time.monotonic() > end

        def attack() -> None:
            for server in itertools.cycle(servers):
                server.kill()
                wait_until(functools.partial(gone_on, ledger.acked_count), "puts to go on")
                server.start()
                if time.monotonic() > end:
                    break

        with pool_of(*servers, timeout=1) as pool:
            run_together(*[produce] * 4, attack, timeout=30)
            outages = pool.get_stats()["outages_num"]
        report = ledger.reconcile([server.control for server in servers])
        assert outages
        assert report.acked > 500
