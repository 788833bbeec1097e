"""beanstalkc's API is beanpool's own."""

from __future__ import annotations

from typing import Any

from peers.opened import opened, url_of

from beanpool import BeanstalkcException, CommandFailed, DeadlineSoon, SocketError, UnexpectedResponse

__all__ = ["BeanstalkcException", "CommandFailed", "DeadlineSoon", "SocketError", "UnexpectedResponse"]


def Connection(host: str = "localhost", port: int = 11300, parse_yaml: Any = True) -> Any:
    return opened(url_of(host, port), parse_yaml=parse_yaml)
