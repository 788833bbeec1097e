"""One socket, or waiting for many."""

from beanpool.net.address import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    NO_CREDENTIALS,
    SCHEMES,
    Address,
    check_srv_name,
    parse_address,
    parse_srv,
    split_scheme,
    unquoted,
)
from beanpool.net.channel import OF_THE_PARENT, Channel, ChannelState
from beanpool.net.connector import Connector, connect
from beanpool.net.exchange import Exchange, Failure, drive, give_up_late
from beanpool.net.poller import WakeUpPipe, new_poller
from beanpool.net.readiness import wait_for, wait_for_any
from beanpool.net.resolver import Lookup, lookup_timeout

__all__ = [
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "NO_CREDENTIALS",
    "OF_THE_PARENT",
    "SCHEMES",
    "Address",
    "Channel",
    "ChannelState",
    "Connector",
    "Exchange",
    "Failure",
    "Lookup",
    "WakeUpPipe",
    "check_srv_name",
    "connect",
    "drive",
    "give_up_late",
    "lookup_timeout",
    "new_poller",
    "parse_address",
    "parse_srv",
    "split_scheme",
    "unquoted",
    "wait_for",
    "wait_for_any",
]
