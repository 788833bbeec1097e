"""SRV records of a real name server, and of one that says what a real one cannot be made to say."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import dns.flags
import dns.message
import dns.rcode
import pytest
from support.inside import inside
from support.name_server import NAME, ZONE, NameServer, ScriptedNameServer, Zone
from support.servers import BeanstalkdServer
from support.waiting import wait_until, within

from beanpool import DiscoveryFailed, DnsSrv, Event, PoolManager, Server

if TYPE_CHECKING:
    from conftest import StartCluster


def staying(pool: PoolManager) -> set[str]:
    return {status.address for status in pool.servers if not status.leaving}


def failures_of(pool: PoolManager) -> list[DiscoveryFailed]:
    """Those that happen from now on."""
    told: list[DiscoveryFailed] = []

    def listen(event: Event) -> None:
        if isinstance(event, DiscoveryFailed):
            told.append(event)

    pool.add_listener(listen)
    return told


def test_servers_join_and_leave(cluster: StartCluster, zone: Zone) -> None:
    a, b, c = cluster(3)
    zone.list(a, b)
    with zone.pool(timeout=0.5, health_interval=0.1) as pool:
        pool.wait(2)
        assert staying(pool) == {zone.address(a), zone.address(b)}
        keys = {key: pool.put(key, key=key).server for key in map(str, range(60))}
        zone.list(a, b, c)
        wait_until(lambda: len(staying(pool)) == 3, "the third to join")
        moved = {key for key in keys if pool.route(key)[0] != keys[key]}
        assert {pool.route(key)[0] for key in moved} == {zone.address(c)}
        zone.list(b, c)
        wait_until(lambda: staying(pool) == {zone.address(b), zone.address(c)}, "the first to be taken out")
        assert zone.address(a) not in {pool.put("x", key=key).server for key in keys}
        # Whatever it had is worked off.
        bodies: set[str] = set()
        while not set(keys) <= bodies:
            jobs = pool.reserve_many(200, 5)
            assert jobs
            bodies |= {job.body for job in jobs}
            pool.delete_many(jobs)
        wait_until(lambda: len(pool.servers) == 2, "it to leave")


def test_weights_and_priorities(cluster: StartCluster, zone: Zone) -> None:
    a, b, c = cluster(3)
    zone.list(a, b, c, weights={0: 3, 2: 9}, p2=10)
    with zone.pool() as pool:
        pool.wait(3)
        assert Counter(pool.put("x").server for _ in range(40)) == {zone.address(a): 30, zone.address(b): 10}
        assert zone.address(c) not in {pool.put("x", key=str(key)).server for key in range(40)}
        # It is reserved from, and takes over when no better one is listed.
        c.control.put(b"by somebody else", "elsewhere")
        job = pool.reserve(1, tubes="elsewhere")
        assert job is not None
        job.delete()
        zone.list(c, p0=10)
        wait_until(lambda: staying(pool) == {zone.address(c)}, "the better ones to go")
        assert pool.put("x").server == zone.address(c)


def test_a_name_that_moves_keeps_its_keys_and_its_jobs(cluster: StartCluster, zone: Zone) -> None:
    a, b, elsewhere = cluster(3)
    zone.list(a, b)
    with zone.pool(health_interval=0.1) as pool:
        pool.wait(2)
        key = next(key for key in map(str, range(99)) if pool.route(key)[0] == zone.address(a))
        routes = [pool.route(str(key)) for key in range(50)]
        zone.names.moved["127.0.0.9", a.port] = (elsewhere.host, elsewhere.port)
        hosts = {zone.host(a): ["127.0.0.9"], zone.host(b): ["127.0.0.1"]}
        zone.server.set([(zone.host(s), s.port, 0, 0) for s in (a, b)], hosts)
        a.kill()
        wait_until(
            lambda: pool.put("x", key=key).instance == elsewhere.control.stats()["id"], "the keys to be there", 30
        )
        assert [pool.route(str(key)) for key in range(50)] == routes


FAILURES = {
    "NXDOMAIN": lambda zone, a: zone.server.set(),
    "no such records": lambda zone, a: zone.server.set(hosts={NAME: ["127.0.0.1"]}),
    "not available": lambda zone, a: zone.server.set([(".", 0, 0, 0)]),
    "silence": lambda zone, a: zone.server.freeze(),
    "nobody there": lambda zone, a: zone.server.kill(),
}


@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES.keys())
def test_whatever_fails_keeps_the_servers(beanstalkd: BeanstalkdServer, zone: Zone, fail: Any) -> None:
    zone.list(beanstalkd)
    with zone.pool(patience=0.2) as pool:
        pool.wait()
        told = failures_of(pool)
        fail(zone, beanstalkd)
        wait_until(lambda: pool.get_stats()["discovery_errors"] > 1 and told, "failures")
        assert staying(pool) == {zone.address(beanstalkd)}
        assert pool.put("x")
        zone.server.thaw() if fail is FAILURES["silence"] else zone.list(beanstalkd)
        answered = pool.get_stats()["discoveries_num"]
        wait_until(lambda: pool.get_stats()["discoveries_num"] > answered, "an answer")


ANSWERS = {
    "SERVFAIL": (dns.rcode.SERVFAIL, "NoNameservers"),
    "REFUSED": (dns.rcode.REFUSED, "NoNameservers"),
    "an empty answer": (dns.rcode.NOERROR, "NoAnswer"),
}


@pytest.mark.parametrize(("code", "error"), ANSWERS.values(), ids=ANSWERS.keys())
def test_codes_of_errors_keep_the_servers(beanstalkd: BeanstalkdServer, code: int, error: str) -> None:
    fails = [False]

    def answer(question: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(question)
        if fails[0]:
            response.set_rcode(dns.rcode.Rcode.make(code))
        else:
            # Names are the same in either case, and keys are hashed with them.
            text = f"0 0 {beanstalkd.port} LocalHost."
            response.answer.append(dns.rrset.from_text(question.question[0].name, 7, "IN", "SRV", text))
        return response

    with ScriptedNameServer(answer) as server:
        discovery = DnsSrv(NAME, resolver=server.resolver())
        found = discovery()
        assert (found.servers, found.ttl) == ((Server("localhost", beanstalkd.port),), 7)
        with PoolManager(discovery=discovery, discovery_interval=(0.05, 0.1), health_interval=60) as pool:
            pool.wait()
            told = failures_of(pool)
            fails[0] = True
            wait_until(lambda: pool.get_stats()["discovery_errors"] > 1, "failures")
            assert [event.reason.partition(":")[0] for event in told] == [error]
            assert staying(pool) == {f"localhost:{beanstalkd.port}"}


def test_many_records_come_over_tcp(name_server: NameServer) -> None:
    name_server.set([(f"queue-{number:03}.{'long' * 12}.{ZONE}", 11300, 0, 1) for number in range(120)])
    found = DnsSrv(NAME, resolver=name_server.resolver())()
    assert len(found.servers) == 120
    assert found.servers[7].host == f"queue-007.{'long' * 12}.{ZONE}"


def test_the_time_of_a_question_is_bounded(name_server: NameServer) -> None:
    discovery = DnsSrv(NAME, timeout=0.3, resolver=name_server.resolver())
    name_server.freeze()
    with within(0.3), pytest.raises(dns.exception.Timeout):
        discovery()


def test_the_ttl_decides_when_it_is_asked_again(zone: Zone, beanstalkd: BeanstalkdServer) -> None:
    zone.server._ttl = 1
    zone.list(beanstalkd)
    with zone.pool(discovery_interval=(0.05, 300)) as pool:
        pool.wait()
        asked_at = time.monotonic()
        count = pool.get_stats()["discoveries_num"]
        wait_until(lambda: pool.get_stats()["discoveries_num"] > count, "the next question")
        assert time.monotonic() - asked_at > 0.5
        member = inside(pool).members[0]
        assert member.server == Server(zone.host(beanstalkd), beanstalkd.port)


@pytest.mark.usefixtures("as_the_systems")
class TestUrls:
    def test_name_the_records(self, zone: Zone, cluster: StartCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        a, b = cluster(2)
        zone.list(a, b)
        url = f"beanstalk+srv://{NAME}/?timeout=3&discovery_interval=0.05,0.2&drain_for=7"
        monkeypatch.setenv("BEANPOOL_URL", url)
        for pool in (PoolManager(url), PoolManager.from_env()):
            with pool:
                pool.wait(2)
                settings = inside(pool).cluster._settings
                assert (settings.timeout, settings.discovery_interval, settings.drain_for) == (3, (0.05, 0.2), 7)
                assert pool.put("x").server in {zone.address(a), zone.address(b)}

    @pytest.mark.parametrize(
        "url",
        [
            *("beanstalk+srv://", "beanstalk+srv://_b._tcp.example:53", "beanstalk+srv://user:pw@_b._tcp.example"),
            *("beanstalk+srv://_b._tcp.example?tmieout=2", "beanstalk+srv://_b._tcp.example,q2"),
        ],
    )
    def test_that_cannot_be_are_refused(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ValueError) as caught:
            PoolManager(url)
        assert "pw" not in str(caught.value)
        monkeypatch.setenv("BEANPOOL_URL", url)
        with pytest.raises(ValueError, match="BEANPOOL_URL"):
            PoolManager.from_env()

    def test_are_no_addresses_of_a_server(self) -> None:
        for servers in (["beanstalk+srv://_b._tcp.example", "q2"], "q2,beanstalk+srv://_b._tcp.example"):
            with pytest.raises(ValueError, match="nothing beside it"):
                PoolManager(servers)
