"""The servers of :mod:`beanpool.testing`, and what a test does where there is none."""

from __future__ import annotations

import functools
import os
import socket

import pytest

from beanpool.testing.beanstalkd import (
    BeanstalkdServer,
    ServerFactory,
    ServerOptions,
    beanstalkd_version,
    find_beanstalkd,
    no_beanstalkd,
    takes_listening_socket,
)
from beanpool.testing.failures import ServerFailed
from beanpool.testing.raw_client import RawClient, StoredJob, UnexpectedReply

__all__ = [
    "BeanstalkdServer",
    "RawClient",
    "ServerFactory",
    "ServerFailed",
    "ServerOptions",
    "StoredJob",
    "UnexpectedReply",
    "beanstalkd_version",
    "find_beanstalkd",
    "have_ipv6",
    "no_beanstalkd",
    "require_beanstalkd",
    "takes_listening_socket",
]


def require_beanstalkd() -> str:
    """:func:`find_beanstalkd`, or skip the test; with ``BEANPOOL_REQUIRE_SERVERS=1``, fail it."""
    binary = find_beanstalkd()
    if binary is not None:
        return binary
    if os.environ.get("BEANPOOL_REQUIRE_SERVERS", "") not in ("", "0"):
        pytest.fail(no_beanstalkd(), pytrace=False)
    pytest.skip(no_beanstalkd())


@functools.cache
def have_ipv6() -> bool:
    """Whether ``::1`` can be bound here."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
