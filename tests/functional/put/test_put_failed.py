"""One ``except PutFailed`` catches every put that was not certainly stored, and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from support.scripted import answering, stats_reply
from support.server_pools import all_in_use
from support.servers import BeanstalkdServer

from beanpool import (
    JobTooBig,
    NoServerAvailable,
    NoServerForPut,
    PoolClosed,
    PoolClosedForPut,
    PoolManager,
    PoolTimeout,
    PoolTimeoutForPut,
    PutAmbiguous,
    PutFailed,
)

if TYPE_CHECKING:
    from conftest import StartScripted


AMBIGUOUS = answering({"stats": stats_reply(), "put": b"INTERNAL_ERROR\r\n"})


@pytest.fixture
def refusing() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def by_put(pool: PoolManager, body: str) -> Exception:
    with pytest.raises(PutFailed) as caught:
        pool.put(body)
    return caught.value


def by_put_many(pool: PoolManager, body: str) -> Exception:
    (outcome,) = pool.put_many([body])
    assert isinstance(outcome, Exception)
    return outcome


def by_producer(pool: PoolManager, body: str) -> Exception:
    with pool.producer(linger=0) as producer:
        error = producer.put(body).exception(10)
    assert isinstance(error, Exception)
    return error


Way = Callable[[PoolManager, str], Exception]
ways = pytest.mark.parametrize("way", [by_put, by_put_many, by_producer])


@ways
class TestWhateverTheWay:
    def test_nobody_there(self, refusing: str, way: Way) -> None:
        with PoolManager([refusing], timeout=0.05) as pool:
            error = way(pool, "x")
            assert (type(error), isinstance(error, NoServerAvailable)) == (NoServerForPut, True)
            assert isinstance(error, NoServerForPut)
            assert (list(error.errors), error.may_be_stored) == ([refusing], False)
            assert str(error).startswith("no server took the put:")

    def test_no_connection_free(self, beanstalkd: BeanstalkdServer, way: Way) -> None:
        with PoolManager([beanstalkd.address], max_connections=1, timeout=0.05) as pool:
            pool.put("x")
            with all_in_use(pool):
                error = way(pool, "x")
        assert (type(error), isinstance(error, PoolTimeout)) == (PoolTimeoutForPut, True)

    def test_larger_than_any_server_takes(self, beanstalkd: BeanstalkdServer, way: Way) -> None:
        with PoolManager([beanstalkd.address]) as pool:
            error = way(pool, "x" * 70_000)
        assert isinstance(error, JobTooBig)
        assert isinstance(error, PutFailed)
        assert not error.may_be_stored

    def test_perhaps_stored(self, scripted_server: StartScripted, way: Way) -> None:
        server = scripted_server(default=AMBIGUOUS)
        with PoolManager([server.address], timeout=0.2, on_ambiguous="raise") as pool:
            error = way(pool, "x")
        assert isinstance(error, PutAmbiguous)
        assert isinstance(error, PutFailed)
        assert error.may_be_stored


@pytest.mark.parametrize("used_before", [True, False])
def test_a_pool_that_is_closed(beanstalkd: BeanstalkdServer, used_before: bool) -> None:
    pool = PoolManager([beanstalkd.address])
    producer = pool.producer() if used_before else None
    pool.close()
    puts: list[Callable[[], object]] = [lambda: pool.put("x"), lambda: pool.put_many(["x"])]
    if producer is not None:
        puts.append(lambda: producer.put("x").result(10))
    for put in puts:
        with pytest.raises(PutFailed) as caught:
            put()
        assert (type(caught.value), isinstance(caught.value, PoolClosed)) == (PoolClosedForPut, True)
    if producer is not None:
        producer.close()
        with pytest.raises(PoolClosedForPut, match="the producer is closed"):
            producer.put("x")


def test_what_is_no_put_is_not_caught(refusing: str, beanstalkd: BeanstalkdServer) -> None:
    with PoolManager([refusing], timeout=0.05) as pool:
        for ask in (lambda: pool.reserve(0), pool.stats, pool.ping):
            with pytest.raises(NoServerAvailable) as unavailable:
                ask()
            assert not isinstance(unavailable.value, PutFailed)
    with PoolManager([beanstalkd.address], max_connections=1, timeout=0.05) as pool:
        pool.put("x")
        job = pool.reserve(0)
        with pytest.raises(PoolTimeout) as exhausted:
            pool.reserve(0)
        assert not isinstance(exhausted.value, PutFailed)
        del job
    with pytest.raises(PoolClosed) as closed:
        pool.reserve(0)
    assert not isinstance(closed.value, PutFailed)


def test_a_bad_argument_is_none(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager([beanstalkd.address]) as pool:
        with pytest.raises(ValueError):
            pool.put("x", priority=-1)
        outcomes = pool.put_many([object(), "fine"])  # type: ignore[list-item]
        assert not isinstance(outcomes[0], PutFailed)


class TestTheErrorOfManyPuts:
    def test_is_one_too_and_says_whether_some_may_be_stored(
        self, scripted_server: StartScripted, refusing: str
    ) -> None:
        server = scripted_server(default=AMBIGUOUS)
        for address, kind, maybe in ((server.address, PutAmbiguous, True), (refusing, NoServerForPut, False)):
            with PoolManager([address], timeout=0.1, on_ambiguous="raise") as pool, pool.producer(linger=0) as producer:
                producer.put("x")
                with pytest.raises(kind) as caught:
                    producer.flush()
                assert caught.value.may_be_stored is maybe
