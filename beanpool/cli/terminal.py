"""What goes to the terminal: text without control characters, exact bytes only where no terminal reads them."""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO


def printable(text: str, *, keep: str = "") -> str:
    r"""Return `text` with everything that a terminal could act on written as an escape (``\x1b``).

    :param keep: control characters to leave as they are, such as ``"\n\t"`` for a text of several lines.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in keep
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def to_json(value: Any) -> str:
    """Return `value` as one line of JSON in printable ASCII."""
    return json.dumps(value, default=str).replace("\x7f", "\\u007f")


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads `stream`."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def say(text: str) -> None:
    """Write one line to standard output, at once."""
    print(text, flush=True)


def say_body(body: bytes) -> None:
    """Write a job's body and a newline to standard output, at once: exact bytes, or escaped for a terminal."""
    if is_terminal(sys.stdout):
        say(printable(body.decode("utf-8", "backslashreplace"), keep="\n\t"))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(body + b"\n")
        sys.stdout.buffer.flush()


def complain(message: str, hint: str = "") -> None:
    """Write ``beanpool: message`` to standard error, and the lines of `hint` indented below it."""
    lines = [f"beanpool: {printable(message)}", *(f"  {printable(line)}" for line in hint.splitlines())]
    print("\n".join(lines), file=sys.stderr, flush=True)
