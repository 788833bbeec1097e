"""What a Connection connects to, and what it refuses before it does."""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest
from support.servers import BeanstalkdServer, ServerFactory, have_ipv6

from beanpool import CommandTimeout, Connection, ConnectionFailed, PoolManager
from beanpool.errors import Phase
from beanpool.net.address import MAX_PATH

if TYPE_CHECKING:
    from conftest import StartScripted
from support.connections import Connect, reserved


class TestAddresses:
    def test_a_unix_socket(self, beanstalkd_factory: ServerFactory) -> None:
        server = beanstalkd_factory(unix=True)
        with Connection.from_url(server.url, timeout=3, encoding=None, parse_yaml=False) as connection:
            assert connection.put(b"x") == 1
            assert (connection.timeout, connection.encoding, connection.parse_yaml) == (3, None, False)
            assert connection.server == server.address == f"unix:{server.path}"
            assert reserved(connection).server == server.address

    def test_the_path_of_a_unix_socket_that_is_too_long_says_so(self) -> None:
        longest = "/" + "s" * (MAX_PATH - 1)
        with pytest.raises(ConnectionFailed, match="No such file"):
            Connection.from_url(f"beanstalk+unix://{longest}")
        # It counts as the system writes it, not as it was written.
        for path in (longest + "s", "/" + "\u00e9" * (MAX_PATH // 2 + 1)):
            for make in (Connection.from_url, PoolManager):
                with pytest.raises(
                    ValueError, match=rf"path is too long for a Unix socket.* {MAX_PATH} bytes at most, not 1[0-9]+"
                ):
                    make(f"beanstalk+unix://{urllib.parse.quote(path)}")

    def test_ipv6(self, beanstalkd_factory: ServerFactory) -> None:
        if not have_ipv6():
            pytest.skip("this machine has no ::1")
        server = beanstalkd_factory(host="::1")
        for connection in (Connection("::1", server.port), Connection.from_url(server.url)):
            with connection:
                assert connection.using() == "default"
                assert connection.server == server.address == f"[::1]:{server.port}"
                assert (connection.host, connection.port) == ("::1", server.port)

    def test_a_url(self, beanstalkd: BeanstalkdServer) -> None:
        with Connection.from_url(beanstalkd.url) as connection:
            assert connection.put("x") == 1
            assert connection.server == beanstalkd.address
        with Connection.from_url(f"beanstalk://localhost:{beanstalkd.port}") as connection:
            assert connection.server == f"localhost:{beanstalkd.port}"

    def test_a_bad_url_or_option_connects_to_nothing(self, scripted_server: StartScripted) -> None:
        server = scripted_server()
        for url in ("http://localhost", "beanstalk://", "beanstalk://a:port", f"{server.url}/path", ""):
            with pytest.raises(ValueError):
                Connection.from_url(url)
        with pytest.raises(TypeError, match="'timout'"):
            Connection.from_url(server.url, timout=5)  # type: ignore[call-overload]  # That is what is tested.
        assert server.accepts == 0

    def test_nobody_listens(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.kill()
        with pytest.raises(ConnectionFailed, match=rf"{beanstalkd.address}: cannot connect \(.*refused") as caught:
            Connection(beanstalkd.host, beanstalkd.port)
        assert not isinstance(caught.value, CommandTimeout)
        assert (caught.value.server, caught.value.phase) == (beanstalkd.address, Phase.CONNECTING)
        assert not caught.value.may_have_taken_effect

    def test_a_host_and_a_port_are_a_server(self, beanstalkd_factory: ServerFactory) -> None:
        first, second = beanstalkd_factory(), beanstalkd_factory()
        with PoolManager((first.host, first.port), connect_timeout=None) as pool:
            pool.add_server((second.host, second.port))
            pool.set_weight((first.host, first.port), 0)
            jid = pool.put("x")
            assert jid.server == second.address
            pool.delete(int(jid), server=(second.host, second.port))
            pool.remove_server((first.host, first.port))
            assert [server.address for server in pool.servers] == [second.address]

    def test_no_connect_timeout_is_the_usual_one(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, connect_timeout=None)
        assert connection.connect_timeout == 2.0
        assert connection.ping() is True
        beanstalkd.kill()
        with pytest.raises(ConnectionFailed):
            connection.ping()

    @pytest.mark.parametrize(
        ("arguments", "kind", "message"),
        [
            ({"host": 5}, TypeError, "host must be a str, not int"),
            ({"host": ""}, ValueError, "host must be "),
            ({"host": "a b"}, ValueError, "host must be "),
            ({"port": "11300"}, TypeError, "port must be an int"),
            ({"port": True}, TypeError, "port must be an int"),
            ({"port": 0}, ValueError, "port must be .*from 1 to 65535"),
            ({"port": 65536}, ValueError, "port must be .*from 1 to 65535"),
            ({"parse_yaml": None}, TypeError, "parse_yaml must be True, False or a callable, not NoneType"),
            ({"parse_yaml": "yes"}, TypeError, "parse_yaml must be True, False or a callable, not str"),
            ({"connect_timeout": 0}, ValueError, "connect_timeout must be a positive"),
            ({"connect_timeout": "2"}, TypeError, "connect_timeout must be a number of seconds"),
            ({"timeout": -1}, ValueError, "timeout must be a positive"),
            ({"timeout": float("nan")}, ValueError, "timeout must be a positive"),
            ({"timeout": float("inf")}, ValueError, "timeout must be a positive"),
            ({"timeout": None}, TypeError, "timeout must be a number of seconds"),
            ({"timeout": True}, TypeError, "timeout must be a number of seconds"),
            ({"encoding": "utf-9"}, ValueError, "encoding must be one that Python knows"),
            ({"encoding": 8}, TypeError, "encoding must be a str or None"),
        ],
    )
    def test_bad_arguments_connect_to_nothing(
        self, scripted_server: StartScripted, arguments: dict[str, Any], kind: type[Exception], message: str
    ) -> None:
        server = scripted_server()
        with pytest.raises(kind, match=message):
            Connection(**{"host": server.host, "port": server.port, **arguments})
        assert server.accepts == 0
