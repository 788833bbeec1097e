"""The arguments of a put."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.servers import BeanstalkdServer

from beanpool import PoolManager

if TYPE_CHECKING:
    from conftest import StartScripted


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
            ({"ttr": 0}, ValueError),
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

    def test_bytes_only(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager([beanstalkd.address], encoding=None) as pool:
            with pytest.raises(TypeError, match="body"):
                pool.put("text")
            pool.put(b"bytes")
            job = pool.reserve(timeout=0)
            assert job is not None
            assert job.body == b"bytes"
            job.delete()
