"""Which server gets a put."""

from __future__ import annotations

import functools
import pickle
from collections import Counter
from typing import TYPE_CHECKING

from support.ledger import Ledger
from support.pools import pool_of
from support.servers import BeanstalkdServer
from support.threads import run_together
from support.waiting import wait_until

from beanpool import PoolManager, Server

if TYPE_CHECKING:
    from conftest import StartCluster
from support.putting import ready, state_of


class TestRouting:
    def test_puts_without_a_key_are_spread_by_weight(self, cluster: StartCluster) -> None:
        servers = cluster(4)
        weighted = [Server(server.host, server.port, weight=weight) for server, weight in zip(servers, [1, 2, 3, 0])]  # noqa: B905
        with PoolManager(weighted) as pool:
            for _ in range(60):
                pool.put("job")
        assert [ready(server) for server in servers] == [10, 20, 30, 0]

    def test_a_key_stays_with_its_server(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with pool_of(*servers) as pool:
            keys: list[str | bytes] = ["a", b"a", "user:17", "ключ", *map(str, range(20))]
            for key in keys:
                homes = {pool.put("job", key=key).server for _ in range(3)}
                assert homes == {pool.route(key)[0]}
        assert all(ready(server) for server in servers)

    def test_a_key_fails_over_in_its_one_order_and_comes_home(self, cluster: StartCluster) -> None:
        servers = {server.address: server for server in cluster(3)}
        with pool_of(*servers.values()) as pool:
            first, second, third = pool.route("key")
            assert pool.put("job", key="key").server == first
            servers[first].kill()
            assert pool.put("job", key="key").server == second
            servers[second].kill()
            assert pool.put("job", key="key").server == third
            servers[second].start()
            wait_until(lambda: state_of(pool, second) == "up", "the server to be seen again")
            assert pool.put("job", key="key").server == second
            servers[first].start()
            wait_until(lambda: state_of(pool, first) == "up", "the server to be seen again")
            assert pool.put("job", key="key").server == first
            assert pool.route("key") == (first, second, third), "health does not change the order"

    def test_keys_of_other_servers_do_not_move(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with pool_of(*servers) as pool:
            keys = [str(number) for number in range(30)]
            before = {key: pool.put("job", key=key).server for key in keys}
            servers[0].kill()
            for key in keys:
                jid = pool.put("job", key=key)
                if before[key] != servers[0].address:
                    assert jid.server == before[key]

    def test_the_tube_is_each_calls_own(self, cluster: StartCluster) -> None:
        """Connections remember a tube, and with one per server everybody gets those of the others."""
        servers = cluster(2)

        def produce(tube: str) -> None:
            for _ in range(50):
                pool.put(tube, tube=tube)

        with pool_of(*servers, max_connections=1, timeout=20) as pool:
            pool.use("of-the-pool")
            run_together(*[functools.partial(produce, tube) for tube in ("a", "b", "c")], timeout=30)
            pool.put("of-the-pool")
        for server in servers:
            for job in server.control.drain_all():
                assert job.body.decode() == job.tube

    def test_what_a_put_says(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager([Server(beanstalkd.host, beanstalkd.port, name="q1")]) as pool:
            jid = pool.put("body", 7, 3600, 99, tube="mails")
            assert isinstance(jid, int)
            assert jid.server == beanstalkd.address
            assert jid.instance == beanstalkd.control.stats()["id"]
            assert not jid.maybe_duplicate
            assert not jid.buried
            copy = pickle.loads(pickle.dumps(jid))
            assert (copy, copy.server, copy.instance) == (jid, jid.server, jid.instance)
            stored = beanstalkd.control.stats_job(jid)
            assert stored is not None
            assert {name: stored[name] for name in ("tube", "state", "pri", "ttr")} == {
                "tube": "mails",
                "state": "delayed",
                "pri": "7",
                "ttr": "99",
            }
            assert beanstalkd.control.peek(jid) == b"body"

    def test_bytes_and_text(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager([beanstalkd.address]) as pool:
            bodies = ["", "тело", b"\x00\xff\r\n", bytearray(b"array"), memoryview(b"view")]
            ids = [pool.put(body) for body in bodies]  # type: ignore[arg-type] # all that is bytes-like
        assert [beanstalkd.control.peek(jid) for jid in ids] == [
            b"",
            "тело".encode(),
            b"\x00\xff\r\n",
            b"array",
            b"view",
        ]

    def test_by_many_threads(self, cluster: StartCluster, ledger: Ledger) -> None:
        servers = cluster(3)

        def produce(bodies: list[bytes]) -> None:
            for body in bodies:
                jid = pool.put(body)
                ledger.acked(body, jid.server, jid)

        with pool_of(*servers) as pool:
            run_together(*[functools.partial(produce, ledger.tokens(200)) for _ in range(6)], timeout=30)
            shares = Counter(status.open for status in pool.servers)
            assert max(shares) <= 6, "no more connections than threads"
        report = ledger.reconcile([server.control for server in servers])
        assert report.acked == report.stored == 1200
