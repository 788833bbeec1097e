"""A server is judged by all of its addresses, and an errno by the phase in which it came."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.servers import BeanstalkdServer
from support.waiting import wait_until, within

from beanpool import CommandTimeout, Connection, ConnectionFailed, PoolManager
from beanpool.errors import Phase
from beanpool.net import connector as connector_module
from beanpool.net.connector import connect_error
from beanpool.net.sockets import Socket, new_socket
from beanpool.policy.health import Failure
from beanpool.runtime.own_limits import OwnLimit, is_own_limit, out_of_descriptors
from beanpool.server.member import classify

NAME = "several.test"
SILENT = "192.0.2.1"


class Names:
    """The addresses that a name has, and what a connect to each comes to: an errno; None is a real connect."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: list[tuple[str, int]] = []
        self.codes: dict[str, int | None] = {}
        self.tried: list[str] = []
        real, names = socket.getaddrinfo, self

        def ask(host: str, *args: Any, **options: Any) -> Any:
            if host != NAME:
                return real(host, *args, **options)
            if options.get("flags"):
                raise socket.gaierror(socket.EAI_NONAME, "not a number")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where) for where in self.found]

        class Connecting(Socket):
            __slots__ = ()

            def connect_ex(self, where: Any) -> int:
                names.tried.append(where[0])
                code = names.codes.get(where[0])
                return super().connect_ex(where) if code is None else code

        monkeypatch.setattr(socket, "getaddrinfo", ask)
        monkeypatch.setattr("beanpool.net.sockets.Socket", Connecting)

    def have(self, codes: dict[str, int | None], port: int = 1) -> None:
        self.codes = codes
        self.found = [(host, port) for host in codes]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


@pytest.fixture
def black_hole() -> Iterator[tuple[str, int]]:
    """A listening socket with a full queue, which neither accepts nor refuses."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full.getsockname()


REFUSED, NO_ADDRESS, NO_ROUTE = errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.ENETUNREACH


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        ([REFUSED], Failure.REFUSED),
        ([REFUSED, REFUSED], Failure.REFUSED),
        # As localhost is in a container without IPv6, in either order.
        ([REFUSED, NO_ADDRESS], Failure.REFUSED),
        ([NO_ADDRESS, REFUSED], Failure.REFUSED),
        ([NO_ADDRESS], Failure.REFUSED),
        ([NO_ROUTE, NO_ADDRESS], Failure.REFUSED),
        ([errno.EHOSTUNREACH, errno.EACCES], Failure.REFUSED),
        # What we could not try leaves it open, whatever the others say.
        ([errno.ENOBUFS], None),
        ([errno.EMFILE, REFUSED], None),
        ([REFUSED, errno.ENOMEM, NO_ADDRESS], None),
        # One that says nothing may be alive.
        ([errno.ETIMEDOUT], Failure.SILENT),
        ([errno.ETIMEDOUT, REFUSED], Failure.SILENT),
        ([NO_ROUTE, errno.ETIMEDOUT], Failure.SILENT),
        ([errno.ETIMEDOUT, errno.EMFILE], None),
    ],
)
def test_the_verdict_comes_from_all_addresses(
    names: Names, monkeypatch: pytest.MonkeyPatch, codes: list[int], verdict: Failure | None
) -> None:
    monkeypatch.setattr(connector_module, "connect_error", lambda code, family, where: OSError(code, os.strerror(code)))
    names.have({f"127.0.0.{number}": code for number, code in enumerate(codes, 10)})
    with pytest.raises(ConnectionFailed, match=f"{NAME}:1: ") as caught:
        Connection(NAME, 1)
    assert names.tried == list(names.codes)
    assert classify(caught.value) is verdict
    assert caught.value.phase is Phase.CONNECTING
    assert not caught.value.may_have_taken_effect
    if verdict is not Failure.SILENT or len(set(codes)) > 1:
        for host, code in names.codes.items():
            assert os.strerror(code or 0) in str(caught.value)
            assert len(codes) == 1 or host in str(caught.value)


def test_the_first_that_accepts_is_taken(names: Names, beanstalkd: BeanstalkdServer) -> None:
    names.have({"127.0.0.10": NO_ADDRESS, "127.0.0.11": REFUSED, beanstalkd.host: None}, beanstalkd.port)
    with Connection(NAME, beanstalkd.port) as connection:
        assert connection.put("x") == 1


def test_a_dead_server_with_an_address_that_is_none_goes_down(names: Names, beanstalkd: BeanstalkdServer) -> None:
    names.have({"127.0.0.10": REFUSED, "127.0.0.11": NO_ADDRESS})
    # Where a datagram could not go either, it is no lack of ports.
    real = socket.socket.connect
    with PoolManager([f"{NAME}:1", beanstalkd.address], timeout=2, health_interval=0.1) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "beanpool.runtime.own_limits.socket.socket.connect",
                lambda sock, where: real(sock, ("255.255.255.255", 1) if where[0] == "127.0.0.11" else where),
            )
            for _ in range(4):
                assert pool.put("x").server == beanstalkd.address
        states = {status.address: status.state for status in pool.servers}
    assert states == {f"{NAME}:1": "down", beanstalkd.address: "up"}


def test_no_free_port_is_our_own_limit_and_no_address_of_ours_is_not() -> None:
    assert isinstance(connect_error(NO_ADDRESS, socket.AF_INET, ("127.0.0.1", 1)), OwnLimit)
    # Nothing may be sent there without being asked for: so a datagram cannot go there either.
    nowhere = connect_error(NO_ADDRESS, socket.AF_INET, ("255.255.255.255", 1))
    assert (type(nowhere), is_own_limit(nowhere)) == (OSError, False)
    assert not is_own_limit(connect_error(REFUSED, socket.AF_INET, ("127.0.0.1", 1)))
    assert out_of_descriptors() is None


def take(pool: PoolManager, timeout: float) -> None:
    job = pool.reserve(timeout)
    assert job is not None
    job.delete()


def take_many(pool: PoolManager) -> None:
    for job in pool.reserve_many(1, timeout=2):
        job.delete()


VERBS: dict[str, Callable[[PoolManager], object]] = {
    "a look": lambda pool: take(pool, 0),
    "a reserve": lambda pool: take(pool, 2),
    "a batch of reserves": take_many,
    "a put": lambda pool: pool.put("y", tube="elsewhere"),
    "a batch of puts": lambda pool: pool.put_many(["y"], tube="elsewhere"),
    "a question": lambda pool: pool.stats(),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_black_hole_among_the_addresses_leaves_time_for_the_others(
    names: Names, beanstalkd: BeanstalkdServer, black_hole: tuple[str, int], verb: str
) -> None:
    names.found = [black_hole, black_hole, (beanstalkd.host, beanstalkd.port)]
    beanstalkd.control.put(b"x")
    with PoolManager([f"{NAME}:1"], timeout=3, connect_timeout=0.6, health_interval=30) as pool:
        with within(0.5, verb, slack=0.5):
            VERBS[verb](pool)
        assert [status.state for status in pool.servers] == ["up"]


def test_the_monitor_goes_on_behind_a_black_hole(
    names: Names, beanstalkd: BeanstalkdServer, black_hole: tuple[str, int]
) -> None:
    names.found = [black_hole, (beanstalkd.host, beanstalkd.port)]
    with PoolManager([beanstalkd.address], timeout=3, connect_timeout=0.4, health_interval=0.1) as pool:
        pool.put("x")
        pool.add_server(f"{NAME}:1")
        wait_until(lambda: pool.servers[1].round_trip is not None, "a check of the new server", 3)
        assert pool.servers[1].last_error is None


def test_all_addresses_silent_take_the_time_once(names: Names, black_hole: tuple[str, int]) -> None:
    names.found = [black_hole] * 3
    with within(0.3), pytest.raises(CommandTimeout, match="no answer to the attempt to connect") as caught:
        Connection(NAME, 1, connect_timeout=0.3)
    assert classify(caught.value) is Failure.SILENT
    assert len(names.tried) == 3


def test_a_unix_socket_with_a_full_queue_refuses(tmp_path: Any) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as full, contextlib.ExitStack() as stack:
        full.bind(path)
        full.listen(0)
        with pytest.raises(ConnectionFailed, match="temporarily unavailable"):
            for _ in range(10):
                stack.enter_context(Connection.from_url(f"beanstalk+unix://{path}"))


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="this system cannot set when it probes")
def test_what_stands_between_never_hears_nothing_for_more_than_a_minute(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager([beanstalkd.address]) as pool:
        pool.put("x")
        job = pool.reserve(1)
        assert job is not None
        for channel in (job.connection._open_channel(), Connection(beanstalkd.host, beanstalkd.port)._open_channel()):
            assert channel._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert 0 < channel._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60
            assert 0 < channel._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) <= 60
        job.delete()


def test_a_socket_never_blocks() -> None:
    with new_socket(socket.AF_INET) as sock:
        assert not sock.getblocking()
