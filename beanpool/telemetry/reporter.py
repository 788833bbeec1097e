"""Reports what happens in a pool: events to its listeners, lines to the log, numbers to its counters."""

from __future__ import annotations

import logging

from beanpool.errors import BeanpoolError, describe
from beanpool.events import (
    ConnectionClosed,
    ConnectionOpened,
    ConnectionsShort,
    DiscoveryFailed,
    DiscoveryRecovered,
    PutMadeAmbiguous,
    PutRerouted,
    ReservationLost,
    RetryScheduled,
    ServersChanged,
    ServerStateChanged,
)
from beanpool.policy import Health, ServerState
from beanpool.telemetry.listeners import Listeners
from beanpool.telemetry.log import log_safely, logger
from beanpool.telemetry.observers import Observers
from beanpool.telemetry.stats import POOL_COUNTS, Counters

_logger = logger("pool")


class Reporter:
    """Reports what happens in one pool. Call it outside of all locks. An event is built only if there is a listener.

    :param name: the pool's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.listeners = Listeners()
        self.observers = Observers(name)
        self.counters = Counters(POOL_COUNTS)

    def reset_after_fork(self) -> None:
        """In a forked child: keep listeners and observers, count from 0, and have no lock that another thread may have
        held."""
        self.listeners.reset_after_fork()
        self.observers.reset_after_fork()
        self.counters = Counters(POOL_COUNTS)

    def server_changed(self, server: str, name: str, before: Health, after: Health, restarted: bool) -> None:
        """The state of a server has changed, or its draining, or its process."""
        lasted = max(0.0, after.since - before.since)
        if after.state is ServerState.DOWN and before.state is not ServerState.DOWN:
            self.counters.add("outages_num")
            self._log(logging.WARNING, "server %s is down: %s", name, after.last_error)
        elif before.state is ServerState.DOWN and after.state is ServerState.UP:
            self._log(logging.INFO, "server %s is up again after %.1f s", name, lasted)
        if after.draining and not before.draining:
            self._log(logging.INFO, "server %s is draining: it gets no more puts", name)
        if self.listeners.active:
            states = before.state.value, after.state.value
            self.listeners.publish(
                ServerStateChanged(
                    self.name, server, name, *states, after.draining, restarted, after.last_error, lasted
                )
            )

    def servers_changed(self, joined: tuple[str, ...], leaving: tuple[str, ...], left: tuple[str, ...]) -> None:
        """Servers have joined, or left, or will when they are empty. All are given by their addresses."""
        parts = {"joined": joined, "leaving when empty": leaving, "left": left}
        text = "; ".join(f"{what}: {', '.join(servers)}" for what, servers in parts.items() if servers)
        self._log(logging.INFO, "servers %s", text)
        if self.listeners.active:
            self.listeners.publish(ServersChanged(self.name, joined, leaving, left))

    def discovered(self) -> None:
        """A discovery has told which servers there are."""
        self.counters.add("discoveries_num")

    def discovery_failed(self, reason: str, failures: int, servers: int) -> None:
        """A question to the discovery had no answer.

        :param failures: how many in a row had none, with this one.
        :param servers: how many the pool has, and goes on with.
        """
        self.counters.add("discovery_errors")
        if failures > 1:
            return
        text = "which servers there are could not be found out, and the pool goes on with the %d that it has: %s"
        self._log(logging.WARNING, text, servers, reason)
        if self.listeners.active:
            self.listeners.publish(DiscoveryFailed(self.name, reason, servers))

    def discovery_recovered(self, failures: int, lasted: float) -> None:
        """After so many questions without an answer there was one."""
        text = "which servers there are could be found out again, after %d attempts in %.1f s"
        self._log(logging.INFO, text, failures, lasted)
        if self.listeners.active:
            self.listeners.publish(DiscoveryRecovered(self.name, failures, lasted))

    def duplicate_found(self, name: str, used: str) -> None:
        """A server is the same process as another one, which is used instead. Both are given by name."""
        text = "server %s is the same process as %s, which is used instead: list each server once"
        self._log(logging.WARNING, text, name, used)

    def several_processes_found(self, name: str, health: Health) -> None:
        """The address of a server leads to several server processes in turn."""
        processes = [*health.former, health.identity.instance] if health.identity is not None else health.former
        text = (
            "the address of server %s leads to several server processes (%s): a load balancer, or a name with several "
            "addresses? List each server by an address of its own. Until then every call makes a connection of its "
            "own, and a job waits until one of them happens to reach its process"
        )
        self._log(logging.WARNING, text, name, ", ".join(processes))

    def connection_opened(self, server: str, instance: str) -> None:
        """A connection is open, to the server process `instance`."""
        if self.listeners.active:
            self.listeners.publish(ConnectionOpened(self.name, server, instance))

    def connection_closed(self, server: str, reason: str) -> None:
        """A connection was closed."""
        if self.listeners.active:
            self.listeners.publish(ConnectionClosed(self.name, server, reason))

    def connections_short(
        self, server: str, name: str, limit: int, held_by_jobs: int, wanted: int, advised: int
    ) -> None:
        """Callers go short of connections to a server; see :class:`~beanpool.events.ConnectionsShort`."""
        text = (
            "callers go short of connections to server %s: max_connections is %d, unfinished jobs hold %d of them, and "
            "up to %d were wanted at the same time. Set max_connections to %d or more, or call pool.resize: each "
            "thread that works on jobs needs one, and each set of tubes that reserves wait for"
        )
        self._log(logging.WARNING, text, name, limit, held_by_jobs, wanted, advised)
        if self.listeners.active:
            self.listeners.publish(ConnectionsShort(self.name, server, limit, held_by_jobs, wanted, advised))

    def put_rerouted(self, server: str, instead_of: str, error: BeanpoolError) -> None:
        """A put went to another server than the one that was tried before."""
        self.counters.add("puts_rerouted")
        if self.listeners.active:
            self.listeners.publish(PutRerouted(self.name, server, instead_of, describe(error)))

    def put_ambiguous(self, server: str, error: BeanpoolError) -> None:
        """A put may or may not be stored."""
        self.counters.add("puts_ambiguous")
        if self.listeners.active:
            self.listeners.publish(PutMadeAmbiguous(self.name, server, describe(error)))

    def retry_scheduled(self, wait: float, error: BaseException | None) -> None:
        """No server took a put; all are asked again after `wait` seconds."""
        self.counters.add("retries_num")
        if self.listeners.active:
            reason = describe(error) if error else "no server took the put"
            self.listeners.publish(RetryScheduled(self.name, wait, reason))

    def put_failed(self, count: int = 1) -> None:
        """So many puts have ended with an error."""
        self.counters.add("put_errors", count)

    def retry_refused(self) -> None:
        """A put was not tried again: the budget of retries is used up."""
        self.counters.add("retries_refused")

    def job_lost(self, server: str, jid: int, reason: str) -> None:
        """The reservation of a job is gone."""
        self.counters.add("jobs_lost")
        if self.listeners.active:
            self.listeners.publish(ReservationLost(self.name, server, jid, reason))

    def _log(self, level: int, text: str, *values: object) -> None:
        log_safely(_logger, level, f"pool %s: {text}", self.name, *values)
