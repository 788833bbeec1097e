"""What a broker's URL and its ``transport_options`` say: servers, options of the pool, options of the transport."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from beanpool import DEFAULT_TTR, Order

_OWN_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9-]*(\+unix)?://")
# What follows a semicolon is a parameter of a server for beanpool, and one more URL for kombu.
_PARAMETER = re.compile(r"(?:weight|name)=")

_OF_THE_POOL = frozenset(
    {"max_connections", "connect_timeout", "timeout", "health_interval", "retry", "on_ambiguous", "name"}
)
# They are kombu's: how often and how long it tries to connect, and what its virtual channels know.
_OF_KOMBU = frozenset(
    {
        "max_retries",
        "interval_start",
        "interval_step",
        "interval_max",
        "connect_retries_timeout",
        "errback",
        "callback",
        "body_encoding",
        "deadletter_queue",
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """The options of the transport itself.

    :param ttr: how long a server waits for a sign of life from a worker (whole seconds): while a message is held, it is
        touched at a third of that. A worker that is killed is noticed at once, one that is frozen after this time.
    :param keep_alive: whether messages are touched while they are held. If not, a task must be done within its TTR.
    :param namespace: what the names of all tubes begin with.
    :param order: in which order the queues are asked, as in :meth:`~beanpool.PoolManager.reserve`.
    :param ask_redelivered: whether the server is asked, for each message, if it was delivered before (one more round
        trip): for ``worker_deduplicate_successful_tasks``.
    """

    ttr: int = DEFAULT_TTR
    keep_alive: bool = True
    namespace: str = ""
    order: Order = "fair"
    ask_redelivered: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.ttr, bool) or not isinstance(self.ttr, int) or self.ttr < 1:
            raise ValueError(f"ttr must be a whole number of seconds, at least 1, not {self.ttr!r}")
        if self.order not in get_args(Order):
            raise ValueError(f"order must be one of {', '.join(get_args(Order))}, not {self.order!r}")
        if not isinstance(self.namespace, str):
            raise TypeError(f"namespace must be a str, not {type(self.namespace).__name__}")
        for name in ("keep_alive", "ask_redelivered"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {getattr(self, name)!r}")


_OWN = frozenset(field.name for field in dataclasses.fields(Options))


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], Options]:
    """Return the options of the pool and those of the transport.

    :raises ValueError: for an option that nobody knows.
    """
    unknown = sorted(set(options) - _OF_THE_POOL - _OWN - _OF_KOMBU)
    if unknown:
        known = ", ".join(sorted(_OF_THE_POOL | _OWN))
        raise ValueError(
            f"unknown transport option{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}: those of a beanstalkd"
            f" cluster are {known}"
        )
    of_pool = {name: options[name] for name in sorted(_OF_THE_POOL & set(options))}
    return of_pool, Options(**{name: options[name] for name in _OWN & set(options)})


def joined(pieces: Iterable[str]) -> list[str]:
    """Put together again what kombu has split at semicolons: ``beanstalk://q1;weight=2`` is one URL."""
    urls: list[str] = []
    for piece in pieces:
        if urls and _PARAMETER.match(piece):
            urls[-1] += f";{piece}"
        elif piece:
            urls.append(piece)
    return urls


def own_url(text: str) -> str:
    """The URL as beanpool knows it, whatever scheme the transport was registered for; without a host, localhost."""
    match = _OWN_SCHEME.match(text)
    if match is None:
        return f"beanstalk://{text or 'localhost'}"
    if match[1]:
        return f"beanstalk+unix://{text[match.end() :]}"
    rest = text[match.end() :]
    return f"beanstalk://{rest if rest.strip('/') else 'localhost'}"


def servers_of(urls: Sequence[str]) -> str | list[str]:
    """All servers of some URLs of beanpool's: they are one cluster.

    :raises ValueError: if there are several URLs, and one has options.
    """
    if len(urls) == 1:
        return urls[0]
    servers = []
    for url in urls:
        if "?" in url:
            raise ValueError(
                f"with several URLs their options belong into transport_options (broker_transport_options): {url}"
            )
        if url.startswith("beanstalk+unix:"):
            servers.append(url)
        else:
            hosts = url.removeprefix("beanstalk://").rstrip("/").split(",")
            servers += [f"beanstalk://{host}" for host in hosts]
    return servers
