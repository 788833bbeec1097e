"""What put_many does with the source of its puts: one that is slow, and one that breaks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from support.batches import leased, ready, stored_in
from support.inside import inside
from support.pools import pool_with_jobs_in_hand
from support.putting import SECRET, told_of
from support.servers import BeanstalkdServer
from support.waiting import wait_until, within

from beanpool import JobId, PoolManager, PutAmbiguous
from beanpool.net.channel import Channel
from beanpool.protocol.commands import Command

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine


class TestSlowSource:
    def test_what_it_gave_is_stored_while_it_waits(self, beanstalkd: BeanstalkdServer) -> None:
        def source() -> Iterator[str]:
            for number in range(1, 31):
                yield f"job {number}"
                # One at a time, then in bursts.
                if number < 3 or number % 10 == 0:
                    wait_until(lambda number=number: ready(beanstalkd) == number, "the jobs to be stored")  # type: ignore[misc]

        with pool_with_jobs_in_hand(beanstalkd) as pool:
            assert len(stored_in(pool.put_many(source()))) == 30

    def test_the_connections_are_given_back_while_it_waits(self, cluster: StartCluster) -> None:
        """A source that takes from the same pool does not wait for its own batch."""
        servers = cluster(2)
        with pool_with_jobs_in_hand(*servers, max_connections=1) as pool:

            def source() -> Iterator[str]:
                for number in range(6):
                    yield f"job {number}"
                    wait_until(lambda: not leased(pool), "the connections")
                    with within(1, "a call of the source"):
                        pool.put("of the source", tube="other")

            stored_in(pool.put_many(source()))

    def test_a_server_that_dies_meanwhile_loses_nothing(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_with_jobs_in_hand(*servers, timeout=5) as pool:

            def source() -> Iterator[str]:
                yield from (f"{number}" for number in range(10))
                wait_until(lambda: not leased(pool), "all to be stored")
                servers[0].kill()
                yield from (f"{number}" for number in range(10))

            stored = stored_in(pool.put_many(source()))
        assert sum(jid.server == servers[1].address for jid in stored) == 15

    def test_a_server_that_is_far_holds_no_source_up(
        self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
    ) -> None:
        """The puts are under way while the source goes on: it is not made to wait for their replies."""
        line = delay_line(beanstalkd, 0.3)

        def source() -> Iterator[str]:
            for number in range(20):
                time.sleep(0.02)
                yield f"job {number}"

        with PoolManager([line.address], health_interval=60) as pool:
            pool.wait(1)
            with within(20 * 0.02 + 0.9, "the batch", slack=0.5):
                stored_in(pool.put_many(source()))

    def test_a_source_that_is_quick_goes_out_in_large_pieces(
        self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pieces: list[int] = []
        post = Channel.post

        def counting(channel: Channel, command: Command, data: bytes, count: int) -> None:
            pieces.append(count)
            post(channel, command, data, count)

        with pool_with_jobs_in_hand(beanstalkd) as pool:
            monkeypatch.setattr(Channel, "post", counting)
            stored_in(pool.put_many("x" * 100 for _ in range(2000)))
        assert sum(pieces) == 2000
        assert len(pieces) < 200


class Broken(Exception):
    """The source's own error."""


class Stubborn(Broken):
    """One that takes no attributes."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


class TestBrokenSource:
    @pytest.mark.parametrize("lazy", [True, False])
    def test_what_came_of_the_items_before_is_told(self, cluster: StartCluster, lazy: bool) -> None:
        servers = cluster(2)

        class Items(list[str]):
            def __iter__(self) -> Iterator[str]:
                return source()

        def source() -> Iterator[Any]:
            yield from (f"{number}" for number in range(2000))
            yield 5
            yield "x" * 70_000
            raise Broken("the file ends in rubbish")

        with pool_with_jobs_in_hand(*servers) as pool:
            with pytest.raises(Broken, match="rubbish") as caught:
                pool.put_many(source() if lazy else Items())
            outcomes: list[object] = caught.value.outcomes  # type: ignore[attr-defined]
            assert leased(pool) == 0
        assert len(outcomes) == 2002
        assert len(stored_in(outcomes[:2000])) == ready(*servers) == 2000
        assert [type(outcome).__name__ for outcome in outcomes[2000:]] == ["TypeError", "JobTooBig"]
        assert "had read 2002 items" in "".join(caught.value.__notes__)
        assert "2000 are stored" in "".join(caught.value.__notes__)

    def test_before_the_first_item(self, beanstalkd: BeanstalkdServer) -> None:
        def source() -> Iterator[str]:
            raise Broken
            yield "never"

        with pool_with_jobs_in_hand(beanstalkd) as pool, pytest.raises(Broken) as caught:
            pool.put_many(source())
        assert caught.value.outcomes == []  # type: ignore[attr-defined]

    def test_an_exception_that_takes_no_attributes_is_raised_all_the_same(self, beanstalkd: BeanstalkdServer) -> None:
        def source() -> Iterator[str]:
            yield "x"
            raise Stubborn

        with pool_with_jobs_in_hand(beanstalkd) as pool, pytest.raises(Stubborn):
            pool.put_many(source())
        assert ready(beanstalkd) == 1

    def test_an_interrupt_does_not_wait_and_says_what_may_be_stored(self, beanstalkd: BeanstalkdServer) -> None:
        def source() -> Iterator[str]:
            yield from ["stored"] * 10
            wait_until(lambda: not leased(pool), "the first to be stored")
            beanstalkd.freeze()
            yield SECRET
            wait_until(lambda: leased(pool), "the next to be sent")
            wait_until(lambda: any(_due(pool)), "the next to be sent")
            raise KeyboardInterrupt

        with pool_with_jobs_in_hand(beanstalkd, timeout=30) as pool:
            with within(1, "the batch"), pytest.raises(KeyboardInterrupt) as caught:
                pool.put_many(source())
            outcomes: list[Any] = caught.value.outcomes  # type: ignore[attr-defined]
            assert [type(outcome) for outcome in outcomes] == [JobId] * 10 + [PutAmbiguous]
            assert not told_of(outcomes[-1])
            assert leased(pool) == 0
            beanstalkd.thaw()


def _due(pool: PoolManager) -> list[int]:
    connections = inside(pool).connections_of(0).places.connections()
    return [connection.channel.due for connection in connections if connection.opened_channel is not None]
