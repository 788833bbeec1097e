"""The soak, for seconds by default and for hours if one likes, and its parts."""

from __future__ import annotations

import os
import threading
import time

import pytest
from chaos.report import Results
from chaos.schedule import KINDS, make_schedule
from chaos.soak import run
from chaos.watchdog import HUNG_AFTER, Watchdog
from support.waiting import wait_until

from beanpool.testing.toxiproxy import Toxiproxy

SECONDS = 12.0


# The soak has its own watchdog, and may be told to run for hours.
@pytest.mark.long
@pytest.mark.timeout(0)
def test_soak(toxiproxy_server: Toxiproxy, results: Results, pytestconfig: pytest.Config) -> None:
    named = pytestconfig.getoption("soak_seconds", default=None) or os.environ.get("BEANPOOL_SOAK_SECONDS")
    result = run(toxiproxy_server, seed=int(os.environ["BEANPOOL_SEED"]), seconds=float(named or SECONDS))
    print(result)
    results.figures("soak", result.summary(), sum(result.operations.values()))
    assert not result.problems, str(result)
    assert result.report.acked > 0
    assert sum(result.faults.values()) > 0


def test_the_same_seed_gives_the_same_faults() -> None:
    first, again, other = (make_schedule(seed, 300, 4) for seed in (7, 7, 8))
    assert first == again != other
    assert {fault.kind for fault in first} == set(KINDS)
    assert any(fault.server == -1 for fault in first)
    for fault in first:
        concurrent = {other.server for other in first if other.at <= fault.at < other.until}
        assert -1 in concurrent or len(concurrent) < 4


def test_a_hang_becomes_stacks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos.watchdog.HUNG_AFTER", HUNG_AFTER / 100)
    released = threading.Event()

    def hang_here() -> None:
        released.wait(20)

    with Watchdog() as watchdog:
        thread = threading.Thread(target=lambda: watchdog.timed("put", 0.1, hang_here))
        thread.start()
        wait_until(lambda: watchdog.hung, "the watchdog")
        released.set()
        thread.join()
    assert "hang_here" in capsys.readouterr().err


def test_a_late_call_is_noted() -> None:
    with Watchdog() as watchdog:
        watchdog.timed("put", 0.1, lambda: None)
        assert not watchdog.late

        def late_again() -> bool:
            watchdog.timed("put", 0.1, lambda: time.sleep(0.5))
            return bool(watchdog.late)

        # A machine that itself stands still excuses a call.
        wait_until(late_again, "a call to be noted", 30)
