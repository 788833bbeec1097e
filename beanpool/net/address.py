"""Where a server listens: a host and a port, or the path of a Unix socket."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from beanpool.runtime import load

DEFAULT_HOST = "localhost"
DEFAULT_PORT = 11300

SCHEMES = ("beanstalk", "beanstalkd")
_UNIX_SCHEMES = ("beanstalk+unix", "beanstalkd+unix")
_SRV_SCHEMES = ("beanstalk+srv", "beanstalkd+srv")
NO_CREDENTIALS = "an address of beanstalkd has no user and no password: leave out all up to the '@'"

# What the system's address of a Unix socket has room for, its terminating zero left out (bytes).
MAX_PATH = 107 if sys.platform == "linux" else 103

# What is neither a letter nor a digit; names of other alphabets are the resolver's to judge.
_NOT_IN_A_HOST = re.compile(r"[\x00-,/:-@\[-^`{-\x7f]")
_HOST_AND_PORT = re.compile(r"(?:\[(?P<ipv6>[^]]*:[^]]*)]|(?P<host>[^:]*))(?::(?P<port>.*))?", re.DOTALL)
_PORT = re.compile(r"[0-9]{1,5}")
_SRV_NAME = re.compile(r"(?=.{1,254}\Z)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """The address of one server, as the user wrote it (names are resolved at every connect)."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    path: str | None = None

    def __post_init__(self) -> None:
        if self.path is not None:
            if not isinstance(self.path, str):
                raise TypeError(f"path must be a str, not {type(self.path).__name__}")
            if not self.path or "\0" in self.path:
                raise ValueError("path must be a non-empty path of a Unix socket")
            size = len(os.fsencode(self.path))
            if size > MAX_PATH:
                raise ValueError(
                    f"path is too long for a Unix socket: this system takes {MAX_PATH} bytes at most, not {size}: "
                    f"{self.path!r}"
                )
            return
        if not isinstance(self.host, str):
            raise TypeError(f"host must be a str, not {type(self.host).__name__}")
        if not _is_host(self.host):
            raise ValueError(f"host must be a host name or an IP address, not {self.host!r}")
        if type(self.port) is not int:
            if not isinstance(self.port, int) or isinstance(self.port, bool):
                raise TypeError(f"port must be an int, not {type(self.port).__name__}")
            object.__setattr__(self, "port", int.__index__(self.port))
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port must be from 1 to 65535, not {self.port}")

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        if ":" in self.host:
            return f"[{self.host}]:{self.port}"
        return f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address of exactly one server.

    ``beanstalk://host:port`` (or ``beanstalkd://``), ``host:port``, ``host``, ``[::1]:11300``, ``::1``,
    ``beanstalk+unix:///run/b.sock`` and whatever ``str()`` of an :class:`Address` gives. Without a port it is 11300.

    :raises TypeError: if `text` is not a ``str``.
    :raises ValueError: if it is no such address. The message does not repeat a text that holds credentials.
    """
    scheme, rest = split_scheme(text)
    if scheme in _UNIX_SCHEMES:
        return _parse_unix(text, rest)
    if scheme == "unix":
        return Address(path=rest)
    if scheme in _SRV_SCHEMES:
        raise ValueError(
            f"{scheme}:// names the records of many servers: give it to a PoolManager, and nothing beside it"
        )
    if "@" in rest:
        raise ValueError(NO_CREDENTIALS)
    if "?" in rest:
        raise ValueError(f"the address of one server has no options: leave out all from the '?' on in {text!r}")
    if ";" in rest:
        raise ValueError(f"the address of one server has no parameters: leave out all from the ';' on in {text!r}")
    if scheme:
        # In a URL the percent sign before an IPv6 address's zone is itself written as %25.
        rest = rest.replace("%25", "%")
    host, slash, path = rest.partition("/")
    if slash and not host:
        raise ValueError(f"{text!r} names no host (a Unix socket is written as beanstalk+unix:///run/beanstalkd.sock)")
    if path:
        raise ValueError(
            f"{text!r} has a path after the host: leave it out (a pool's tubes are the options tube and watch)"
        )
    return _parse_host(text, host)


def split_scheme(text: str) -> tuple[str, str]:
    """Return the scheme of a URL in lower case (empty if there is none), and what comes after ``://``.

    For ``unix:/path``, as ``str()`` of an :class:`Address` gives it, that is ``unix`` and the path.

    :raises TypeError: if `text` is not a ``str``.
    :raises ValueError: if the scheme is not one of beanpool's.
    """
    if not isinstance(text, str):
        raise TypeError(f"an address must be a str, not {type(text).__name__}")
    if text.startswith("unix:/"):
        return "unix", text.removeprefix("unix:")
    before, separator, after = text.partition("://")
    if not separator:
        return "", text
    scheme = before.lower()
    if scheme in ("http", "https"):
        raise ValueError(
            f"an address that starts with {scheme}:// looks like one of AWS Elastic Beanstalk, which has nothing to do"
            " with beanstalkd: write beanstalk://host:port"
        )
    if scheme not in SCHEMES + _UNIX_SCHEMES + _SRV_SCHEMES:
        # What precedes the :// of a malformed URL may hold a password.
        named = f"unknown scheme {before!r}" if re.fullmatch(r"[A-Za-z0-9+.-]+", before) else "no address"
        raise ValueError(f"{named}: write beanstalk://host:port or beanstalk+unix:///run/beanstalkd.sock")
    return scheme, after


def parse_srv(text: str) -> tuple[str, str] | None:
    """Return the name of the SRV records in ``beanstalk+srv://name/?options``, and the options; None for anything else.

    :raises ValueError: if it names no records.
    """
    scheme, _, rest = text.strip().partition("://")
    if scheme.lower() not in _SRV_SCHEMES:
        return None
    name, _, options = rest.partition("?")
    if "@" in name:
        raise ValueError(NO_CREDENTIALS)
    return check_srv_name(name.removesuffix("/")), options


def check_srv_name(name: Any) -> str:
    """Return `name` if SRV records can have it.

    :raises TypeError: if it is not a ``str``.
    :raises ValueError: if they cannot.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of SRV records must be a str, not {type(name).__name__}")
    if not _SRV_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name of SRV records, such as _beanstalkd._tcp.example.org: those have the ports"
        )
    return name


def unquoted(text: str) -> str:
    """What a part of a URL stands for.

    :raises UnicodeDecodeError: if it is not UTF-8.
    """
    if "%" not in text:
        return text
    unquote: Callable[..., str] = load("urllib.parse").unquote
    return unquote(text, errors="strict")


def _parse_unix(text: str, rest: str) -> Address:
    path, question_mark, _ = rest.partition("?")
    if question_mark:
        raise ValueError(f"the address of one server has no options: leave out all from the '?' on in {text!r}")
    if not path.startswith("/"):
        raise ValueError(f"{text!r} needs a path from the root: write beanstalk+unix:///run/beanstalkd.sock")
    try:
        return Address(path=unquoted(path))
    except UnicodeDecodeError:
        raise ValueError(f"the path in {text!r} is not UTF-8") from None


def _parse_host(text: str, rest: str) -> Address:
    if rest.count(":") > 1 and not rest.startswith("["):
        host, port = rest, None
    elif match := _HOST_AND_PORT.fullmatch(rest):
        host, port = match["ipv6"] or match["host"] or "", match["port"]
    else:
        host, port = "", None
    if not _is_host(host):
        hint = " (an IPv6 address with a port is written as [::1]:11300)" if ":" in rest else ""
        raise ValueError(f"{text!r} names no host{hint}")
    if port is None:
        return Address(host)
    if not (_PORT.fullmatch(port) and 1 <= int(port) <= 65535):
        raise ValueError(f"the port in {text!r} must be a number from 1 to 65535")
    return Address(host, int(port))


def _is_host(text: str) -> bool:
    if not text or not text.isprintable():
        return False
    if ":" not in text:
        return not _NOT_IN_A_HOST.search(text)
    try:
        load("ipaddress").IPv6Address(text)
    except ValueError:
        return False
    return not _NOT_IN_A_HOST.search(text.partition("%")[2])
