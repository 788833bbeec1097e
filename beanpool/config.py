"""What a pool is made of: its servers and its options, from Python, a URL or the environment, all checked."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

from beanpool.net import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    NO_CREDENTIALS,
    SCHEMES,
    Address,
    parse_address,
    parse_srv,
    split_scheme,
    unquoted,
)
from beanpool.policy import Retry
from beanpool.protocol import DEFAULT_TUBE_NAME, check_tube
from beanpool.runtime import load
from beanpool.validation import OnAmbiguous, check_encoding, check_on_ambiguous, check_pause, check_seconds

ENVIRONMENT_VARIABLES = ("BEANPOOL_URL", "BEANSTALKD_URL", "BEANSTALK_URL")
"""Where :func:`from_environment` looks for the servers, in this order."""


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """One server of a cluster.

    :param host: a host name or an IP address (IPv6 without brackets); resolved at every connect.
    :param port: from 1 to 65535.
    :param weight: the server's share of the puts, in proportion to the other weights: a finite number of at least
        0. With 0 it gets no puts; jobs are still reserved from it.
    :param name: what keys are hashed with, and what status and events call the server; its address if None. A
        server that moves to another address and keeps its name keeps its keys.
    :param path: the path of a Unix socket, used instead of host and port.
    :raises TypeError: for a value of a wrong type.
    :raises ValueError: for a value out of range.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    weight: float = 1
    name: str | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        Address(self.host, self.port, self.path)
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float):
            raise TypeError(f"weight must be a number, not {type(self.weight).__name__}")
        try:
            weight = float(self.weight)
        except OverflowError:
            weight = math.inf
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be a finite number of at least 0, not {weight:g}")
        _check_name(self.name)

    @classmethod
    def from_url(cls, url: str) -> Server:
        """Return the server at ``beanstalk://host:port``, ``host:port``, ``[::1]:11300`` or ``beanstalk+unix:///path``.

        Its weight and its name may follow: ``beanstalk://q1:11300;weight=2;name=first``. In a URL's path or name, what
        is neither a letter nor a digit is written as in ``%3B``.

        :raises TypeError: if `url` is not a ``str``.
        :raises ValueError: if it is not the address of exactly one server, or a parameter is wrong.
        """
        scheme, rest = split_scheme(url)
        if scheme in ("", *SCHEMES) and "@" in rest:
            raise ValueError(NO_CREDENTIALS)
        # The path of a socket as it is written without a URL has no parameters: a semicolon may be a part of it.
        written, semicolon, parameters = url.partition(";") if scheme != "unix" else (url, "", "")
        address = parse_address(written)
        # The slash before the options of a list of hosts may come after them.
        pairs = parameters.removesuffix("/").split(";") if semicolon else ()
        return cls(address.host, address.port, path=address.path, **_PARAMETERS.parse(pairs))

    def to_url(self) -> str:
        """The server as :meth:`from_url` reads it.

        :raises ValueError: if it cannot be written as a URL: the path of its socket is relative, or not UTF-8.
        """
        quote: Callable[..., str] = load("urllib.parse").quote
        if self.path is None:
            url = f"beanstalk://{self.address}".replace("%", "%25")
        elif not self.path.startswith("/"):
            raise ValueError(f"path must begin with a slash to be written in a URL: {self.path!r}")
        else:
            url = f"beanstalk+unix://{quote(self.path, errors='strict')}"
        if self.weight != 1:
            url += f";weight={self.weight!r}"
        if self.name is not None:
            url += f";name={quote(self.name, safe='')}"
        return url

    @property
    def address(self) -> Address:
        """Where the server listens."""
        return Address(path=self.path) if self.path is not None else Address(self.host, self.port)

    @property
    def key(self) -> str:
        """The name, or else the address as it was written: what keys are hashed with."""
        return self.name if self.name is not None else str(self.address)


AnyServer = Server | str | tuple[str, int]
"""What stands for one server."""


class PoolOptions(TypedDict, total=False):
    """The options of a :class:`~beanpool.PoolManager`, but for its encoding."""

    tube: str
    watch: str | Iterable[str]
    max_connections: int
    connect_timeout: float | None
    timeout: float
    health_interval: float
    discovery_interval: tuple[float, float]
    drain_for: float
    retry: Retry
    on_ambiguous: OnAmbiguous
    name: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of a pool.

    :param tube: the tube that puts go to when not told otherwise.
    :param watch: the tubes that reserves take from when not told otherwise; at least one.
    :param max_connections: the most connections to each server, at least 1.
    :param connect_timeout: the longest wait for a connection (seconds, above 0).
    :param timeout: the longest time a call may take when not told otherwise (seconds, above 0).
    :param health_interval: how often a server is checked (seconds, above 0).
    :param discovery_interval: the shortest and the longest time between two questions to a discovery (seconds).
    :param drain_for: how long a server that a discovery finds no more is reserved from, beyond the TTL of its answer
        (seconds, from 0 on).
    :param on_ambiguous: ``"resend"`` or ``"raise"``, for a put that may or may not be stored.
    :param encoding: how ``str`` bodies travel; None for bytes only.
    :param name: the pool's name in logs and threads.
    :raises TypeError: for a value of a wrong type.
    :raises ValueError: for a value out of range.
    """

    tube: str = DEFAULT_TUBE_NAME
    watch: tuple[str, ...] = (DEFAULT_TUBE_NAME,)
    max_connections: int = 32
    connect_timeout: float = 2.0
    timeout: float = 5.0
    health_interval: float = 5.0
    discovery_interval: tuple[float, float] = (30.0, 300.0)
    drain_for: float = 300.0
    on_ambiguous: OnAmbiguous = "resend"
    encoding: str | None = "utf-8"
    name: str | None = None

    def __post_init__(self) -> None:
        for option, check in _CHECKS.items():
            object.__setattr__(self, option, check(getattr(self, option)))

    @classmethod
    def build(cls, url_options: Mapping[str, Any], keywords: Mapping[str, Any]) -> Settings:
        """Return the settings that `keywords` give, or else the URL, or else the defaults.

        :param keywords: those that are the very objects of :data:`DEFAULTS` were not given.
        """
        given = {option: value for option, value in keywords.items() if value is not getattr(DEFAULTS, option, None)}
        return cls(**{**url_options, **given})


def parse_servers(
    servers: str | AnyServer | Iterable[AnyServer], *, at_least_one: bool = True
) -> tuple[tuple[Server, ...], dict[str, Any]]:
    """Return the servers, and the options that came with them in a URL, checked and with Python's types.

    A ``str`` is one URL with many hosts (``beanstalk://q1:11300;weight=2,q2,[::1]:11301/?timeout=2``), or a list of
    addresses separated by commas or spaces; each may have a weight and a name, as in :meth:`Server.from_url`. In an
    iterable each item is a :class:`Server` or the address of one: a ``str``, or a tuple of host and port. Such a tuple
    alone is one server, too.

    :param at_least_one: whether an empty iterable is refused; an empty ``str`` is, in any case.
    :raises TypeError: for anything else.
    :raises ValueError: if there is no server, one is there twice, or an address or option is wrong.
    """
    found: tuple[Server, ...]
    options: dict[str, Any] = {}
    if isinstance(servers, Server) or _is_host_and_port(servers):
        found = (_as_server(servers),)
    elif isinstance(servers, str):
        found, options = _parse_url(servers.strip())
    elif isinstance(servers, Iterable) and not isinstance(servers, bytes | bytearray | memoryview | Mapping):
        found = tuple(_as_server(item) for item in servers)
    else:
        raise TypeError(f"servers must be a URL, or Servers and addresses in a list, not {type(servers).__name__}")
    if not found and (at_least_one or isinstance(servers, str)):
        raise ValueError("servers must name at least one server")
    check_distinct(found)
    return found, options


def records_in(servers: Any) -> tuple[str, dict[str, Any]] | None:
    """The name of the SRV records in a URL ``beanstalk+srv://name/?timeout=2``, and the options that came with it.

    :returns: None if `servers` is not such a URL.
    :raises ValueError: if it names no records, or an option is wrong.
    """
    found = parse_srv(servers) if isinstance(servers, str) else None
    if found is None:
        return None
    name, query = found
    return name, _OPTIONS.parse(query.split("&") if query else ())


def label(server: AnyServer) -> str:
    """What a server is called by: its name, or else its address."""
    return server if isinstance(server, str) else _as_server(server).key


def check_distinct(servers: Iterable[Server]) -> None:
    """Check that every address and every name stands for one server.

    :raises ValueError: if two servers share an address or a name, or one is called by the address of another.
    """
    seen: set[str] = set()
    for server in servers:
        labels = {server.key, str(server.address)}
        if shared := seen & labels:
            raise ValueError(
                f"two of the servers are called {min(shared)}: each needs an address and a name of its own"
            )
        seen |= labels


def from_environment(environment: Mapping[str, str]) -> str:
    """Return the first of :data:`ENVIRONMENT_VARIABLES` that is set and not blank, after checking it.

    :raises ValueError: if none is, or :func:`parse_servers` refuses it; the message names the variable.
    """
    for variable in ENVIRONMENT_VARIABLES:
        value = environment.get(variable, "").strip()
        if value:
            try:
                if records_in(value) is None:
                    parse_servers(value)
            except ValueError as error:
                raise ValueError(f"{variable}: {error}") from None
            return value
    first, *others = ENVIRONMENT_VARIABLES
    raise ValueError(f"no servers in the environment: set {first} (or {' or '.join(others)}) to beanstalk://host:port")


def _is_host_and_port(item: Any) -> bool:
    # Two names of hosts are two servers.
    return isinstance(item, tuple) and len(item) == 2 and not isinstance(item[1], str | Server | tuple)


def _as_server(item: Any) -> Server:
    if isinstance(item, Server):
        return item
    if _is_host_and_port(item):
        return Server(*item)
    if isinstance(item, str):
        return Server.from_url(item)
    kind = type(item).__name__
    raise TypeError(f"a server must be a Server, an address as a str, or a tuple of host and port, not {kind}")


def _parse_url(text: str) -> tuple[tuple[Server, ...], dict[str, Any]]:
    # The standard library's URL parser takes several hosts for one, with the port of the last.
    hosts, _, query = text.partition("?")
    pairs = query.split("&") if query else ()
    if not hosts:
        return (), _OPTIONS.parse(pairs)
    items = re.split(r"\s*,\s*|\s+", hosts)
    schemes = {split_scheme(item)[0] for item in items}
    with_hosts = schemes <= {"", *SCHEMES}
    if with_hosts and "@" in hosts + text.partition("=")[0]:
        # A comma or a question mark may be a part of the password: no message may repeat an item of the list.
        raise ValueError(NO_CREDENTIALS)
    if not all(items):
        raise ValueError("the list of hosts has an empty place: two commas in a row, or one at an end")
    try:
        servers = tuple(map(Server.from_url, items))
    except ValueError:
        if with_hosts and "@" in query:
            # Not the pool's name, it seems.
            raise ValueError(NO_CREDENTIALS) from None
        raise
    return servers, _OPTIONS.parse(pairs)


@dataclasses.dataclass(frozen=True, slots=True)
class _Vocabulary:
    """What may be written in a URL as ``name=value``."""

    kind: str
    """What each of these is called."""
    checks: Mapping[str, Callable[[Any], Any]]
    """Returns the value to use, or raises what is wrong with it."""
    readers: Mapping[str, Callable[[str, str], Any]]
    """Makes a value of what is written, where that is no text."""

    def parse(self, pairs: Iterable[str]) -> dict[str, Any]:
        """The values of the pairs, checked and with Python's types.

        :raises ValueError: if one is unknown, without a value, or there twice; or whatever the checks say.
        """
        found: dict[str, Any] = {}
        for pair in pairs:
            name, equals, written = pair.partition("=")
            if name not in self.checks:
                closest = load("difflib").get_close_matches(name.lower(), list(self.checks), n=1, cutoff=0)[0]
                raise ValueError(f"unknown {self.kind} {name!r} in the URL: the closest known one is {closest!r}")
            if not equals or not written:
                raise ValueError(f"{name} has no value in the URL")
            if name in found:
                raise ValueError(f"{name} is there twice in the URL")
            try:
                # Not as in a form, where a plus sign is a space: tube names have plus signs.
                value = unquoted(written)
            except UnicodeDecodeError:
                raise ValueError(f"{name} is not UTF-8 in the URL") from None
            read = self.readers.get(name)
            found[name] = self.checks[name](read(name, value) if read else value)
        return found


def _read_int(option: str, text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        raise ValueError(f"{option} must be a whole number of at most 9 digits, not {text!r}")
    return int(text)


def _read_float(option: str, text: str) -> float:
    if not re.fullmatch(r"[+-]?[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise ValueError(f"{option} must be a number of seconds such as 2 or 0.5, not {text!r}")
    return float(text)


def _read_weight(option: str, text: str) -> float:
    if re.fullmatch(r"[0-9]{1,400}", text):
        return int(text)
    if not re.fullmatch(r"[0-9]{1,400}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,3})?", text):
        raise ValueError(f"{option} must be a number of at least 0 such as 2 or 0.5, not {text!r}")
    return float(text)


def _read_list(option: str, text: str) -> list[str]:
    return text.split(",")


def _read_optional(option: str, text: str) -> str | None:
    return None if text == "none" else text


# How an option that is no text is written in a URL.
_READERS: dict[str, Callable[[str, str], Any]] = {
    "watch": _read_list,
    "max_connections": _read_int,
    "connect_timeout": _read_float,
    "timeout": _read_float,
    "health_interval": _read_float,
    "discovery_interval": lambda option, text: [_read_float(option, part) for part in text.split(",")],
    "drain_for": _read_float,
    "encoding": _read_optional,
}


def _check_tube(value: Any) -> str:
    return check_tube(value).decode("ascii")


def _check_watch(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Iterable) or isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"watch must be the names of tubes, not {type(value).__name__}")
    tubes = tuple(dict.fromkeys(check_tube(tube, "watch").decode("ascii") for tube in value))
    if not tubes:
        raise ValueError("watch must name at least one tube")
    return tubes


def check_max_connections(value: Any) -> int:
    """Check a limit of connections, and return it."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"max_connections must be an int of at least 1, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"max_connections must be at least 1, not {value}")
    return value


def _check_interval(value: Any) -> tuple[float, float]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"discovery_interval must be the shortest and the longest time, not {value!r}")
    shortest, longest = (check_seconds("discovery_interval", item) for item in value)
    if shortest > longest:
        raise ValueError(f"discovery_interval must be the shortest time before the longest, not {value!r}")
    return shortest, longest


def _check_name(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"name must be a str or None, not {type(value).__name__}")
    if not value or not value.isprintable():
        raise ValueError(f"name must be at least one character, all of them printable, not {value!r}")
    return value


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "tube": _check_tube,
    "watch": _check_watch,
    "max_connections": check_max_connections,
    # None means "for ever" to other clients; here no wait is without an end.
    "connect_timeout": lambda value: 2.0 if value is None else check_seconds("connect_timeout", value),
    "timeout": lambda value: check_seconds("timeout", value),
    "health_interval": lambda value: check_seconds("health_interval", value),
    "discovery_interval": _check_interval,
    "drain_for": lambda value: check_pause("drain_for", value),
    "on_ambiguous": check_on_ambiguous,
    "encoding": check_encoding,
    "name": _check_name,
}


_OPTIONS = _Vocabulary("option", _CHECKS, _READERS)
_PARAMETERS = _Vocabulary(
    "parameter of a server",
    {"weight": lambda value: Server(weight=value).weight, "name": _check_name},
    {"weight": _read_weight},
)


def _defaults() -> Settings:
    settings = Settings()
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is not None:
            kind: Any = type(value)
            # Of its own class: a plain int or a literal of the caller's could be the same object.
            object.__setattr__(settings, field.name, type(kind.__name__, (kind,), {"__slots__": ()})(value))
    return settings


DEFAULTS = _defaults()
"""The defaults of the options. Each is known by its identity: an equal value that was given counts as given."""
