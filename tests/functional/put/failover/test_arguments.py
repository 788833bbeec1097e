"""The arguments of a put."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import pytest
from support.servers import BeanstalkdServer

from beanpool import Connection, JobId, NotFound, PoolManager, Put

if TYPE_CHECKING:
    from conftest import StartScripted


class Urgency(enum.IntEnum):
    """How users name their priorities."""

    HIGH = 7


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"body": 7}, TypeError),
            ({"body": None}, TypeError),
            ({"body": "\udc80"}, ValueError),
            ({"priority": -1}, ValueError),
            ({"priority": 2**32}, ValueError),
            ({"priority": 1.0}, TypeError),
            ({"priority": True}, TypeError),
            ({"priority": "1"}, TypeError),
            ({"delay": -1}, ValueError),
            ({"delay": 0.5}, TypeError),
            ({"delay": 2**32}, ValueError),
            ({"ttr": -1}, ValueError),
            ({"ttr": 0.5}, TypeError),
            ({"ttr": "60"}, TypeError),
            ({"tube": ""}, ValueError),
            ({"tube": "-a"}, ValueError),
            ({"tube": "a\r\ndelete 1"}, ValueError),
            ({"tube": "x" * 201}, ValueError),
            ({"tube": b"a"}, TypeError),
            ({"key": 7}, TypeError),
            ({"timeout": 0}, ValueError),
            ({"timeout": -1}, ValueError),
            ({"timeout": float("nan")}, ValueError),
            ({"timeout": "5"}, TypeError),
            ({"on_ambiguous": "ignore"}, ValueError),
            ({"on_ambiguous": True}, TypeError),
        ],
    )
    @pytest.mark.parametrize("servers", [1, 2])
    def test_are_checked_before_a_byte_is_sent(
        self, scripted_server: StartScripted, arguments: dict[str, Any], error: type[Exception], servers: int
    ) -> None:
        scripted = [scripted_server() for _ in range(servers)]
        with PoolManager([server.address for server in scripted], health_interval=60) as pool:
            name = next(iter(arguments))
            with pytest.raises(error, match=None if arguments.get("body") == "\udc80" else name):
                pool.put(**{"body": "job", **arguments})
            if "tube" in arguments:
                for use in (pool.use, pool.watch, pool.ignore, pool.tube):
                    with pytest.raises(error):
                        use(arguments["tube"])
            assert [server.accepts for server in scripted] == [0] * servers

    @pytest.mark.parametrize("one", ["abc", b"abc", bytearray(b"abc"), memoryview(b"abc")])
    def test_one_body_is_not_many(self, scripted_server: StartScripted, one: Any) -> None:
        server = scripted_server()
        with PoolManager([server.address], health_interval=60) as pool:
            calls: list[Any] = [pool.put_many, pool.tube("a").put_many, pool.delete_many]
            for call in calls:
                with pytest.raises(
                    TypeError, match=rf"must be an iterable, such as a list, not one {type(one).__name__}"
                ):
                    call(one)
            assert server.accepts == 0

    def test_numbers_that_other_clients_are_given(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager([beanstalkd.address]) as pool:
            jid = pool.put("x", priority=Urgency.HIGH, delay=1.0, ttr=0)
            stats = pool.stats_job(jid)
            assert (stats["pri"], stats["delay"], stats["ttr"]) == (7, 1, 1)
            (outcome,) = pool.put_many([Put("x", priority=Urgency.HIGH, delay=1.0, ttr=0)])
            assert isinstance(outcome, JobId)
            stats = pool.stats_job(outcome)
            assert (stats["pri"], stats["delay"], stats["ttr"]) == (7, 1, 1)
            assert pool.peek(0) is None
        with Connection(beanstalkd.host, beanstalkd.port) as connection, connection.pipeline() as pipeline:
            assert connection.peek(0) is None
            pipeline.peek(0).put("x", ttr=0).release(1, Urgency.HIGH, 1.0)
        assert (pipeline.results[0], type(pipeline.results[2])) == (None, NotFound)

    def test_bytes_only(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager([beanstalkd.address], encoding=None) as pool:
            with pytest.raises(TypeError, match="body"):
                pool.put("text")
            pool.put(b"bytes")
            job = pool.reserve(timeout=0)
            assert job is not None
            assert job.body == b"bytes"
            job.delete()
