"""What a pool tells of what it sees: events to listeners, lines to the log, numbers to whoever asks."""

from __future__ import annotations

import logging

from beanpool.counters import Counters
from beanpool.errors import BeanpoolError, describe
from beanpool.events import (
    ConnectionClosed,
    ConnectionOpened,
    PutMadeAmbiguous,
    PutRerouted,
    ReservationLost,
    RetryScheduled,
    ServerStateChanged,
)
from beanpool.health import Health, ServerState
from beanpool.job import Job
from beanpool.listeners import Listeners
from beanpool.log import log_safely, logger
from beanpool.member import Member

_log = logger("pool")


class Announcer:
    """Tells of one pool. Called outside of all locks; an event is built only if somebody listens.

    :param name: the pool's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.listeners = Listeners()
        self.counters = Counters()

    def afresh(self) -> Announcer:
        """For a forked child: the same listeners, and what has happened in the child so far."""
        child = Announcer(self.name)
        for listener in self.listeners:
            child.listeners.add(listener)
        return child

    def server_changed(self, member: Member, before: Health, after: Health, restarted: bool) -> None:
        """The state, the draining or the process of a server is another one."""
        lasted = max(0.0, after.since - before.since)
        if after.state is ServerState.DOWN and before.state is not ServerState.DOWN:
            self.counters.add("outages_num")
            log_safely(
                _log, logging.WARNING, "pool %s: server %s is down: %s", self.name, member.name, after.last_error
            )
        elif before.state is ServerState.DOWN and after.state is ServerState.UP:
            log_safely(
                _log, logging.INFO, "pool %s: server %s is up again after %.1f s", self.name, member.name, lasted
            )
        if after.draining and not before.draining:
            log_safely(
                _log, logging.INFO, "pool %s: server %s is draining: it gets no more puts", self.name, member.name
            )
        if self.listeners:
            self.listeners.publish(
                ServerStateChanged(
                    self.name,
                    member.address,
                    member.name,
                    before.state.value,
                    after.state.value,
                    after.draining,
                    restarted,
                    after.last_error,
                    lasted,
                )
            )

    def twin_found(self, member: Member, twin: Member) -> None:
        """Two of the servers are the same process."""
        log_safely(
            _log,
            logging.WARNING,
            "pool %s: server %s is the same process as %s, which is used instead: list each server once",
            self.name,
            member.name,
            twin.name,
        )

    def several_found(self, member: Member, health: Health) -> None:
        """An address leads to several server processes in turn."""
        processes = [*health.former, health.identity.instance] if health.identity is not None else health.former
        log_safely(
            _log,
            logging.WARNING,
            "pool %s: the address of server %s leads to several server processes (%s): a load balancer, or a name with "
            "several addresses? List each server by an address of its own. Until then every call makes a connection of "
            "its own, and a job waits until one of them happens to reach its process",
            self.name,
            member.name,
            ", ".join(processes),
        )

    def connection_opened(self, member: Member, instance: str) -> None:
        """A connection stands."""
        if self.listeners:
            self.listeners.publish(ConnectionOpened(self.name, member.address, instance))

    def connection_closed(self, member: Member, because: str) -> None:
        """A connection was given up."""
        if self.listeners:
            self.listeners.publish(ConnectionClosed(self.name, member.address, because))

    def put_rerouted(self, member: Member, instead_of: Member, error: BeanpoolError) -> None:
        """A put went to another server than the first choice."""
        self.counters.add("puts_rerouted")
        if self.listeners:
            self.listeners.publish(PutRerouted(self.name, member.address, instead_of.address, describe(error)))

    def put_ambiguous(self, member: Member, error: BeanpoolError) -> None:
        """A put may or may not be stored."""
        self.counters.add("puts_ambiguous")
        if self.listeners:
            self.listeners.publish(PutMadeAmbiguous(self.name, member.address, describe(error)))

    def retry_scheduled(self, wait: float, error: BaseException | None) -> None:
        """A put will be tried again."""
        self.counters.add("retries_num")
        if self.listeners:
            self.listeners.publish(
                RetryScheduled(self.name, wait, describe(error) if error else "no server took the put")
            )

    def retry_refused(self) -> None:
        """A put was not tried again: too many were, of late."""
        self.counters.add("retries_refused")

    def job_lost(self, job: Job, reason: str) -> None:
        """The reservation of a job is gone."""
        self.counters.add("jobs_lost")
        if self.listeners:
            self.listeners.publish(ReservationLost(self.name, job.server, job.id, reason))
