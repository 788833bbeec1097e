"""Moves from a server whose answers get lost: no copy is taken back that may be the only one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest
from support.scripted import Answer, PeerClosed, ScriptedConnection, answering, stats_reply, with_data
from support.servers import BeanstalkdServer
from support.tubes import count_in

from beanpool import PoolManager
from beanpool.admin import clear, move

if TYPE_CHECKING:
    from conftest import StartScripted

BODIES = [b"0", b"1", b"2"]
Break = Literal["delete", "stats-job", "reserve-with-timeout"]


class Source:
    """A server with three ready jobs in one tube, that hangs up instead of answering the second of some command."""

    def __init__(self, breaks_at: Break | None = None, answer: bytes | None = None, last: int = 3) -> None:
        self.deleted: list[int] = []
        self._breaks_at = breaks_at
        self._answer = answer
        self._last = last
        self._counts = dict.fromkeys(("delete", "stats-job", "reserve-with-timeout"), 0)

    def __call__(self, connection: ScriptedConnection) -> None:
        self._reserved = 0
        answers: dict[str, Answer] = {
            "stats": stats_reply(),
            "use": lambda _, line, __: b"USING %s\r\n" % line.split()[1],
            "watch": b"WATCHING 2\r\n",
            "ignore": b"WATCHING 1\r\n",
            "list-tube-used": b"USING default\r\n",
            "stats-tube": stats_reply({"name": "a", "current-jobs-ready": 3, "pause-time-left": 0}),
            "reserve-with-timeout": self._count(self._reserve),
            "stats-job": self._count(self._statistics),
            "delete": self._count(self._delete),
            "release": b"RELEASED\r\n",
        }
        answering(answers)(connection)

    def _count(self, answer: Answer) -> Answer:
        assert callable(answer)

        def counted(connection: ScriptedConnection, line: bytes, body: bytes) -> bytes | None:
            command = line.split()[0].decode()
            self._counts[command] += 1
            reply = answer(connection, line, body)
            if command == self._breaks_at and self._counts[command] >= 2:
                if self._answer is not None:
                    return self._answer
                connection.close()
                raise PeerClosed
            return reply

        return counted

    def _reserve(self, *_: object) -> bytes:
        if self._reserved == self._last:
            return b"DEADLINE_SOON\r\n"
        self._reserved += 1
        return with_data(b"RESERVED %d" % self._reserved, BODIES[self._reserved - 1])

    def _statistics(self, _: object, line: bytes, __: object) -> bytes:
        fields = dict.fromkeys(("pri", "age", "delay", "time-left", "reserves", "timeouts"), 1)
        fields |= dict.fromkeys(("releases", "buries", "kicks"), 0)
        return stats_reply({"id": int(line.split()[1]), "tube": "a", "state": "reserved", "ttr": 60, **fields})

    def _delete(self, _: object, line: bytes, __: object) -> bytes:
        self.deleted.append(int(line.split()[1]))
        return b"DELETED\r\n"


def put_on(target: BeanstalkdServer, pool: PoolManager) -> None:
    """Let all copies go to `target`."""
    for status in pool.servers:
        pool.set_weight(status.address, int(status.address == target.address))


@pytest.mark.parametrize(
    ("breaks_at", "done", "skipped", "unsure", "copies"),
    [
        # The second delete was carried out, and its answer got lost; the third was sent. Their copies may be the last.
        ("delete", 1, 0, 2, 3),
        # Nothing was copied yet.
        ("stats-job", 0, 0, 0, 0),
        ("reserve-with-timeout", 0, 0, 0, 0),
    ],
)
def test_a_lost_answer(
    scripted_server: StartScripted,
    beanstalkd: BeanstalkdServer,
    breaks_at: Break,
    done: int,
    skipped: int,
    unsure: int,
    copies: int,
) -> None:
    source = Source(breaks_at)
    server = scripted_server(default=source)
    with PoolManager([server.url, beanstalkd.url], health_interval=60) as pool:
        put_on(beanstalkd, pool)
        outcome = move(pool, "a", "b", "ready", key="k")[server.address]
    assert (outcome.done, outcome.skipped, outcome.unsure, outcome.duplicates) == (done, skipped, unsure, 0)
    assert server.address in str(outcome.error)
    assert count_in([beanstalkd], "b") == copies
    assert set(source.deleted) <= {1, 2, 3}


@pytest.mark.parametrize(("answer", "skipped"), [(b"NOT_FOUND\r\n", 2), (b"INTERNAL_ERROR\r\n", 0)], ids=str)
def test_a_delete_that_is_refused(
    scripted_server: StartScripted, beanstalkd: BeanstalkdServer, answer: bytes, skipped: int
) -> None:
    server = scripted_server(default=Source("delete", answer))
    with PoolManager([server.url, beanstalkd.url], health_interval=60) as pool:
        put_on(beanstalkd, pool)
        outcome = move(pool, "a", "b", "ready", key="k")[server.address]
    assert (outcome.done, outcome.skipped, outcome.unsure) == (1, skipped, 2 - skipped)
    assert count_in([beanstalkd], "b") == 3 - skipped


def test_a_copy_that_a_worker_has_by_then_is_a_duplicate(
    scripted_server: StartScripted, beanstalkd: BeanstalkdServer
) -> None:
    class Taken(Source):
        def _delete(self, connection: object, line: bytes, body: object) -> bytes:
            if not self.deleted:
                beanstalkd.control.watch_only("b")
                assert [beanstalkd.control.reserve(5) for _ in range(3)]
            return super()._delete(connection, line, body)

    server = scripted_server(default=Taken("delete", b"NOT_FOUND\r\n"))
    with PoolManager([server.url, beanstalkd.url], health_interval=60) as pool:
        put_on(beanstalkd, pool)
        outcome = move(pool, "a", "b", "ready", key="k")[server.address]
    assert (outcome.done, outcome.skipped, outcome.duplicates) == (1, 2, 2)


def test_a_deadline_that_is_near_ends_the_reserves_and_is_no_failure(
    scripted_server: StartScripted, beanstalkd: BeanstalkdServer
) -> None:
    server = scripted_server(default=Source(last=2))
    with PoolManager([server.url, beanstalkd.url], health_interval=60) as pool:
        put_on(beanstalkd, pool)
        outcome = move(pool, "a", "b", "ready", key="k")[server.address]
    assert (outcome.done, outcome.error) == (2, None)


@pytest.mark.parametrize(("breaks_at", "unsure"), [("delete", 2), ("reserve-with-timeout", 0)])
def test_a_clear_whose_answers_get_lost(scripted_server: StartScripted, breaks_at: Break, unsure: int) -> None:
    server = scripted_server(default=Source(breaks_at))
    with PoolManager(server.url, health_interval=60) as pool:
        outcome = clear(pool, "a", "ready")[server.address]
    assert (outcome.done, outcome.unsure) == (1 if unsure else 0, unsure)
    assert server.address in str(outcome.error)
