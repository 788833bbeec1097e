"""What SRV records come to."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.processes import run_python

from beanpool import DnsSrv, PoolManager, Server
from beanpool.discovery.dns_srv import Record, servers_of

RECORDS = st.builds(
    Record,
    st.sampled_from(["a.example", "b.example", "c.example", ""]),
    st.sampled_from([11300, 11301]),
    st.integers(0, 3),
    st.integers(0, 65535),
)


def test_a_target_is_the_name_and_a_weight_of_0_counts_1() -> None:
    found = servers_of([Record("b.example", 11300, 1, 0), Record("a.example", 11301, 1, 7)])
    assert found == (Server("a.example", 11301, weight=7), Server("b.example", 11300, weight=1))
    assert [server.key for server in found] == ["a.example:11301", "b.example:11300"]


def test_other_priorities_get_no_puts() -> None:
    records = [Record("a.example", 1, 10, 5), Record("b.example", 1, 20, 5), Record("c.example", 1, 30, 5)]
    assert [server.weight for server in servers_of(records)] == [5, 0, 0]
    assert [server.weight for server in servers_of(records[1:])] == [5, 0]


def test_the_same_target_twice_is_one() -> None:
    records = [Record("a.example", 1, 20, 9), Record("a.example", 1, 10, 2), Record("a.example", 1, 10, 3)]
    assert servers_of(records) == (Server("a.example", 1, weight=5),)


def test_a_dot_is_no_service() -> None:
    assert servers_of([Record("", 0, 0, 0)]) == ()


@given(records=st.lists(RECORDS, max_size=12), seed=st.randoms(use_true_random=False))
def test_their_order_is_all_the_same(records: list[Record], seed: random.Random) -> None:
    found = servers_of(records)
    seed.shuffle(records)
    assert servers_of(records) == found
    if found:
        PoolManager(found)
        assert any(server.weight for server in found)


@pytest.mark.parametrize("name", ["", ".", "a b", "_b._tcp.example:53", "a..b", "x" * 64, "a." * 127 + "ab", "_b/_tcp"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name of SRV records"):
        DnsSrv(name)


def test_without_dnspython_the_extra_is_named() -> None:
    done = run_python(
        """
        import sys
        import beanpool

        assert "beanpool.discovery" not in sys.modules
        sys.modules["dns"] = None
        for make in (beanpool.DnsSrv, lambda name: beanpool.PoolManager(f"beanstalk+srv://{name}")):
            try:
                make("_beanstalkd._tcp.example")
            except ImportError as error:
                print(error)
        print(beanpool.DnsA("q.example"))
        """.replace("\n        ", "\n")
    )
    assert done.stdout.splitlines() == [
        *["SRV records need dnspython: install beanpool[dns]"] * 2,
        "DnsA('q.example', 11300)",
    ]


def test_a_name_server_that_takes_longer_than_a_try_is_heard_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    exception = pytest.importorskip("dns.exception")
    tries: list[tuple[float, bool]] = []

    class Resolver:
        def __init__(self) -> None:
            self.timeout = 2.0
            self.rotate = False

        def resolve(self, name: str, kind: str, lifetime: float, search: bool) -> Any:
            tries.append((self.timeout, self.rotate))
            if self.timeout < 4.5:
                raise exception.Timeout
            raise LookupError("there are no such records")

    monkeypatch.setattr("dns.resolver.Resolver", Resolver)
    discovery = DnsSrv("_beanstalkd._tcp.example.org", timeout=5)
    for error in (exception.Timeout, exception.Timeout, LookupError, LookupError):
        with pytest.raises(error):
            discovery()
    assert tries == [(2.0, False), (4.0, True), (5, True), (5, True)]
