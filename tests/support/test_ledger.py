"""The ledger finds what was lost, and what was done twice."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from support.ledger import Ledger
from support.servers import BeanstalkdServer

if TYPE_CHECKING:
    from conftest import StartCluster


class TestLedger:
    def test_a_clean_run(self, ledger: Ledger, cluster: StartCluster, rng: random.Random) -> None:
        servers = cluster(2)
        for body in ledger.tokens(20, size=64):
            assert len(body) == 64
            server = rng.choice(servers)
            ledger.acked(body, server.address, server.control.put(body))
        assert ledger.acked_count == 20
        for server in servers:
            while (job := server.control.reserve()) and server.control.counter("current-jobs-ready"):
                ledger.delivered(job.body.decode(), server.address, job.id)
                assert server.control.delete(job.id)
                ledger.deleted(job.body.decode())
            server.control.close()
        assert ledger.deleted_count + len(ledger.outstanding()) == 20
        report = ledger.reconcile([server.control for server in servers], exactly_once=True)
        assert (report.acked, report.deliveries, report.deleted) == (20, ledger.deleted_count, ledger.deleted_count)
        assert report.stored == 20 - report.deleted
        assert "all promises kept" in str(report)

    def test_a_lost_job(self, ledger: Ledger, beanstalkd: BeanstalkdServer) -> None:
        body = ledger.token()
        ledger.acked(body, beanstalkd.address, 1)
        with pytest.raises(AssertionError, match=r"I1 acknowledged, but lost \(1\)"):
            ledger.reconcile([beanstalkd.control])
        ledger.reconcile([beanstalkd.control], storage_lost=[beanstalkd.address])

    def test_a_refused_job_that_is_there(self, ledger: Ledger, beanstalkd: BeanstalkdServer) -> None:
        stored, delivered, absent, forgotten = ledger.tokens(4)
        for body in (stored, delivered, absent):
            ledger.refused(body, "draining")
        beanstalkd.control.put(stored)
        beanstalkd.control.put(forgotten)
        ledger.delivered(delivered, beanstalkd.address, 9)
        report = ledger.audit([beanstalkd.control])
        assert [line.partition(":")[0] for line in report.violations] == [
            "I2 refused, but stored (2)",
            "I2 put without a recorded outcome, but stored (1)",
        ]
        assert "draining" in str(report)

    def test_copies_have_to_be_declared(self, ledger: Ledger, cluster: StartCluster) -> None:
        one, two = cluster(2)
        silent, declared, counted, raised, absent = ledger.tokens(5)
        ledger.acked(silent, one.address)
        ledger.acked(declared, one.address, maybe_duplicate=True)
        ledger.acked(counted, one.address, maybe_duplicate=1)
        ledger.ambiguous(raised, attempts=2)
        ledger.ambiguous(absent)
        for body in (silent, declared, counted, raised):
            for server in (one, two):
                server.control.put(body)
        report = ledger.audit([one.control, two.control])
        [violation] = report.violations
        assert violation.startswith("I3 more copies than declared (1)")
        assert silent.partition(b".")[0].decode() in violation
        assert (report.acked, report.ambiguous, report.maybe_duplicate, report.stored) == (3, 2, 2, 8)

    def test_one_job_delivered_twice_is_one_copy(self, ledger: Ledger, beanstalkd: BeanstalkdServer) -> None:
        body = ledger.token()
        ledger.acked(body, beanstalkd.address, 1)
        ledger.delivered(body, beanstalkd.address, 1)
        ledger.delete_failed(body, "lost")
        ledger.delivered(body, beanstalkd.address, 1)
        ledger.deleted(body)
        report = ledger.reconcile([beanstalkd.control])
        assert (report.redelivered, report.failed_deletes) == (1, 1)
        with pytest.raises(AssertionError, match="I3 delivered more than once"):
            ledger.reconcile([beanstalkd.control], exactly_once=True)

    def test_a_deleted_job_that_is_still_there(self, ledger: Ledger, beanstalkd: BeanstalkdServer) -> None:
        body = ledger.token()
        job_id = beanstalkd.control.put(body)
        ledger.acked(body, beanstalkd.address, job_id)
        ledger.delivered(body, beanstalkd.address, job_id)
        ledger.deleted(body)
        with pytest.raises(AssertionError, match="I3 deleted, but still stored"):
            ledger.reconcile([beanstalkd.control])

    def test_a_hoarded_job(self, ledger: Ledger, beanstalkd: BeanstalkdServer) -> None:
        body = ledger.token()
        ledger.acked(body, beanstalkd.address, beanstalkd.control.put(body))
        hoarder = beanstalkd.raw()
        assert hoarder.reserve()
        report = ledger.audit([beanstalkd.control], quiet=0.05)
        assert report.violations == [f"I4 still reserved, with nobody at work (1): 1 at {beanstalkd.address}"]

    def test_a_body_that_nobody_put(self, ledger: Ledger, beanstalkd: BeanstalkdServer) -> None:
        ledger.delivered(b"INSERTED 5", beanstalkd.address, 1)
        with pytest.raises(AssertionError, match=r"I6 delivered, but never put \(1\): 1 of 10 bytes"):
            ledger.reconcile([beanstalkd.control])
