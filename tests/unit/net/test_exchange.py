"""Connections with requests under way, on one end of a socket pair; the tests play the server at the other."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from beanpool.errors import BeanpoolError, CommandTimeout, ConnectionFailed, Phase, UnexpectedResponse
from beanpool.net.channel import Channel
from beanpool.net.exchange import Exchange, drive, give_up_late
from beanpool.protocol.commands import DELETE
from beanpool.protocol.replies import Reply

FOREVER = 60.0


class Line:
    """An open connection, and the server's end of it."""

    server = "far:1"

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.channel = Channel(ours, self.server)

    @property
    def wants_write(self) -> bool:
        return self.channel.wants_write

    def fileno(self) -> int:
        return self.channel.fileno()


class Deletes(Exchange[str]):
    """Deletes whose tokens are letters, and what has become of them."""

    connection: Line

    def __init__(self, line: Line, patience: float = FOREVER) -> None:
        super().__init__(line)
        self.patience = patience
        self.outcomes: dict[str, str] = {}
        self.errors: dict[str, BeanpoolError] = {}

    def delete(self, tokens: str, size: int = 0) -> None:
        self.send(DELETE, tokens, [b"delete 1\r\n" + b" " * size for _ in tokens])

    def collect(self) -> None:
        try:
            for requests, reply in self.receive(self.connection.channel.collect_done(DELETE)):
                status = reply.status if isinstance(reply, Reply) else "DELETED"
                self.outcomes |= {token: status for token, _ in requests}
        except (ConnectionFailed, UnexpectedResponse) as error:
            self.errors |= dict(self.fail(error))

    def give_up(self) -> None:
        late = self.late(DELETE)
        assert late.waited is not None
        assert late.waited >= self.patience
        self.errors |= dict(self.fail(late))


def drive_all(some: list[Deletes], until: float) -> bool:
    return drive(some, Deletes.collect, Deletes.give_up, until)


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    lines = [Line(), Line()]
    yield lines
    for line in lines:
        line.channel.close("the test is over")
        line.peer.close()


@pytest.fixture
def line(lines: list[Line]) -> Line:
    return lines[0]


def soon() -> float:
    return time.monotonic() + 5


class TestReplies:
    def test_each_is_given_with_the_token_of_its_request(self, line: Line) -> None:
        deletes = Deletes(line)
        deletes.delete("abcd")
        line.peer.sendall(b"DELETED\r\nNOT_FOUND\r\nDELETED\r\n")
        assert drive_all([deletes], soon())
        assert deletes.outcomes == {"a": "DELETED", "b": "NOT_FOUND", "c": "DELETED"}
        assert [token for token, _ in deletes.due] == ["d"]
        assert deletes.answered == 3

    def test_one_in_full_is_progress(self, line: Line) -> None:
        deletes = Deletes(line)
        deletes.delete("ab")
        before = deletes.progress_at
        line.peer.sendall(b"DELETED\r\n")
        assert drive_all([deletes], soon())
        assert deletes.progress_at > before
        assert deletes.late_at == deletes.progress_at + FOREVER

    def test_a_part_of_one_is_none(self, line: Line) -> None:
        deletes = Deletes(line)
        deletes.delete("ab")
        before = deletes.progress_at
        line.peer.sendall(b"DELE")
        assert drive_all([deletes], soon())
        assert deletes.progress_at == before
        assert len(deletes.due) == 2

    def test_more_that_is_sent_meanwhile_is_none(self, line: Line) -> None:
        deletes = Deletes(line)
        deletes.delete("a")
        before = deletes.progress_at
        deletes.delete("b")
        assert deletes.progress_at == before

    def test_what_is_not_taken_at_once_is_sent_on(self, line: Line) -> None:
        deletes = Deletes(line)
        deletes.delete("a", 4 * 1024 * 1024)
        assert line.channel.unsent
        while line.channel.unsent:
            assert line.peer.recv(1024 * 1024)
            assert drive_all([deletes], soon())
        assert deletes.pending


class TestTheEnd:
    def test_what_was_not_sent_in_full_was_not_carried_out(self, line: Line) -> None:
        deletes = Deletes(line)
        deletes.delete("a")
        deletes.delete("bc", 4 * 1024 * 1024)
        assert line.channel.unsent > 0
        line.peer.close()
        while deletes.pending:
            assert drive_all([deletes], soon())
        assert [(token, error.may_have_taken_effect) for token, error in failures(deletes)] == [
            ("a", True),
            ("b", False),
            ("c", False),
        ]
        assert [error.phase for _, error in failures(deletes)] == [Phase.WAITING, Phase.SENDING, Phase.SENDING]

    def test_each_request_has_an_error_of_its_own(self, line: Line) -> None:
        deletes = Deletes(line)
        deletes.delete("ab")
        line.peer.sendall(b"HELLO\r\n")
        assert drive_all([deletes], soon())
        assert all(isinstance(error, UnexpectedResponse) for error in deletes.errors.values())
        assert deletes.errors["a"] is not deletes.errors["b"]

    def test_who_is_late_is_given_up_and_the_others_are_not(self, lines: list[Line]) -> None:
        silent, patient = Deletes(lines[0], 0.01), Deletes(lines[1])
        for deletes in (silent, patient):
            deletes.delete("a")
        assert drive_all([silent, patient], soon())
        [(_, error)] = failures(silent)
        assert isinstance(error, CommandTimeout)
        assert str(error) == "far:1: no reply to a delete in the time allowed"
        assert patient.pending

    def test_who_has_answered_when_it_is_late_is_not(self, line: Line) -> None:
        deletes = Deletes(line, 0)
        deletes.delete("a")
        line.peer.sendall(b"DELETED\r\n")
        assert give_up_late([deletes], Deletes.collect, Deletes.give_up)
        assert deletes.outcomes == {"a": "DELETED"}

    def test_who_owes_nothing_is_never_late(self, lines: list[Line]) -> None:
        deletes, idle = Deletes(lines[0]), Deletes(lines[1], 0)
        deletes.delete("a")
        assert not drive_all([deletes, idle], time.monotonic() + 0.01)
        assert deletes.pending


def failures(deletes: Deletes) -> list[tuple[str, ConnectionFailed]]:
    assert all(isinstance(error, ConnectionFailed) for error in deletes.errors.values())
    return [(token, error) for token, error in deletes.errors.items() if isinstance(error, ConnectionFailed)]


def test_what_comes_of_a_busy_machine_is_no_silence_of_the_server(line: Line) -> None:
    deletes = Deletes(line, patience=0.01)
    deletes.delete("a")
    # The thread is woken that late.
    deletes.progress_at -= FOREVER
    error = deletes.late(DELETE)
    assert error.waited == deletes.patience
