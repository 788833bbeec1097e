"""Servers that lie, stammer or are old, in a pool with one that is neither: nobody else suffers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.inside import inside
from support.scripted import (
    Answer,
    ScriptedConnection,
    ScriptedServer,
    answering,
    half_close,
    send,
    send_bytewise,
    stall,
    stats_reply,
    with_data,
)
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import JobId, PoolManager
from beanpool.errors import (
    BeanpoolError,
    CommandFailed,
    Draining,
    JobLost,
    NoServerAvailable,
    PutAmbiguous,
    UnexpectedResponse,
)

TIMEOUT = 1.0


def using(connection: ScriptedConnection, line: bytes, body: bytes) -> bytes:
    """What a server answers to ``use``."""
    return b"USING " + line.split()[1] + b"\r\n"


def server_of(**answers: Answer) -> Callable[[ScriptedConnection], object]:
    """A script: a healthy server but for these answers."""
    known: dict[str, Answer] = {
        "stats": stats_reply(),
        "use": using,
        "put": b"INSERTED 1\r\n",
        "reserve-with-timeout": b"TIMED_OUT\r\n",
        "delete": b"DELETED\r\n",
        "list-tubes": with_data(b"OK", b"---\n- default\n"),
    }
    return answering({**known, **{name.replace("_", "-"): answer for name, answer in answers.items()}})


def pool_of(*addresses: str, **options: Any) -> PoolManager:
    """A pool that is quick to find out."""
    return PoolManager(
        addresses,
        **{"timeout": TIMEOUT, "connect_timeout": 0.5, "health_interval": 0.5, **options},
    )


# 44: what is no beanstalkd; 45: what never ends; 46: sizes; 47: framing; 49: statistics; 50: unasked.
NO_SERVER: dict[str, Any] = {
    "garbage": send(b"\x00\xff\xfe\x80garbage\r\n"),
    "an HTTP server": send(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n"),
    "a TLS server": send(b"\x15\x03\x01\x00\x02\x02\x46\r\n"),
    "an empty line": send(b"\r\n"),
    "NUL": send(b"OK\x00 3\r\nabc\r\n"),
    "line feeds alone": send(b"OK 4\n---\n\n"),
    "a line that never ends": send(b"O" * 200_000),
    "a byte now and then": send_bytewise(b"OK 10000\r\n" + b"x" * 10_000, pause=0.05),
    "a size beyond all bounds": send(b"OK 99999999999\r\n"),
    "a size of 5000 digits": send(b"OK " + b"9" * 5000 + b"\r\n"),
    "a size with a sign": send(b"OK +5\r\n12345\r\n"),
    "a size with an underscore": send(b"OK 1_0\r\n1234567890\r\n"),
    "a negative size": send(b"OK -1\r\n\r\n"),
    "digits that are not ASCII": send("OK ٣\r\n123\r\n".encode()),
    "a truncated body": [send(b"OK 100\r\nabc"), half_close()],
    "a body without its end": send(b"OK 3\r\nabcXX"),
    "two replies to one command": send(stats_reply() + stats_reply()),
    "the reply to another command": send(b"INSERTED 3\r\n"),
    "silence": stall(),
    "a closed door": half_close(),
}


@pytest.mark.parametrize("kind", NO_SERVER)
def test_whatever_answers_beside_it_a_healthy_server_serves_on(
    beanstalkd: BeanstalkdServer, scripted_server: Callable[..., ScriptedServer], kind: str
) -> None:
    bad = scripted_server(default=NO_SERVER[kind])
    with pool_of(bad.address, beanstalkd.address) as pool:
        for number in range(4):
            with within(TIMEOUT):
                jid = pool.put(f"{number}", key=f"{number}")
            # Before the handshake nothing of a put is sent, so it is stored once.
            assert (jid.server, jid.maybe_duplicate) == (beanstalkd.address, False)
        for _ in range(4):
            with within(TIMEOUT):
                job = pool.reserve(TIMEOUT)
            assert job is not None
            job.delete()
        with within(0.3):
            assert pool.reserve(0.3) is None
        wait_until(lambda: pool.servers[0].state == "down", "it to be known as no server", 3)
        assert pool.servers[1].state == "up"
        assert pool.servers[0].last_error
        assert b"put" not in b"".join(bad.received(number) for number in range(bad.accepts))


def test_who_is_no_beanstalkd_is_asked_ever_more_rarely(
    beanstalkd: BeanstalkdServer, scripted_server: Callable[..., ScriptedServer]
) -> None:
    bad = scripted_server(default=send(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    with pool_of(bad.address, beanstalkd.address, health_interval=10) as pool:
        pool.put("x", key=next(key for key in map(str, range(99)) if pool.route(key)[0] == bad.address))
        wait_until(lambda: pool.servers[0].state == "down", "it to be known as no server", 3)
        before = bad.accepts
        stop_at = time.monotonic() + 0.5
        while time.monotonic() < stop_at:
            pool.put("x")
        assert bad.accepts - before <= 1


@pytest.mark.parametrize(
    "reply",
    [
        b"DELETED\r\n",
        b"RESERVED 1 3\r\nabc\r\n",
        b"INSERTED\r\n",
        b"INSERTED -1\r\n",
        b"INSERTED 01\r\n",
        b"INSERTED 99999999999999999999999\r\n",
        b"INSERTED 1 2\r\n",
        b"inserted 1\r\n",
        b"INSERTED 1\n",
        b"INTERNAL_ERROR\r\n",
    ],
)
@pytest.mark.parametrize("policy", ["raise", "resend"])
def test_a_put_that_is_answered_with_nonsense_is_ambiguous(
    beanstalkd: BeanstalkdServer, scripted_server: Callable[..., ScriptedServer], reply: bytes, policy: str
) -> None:
    bad = scripted_server(default=server_of(put=reply))
    with pool_of(bad.address, beanstalkd.address) as pool:
        key = next(key for key in map(str, range(99)) if pool.route(key)[0] == bad.address)
        if policy == "raise":
            with within(TIMEOUT), pytest.raises(PutAmbiguous) as caught:
                pool.put("secret", key=key, on_ambiguous="raise")
            assert caught.value.server == bad.address
            assert "secret" not in str(caught.value)
        else:
            with within(TIMEOUT):
                jid = pool.put("secret", key=key)
            assert (jid.server, jid.maybe_duplicate) == (beanstalkd.address, True)
        # That connection is never used again.
        assert bad.received(0).count(b"put ") == 1


@pytest.mark.parametrize(("reply", "buried"), [(b"INSERTED 7\r\n", False), (b"BURIED 7\r\n", True)])
def test_a_put_that_is_stored_is_never_sent_again(
    scripted_server: Callable[..., ScriptedServer], reply: bytes, buried: bool
) -> None:
    server = scripted_server(default=server_of(put=reply))
    with pool_of(server.address) as pool:
        jid = pool.put("x")
        assert (int(jid), jid.buried, jid.maybe_duplicate) == (7, buried, False)
    assert server.received(0).count(b"put ") == 1


@pytest.mark.parametrize("reply", [b"DRAINING\r\n", b"OUT_OF_MEMORY\r\n"])
def test_a_put_that_is_refused_goes_to_the_next_and_the_server_is_still_reserved_from(
    beanstalkd: BeanstalkdServer, scripted_server: Callable[..., ScriptedServer], reply: bytes
) -> None:
    job = with_data(b"RESERVED 5", b"from the full one")
    full = scripted_server(default=server_of(put=reply, reserve_with_timeout=job))
    with pool_of(full.address, beanstalkd.address) as pool:
        key = next(key for key in map(str, range(99)) if pool.route(key)[0] == full.address)
        for _ in range(5):
            jid = pool.put("x", key=key)
            assert (jid.server, jid.maybe_duplicate) == (beanstalkd.address, False)
        assert sum(full.received(number).count(b"put ") for number in range(full.accepts)) == 1
        taken = {job.server for job in (pool.reserve(1) for _ in range(6)) if job is not None}
        assert full.address in taken


def test_all_refusing_says_so(scripted_server: Callable[..., ScriptedServer]) -> None:
    servers = [scripted_server(default=server_of(put=b"DRAINING\r\n")) for _ in range(2)]
    with pool_of(*(server.address for server in servers)) as pool:
        with within(TIMEOUT), pytest.raises(NoServerAvailable) as caught:
            pool.put("x")
        assert set(caught.value.errors) == {server.address for server in servers}
        assert all(isinstance(error, Draining) for error in caught.value.errors.values())
        with within(TIMEOUT), pytest.raises(NoServerAvailable, match=r"(?i)draining"):
            pool.put("x")


def test_when_the_resend_of_an_ambiguous_put_fails_the_ambiguity_is_what_is_raised(
    scripted_server: Callable[..., ScriptedServer],
) -> None:
    cut = scripted_server(default=server_of(put=lambda connection, line, body: connection.reset()))
    draining = scripted_server(default=server_of(put=b"DRAINING\r\n"))
    with pool_of(cut.address, draining.address) as pool:
        key = next(key for key in map(str, range(99)) if pool.route(key)[0] == cut.address)
        with within(TIMEOUT), pytest.raises(PutAmbiguous) as caught:
            pool.put("x", key=key)
        assert caught.value.server == cut.address
        assert len(caught.value.attempts) >= 2


# 48: well-formed, and wrong.


@pytest.mark.parametrize(
    ("answers", "call"),
    [
        ({"use": b"USING other\r\n"}, lambda pool: pool.put("x", tube="asked")),
        ({"delete": b"INSERTED 3\r\n"}, lambda pool: pool.delete(1)),
        ({"delete": b"TOUCHED\r\n"}, lambda pool: pool.delete(1)),
        ({"reserve_job": with_data(b"RESERVED 6", b"x")}, lambda pool: pool.reserve_job(5)),
        ({"peek": with_data(b"FOUND 6", b"x")}, lambda pool: pool.peek(5)),
        ({"watch": b"WATCHING 9\r\n"}, lambda pool: pool.reserve(0, tubes="asked")),
        ({"ignore": b"WATCHING 9\r\n", "watch": b"WATCHING 2\r\n"}, lambda pool: pool.reserve(0, tubes="asked")),
        ({"list_tubes": with_data(b"OK", b"---\nno list\n")}, lambda pool: pool.tubes()),
        ({"stats_tube": b"FOUND 1 3\r\nabc\r\n"}, lambda pool: pool.stats_tube("x")),
    ],
)
def test_a_well_formed_lie_is_never_believed(
    scripted_server: Callable[..., ScriptedServer], answers: dict[str, Answer], call: Callable[[PoolManager], object]
) -> None:
    liar = scripted_server(default=server_of(**answers))
    with pool_of(liar.address) as pool:
        with within(TIMEOUT), pytest.raises((UnexpectedResponse, NoServerAvailable, CommandFailed)) as caught:
            call(pool)
        assert liar.address in str(caught.value)
        # The connection that lied is closed, not kept.
        wait_until(lambda: liar.connections[0].closed.is_set(), "the connection to be closed")
        # A check of the server has one for a moment.
        wait_until(lambda: not pool.servers[0].leased, "no connection in use")


# 49: statistics.


def test_a_server_without_a_process_id_is_used_and_its_ids_are_not_trusted(
    scripted_server: Callable[..., ScriptedServer],
) -> None:
    bare = {"pid": 1, "version": '"0.0"', "max-job-size": 65535}
    server = scripted_server(
        default=server_of(stats=stats_reply(bare), reserve_with_timeout=with_data(b"RESERVED 1", b"x"))
    )
    with pool_of(server.address) as pool:
        jid = pool.put("x")
        assert (int(jid), jid.instance) == (1, "")
        # Which process would be asked? Nothing is sent.
        with pytest.raises(JobLost, match="process"):
            pool.delete(jid)
        assert b"delete" not in server.received(0)
        job = pool.reserve(0)
        assert job is not None
        job.delete()
        # A delete that got lost is not tried again: nobody knows whether it is the same process.
        lost = pool.reserve(0)
        assert lost is not None
        lost.connection.close()
        with pytest.raises(JobLost):
            lost.delete()
    everything = b"".join(server.received(number) for number in range(server.accepts))
    assert everything.count(b"delete ") == 1
    assert b"reserve-job" not in everything


def test_a_process_id_that_changes_on_one_connection_is_another_process(
    scripted_server: Callable[..., ScriptedServer],
) -> None:
    count = 0

    def stats(connection: ScriptedConnection, line: bytes, body: bytes) -> bytes:
        nonlocal count
        count += 1
        return stats_reply({"id": f"{count:016x}", "version": '"1.12"'})

    server = scripted_server(default=server_of(stats=stats))
    with pool_of(server.address, health_interval=0.1) as pool:
        jid = pool.put("x")
        wait_until(lambda: count > 2, "more questions")
        with pytest.raises(JobLost):
            pool.delete(jid)


@pytest.mark.parametrize("size", [64 * 1024 * 1024 + 1, 2**40])
def test_statistics_beyond_all_bounds_are_not_read(scripted_server: Callable[..., ScriptedServer], size: int) -> None:
    server = scripted_server(default=answering({"stats": b"OK %d\r\n" % size}))
    with pool_of(server.address) as pool, within(TIMEOUT), pytest.raises(NoServerAvailable):
        pool.put("x")


def test_statistics_that_are_a_bomb_cost_nothing(scripted_server: Callable[..., ScriptedServer]) -> None:
    bomb = b"---\na: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (name, name, b",".join([b"*%c" % (name - 1)] * 9)) for name in range(ord("b"), ord("z"))
    )
    deep = b"---\n" + b"[" * 50_000
    for document in (bomb, deep, b"---\n\xff\xfe: 1\n", b"---\nid: !!python/object/apply:os.system ['true']\n"):
        server = scripted_server(default=server_of(stats_tube=with_data(b"OK", document)))
        with pool_of(server.address) as pool, within(TIMEOUT), pytest.raises(BeanpoolError):
            pool.stats_tube("x")


# 50: unasked.


def test_what_comes_unasked_on_an_idle_connection_answers_nothing(
    scripted_server: Callable[..., ScriptedServer],
) -> None:
    idle, spoken = threading.Event(), threading.Event()

    def speak(connection: ScriptedConnection) -> None:
        serve_one(connection, 2)
        connection.wait(idle)
        connection.send(b"INSERTED 666\r\n")
        spoken.set()

    def serve_one(connection: ScriptedConnection, count: int) -> None:
        for _ in range(count):
            line = connection.read_line()
            if line.startswith(b"put"):
                connection.read(int(line.split()[4]) + 2)
            connection.send(stats_reply() if line == b"stats" else b"INSERTED 1\r\n")

    server = scripted_server(speak, default=server_of(put=b"INSERTED 2\r\n"))
    with pool_of(server.address, health_interval=30) as pool:
        assert pool.put("x") == 1
        idle.set()
        assert spoken.wait(2)
        # Trusted for a moment after its last use, looked at after that.
        wait_until(lambda: time.monotonic() - _used_at(pool) > 0.02, "the moment to pass")
        assert pool.put("y") == 2
        assert server.received(0).count(b"put ") == 1


def _used_at(pool: PoolManager) -> float:
    [idle] = inside(pool).connections_of(0).places.idle
    return idle.channel.used_at


# Old servers: 1.10 knows no reserve-job, and says nothing of draining.

OLD_STATS = {"pid": 1, "version": "1.10", "max-job-size": 65535, "id": "00112233445566aa"}


def old_server(scripted_server: Callable[..., ScriptedServer], **answers: Answer) -> ScriptedServer:
    return scripted_server(
        default=server_of(
            stats=stats_reply(OLD_STATS),
            reserve_with_timeout=with_data(b"RESERVED 1", b"x"),
            stats_job=with_data(b"OK", b"---\nid: 1\nstate: ready\npri: 5\n"),
            reserve_job=b"UNKNOWN_COMMAND\r\n",
            **answers,
        )
    )


def test_an_old_server_does_everything_but_finish_a_lost_delete(scripted_server: Callable[..., ScriptedServer]) -> None:
    server = old_server(scripted_server)
    with pool_of(server.address) as pool:
        jid = pool.put("x")
        assert jid.instance == OLD_STATS["id"]
        assert pool.servers[0].version == "1.10"
        assert not pool.servers[0].draining
        job = pool.reserve(0)
        assert job is not None
        job.delete()
        pool.delete(JobId(1, server.address, str(OLD_STATS["id"])))
        lost = pool.reserve(0)
        assert lost is not None
        lost.connection.close()
        with pytest.raises(JobLost, match=r"1\.12"):
            lost.delete()
        with pytest.raises(JobLost, match=r"1\.12"):
            lost.reacquire()
        with pytest.raises(CommandFailed) as caught:
            pool.reserve_job(jid)
        assert caught.value.status == "UNKNOWN_COMMAND"
        assert pool.servers[0].state == "up"


def test_an_old_server_that_drains_is_known_by_its_refusals(
    beanstalkd: BeanstalkdServer, scripted_server: Callable[..., ScriptedServer]
) -> None:
    server = old_server(scripted_server, put=b"DRAINING\r\n")
    with pool_of(server.address, beanstalkd.address, health_interval=0.05) as pool:
        key = next(key for key in map(str, range(99)) if pool.route(key)[0] == server.address)
        assert pool.put("x", key=key).server == beanstalkd.address
        assert pool.servers[0].draining

        def checks() -> int:
            return sum(server.received(number).count(b"stats\r\n") for number in range(server.accepts))

        before = checks()
        wait_until(lambda: checks() > before + 2, "more checks")
        # Its statistics do not say so, and it goes on all the same until another process answers.
        assert pool.servers[0].draining


# 40: a storm of retries.


@pytest.mark.parametrize("answer", ["silence", "reset", "out of memory", "internal error"])
def test_an_outage_does_not_multiply_the_load(scripted_server: Callable[..., ScriptedServer], answer: str) -> None:
    replies: dict[str, Answer] = {
        "silence": lambda connection, line, body: None,
        "reset": lambda connection, line, body: connection.reset(),
        "out of memory": b"OUT_OF_MEMORY\r\n",
        "internal error": b"INTERNAL_ERROR\r\n",
    }
    calls, burst = 200, 10
    server = scripted_server(default=server_of(put=replies[answer]))

    def put() -> None:
        with pytest.raises(BeanpoolError):
            pool.put("x", timeout=0.5)

    with pool_of(server.address, max_connections=50) as pool:
        run_together(*[put] * calls, timeout=20)
        attempts = sum(server.received(number).count(b"put ") for number in range(server.accepts))
        stats = pool.get_stats()
    print(
        f"{answer}: {calls} calls, {attempts} puts on {server.accepts} connections, {stats['retries_refused']} refused"
    )
    assert attempts <= calls * 1.1 + burst
    assert server.accepts <= calls * 1.1 + burst + 50


def test_a_reserve_from_a_server_that_stammers_ends_in_time(
    beanstalkd: BeanstalkdServer, scripted_server: Callable[..., ScriptedServer]
) -> None:
    def half_a_job(connection: ScriptedConnection, line: bytes, body: bytes) -> None:
        connection.send(b"RESERVED 1 100\r\nhalf")

    bad = scripted_server(default=server_of(reserve_with_timeout=half_a_job))
    with pool_of(bad.address, beanstalkd.address) as pool:
        for _ in range(2):
            with within(0.4):
                assert pool.reserve(0.4) is None
        waiter = background(lambda: pool.reserve(5), "the waiter")
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the reserve to wait")
        beanstalkd.control.put(b"whole")
        job = waiter.result(1)
        assert job is not None
        assert job.data == b"whole"
        job.delete()
