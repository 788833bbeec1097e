"""The YAML documents of ``stats``, ``stats-job``, ``stats-tube`` and the ``list`` commands.

beanstalkd does not quote tube names (before 1.13 not even in dictionaries), so plain YAML would turn
the tube ``no`` into False and ``1.10`` into 1.1. Here every scalar is read as text first; then
counters become numbers, by name and form. What a server usually sends means the same when it is read
line by line, at a twentieth of the cost; only the rest is given to a YAML parser.
"""

from __future__ import annotations

import re
from typing import Any

from beanpool.errors import UnexpectedResponse
from beanpool.runtime import load

Scalar = str | int | float | bool

_TEXT_FIELDS = {
    "stats": frozenset({"id", "version", "hostname", "os", "platform"}),
    "stats-tube": frozenset({"name"}),
    "stats-job": frozenset({"tube", "state"}),
}
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_FLOAT = re.compile(r"-?[0-9]{1,20}\.[0-9]{1,20}")
# 1.12 sends the system's own description unquoted: `#1 SMP ...` is a comment to YAML, `Darwin Kernel Version 22: ...`
# an error.
_UNQUOTED_OS = re.compile(r"^os: (?!\")(.*)$", re.MULTILINE)
# A real one has about 2,000 bytes; parsed, a document takes hundreds of times its size.
_LARGEST_MAPPING = 65536
# What beanstalkd sends has one scalar a line. Everything else is refused before YAML sees it: libyaml recurses
# into nested collections until the C stack overflows, which ends the process.
_FLAT_MAPPING = re.compile(
    r"(?:---\n)?(?:[A-Za-z0-9_.-]++:(?: (?![\[\]{}&*!|>%@`?,' ]|-\s)[^\x00-\x1f\x7f\x85\u2028\u2029]*+)?+(?:\n|\Z))++"
)
# Those that can be read line by line: a scalar of these characters that begins with no minus sign, or one in quotes
# without escapes, means its own text.
_PLAIN_MAPPING = re.compile(
    r"(?:---\n)?+(?:[A-Za-z][A-Za-z0-9_-]{0,99}+:"
    r' (?:[A-Za-z0-9_.+/;$()][A-Za-z0-9_.+/;$()-]*+|"[ !#-\[\]-~]*+")(?:\n|\Z))++'
)
_FLAT_LIST = re.compile(r"(?:---\n)?(?:- (\"?)[A-Za-z0-9+/;.$_()][A-Za-z0-9\-+/;.$_()]{0,199}\1(?:\n|\Z))++")


def decode(data: bytes) -> str:
    """The text of a document as it came."""
    return data.decode("utf-8", "replace")


def parse_mapping(command: str, data: bytes, server: str = "") -> dict[str, Scalar]:
    """Parse the reply of ``stats``, ``stats-tube`` or ``stats-job``.

    :raises UnexpectedResponse: if it is not a flat mapping.
    """
    if len(data) > _LARGEST_MAPPING:
        raise _malformed(command, server)
    text = decode(data)
    os_line = _UNQUOTED_OS.search(text) if "os: " in text else None
    if os_line:
        text = f'{text[: os_line.start()]}os: ""{text[os_line.end() :]}'
    text_fields = _TEXT_FIELDS[command]
    if _PLAIN_MAPPING.fullmatch(text):
        document = _read_lines(text, text_fields)
    else:
        scalars = _read_yaml(command, text, server)
        document = {key: value if key in text_fields else _typed(value) for key, value in scalars.items()}
    if os_line:
        name = os_line[1].strip()
        document["os"] = name if "os" in text_fields else _typed(name)
    return document


def parse_list(command: str, data: bytes, server: str = "") -> list[str]:
    """Parse the reply of ``list-tubes`` or ``list-tubes-watched``: the names, always ``str``.

    :raises UnexpectedResponse: if it is not a flat list.
    """
    text = decode(data)
    if not _FLAT_LIST.fullmatch(text):
        raise _malformed(command, server)
    # No name has a blank or a quote in it, so the line is all there is to read.
    return [line[2:].strip('"') for line in _lines(text)]


def _read_lines(text: str, text_fields: frozenset[str]) -> dict[str, Scalar]:
    document: dict[str, Scalar] = {}
    for line in _lines(text):
        key, _, value = line.partition(": ")
        if value.isdigit() and len(value) <= 20 and key not in text_fields:
            # Nearly all are counters, and to call a function for each costs more than the rest.
            document[key] = int(value)
            continue
        if value[0] == '"':
            value = value[1:-1]
        document[key] = value if key in text_fields else _typed(value)
    return document


def _lines(text: str) -> list[str]:
    return text.removeprefix("---\n").removesuffix("\n").split("\n")


def _typed(value: str) -> Scalar:
    if _INTEGER.fullmatch(value):
        return int(value)
    if _FLOAT.fullmatch(value):
        return float(value)
    if value in ("true", "false"):
        return value == "true"
    return value


def _read_yaml(command: str, text: str, server: str) -> dict[str, str]:
    if not _FLAT_MAPPING.fullmatch(text):
        raise _malformed(command, server)
    # Here, not at the top: loading yaml costs 20 ms, and hardly any document needs it.
    yaml = load("yaml")
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        document: Any = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _malformed(command, server) from error
    if not isinstance(document, dict) or not all(
        isinstance(key, str) and isinstance(value, str) for key, value in document.items()
    ):
        raise _malformed(command, server)
    return document


def _malformed(command: str, server: str) -> UnexpectedResponse:
    return UnexpectedResponse(
        *(command, "OK", []),
        message=f"{server or 'the server'} answered {command} with a document that is not the flat YAML of beanstalkd",
        server=server,
        may_have_taken_effect=False,
    )
