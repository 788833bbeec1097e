"""Many commands in one round trip: results in order, and each failure in its own place."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from support.connections import Connect
from support.interrupts import interrupted_when
from support.scripted import close, expect, send, stall, with_data
from support.servers import BeanstalkdServer, ServerFactory
from support.threads import background
from support.waiting import wait_until, within

from beanpool import (
    BeanpoolError,
    CommandTimeout,
    ConnectionFailed,
    Draining,
    Job,
    JobTooBig,
    NotFound,
    Pipeline,
    UnexpectedResponse,
)
from beanpool.errors import Phase

if TYPE_CHECKING:
    from conftest import StartScripted

PUT = b"put 2147483648 0 120 1\r\nx\r\n"
HUGE = 24 * 1024 * 1024


def assert_sent(results: list[Any], sent: int) -> None:
    """All are failures: the first `sent` commands may have taken effect, the others were not sent."""
    for number, result in enumerate(results):
        assert isinstance(result, ConnectionFailed | UnexpectedResponse), (number, result)
        assert result.may_have_taken_effect == (number < sent), (number, str(result))
        if isinstance(result, ConnectionFailed):
            assert (result.phase is Phase.WAITING) == (number < sent)


class TestResults:
    def test_are_what_the_calls_would_have_returned(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        with connection.pipeline() as p:
            p.use("a").watch("a").ignore("default").ignore("a")
            p.put("one").put(b"two", 5).put("three", priority=1, delay=100, ttr=9)
            p.reserve().reserve().reserve(timeout=0)
            p.touch(1).release(1, 7).bury(2, 9).bury(1)
            p.peek_buried().peek_ready().peek_delayed().peek(1).peek(99)
            p.kick(5).kick_job(3).stats_job(1).stats_tube("a")
            p.reserve_job(1).release(1).delete(1).delete(2).delete(3)
            assert p.results == []
            assert len(p) == 28
            assert repr(p) == f"<Pipeline of 28 commands to {beanstalkd.address}>"
        results = p.results
        assert len(p) == 0
        assert results[:7] == ["a", 2, 1, 1, 1, 2, 3]
        two, one, none = results[7:10]
        assert (two.id, two.body, two.tube, one.id, one.body, one.tube) == (2, "two", "a", 1, "one", "a")
        assert none is None
        assert results[10:13] == [None, None, None]
        # It was released before.
        assert isinstance(results[13], NotFound)
        buried, ready, delayed, peeked, nothing = results[14:19]
        assert (buried.body, ready.body, delayed.body, peeked.body, nothing) == ("two", "one", "three", "one", None)
        assert not peeked.reserved
        kicked, _, stats, tube = results[19:23]
        assert (kicked, stats["pri"], tube["current-jobs-ready"]) == (1, 7, 3)
        assert isinstance(results[23], Job)
        assert results[24:] == [None] * 4
        assert repr(connection).endswith("uses a, watches a>")

    def test_all_go_in_one_round_trip(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([expect(PUT * 3), send(b"INSERTED 1\r\nINSERTED 2\r\nINSERTED 3\r\n")])
        p = connect(server).pipeline()
        for _ in range(3):
            p.put("x")
        assert server.accepts == 0 or server.received() == b""
        assert p.execute() == p.results == [1, 2, 3]

    def test_a_priority_is_kept_also_when_it_was_given_before(
        self, beanstalkd: BeanstalkdServer, connect: Connect
    ) -> None:
        connection = connect(beanstalkd)
        for priority in (3, 4, 5):
            connection.put("x", priority)
        with connection.pipeline() as p:
            p.reserve().release(1).reserve_job(2).release(2, 9).reserve_job(3).bury(3)
            p.reserve_job(2).bury(2).stats_job(1).stats_job(2).stats_job(3)
        assert [stats["pri"] for stats in p.results[-3:]] == [3, 9, 5]
        # Two questions at first, and the other one when it has an answer.
        assert beanstalkd.control.counter("cmd-stats-job") == 6

    def test_a_connection_that_breaks_before_the_priorities_are_known(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        server = scripted_server([expect(b"stats-job 7\r\n"), close()])
        results = connect(server).pipeline().touch(7).release(7).execute()
        # Nothing of it was sent.
        assert_sent(results, 0)

    def test_a_failure_does_not_disturb_its_neighbours(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        with connection.pipeline() as p:
            p.put("a").delete(99).put("x" * 65536).put("b").stats_tube("nowhere").peek(2)
        assert [type(result) for result in p.results] == [int, NotFound, JobTooBig, int, NotFound, Job]
        assert p.results[1].args == ("delete", "NOT_FOUND", [])
        beanstalkd.drain()
        with connection.pipeline() as p:
            p.put("c").peek(1).put("d").kick()
        assert [type(result) for result in p.results] == [Draining, Job, Draining, int]
        assert connection.using() == "default"

    def test_what_parse_yaml_raises_stays_in_its_place(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        with connect(beanstalkd, parse_yaml=int).pipeline() as p:
            p.put("x").stats_job(1).put("y")
        assert [type(result) for result in p.results] == [int, ValueError, int]

    def test_jobs_of_a_pipeline_are_jobs(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        with connection.pipeline() as p:
            for number in range(5000):
                p.put(f"job {number}")
        assert p.results == list(range(1, 5001))
        for _ in range(5000):
            p.reserve()
        jobs = p.execute()
        assert [job.body for job in jobs] == [f"job {number}" for number in range(5000)]
        assert all(job.reserved for job in jobs)
        jobs[0].delete()
        for job in jobs[1:]:
            p.delete(job.id)
        assert p.execute() == [None] * 4999
        assert beanstalkd.control.counter("current-jobs-reserved") == 0

    def test_large_bodies(self, beanstalkd_factory: ServerFactory, connect: Connect) -> None:
        connection = connect(beanstalkd_factory(max_job_size=2_000_000))
        body = "x" * 2_000_000
        p = connection.pipeline()
        for _ in range(4):
            p.put("small").put(body).peek(2).peek_ready()
        results = background(p.execute).result(10)
        assert results[0::4] == [1, 3, 5, 7]
        assert results[1::4] == [2, 4, 6, 8]
        assert [job.body for job in results[2::4]] == [body] * 4
        assert [job.body for job in results[3::4]] == ["small"] * 4


class TestUse:
    def test_an_exception_in_the_block_sends_nothing(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        with pytest.raises(ZeroDivisionError), connection.pipeline() as p:
            p.put("x")
            raise ZeroDivisionError
        assert p.results == []
        assert beanstalkd.control.counter("total-jobs") == 0

    def test_an_empty_one_sends_nothing(self, connect: Connect, beanstalkd: BeanstalkdServer) -> None:
        connection = connect(beanstalkd)
        with connection.pipeline() as p:
            pass
        assert p.results == p.execute() == []
        connection.close()
        assert connection.pipeline().execute() == []

    def test_bad_arguments_are_raised_at_once_and_add_nothing(
        self, beanstalkd: BeanstalkdServer, connect: Connect
    ) -> None:
        p = connect(beanstalkd).pipeline().put("a")
        with pytest.raises(ValueError, match="ttr must be"):
            p.put("b", ttr=-1)
        with pytest.raises(TypeError, match="body must be"):
            p.put(5)  # type: ignore[arg-type]  # Meant.
        assert p.put("c").execute() == [1, 2]

    def test_one_that_could_not_run_is_not_lost(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        waiting = background(lambda: connection.reserve(10))
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the server to have a waiter")
        p = connection.pipeline().put("x")
        with pytest.raises(BeanpoolError, match="in use by another thread"):
            p.execute()
        beanstalkd.control.put(b"hello")
        assert waiting.result(5)
        assert p.execute() == [2]

    def test_a_reserve_adds_to_the_time_allowed(self, scripted_server: StartScripted, connect: Connect) -> None:
        def later(connection: object) -> None:
            threading.Event().wait(0.3)

        answers = [later, send(b"TIMED_OUT\r\n"), send(b"INSERTED 1\r\n")]
        server = scripted_server([expect(b"reserve-with-timeout 1\r\n" + PUT), *answers, stall()])
        connection = connect(server, timeout=0.1)
        assert connection.pipeline().reserve(1).put("x").execute() == [None, 1]
        # The next one has no such allowance.
        with within(0.1):
            [result] = connection.pipeline().put("x").execute()
        assert isinstance(result, CommandTimeout)


class TestBreaks:
    def test_at_any_reply(self, scripted_server: StartScripted, connect: Connect) -> None:
        for answered in range(4):
            server = scripted_server([expect(PUT * 4), send(b"INSERTED 7\r\n" * answered), close()])
            connection = connect(server)
            with connection.pipeline() as p:
                for _ in range(4):
                    p.put("x")
            assert p.results[:answered] == [7] * answered
            assert_sent(p.results[answered:], 4 - answered)
            assert "no reply to put" in str(p.results[answered])
            assert connection.closed

    def test_beyond_the_window_nothing_was_sent(self, scripted_server: StartScripted, connect: Connect) -> None:
        body = "x" * 10_000
        request = b"put 2147483648 0 120 10000\r\n" + body.encode() + b"\r\n"
        server = scripted_server([expect(request * 3), close()])
        p = connect(server).pipeline()
        for _ in range(50):
            p.put(body)
        results = p.execute()
        assert len(results) == 50
        assert_sent(results, 3)

    def test_in_the_middle_of_a_request(self, scripted_server: StartScripted, connect: Connect) -> None:
        connection = connect(scripted_server([stall()]), timeout=0.1)
        p = connection.pipeline().put("x" * HUGE).put("x")
        results = p.execute()
        assert_sent(results, 0)
        assert isinstance(results[0], CommandTimeout)
        assert results[0].phase is Phase.SENDING

    def test_by_a_timeout(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([expect(PUT * 3), send(b"INSERTED 7\r\n"), stall()])
        connection = connect(server, timeout=0.1)
        results = connection.pipeline().put("x").put("x").put("x").execute()
        assert results[0] == 7
        assert isinstance(results[1], CommandTimeout)
        assert_sent(results[1:], 2)

    def test_by_an_unexpected_reply(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([expect(PUT * 3), send(b"INSERTED 7\r\nDELETED\r\nINSERTED 8\r\n")])
        results = connect(server).pipeline().put("x").put("x").put("x").execute()
        assert results[0] == 7
        assert isinstance(results[1], UnexpectedResponse)
        assert_sent(results[1:], 2)

    @pytest.mark.parametrize(
        ("reply", "kind"),
        [
            (b"USING b\r\n", UnexpectedResponse),
            (b"INTERNAL_ERROR\r\n", BeanpoolError),
        ],
    )
    def test_by_a_reply_that_shows_the_server_out_of_step(
        self, scripted_server: StartScripted, connect: Connect, reply: bytes, kind: type[BeanpoolError]
    ) -> None:
        # A put behind it may have landed in the wrong tube: its reply is not to be trusted.
        server = scripted_server([expect(b"use a\r\n" + PUT * 2), send(reply + b"INSERTED 7\r\nINSERTED 8\r\n")])
        connection = connect(server)
        results = connection.pipeline().use("a").put("x").put("x").execute()
        assert isinstance(results[0], kind)
        assert_sent(results[1:], 2)
        assert connection.closed
        with pytest.raises(ConnectionFailed, match="the connection is closed"):
            connection.using()

    def test_by_the_last_reply(self, scripted_server: StartScripted, connect: Connect) -> None:
        connection = connect(scripted_server([expect(PUT), send(b"EXPECTED_CRLF\r\n")]))
        [result] = connection.pipeline().put("x").execute()
        assert result.args == ("put", "EXPECTED_CRLF", [])
        assert connection.closed
        assert "the server answered EXPECTED_CRLF to put" in connection.closed_because

    def test_before_the_first_command(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.close()
        results = connection.pipeline().put("x").put("x").execute()
        assert_sent(results, 0)
        assert "it was closed by close()" in str(results[0])

    def test_what_one_pipeline_left_in_flight_is_not_the_next_ones(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        connection = connect(scripted_server([expect(PUT * 2), close()]))
        assert_sent(connection.pipeline().put("x").put("x").execute(), 2)
        assert_sent(connection.pipeline().put("x").put("x").execute(), 0)

    def test_by_ctrl_c(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([expect(PUT * 2), send(b"INSERTED 7\r\n"), stall()])
        connection = connect(server)
        p: Pipeline = connection.pipeline().put("x").put("x")
        with interrupted_when(lambda: p.results == [7]):
            p.execute()
        assert p.results == [7]
        assert connection.closed_because == "KeyboardInterrupt in mid-command"

    def test_errors_hold_no_body(self, scripted_server: StartScripted, connect: Connect) -> None:
        data = with_data(b"FOUND 1", b"hunter2")
        request = b"put 2147483648 0 120 7\r\nhunter2\r\n"
        server = scripted_server([expect(request * 2), send(data)])
        for result in connect(server).pipeline().put("hunter2").put("hunter2").execute():
            assert "hunter2" not in repr(result) + str(result) + repr(vars(result))
