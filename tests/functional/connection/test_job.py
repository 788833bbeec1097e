"""A Job: its commands go to the connection that it came from, and a reservation that is gone is said to be gone."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from support.connections import Connect
from support.scripted import answering, close, expect_line, send, stall, stats_reply, with_data
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until, within

from beanpool import (
    BeanpoolError,
    Buried,
    CommandFailed,
    CommandTimeout,
    Connection,
    ConnectionFailed,
    Job,
    JobLost,
    NotFound,
    UnexpectedResponse,
)

if TYPE_CHECKING:
    from conftest import StartScripted


def reserve(connection: Connection) -> Job:
    job = connection.reserve(timeout=0)
    assert job is not None
    return job


def put_and_reserve(connection: Connection, body: str = "hello", **options: Any) -> Job:
    jid = connection.put(body, **options)
    job = reserve(connection)
    assert job.id == jid
    return job


USES: list[Callable[[Job], object]] = [Job.touch, Job.release, Job.bury, Job.delete]


class TestAttributes:
    def test_of_a_reserved_one(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        job = put_and_reserve(connection)
        assert (job.id, job.jid, job.body, job.data, job.tube) == (1, 1, "hello", b"hello", "default")
        assert job.connection is job.conn is connection
        assert job.server == beanstalkd.address
        assert (job.reserved, job.lost) == (True, False)
        assert repr(job) == f"<Job 1 of {beanstalkd.address}, reserved, 5 bytes>"

    def test_the_tube_is_known_where_there_is_one(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.watch("a")
        job = put_and_reserve(connection)
        assert job.tube is None
        assert job.stats()["tube"] == "default"

    def test_cannot_be_given_others(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        job = put_and_reserve(connect(beanstalkd))
        with pytest.raises(AttributeError):
            job.reservd = True  # type: ignore[attr-defined]  # Meant.


class TestCommands:
    def test_delete(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        job = put_and_reserve(connect(beanstalkd))
        job.delete()
        assert beanstalkd.control.state(1) is None
        assert (job.reserved, job.lost) == (False, False)
        with pytest.raises(NotFound) as caught:
            job.delete()
        assert caught.value.args == ("delete", "NOT_FOUND", [])

    @pytest.mark.parametrize("method", ["release", "bury"])
    def test_the_priority_is_kept_unless_told_otherwise(
        self, beanstalkd: BeanstalkdServer, connect: Connect, method: str
    ) -> None:
        connection = connect(beanstalkd)
        for given, own, expected in (((), 42, 42), ((7,), 42, 7), ((0,), 42, 0), ((None,), 42, 42), ((), 2**31, 2**31)):
            job = put_and_reserve(connection, priority=own)
            getattr(job, method)(*given)
            stats = connection.stats_job(job.id)
            assert (stats["pri"], stats["state"]) == (expected, {"release": "ready", "bury": "buried"}[method])
            assert (job.reserved, job.lost) == (False, False)
            job.delete()

    def test_release_with_a_delay(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        job = put_and_reserve(connect(beanstalkd), priority=42)
        job.release(delay=100)
        stats = job.stats()
        assert (stats["state"], stats["delay"], stats["pri"]) == ("delayed", 100, 42)
        job.kick()
        assert job.stats()["state"] == "ready"
        with pytest.raises(NotFound):
            job.kick()

    def test_touch_starts_the_ttr_anew(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        job = put_and_reserve(connect(beanstalkd), ttr=2)
        wait_until(lambda: job.stats()["time-left"] == 0, "the last second")
        job.touch()
        assert job.stats()["time-left"] == 1
        assert (job.reserved, beanstalkd.control.counter("cmd-touch")) == (True, 1)
        job.delete()

    def test_what_is_not_reserved_is_left_alone(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.put("hello", 42)
        peeked = connection.peek(1)
        assert peeked is not None
        released, buried = reserve(connection), connection.put("other")
        released.release()
        connection.reserve_job(buried).bury()
        before = beanstalkd.control.stats()
        for job in (peeked, released):
            assert not job.reserved
            for use in (Job.release, Job.bury, Job.touch):
                use(job)
        after = beanstalkd.control.stats()
        assert [after[f"cmd-{name}"] for name in ("release", "bury", "touch", "stats-job")] == [
            before[f"cmd-{name}"] for name in ("release", "bury", "touch", "stats-job")
        ]
        peeked.delete()
        assert beanstalkd.control.state(1) is None

    def test_a_refusal_that_ends_the_reservation(self, scripted_server: StartScripted, connect: Connect) -> None:
        answers = {"reserve-with-timeout": with_data(b"RESERVED 7", b"x"), "release": b"BURIED\r\n"}
        connection = connect(scripted_server(answering(answers)))
        job = reserve(connection)
        with pytest.raises(Buried) as caught:
            job.release(5)
        assert caught.value.args == ("release", "BURIED", [])
        assert (job.reserved, job.lost) == (False, False)

    def test_a_refusal_that_does_not(self, scripted_server: StartScripted, connect: Connect) -> None:
        answers = {"reserve-with-timeout": with_data(b"RESERVED 7", b"x"), "delete": b"DELETED\r\n"}
        connection = connect(scripted_server(answering(answers, otherwise=b"OUT_OF_MEMORY\r\n")))
        job = reserve(connection)
        for use in (Job.touch, Job.release, Job.bury):
            with pytest.raises(CommandFailed) as caught:
                use(job)
            assert caught.value.status == "OUT_OF_MEMORY"
            assert (job.reserved, job.lost) == (True, False)
        job.delete()

    def test_it_sends_no_more_than_it_must(self, scripted_server: StartScripted, connect: Connect) -> None:
        stats = stats_reply({"id": 7, "tube": "default", "pri": 42})
        server = scripted_server(
            answering(
                {
                    "reserve-with-timeout": with_data(b"RESERVED 7", b"x"),
                    "touch": b"TOUCHED\r\n",
                    "stats-job": stats,
                    "release": b"RELEASED\r\n",
                    "bury": b"BURIED\r\n",
                    "delete": b"DELETED\r\n",
                }
            )
        )
        connection = connect(server)
        asked = b"reserve-with-timeout 0\r\n"
        uses: list[tuple[Callable[[Job], object], bytes]] = [
            (lambda job: job.touch(), b"touch 7\r\n"),
            (lambda job: job.delete(), b"delete 7\r\n"),
            (lambda job: job.release(), b"stats-job 7\r\nrelease 7 42 0\r\n"),
            (lambda job: job.release(5, 6), b"release 7 5 6\r\n"),
            (lambda job: job.bury(), b"stats-job 7\r\nbury 7 42\r\n"),
            (lambda job: job.bury(5), b"bury 7 5\r\n"),
            (lambda job: (repr(job), job.body, job.reserved, job.lost), b""),
        ]
        for use, _ in uses:
            use(reserve(connection))
        # A plain connection's job that is dropped stays reserved: the user has not said otherwise.
        gc.collect()
        connection.close()
        wait_until(server.connections[0].closed.is_set, "the server to see the end")
        assert server.received() == b"".join(asked + request for _, request in uses)


class TestLost:
    """What a job says once its reservation is gone."""

    def assert_lost(self, job: Job) -> None:
        assert (job.reserved, job.lost) == (False, True)
        for use in USES:
            with pytest.raises(JobLost, match=rf"^job {job.id} of {job.server} is lost: ") as caught:
                use(job)
            assert caught.value.reason
        assert repr(job).startswith(f"<Job {job.id} of {job.server}, lost, ")

    def test_to_another_worker(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        for use in USES:
            job = put_and_reserve(connection)
            # Behind the job's back, by its number.
            connection.release(job.id)
            assert beanstalkd.control.reserve() is not None
            assert (job.reserved, job.lost) == (True, False)
            with pytest.raises(JobLost, match="its TTR ran out, or it was finished elsewhere") as caught:
                use(job)
            assert caught.value.reason in str(caught.value)
            self.assert_lost(job)
            assert beanstalkd.control.state(job.id) == "reserved"
        assert not connection.closed

    def test_when_its_ttr_ran_out(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        job = put_and_reserve(connect(beanstalkd), ttr=1)
        # Asked over its own connection: beanstalkd 1.12 may overlook an idle one's TTR while others are busy.
        wait_until(lambda: job.stats()["state"] == "ready", "the TTR to run out")
        assert beanstalkd.control.reserve() is not None
        with pytest.raises(JobLost) as caught:
            job.touch()
        assert caught.value.reason == "its TTR ran out, or it was finished elsewhere"
        self.assert_lost(job)

    def test_deleted_elsewhere(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        for use in (Job.release, Job.bury):
            job = put_and_reserve(connection)
            # Behind the job's back, as its number.
            connection.delete(job.id)
            with pytest.raises(JobLost, match="the server does not know the job any more"):
                use(job)
            self.assert_lost(job)

    @pytest.mark.parametrize("use", USES)
    def test_with_a_connection_that_was_closed(
        self, beanstalkd: BeanstalkdServer, connect: Connect, use: Callable[[Job], object]
    ) -> None:
        job = put_and_reserve(connect(beanstalkd))
        job.connection.close()
        assert (job.reserved, job.lost) == (False, True)
        with pytest.raises(JobLost, match=r"its connection is gone \(.*it was closed by close\(\)\)") as caught:
            use(job)
        assert isinstance(caught.value.__cause__, ConnectionFailed)
        assert not caught.value.__cause__.may_have_taken_effect
        self.assert_lost(job)
        with pytest.raises(ConnectionFailed):
            job.stats()
        wait_until(lambda: beanstalkd.control.state(job.id) == "ready", "the job to be ready again")

    def test_with_a_server_that_died(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        job = put_and_reserve(connect(beanstalkd))
        assert not job.lost
        beanstalkd.kill()
        # No round trip is needed to see that.
        wait_until(lambda: job.lost, "the job to be lost")
        self.assert_lost(job)

    def test_with_a_connection_that_timed_out(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        job = put_and_reserve(connect(beanstalkd, timeout=0.1))
        beanstalkd.freeze()
        with within(0.1), pytest.raises(JobLost) as caught:
            job.delete()
        cause = caught.value.__cause__
        assert isinstance(cause, CommandTimeout)
        assert cause.may_have_taken_effect
        beanstalkd.thaw()
        self.assert_lost(job)

    def test_with_a_connection_that_was_made_anew(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.put("seen")
        job = put_and_reserve(connection, priority=0)
        peeked = connection.peek_ready()
        assert peeked is not None
        beanstalkd.restart()
        connection.reconnect()
        # The ids begin again: these are other jobs.
        assert [connection.put(f"another {number}") for number in (1, 2)] == [peeked.id, job.id]
        connection.reserve_job(job.id)
        self.assert_lost(job)
        for use in (Job.delete, Job.stats, Job.kick):
            with pytest.raises(BeanpoolError, match="its connection was closed and made anew since"):
                use(peeked)
        assert (beanstalkd.control.state(1), beanstalkd.control.state(2)) == ("ready", "reserved")

    @pytest.mark.parametrize(
        "stats",
        [
            stats_reply({"id": 7}),
            stats_reply({"pri": "high"}),
            stats_reply({"pri": 2**32}),
            stats_reply({"pri": -1}),
            with_data(b"OK", b"---\n- pri\n"),
            b"FOUND 7 0\r\n\r\n",
            with_data(b"OK", b"---\npri: 5\n") + b"extra",
        ],
    )
    def test_when_its_priority_cannot_be_learned(
        self, scripted_server: StartScripted, connect: Connect, stats: bytes
    ) -> None:
        answers = {"reserve-with-timeout": with_data(b"RESERVED 7", b"x"), "stats-job": stats}
        server = scripted_server(default=answering(answers))
        for use in (Job.release, Job.bury):
            connection = connect(server)
            job = reserve(connection)
            with pytest.raises(JobLost, match="its connection is gone") as caught:
                use(job)
            assert isinstance(caught.value.__cause__, UnexpectedResponse | ConnectionFailed)
            # Nobody may be given a connection that still holds the job.
            assert connection.closed
            self.assert_lost(job)

    def test_cut_off_in_mid_command(self, scripted_server: StartScripted, connect: Connect) -> None:
        got = [expect_line(), send(with_data(b"RESERVED 7", b"hunter2"))]
        server = scripted_server(*([*got, expect_line(), close()] for _ in USES))
        for use in USES:
            job = reserve(connect(server))
            with pytest.raises(JobLost) as caught:
                use(job)
            cause = caught.value.__cause__
            assert isinstance(cause, ConnectionFailed)
            assert cause.may_have_taken_effect
            assert "hunter2" not in str(caught.value) + repr(job)
            self.assert_lost(job)

    def test_a_plain_connections_job_cannot_be_had_again(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        job = put_and_reserve(connect(beanstalkd))
        job.reacquire()
        assert job.reserved
        job.connection.close()
        with pytest.raises(JobLost, match="it cannot be reserved again here"):
            job.reacquire()


class TestBlock:
    """A job as a context manager."""

    def test_is_deleted_when_all_went_well(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        with put_and_reserve(connect(beanstalkd)) as job:
            assert job.body == "hello"
        assert beanstalkd.control.state(1) is None

    @pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
    def test_is_released_when_something_went_wrong(
        self, beanstalkd: BeanstalkdServer, connect: Connect, error: type[BaseException]
    ) -> None:
        job = put_and_reserve(connect(beanstalkd), priority=42)
        with pytest.raises(error), job:
            raise error
        stats = beanstalkd.control.stats_job(1)
        assert stats is not None
        assert (stats["state"], stats["pri"]) == ("ready", "42")

    @pytest.mark.parametrize(("use", "state"), [(Job.bury, "buried"), (Job.release, "ready"), (Job.delete, None)])
    @pytest.mark.parametrize("fails", [False, True])
    def test_is_left_alone_when_it_was_finished_within(
        self,
        beanstalkd: BeanstalkdServer,
        connect: Connect,
        use: Callable[[Job], object],
        state: str | None,
        fails: bool,
    ) -> None:
        try:
            with put_and_reserve(connect(beanstalkd)) as job:
                use(job)
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        assert beanstalkd.control.state(1) == state

    def test_says_when_it_was_lost_meanwhile(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        with pytest.raises(JobLost), put_and_reserve(connect(beanstalkd)) as job:
            job.connection.close()
        assert job.lost

    def test_what_went_wrong_within_comes_first(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        with pytest.raises(ZeroDivisionError), put_and_reserve(connect(beanstalkd)) as job:
            job.connection.close()
            raise ZeroDivisionError
        assert job.lost


class TestThreads:
    @pytest.mark.parametrize("use", USES)
    def test_another_thread_may_finish_it(
        self, beanstalkd: BeanstalkdServer, connect: Connect, use: Callable[[Job], object]
    ) -> None:
        job = put_and_reserve(connect(beanstalkd))
        background(lambda: use(job)).result(5)
        assert job.reserved == (use is Job.touch)

    def test_not_while_its_connection_waits_in_a_reserve(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        job = put_and_reserve(connection)
        waiting = background(lambda: connection.reserve(10))
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the server to have a waiter")
        for use in [*USES, Job.stats]:
            with within(0.1), pytest.raises(BeanpoolError, match="is in use by another thread"):
                use(job)
        assert (job.reserved, job.lost) == (True, False)
        beanstalkd.control.put(b"other")
        assert waiting.result(5)
        job.delete()

    def test_two_that_finish_it_at_once(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        for _ in range(50):
            job = put_and_reserve(connection)
            calls = [background(lambda job=job: job.bury(5)) for _ in range(2)]  # type: ignore[misc]  # A default.
            for call in calls:
                call.result(5)
            assert beanstalkd.control.state(job.id) == "buried"
        assert beanstalkd.control.counter("cmd-bury") == 50

    def test_a_command_of_another_thread_is_waited_for(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server(
            [expect_line(), send(with_data(b"RESERVED 7", b"x")), expect_line(b"touch 7"), stall()]
        )
        connection = connect(server, timeout=0.2)
        job = reserve(connection)
        first = background(job.touch)
        wait_until(lambda: server.received().endswith(b"touch 7\r\n"), "the first command")
        with within(0.4), pytest.raises(JobLost):
            job.delete()
        assert isinstance(first.error(5), JobLost)
