"""Tables, and text that is safe for a terminal."""

from __future__ import annotations

import json

import pytest

from beanpool.cli.tables import format_table
from beanpool.cli.terminal import printable, to_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("grün · 緑", "grün · 緑"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x7f\x9b\u202e\udcff", "\\x7f\\x9b\\u202e\\udcff"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_json_is_printable_ascii() -> None:
    text = to_json({"body": "\x7f\x9b\x1b ü"})
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == {"body": "\x7f\x9b\x1b ü"}


def test_a_table_sets_numbers_to_the_right_and_escapes_what_servers_send() -> None:
    rows = [["tube", "ready", "note"], ["mail", "1,204", "a\x1bb"], ["x", "-", ""]]
    assert format_table(rows, left=(0, 2)) == [
        "tube  ready  note",
        "mail  1,204  a\\x1bb",
        "x         -",
    ]
