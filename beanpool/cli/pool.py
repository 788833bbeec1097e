"""The pool that a command talks to, and the servers that did not answer it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from beanpool import DEFAULT_HOST, DEFAULT_PORT, NotFound, PoolManager
from beanpool.cli.exits import Exit, usage_errors
from beanpool.cli.terminal import complain, printable, say
from beanpool.config import ENVIRONMENT_VARIABLES
from beanpool.errors import no_server


def open_pool(arguments: argparse.Namespace, **settings: Any) -> PoolManager[bytes]:
    """Return the pool for ``--url``, else for the environment, else for localhost; bodies are bytes in it.

    ``--timeout`` bounds connecting and each answer. Wrong addresses and options are usage errors.
    """
    return _open(arguments, {"encoding": None, **settings})


def open_text_pool(arguments: argparse.Namespace, **settings: Any) -> PoolManager[str]:
    """As :func:`open_pool`, and bodies are text."""
    return _open(arguments, settings)


def _open(arguments: argparse.Namespace, settings: dict[str, Any]) -> PoolManager[Any]:
    if arguments.timeout is not None:
        settings |= {"timeout": arguments.timeout, "connect_timeout": arguments.timeout}
    with usage_errors():
        if arguments.url:
            return PoolManager(arguments.url, **settings)
        if any(os.environ.get(variable, "").strip() for variable in ENVIRONMENT_VARIABLES):
            return PoolManager.from_env(**settings)
        return PoolManager(f"beanstalk://{DEFAULT_HOST}:{DEFAULT_PORT}", **settings)


def split_answers(by_server: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Part what a ``..._by_server()`` call returned into the answers, and the reasons of servers that did not answer.

    ``NOT_FOUND`` is an answer, and an empty one: it is in neither of the two.

    :raises NoServerAvailable: no server answered.
    """
    answers = {server: answer for server, answer in by_server.items() if not isinstance(answer, BaseException)}
    errors = {
        server: answer
        for server, answer in by_server.items()
        if isinstance(answer, BaseException) and not isinstance(answer, NotFound)
    }
    if len(errors) == len(by_server):
        raise no_server(errors, "answered")
    return answers, {server: reason(server, error) for server, error in errors.items()}


def reason(server: str, error: BaseException) -> str:
    """Why a server did not answer, for a line that begins with its address."""
    text = one_line(error)
    # The library's messages name it, too.
    return text.replace(f"{server}: ", "") if server else text


def one_line(error: BaseException) -> str:
    """What an error says; one that lists servers below each other says it in one line."""
    head, _, reasons = str(error).partition(":\n")
    return f"{head} ({'; '.join(line.strip() for line in reasons.splitlines())})" if reasons else head


def say_missing(missing: Mapping[str, str], *, to_errors: bool = False) -> None:
    """List the servers that did not answer, below a table whose sums lack them."""
    for server, why in missing.items():
        line = f"no answer from {server}: {why}"
        if to_errors:
            complain(line)
        else:
            say(printable(line))


def code_for(missing: Mapping[str, Any], code: Exit = Exit.OK) -> Exit:
    """The exit code of an answer: `code`, unless it lacks servers."""
    return Exit.INCOMPLETE if missing else code
