"""What a Connection says, byte by byte, and what it does not put up with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from support.scripted import answering, expect, expect_line, send, stats_reply, with_data
from support.waiting import wait_until

from beanpool import Buried, CommandFailed, Connection, ConnectionFailed, Job, NotFound, UnexpectedResponse

if TYPE_CHECKING:
    from conftest import StartScripted
from support.connections import Connect, reserved

NO_JOB = b"NOT_FOUND\r\n"


class TestNothingUnasked:
    """What goes over the wire is what the user asked for, and nothing else."""

    def test_every_call_is_one_command(self, scripted_server: StartScripted, connect: Connect) -> None:
        tube = with_data(b"OK", b"---\n- a\n")
        job = with_data(b"FOUND 7", b"x")
        conversation: list[tuple[Callable[[Connection], object], bytes, bytes]] = [
            (lambda c: c.put("x", 1, 2, 3), b"put 1 2 3 1\r\nx\r\n", b"INSERTED 7\r\n"),
            (lambda c: c.use("a"), b"use a\r\n", b"USING a\r\n"),
            (lambda c: c.using(), b"list-tube-used\r\n", b"USING a\r\n"),
            (lambda c: c.watch("a"), b"watch a\r\n", b"WATCHING 2\r\n"),
            (lambda c: c.ignore("default"), b"ignore default\r\n", b"WATCHING 1\r\n"),
            (lambda c: c.ignore("a"), b"ignore a\r\n", b"NOT_IGNORED\r\n"),
            (lambda c: c.watching(), b"list-tubes-watched\r\n", tube),
            (lambda c: c.tubes(), b"list-tubes\r\n", tube),
            (lambda c: c.reserve(5), b"reserve-with-timeout 5\r\n", with_data(b"RESERVED 7", b"x")),
            (lambda c: c.reserve_job(7), b"reserve-job 7\r\n", with_data(b"RESERVED 7", b"x")),
            (lambda c: c.touch(7), b"touch 7\r\n", b"TOUCHED\r\n"),
            (lambda c: c.release(7, 1, 2), b"release 7 1 2\r\n", b"RELEASED\r\n"),
            (lambda c: c.bury(7, 1), b"bury 7 1\r\n", b"BURIED\r\n"),
            (lambda c: c.kick(), b"kick 1\r\n", b"KICKED 0\r\n"),
            (lambda c: c.kick_job(7), b"kick-job 7\r\n", b"KICKED\r\n"),
            (lambda c: c.peek(7), b"peek 7\r\n", job),
            (lambda c: c.peek_ready(), b"peek-ready\r\n", job),
            (lambda c: c.peek_delayed(), b"peek-delayed\r\n", NO_JOB),
            (lambda c: c.peek_buried(), b"peek-buried\r\n", NO_JOB),
            (lambda c: c.stats(), b"stats\r\n", stats_reply()),
            (lambda c: c.stats_job(7), b"stats-job 7\r\n", stats_reply()),
            (lambda c: c.stats_tube("a"), b"stats-tube a\r\n", stats_reply()),
            (lambda c: c.pause_tube("a", 5), b"pause-tube a 5\r\n", b"PAUSED\r\n"),
            (lambda c: c.delete(7), b"delete 7\r\n", b"DELETED\r\n"),
        ]
        server = scripted_server(
            [step for _, request, reply in conversation for step in (expect(request), send(reply))]
        )
        connection = connect(server)
        for call, _, _ in conversation:
            call(connection)
        connection.close()
        wait_until(server.connections[0].closed.is_set, "the server to see the end")
        assert server.received() == b"".join(request for _, request, _ in conversation)

    def test_connecting_and_closing_say_nothing(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([], [])
        connection = connect(server)
        connection.connect()
        connection.reconnect()
        connection.close()
        wait_until(lambda: server.accepts == 2 and all(c.closed.is_set() for c in server.connections), "both ends")
        assert server.received(0) == server.received(1) == b""

    def test_a_priority_that_is_kept_is_asked_for(self, scripted_server: StartScripted, connect: Connect) -> None:
        known = with_data(b"OK", b"---\npri: 42\n")
        server = scripted_server(
            [
                *(expect(b"stats-job 7\r\n"), send(known), expect(b"release 7 42 5\r\n"), send(b"RELEASED\r\n")),
                *(expect(b"stats-job 7\r\n"), send(known), expect(b"bury 7 42\r\n"), send(b"BURIED\r\n")),
                *(expect(b"stats-job 7\r\n"), send(NO_JOB), expect(b"stats-job 7\r\n"), send(NO_JOB)),
                # In a pipeline for all at once.
                *(
                    expect(b"stats-job 7\r\nstats-job 8\r\nstats-job 9\r\n"),
                    send(known + NO_JOB + b"OUT_OF_MEMORY\r\n"),
                ),
                expect(b"release 7 42 0\r\ntouch 7\r\nbury 8 2147483648\r\n"),
                send(b"RELEASED\r\nTOUCHED\r\n" + NO_JOB),
            ]
        )
        connection = connect(server)
        connection.release(7, delay=5)
        connection.bury(7)
        for name, refused in (("release", connection.release), ("bury", connection.bury)):
            with pytest.raises(NotFound) as caught:
                refused(7)
            assert caught.value.args == (name, "NOT_FOUND", [])
        results = connection.pipeline().release(7).touch(7).bury(8).bury(9).execute()
        assert results[:2] == [None, None]
        assert [error.args[:2] for error in results[2:]] == [("bury", "NOT_FOUND"), ("stats-job", "OUT_OF_MEMORY")]

    def test_bad_arguments_say_nothing(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([])
        connection = connect(server)
        pipeline = connection.pipeline()
        job = Job(connection, 7, b"x")
        calls: list[tuple[Callable[[], object], str]] = [
            (lambda: connection.put("x", priority=-1), "priority must be from 0 to 4294967295, not -1"),
            (lambda: connection.put("x", priority=2**32), "priority must be from 0 to 4294967295"),
            (lambda: connection.put("x", delay=0.5), "delay must be an int from 0"),
            (lambda: connection.put("x", ttr=-1), "ttr must be from 0"),
            (lambda: connection.put(None), "body must be str or bytes-like"),  # type: ignore[arg-type]  # Meant.
            (lambda: connection.put("\udc80"), "body cannot be encoded"),
            (lambda: connection.use("a b"), "tube must be 1 to 200 characters"),
            (lambda: connection.watch("a\r\ndelete 1"), "tube must be"),
            (lambda: connection.ignore(""), "tube must be"),
            (lambda: connection.stats_tube("-"), "tube must be"),
            (lambda: connection.pause_tube("a", -1), "seconds must be from 0"),
            (lambda: connection.reserve(-1), "timeout must be from 0 to 2147483647"),
            (lambda: connection.reserve(-0.5), "timeout must be from 0 to 2147483647"),
            (lambda: connection.reserve(float("nan")), "timeout must be from 0 to 2147483647"),
            (lambda: connection.reserve(float("inf")), "timeout must be from 0 to 2147483647"),
            (lambda: connection.reserve(True), "timeout must be an int"),
            (lambda: connection.reserve("1"), "timeout must be an int"),  # type: ignore[arg-type]  # Meant.
            (lambda: connection.reserve(2**31), "timeout must be from 0 to 2147483647"),
            (lambda: connection.reserve_job(0), "job id must be from 1"),
            (lambda: connection.delete("7"), "job id must be an int"),  # type: ignore[arg-type]  # Meant.
            (lambda: connection.release(7, True), "priority must be an int"),
            (lambda: connection.release(7, 1, 2**32), "delay must be from 0"),
            (lambda: connection.bury(7, -1), "priority must be from 0"),
            (lambda: connection.touch(2**64), "job id must be from 1"),
            (lambda: connection.kick(-1), "bound must be from 0"),
            (lambda: connection.kick_job(None), "job id must be an int"),  # type: ignore[arg-type]  # Meant.
            (lambda: connection.peek(-1), "job id must be from 1"),
            (lambda: connection.stats_job(1.0), "job id must be an int"),  # type: ignore[arg-type]  # Meant.
            (lambda: pipeline.put("x", priority=-1), "priority must be from 0"),
            (lambda: pipeline.use("a b"), "tube must be"),
            (lambda: pipeline.delete(0), "job id must be from 1"),
            (lambda: pipeline.reserve(-1), "timeout must be from 0"),
            (lambda: pipeline.reserve(0.5), "timeout must be an int"),
            (lambda: job.release(-1), "priority must be from 0"),
            (lambda: job.release(delay=-1), "delay must be from 0"),
            (lambda: job.bury(2**32), "priority must be from 0"),
            (lambda: job.delete(timeout=0), "timeout must be a positive number of seconds"),
            (lambda: job.release(timeout=-1), "timeout must be a positive number of seconds"),
            (lambda: job.bury(timeout=float("nan")), "timeout must be a positive number of seconds"),
            (lambda: job.touch(timeout=True), "timeout must be a number of seconds"),
            (lambda: job.kick(timeout=0), "timeout must be a positive"),
            (lambda: job.stats(timeout="1"), "timeout must be a number"),  # type: ignore[arg-type]  # Meant.
        ]
        for call, message in calls:
            with pytest.raises((TypeError, ValueError), match=message):
                call()
        pipeline.execute()
        connection.close()
        wait_until(lambda: server.accepts and server.connections[0].closed.is_set(), "the server to see the end")
        assert server.received() == b""

    def test_a_long_reserve_goes_in_slices(self, scripted_server: StartScripted, connect: Connect) -> None:
        def slices(*seconds: int) -> list[Any]:
            return [
                step
                for number in seconds
                for step in (expect_line(b"reserve-with-timeout %d" % number), send(b"TIMED_OUT\r\n"))
            ]

        last = [expect_line(b"reserve-with-timeout 30"), send(with_data(b"RESERVED 7", b"x"))]
        connection = connect(scripted_server(slices(30, 30, 10) + slices(30) + slices(0) + slices(30, 30) + last))
        assert connection.reserve(70) is None
        assert connection.reserve(30) is None
        assert connection.reserve(0) is None
        assert reserved(connection, None).body == "x"  # type: ignore[arg-type]  # None waits for ever.


class TestViolations:
    """A reply that is well-formed and cannot be true closes the connection."""

    @pytest.mark.parametrize(
        ("call", "reply", "what"),
        [
            (lambda c: c.use("a"), b"USING b\r\n", r"another tube \(b\)"),
            (lambda c: c.watch("a"), b"WATCHING 1\r\n", "1 watched tubes where 2 are due"),
            (lambda c: c.watch("a"), b"WATCHING 3\r\n", "3 watched tubes where 2 are due"),
            (lambda c: c.watch("default"), b"WATCHING 2\r\n", "2 watched tubes where 1 are due"),
            (lambda c: c.ignore("a"), b"WATCHING 2\r\n", "2 watched tubes where 1 are due"),
            (lambda c: c.reserve_job(7), with_data(b"RESERVED 8", b"secret"), "another job"),
            (lambda c: c.peek(7), with_data(b"FOUND 8", b"secret"), "another job"),
            (lambda c: c.put("x"), b"FOUND 8 1\r\n", "FOUND in a form or place"),
            (lambda c: c.tubes(), with_data(b"OK", b"---\na: b\n"), "a document that is not"),
            (lambda c: c.stats_job(7), with_data(b"OK", b"---\n- b\n"), "a document that is not"),
        ],
    )
    def test_closes_the_connection(
        self,
        scripted_server: StartScripted,
        connect: Connect,
        call: Callable[[Connection], object],
        reply: bytes,
        what: str,
    ) -> None:
        server = scripted_server([expect_line(), send(reply)])
        connection = connect(server)
        with pytest.raises(UnexpectedResponse, match=f"{server.address} answered .* with {what}") as caught:
            call(connection)
        assert caught.value.server == server.address
        assert connection.closed
        assert "answered " in connection.closed_because
        with pytest.raises(
            ConnectionFailed, match=r"list-tube-used was not sent, the connection is closed: .* answered "
        ):
            connection.using()

    def test_general_refusals(self, scripted_server: StartScripted, connect: Connect) -> None:
        statuses = ("OUT_OF_MEMORY", "BAD_FORMAT", "UNKNOWN_COMMAND")
        server = scripted_server([step for s in statuses for step in (expect_line(), send(s.encode() + b"\r\n"))])
        connection = connect(server)
        for status in statuses:
            with pytest.raises(CommandFailed) as caught:
                connection.touch(1)
            assert caught.value.args == ("touch", status, [])
        assert not connection.closed

    def test_an_internal_error_closes_the_connection(self, scripted_server: StartScripted, connect: Connect) -> None:
        connection = connect(scripted_server([expect_line(), send(b"INTERNAL_ERROR\r\n")]))
        with pytest.raises(CommandFailed) as caught:
            connection.stats()
        assert caught.value.args == ("stats", "INTERNAL_ERROR", [])
        assert "the server answered INTERNAL_ERROR to stats" in connection.closed_because

    def test_a_put_that_is_buried_says_so(self, scripted_server: StartScripted, connect: Connect) -> None:
        connection = connect(scripted_server(answering({"put": b"BURIED 7\r\n", "release": b"BURIED\r\n"})))
        with pytest.raises(Buried) as put:
            connection.put("x")
        assert (put.value.args, put.value.id) == (("put", "BURIED", ["7"]), 7)
        with pytest.raises(Buried) as release:
            connection.release(7, 1)
        assert (release.value.args, release.value.id) == (("release", "BURIED", []), 7)
