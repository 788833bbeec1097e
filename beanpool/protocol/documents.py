"""The YAML documents of ``stats``, ``stats-job``, ``stats-tube`` and the ``list`` commands.

beanstalkd does not quote tube names (before 1.13 not even in dictionaries), so plain YAML would turn
the tube ``no`` into False and ``1.10`` into 1.1. Here every scalar is read as text first; then
counters become numbers, by name and form.
"""

from __future__ import annotations

import re
from typing import Any

from beanpool.errors import UnexpectedResponse

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
    os_line = _UNQUOTED_OS.search(text)
    if os_line:
        text = f'{text[: os_line.start()]}os: ""{text[os_line.end() :]}'
    document = _load(command, text, _FLAT_MAPPING, server)
    if not isinstance(document, dict) or not all(
        isinstance(key, str) and isinstance(value, str) for key, value in document.items()
    ):
        raise _malformed(command, server)
    if os_line:
        document["os"] = os_line[1].strip()
    text_fields = _TEXT_FIELDS[command]
    return {key: value if key in text_fields else _typed(value) for key, value in document.items()}


def parse_list(command: str, data: bytes, server: str = "") -> list[str]:
    """Parse the reply of ``list-tubes`` or ``list-tubes-watched``: the names, always ``str``.

    :raises UnexpectedResponse: if it is not a flat list.
    """
    document = _load(command, decode(data), _FLAT_LIST, server)
    if not isinstance(document, list) or not all(isinstance(name, str) for name in document):
        raise _malformed(command, server)
    return document


def _typed(value: str) -> Scalar:
    if _INTEGER.fullmatch(value):
        return int(value)
    if _FLOAT.fullmatch(value):
        return float(value)
    if value in ("true", "false"):
        return value == "true"
    return value


def _load(command: str, text: str, shape: re.Pattern[str], server: str) -> Any:
    if not shape.fullmatch(text):
        raise _malformed(command, server)
    # Here, not at the top: loading yaml costs 20 ms, and most programs never ask for stats.
    import yaml

    loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _malformed(command, server) from error


def _malformed(command: str, server: str) -> UnexpectedResponse:
    return UnexpectedResponse(
        *(command, "OK", []),
        message=f"{server or 'the server'} answered {command} with a document that is not the flat YAML of beanstalkd",
        server=server,
        may_have_taken_effect=False,
    )
