"""What is believed about a server, as a pure function of what was seen of it. No I/O, no clock, no lock.

==========  =============================================================================================
state       meaning
==========  =============================================================================================
up          it answers; it gets puts and reserves
suspect     it failed once: its keys stay with it, but other servers are preferred and it is probed at once
down        it refused, or failed again: nothing is sent to it but probes, at growing, jittered intervals
==========  =============================================================================================

The flag `draining` is apart from these: a draining server takes no puts and is still reserved from.

What is heard may be old news: a reply that lay in a socket's buffer while the server died, the error of a connect that
began before the server was back. Whatever was begun before the present state changes it only where it says something
new. Else one outage would be two.
"""

from __future__ import annotations

import dataclasses
import enum

from beanpool.events import ServerStateName
from beanpool.protocol import Identity

FIRST_BACKOFF = 0.25
_SHORTEST_BACKOFF = 0.05
# A server that stayed up for this long starts again from no failures; one that flaps is retried ever more rarely.
_FORGIVEN_AFTER = 10.0
_FORMER_KEPT = 8
_RETURNS_OF_SEVERAL = 2
# How many usual round trips a server may be silent, and the shortest silence that says anything (seconds).
_SEVERAL = 3
_LEAST_PATIENCE = 0.25


class ServerState(enum.Enum):
    """Whether a server is used."""

    _value_: ServerStateName
    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"


class Failure(enum.Enum):
    """How a server failed."""

    REFUSED = "nobody listens"
    BROKEN = "the connection broke"
    SILENT = "no answer in time"
    VIOLATED = "what answers is no beanstalkd"


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """What is believed about one server."""

    state: ServerState = ServerState.UP
    draining: bool = False
    identity: Identity | None = None
    round_trip: float | None = None
    """The last measured round trip of a handshake or probe (seconds)."""
    last_error: str | None = None
    """In words: an exception would keep its frames, and the bodies in them, alive."""
    since: float = 0.0
    """Since when it is in this state (monotonic seconds)."""
    failures: int = 0
    """Failures since the count was last reset; the exponent of the back-off."""
    generation: int = 0
    """Raised when older connections are of no use any more: an error of one of them says nothing new."""
    retry_at: float = 0.0
    """When to probe it next (monotonic seconds)."""
    rests_until: float = 0.0
    """Until when it gets no puts because it was out of memory (monotonic seconds)."""
    usual: float = 0.0
    """How long a round trip usually takes (seconds): recent ones weigh more; 0 as long as there was none."""
    deviation: float = 0.0
    """How far round trips usually are from that (seconds)."""
    former: tuple[str, ...] = ()
    """The processes that answered before this one, the latest last."""
    returns: int = 0
    """How often a process that had answered before did so again, after another one."""

    @property
    def alternates(self) -> bool:
        """Whether its address leads to several server processes, now to one and now to another.

        A restart makes a new process; an old one does not come back. Once it may seem to: its last reply may be seen
        after the first one of its successor.
        """
        return self.returns >= _RETURNS_OF_SEVERAL


def answered(health: Health, identity: Identity, round_trip: float, now: float) -> Health:
    """A handshake or a probe was answered in full."""
    known = health.identity
    another = bool(known and known.instance and identity.instance and known.instance != identity.instance)
    former, returns = health.former, health.returns
    if another and known is not None:
        returns += identity.instance in former
        former = (*(name for name in former if name not in (known.instance, identity.instance)), known.instance)
    usual, deviation = _smoothed(health, round_trip)
    fresh = dataclasses.replace(
        health,
        identity=identity,
        round_trip=round_trip,
        usual=usual,
        deviation=deviation,
        former=former[-_FORMER_KEPT:],
        returns=returns,
        # A process never leaves drain mode.
        draining=identity.draining or (health.draining and not another),
        # Where several answer in turn none of them is gone.
        generation=health.generation + (another and returns < _RETURNS_OF_SEVERAL),
    )
    return worked(fresh, now, now - round_trip)


def _smoothed(health: Health, round_trip: float) -> tuple[float, float]:
    # As TCP does it, for the same purpose.
    if not health.usual:
        return round_trip, round_trip / 2
    deviation = health.deviation + (abs(round_trip - health.usual) - health.deviation) / 4
    return health.usual + (round_trip - health.usual) / 8, deviation


def patience(health: Health, timeout: float) -> float:
    """How long a server must be silent for that to say something of it (seconds).

    A caller who waits for less learns nothing: the server may just be far. It is several usual round trips, but no more
    than a caller waits who leaves time for other servers, and always more than one usual round trip.

    :param timeout: what the pool allows a call (seconds).
    """
    several = max(_LEAST_PATIENCE, _SEVERAL * health.usual, health.usual + 4 * health.deviation)
    return max(min(several, timeout / 3), 1.5 * health.usual)


def worked(health: Health, now: float, asked_at: float) -> Health:
    """A command was answered: the server is alive, if it was sent (monotonic seconds) since that was in doubt."""
    if health.state is ServerState.UP:
        if health.failures and now - health.since > _FORGIVEN_AFTER:
            return dataclasses.replace(health, failures=0)
        return health
    if asked_at < health.since:
        return health
    return dataclasses.replace(health, state=ServerState.UP, since=now, retry_at=0.0)


def failed(
    health: Health,
    failure: Failure,
    error: str,
    generation: int,
    began: float,
    now: float,
    *,
    longest: float,
    jitter: float,
) -> Health:
    """A command, a connect or a probe failed.

    :param generation: the generation of the connection that it happened on; an older one is ignored.
    :param began: when the command was sent, or the connect begun (monotonic seconds).
    :param longest: the longest back-off (seconds).
    :param jitter: a random number from 0 to 1: the share of the back-off that is waited.
    """
    if generation < health.generation or (began < health.since and _is_old_news(health, failure)):
        return health
    definite = failure in (Failure.REFUSED, Failure.VIOLATED)
    if health.state is ServerState.UP and not definite:
        # One failure may be one connection's: its keys stay where they are until a probe has failed too.
        return dataclasses.replace(
            health, state=ServerState.SUSPECT, since=now, last_error=error, failures=health.failures + 1, retry_at=now
        )
    failures = health.failures + 1
    backoff = longest if failure is Failure.VIOLATED else min(longest, FIRST_BACKOFF * 2 ** min(failures - 1, 16))
    went_down = health.state is not ServerState.DOWN
    return dataclasses.replace(
        health,
        state=ServerState.DOWN,
        since=now if went_down else health.since,
        last_error=error,
        failures=failures,
        generation=health.generation + went_down,
        retry_at=now + max(_SHORTEST_BACKOFF, backoff * jitter),
    )


def _is_old_news(health: Health, failure: Failure) -> bool:
    """Whether what began before the present state, and failed since, says nothing."""
    if health.state is ServerState.SUSPECT:
        # Whatever breaks one connection breaks others with it. What is tried now tells whether the server lives.
        return failure is Failure.BROKEN
    return health.state is ServerState.UP and failure is not Failure.VIOLATED


def refused_to_store(health: Health, *, draining: bool, until: float, error: str) -> Health:
    """A put was refused with ``DRAINING``, or with ``OUT_OF_MEMORY`` (no puts until `until`, then another try)."""
    if draining:
        return dataclasses.replace(health, draining=True, last_error=error)
    return dataclasses.replace(health, rests_until=until, last_error=error)


def rested(health: Health, now: float) -> Health:
    """The time has passed: a server that was out of memory gets puts again."""
    return dataclasses.replace(health, rests_until=0.0) if now >= health.rests_until else health
