"""Tubes with jobs of all states, and what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from beanpool.testing.raw_client import RawClient
from support.servers import BeanstalkdServer

FAR = 1000
"""The delay of delayed jobs (seconds)."""


def fill(server: BeanstalkdServer, tube: str, ready: int = 0, delayed: int = 0, buried: int = 0) -> None:
    """Put jobs: bodies say the server, the tube, the state and a number; priorities and TTRs tell them apart."""
    control = server.control
    for state, count in (("ready", ready), ("delayed", delayed), ("buried", buried)):
        for number in range(count):
            put_in(control, tube, state, f"{server.address} {tube} {state} {number}".encode(), number)


def put_in(control: RawClient, tube: str, state: str, body: bytes, number: int = 0) -> int:
    """Put one job that ends in `state`; returns its id."""
    delay = FAR + number if state != "ready" else 0
    jid = control.put(body, tube, priority=number, delay=delay, ttr=60 + number)
    if state == "buried":
        control.command(f"reserve-job {jid}")
        control.command(f"bury {jid} {number}")
    return jid


def jobs_in(servers: Iterable[BeanstalkdServer], tube: str, newest: int = 3000) -> dict[bytes, tuple[str, int, int]]:
    """What is in a tube: state, priority and TTR, by body; it may be there once only."""
    found: dict[bytes, tuple[str, int, int]] = {}
    for server in servers:
        control = server.control
        left = count_in([server], tube)
        jid = 0
        while left and jid < newest:
            jid += 1
            stats = control.stats_job(jid)
            if stats is None or stats["tube"] != tube:
                continue
            left -= 1
            body = control.peek(jid)
            assert body is not None
            assert body not in found, "a job is there twice"
            found[body] = stats["state"], int(stats["pri"]), int(stats["ttr"])
    return found


def count_in(
    servers: Iterable[BeanstalkdServer], tube: str, states: Sequence[str] = ("ready", "reserved", "delayed", "buried")
) -> int:
    """How many jobs of these states the servers have in a tube."""
    return sum(server.control.counter(f"current-jobs-{state}", tube) for server in servers for state in states)
