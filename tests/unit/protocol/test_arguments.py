"""What may go into a command line, and what is refused before a byte is sent."""

from __future__ import annotations

import decimal
import enum
import fractions
import functools
import re
import string
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.servers import BeanstalkdServer

from beanpool.protocol import arguments, commands
from beanpool.protocol.arguments import check_id, check_tube, encode_body
from beanpool.protocol.commands import (
    encode_bury,
    encode_job,
    encode_kick,
    encode_pause_tube,
    encode_peek,
    encode_put,
    encode_release,
    encode_reserve_with_timeout,
    encode_tube,
)

MAX_UINT32 = 4294967295
MAX_INT32 = 2147483647
MAX_UINT64 = 18446744073709551615


class Number(NamedTuple):
    """One numeric argument of one command."""

    name: str
    low: int
    high: int
    encode: Callable[[Any], bytes]


NUMBERS = [
    Number("priority", 0, MAX_UINT32, lambda value: encode_put(b"x", value, 0, 120)),
    Number("delay", 0, MAX_UINT32, lambda value: encode_put(b"x", 0, value, 120)),
    Number("ttr", 0, MAX_UINT32, lambda value: encode_put(b"x", 0, 0, value)),
    Number("timeout", 0, MAX_INT32, encode_reserve_with_timeout),
    Number("priority", 0, MAX_UINT32, lambda value: encode_release(1, value, 0)),
    Number("delay", 0, MAX_UINT32, lambda value: encode_release(1, 0, value)),
    Number("job id", 1, MAX_UINT64, lambda value: encode_release(value, 0, 0)),
    Number("priority", 0, MAX_UINT32, lambda value: encode_bury(1, value)),
    Number("job id", 1, MAX_UINT64, lambda value: encode_bury(value, 1)),
    Number("bound", 0, MAX_UINT32, encode_kick),
    Number("seconds", 0, MAX_UINT32, lambda value: encode_pause_tube("default", value)),
    *(
        Number("job id", 1, MAX_UINT64, functools.partial(encode_job, command))
        for command in (
            commands.DELETE,
            commands.TOUCH,
            commands.PEEK,
            commands.KICK_JOB,
            commands.STATS_JOB,
            commands.RESERVE_JOB,
        )
    ),
]
every_number = pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name.replace(" ", "-"))


class Integral:
    """What a number of another library looks like: an index, and no int."""

    def __index__(self) -> int:
        return 5

    __int__ = __index__


class Five(enum.IntEnum):
    """An int subclass that prints as something else."""

    FIVE = 5


not_ints = st.one_of(
    st.booleans(),
    st.floats().filter(lambda value: not value.is_integer()),
    st.integers().map(str),
    st.integers().map(lambda value: str(value).encode()),
    st.integers().map(decimal.Decimal),
    st.integers().map(fractions.Fraction),
    st.integers().map(complex),
    st.builds(Integral),
    st.none(),
    st.lists(st.integers(), max_size=1),
)


@every_number
class TestNumbers:
    def test_the_limits_themselves_are_taken(self, number: Number) -> None:
        for value in (number.low, number.high):
            words = number.encode(value).split(b"\r\n")[0].split(b" ")
            assert str(value).encode() in words

    @settings(max_examples=40, deadline=None)
    @given(value=not_ints)
    @example(value=float("nan"))
    @example(value=float("inf"))
    @example(value=0.5)
    @example(value="5")
    @example(value=True)
    def test_what_is_no_int_is_a_type_error_with_name_and_range(self, number: Number, value: object) -> None:
        with pytest.raises(TypeError) as caught:
            number.encode(value)
        message = str(caught.value)
        assert message.startswith(f"{number.name} must be ")
        assert f"from {number.low} to {number.high}" in message
        assert type(value).__name__ in message

    @settings(max_examples=40, deadline=None)
    @given(distance=st.integers(1, 2**70), above=st.booleans())
    @example(distance=1, above=True)
    @example(distance=1, above=False)
    def test_what_is_out_of_range_is_a_value_error_with_name_and_range(
        self, number: Number, distance: int, above: bool
    ) -> None:
        value = number.high + distance if above else number.low - distance
        with pytest.raises(ValueError) as caught:
            number.encode(value)
        assert str(caught.value) == f"{number.name} must be from {number.low} to {number.high}, not {value}"


class Liar(int):
    """A subclass of int that says of itself what it likes."""

    def __int__(self) -> int:
        return -1

    __index__ = __trunc__ = __int__

    def __hash__(self) -> int:
        return hash(5)

    def __eq__(self, other: object) -> bool:
        return True

    def __str__(self) -> str:
        return "-1"

    __repr__ = __format__ = __str__  # type: ignore[assignment]  # It has no manners.


@every_number
def test_a_subclass_of_int_is_sent_as_the_number_that_was_checked(number: Number) -> None:
    assert number.encode(Five.FIVE) == number.encode(Liar(5)) == number.encode(5)
    # Neither is remembered as the other.
    assert number.encode(Liar(7)) == number.encode(7) != number.encode(5)
    with pytest.raises(ValueError, match=f"not {number.high + 1}$"):
        number.encode(Liar(number.high + 1))
    assert type(check_id(Five.FIVE)) is int


@every_number
@pytest.mark.parametrize("value", [5.0, float("inf"), -1.0, 2.0**70, True])
def test_a_float_is_taken_for_whole_seconds_only(number: Number, value: float) -> None:
    if value == 5.0 and number.name in ("delay", "ttr", "seconds", "timeout"):
        assert number.encode(value) == number.encode(5)
    else:
        with pytest.raises((TypeError, ValueError), match=f"^{number.name} must be "):
            number.encode(value)


def test_job_0_may_be_peeked_at() -> None:
    assert encode_peek(0) == b"peek 0\r\n"
    assert encode_peek(7) == b"peek 7\r\n"
    for value in (-1, False, None, 2**64):
        with pytest.raises((TypeError, ValueError), match=r"^job id must be "):
            encode_peek(value)


def test_a_refused_put_names_the_first_argument_that_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"^priority .* not -1$"):
        encode_put(b"", -1, -1, -1)
    with pytest.raises(ValueError, match=r"^delay .* not -1$"):
        encode_put(b"", 0, -1, -1)
    with pytest.raises(ValueError, match=r"^ttr must be from 0 to .* not -1$"):
        encode_put(b"", 0, 0, -1)


def test_the_server_takes_every_limit(beanstalkd: BeanstalkdServer) -> None:
    def ask(request: bytes) -> bytes:
        line, _, body = request.removesuffix(b"\r\n").partition(b"\r\n")
        return beanstalkd.control.command(line, body if line.startswith(b"put") else None)

    assert ask(encode_put(b"x", MAX_UINT32, 0, MAX_UINT32)) == b"INSERTED 1"
    assert ask(encode_put(b"x", 0, MAX_UINT32, 1)) == b"INSERTED 2"
    assert ask(encode_reserve_with_timeout(MAX_INT32)) == b"RESERVED 1 1\r\nx"
    assert ask(encode_release(1, MAX_UINT32, MAX_UINT32)) == b"RELEASED"
    assert ask(encode_kick(MAX_UINT32)) == b"KICKED 2"
    assert ask(encode_job(commands.RESERVE_JOB, 1)) == b"RESERVED 1 1\r\nx"
    assert ask(encode_bury(1, MAX_UINT32)) == b"BURIED"
    assert ask(encode_pause_tube("default", MAX_UINT32)) == b"PAUSED"
    assert ask(encode_pause_tube("default", 0)) == b"PAUSED"
    assert ask(encode_job(commands.PEEK, MAX_UINT64)) == b"NOT_FOUND"


TUBE_CHARACTERS = string.ascii_letters + string.digits + "-+/;.$_()"


def is_tube_name(name: str) -> bool:
    """The rule of the protocol, written down a second time."""
    return 1 <= len(name) <= 200 and name[0] != "-" and all(character in TUBE_CHARACTERS for character in name)


tube_names = st.one_of(
    st.text(alphabet=TUBE_CHARACTERS, max_size=30),
    st.text(alphabet=TUBE_CHARACTERS, min_size=195, max_size=205),
    st.text(alphabet=TUBE_CHARACTERS + " \t\r\n\0:,'\"[]{}#&*!|>%@`é٣", max_size=6),
    st.text(max_size=5),
    st.text(alphabet=TUBE_CHARACTERS, min_size=1, max_size=5).flatmap(
        lambda name: st.sampled_from(["\n", "\r", "\r\n", " ", "\0", "\r\nquit", "\u2028"]).map(lambda end: name + end)
    ),
)
# To beanstalkd a line ends at its first CR, and no reply comes when something else than LF follows.
sendable_tube_names = tube_names.filter(lambda name: "\r" not in name)


class TestTubes:
    @given(name=tube_names)
    @example(name="a" * 200)
    @example(name="a" * 201)
    @example(name="")
    @example(name="-a")
    @example(name="a-")
    @example(name="a\n")
    @example(name="a\r\nput 0 0 1 0\r\n\r\n")
    def test_a_name_passes_if_the_rule_allows_it(self, name: str) -> None:
        if is_tube_name(name):
            assert check_tube(name) == name.encode("ascii")
        else:
            with pytest.raises(ValueError, match=r"^tube must be 1 to 200 characters of A-Za-z0-9-\+/;\.\$_\(\) "):
                check_tube(name)

    def test_every_command_checks_its_tube(self) -> None:
        for command in (commands.USE, commands.WATCH, commands.IGNORE, commands.STATS_TUBE):
            assert encode_tube(command, "1.10") == command.name.encode() + b" 1.10\r\n"
            with pytest.raises(ValueError, match="tube must be"):
                encode_tube(command, "a\r\nquit")
        with pytest.raises(ValueError, match="tube must be"):
            encode_pause_tube("a b", 1)

    @pytest.mark.parametrize("name", [b"default", None, 5, True, ["default"], object()])
    def test_what_is_no_str_is_a_type_error(self, name: object) -> None:
        with pytest.raises(TypeError, match=rf"^tube must be a str, not {type(name).__name__}$"):
            check_tube(name)

    def test_a_subclass_of_str_is_checked_for_what_it_holds(self) -> None:
        class Name(str):
            __slots__ = ()

            def __str__(self) -> str:
                return "a\r\nquit"

        assert check_tube(Name("orders")) == b"orders"
        assert check_tube("orders") == b"orders"
        with pytest.raises(ValueError):
            check_tube(Name("a\n"))

    def test_the_message_of_a_monster_stays_short(self) -> None:
        with pytest.raises(ValueError) as caught:
            check_tube("x" * 1_000_000)
        assert len(str(caught.value)) < 400

    def test_the_server_gives_the_same_verdict(self, beanstalkd: BeanstalkdServer) -> None:
        @given(name=sendable_tube_names)
        @example(name="a" * 200)
        @example(name="a" * 201)
        @example(name="-a")
        @example(name="a\n")
        @example(name="a\0")
        def same(name: str) -> None:
            try:
                request = encode_tube(commands.USE, name)
            except ValueError:
                line = b"use " + name.encode("utf-8", "replace")
                assert beanstalkd.control.command(line) == b"BAD_FORMAT"
            else:
                assert beanstalkd.control.command(request[:-2]) == b"USING " + name.encode()

        same()


class TestBodies:
    @given(text=st.text(alphabet=st.characters(codec="utf-8")), encoding=st.sampled_from(["utf-8", "utf-16"]))
    def test_text_is_encoded(self, text: str, encoding: str) -> None:
        assert encode_body(text, encoding) == text.encode(encoding)

    @given(data=st.binary())
    def test_bytes_pass_with_any_encoding_and_with_none(self, data: bytes) -> None:
        for encoding in ("utf-8", "ascii", None):
            for body in (data, bytearray(data), memoryview(data)):
                assert encode_body(body, encoding) == data

    def test_a_buffer_is_taken_as_it_is_now(self) -> None:
        buffer = bytearray(b"before")
        data = encode_body(buffer, None)
        buffer[:] = b"after!"
        assert data == b"before"

    def test_a_view_of_wider_elements_is_taken_as_bytes(self) -> None:
        assert encode_body(memoryview(b"abcdefgh").cast("I"), None) == b"abcdefgh"
        assert encode_body(memoryview(b"abcdef")[::2], None) == b"ace"

    @pytest.mark.parametrize("body", [None, 5, True, 1.5, ["a"], [1, 2], {"a": 1}, object()])
    def test_anything_else_is_a_type_error(self, body: object) -> None:
        with pytest.raises(TypeError, match=rf"^body must be str or bytes-like, not {type(body).__name__}$"):
            encode_body(body, "utf-8")
        with pytest.raises(TypeError, match=rf"^body must be bytes-like, not {type(body).__name__}$"):
            encode_body(body, None)

    def test_text_without_an_encoding_is_a_type_error(self) -> None:
        with pytest.raises(TypeError, match="encoding=None"):
            encode_body("text", None)

    @pytest.mark.parametrize(("text", "encoding"), [("a secret \udc80", "utf-8"), ("a secret é", "ascii")])
    def test_text_that_cannot_be_encoded_is_a_value_error_that_does_not_hold_it(self, text: str, encoding: str) -> None:
        with pytest.raises(ValueError, match=f"^body cannot be encoded as {encoding}: ") as caught:
            encode_body(text, encoding)
        error = caught.value
        assert type(error) is ValueError
        assert error.__cause__ is None
        assert error.__context__ is None
        assert "secret" not in repr(error)

    def test_a_size_that_no_server_can_take_is_a_value_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert arguments.MAX_JOB_SIZE == 1024**3
        monkeypatch.setattr(arguments, "MAX_JOB_SIZE", 10)
        assert encode_body("x" * 10, "utf-8") == b"x" * 10
        for body in ("x" * 11, b"x" * 11, "é" * 6, bytearray(11)):
            with pytest.raises(ValueError, match=r"^body must be at most 10 bytes, not 1[12]$"):
                encode_body(body, "utf-8")


def test_every_put_says_the_size_of_its_body() -> None:
    @given(data=st.binary(), priority=st.integers(0, MAX_UINT32), delay=st.integers(0, 9), ttr=st.integers(1, 9))
    def check(data: bytes, priority: int, delay: int, ttr: int) -> None:
        request = encode_put(data, priority, delay, ttr)
        match = re.match(rb"put (\d+) (\d+) (\d+) (\d+)\r\n", request)
        assert match is not None
        assert [int(word) for word in match.groups()] == [priority, delay, ttr, len(data)]
        assert request[match.end() :] == data + b"\r\n"

    check()
