"""The outcome of a put, from the errors of its attempts. Pure: no I/O, no clock, no lock.

One rule is above all others: an attempt that may be stored makes the outcome ambiguous, whatever comes later. A refusal
by another server, a full pool, a deadline or the end of the pool does not take back what was sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from beanpool.errors import (
    BeanpoolError,
    CommandFailed,
    ConnectionFailed,
    JobTooBig,
    PoolClosed,
    PoolClosedForPut,
    PoolTimeout,
    PoolTimeoutForPut,
    PutAmbiguous,
    ReentrantCall,
    UnexpectedResponse,
    no_server_for_put,
)

Attempts = Sequence[tuple[str, BeanpoolError]]
"""The attempts of one put, oldest first: the server's address, and how the attempt ended."""

# Refusals after which another server may take the job.
_OF_THIS_SERVER = ("DRAINING", "OUT_OF_MEMORY")


def may_be_stored(error: BeanpoolError) -> bool:
    """Whether a put that ended so may be in the server: decided by how far it got, not by the kind of error."""
    if isinstance(error, CommandFailed):
        return error.status == "INTERNAL_ERROR"
    return isinstance(error, ConnectionFailed | UnexpectedResponse) and error.may_have_taken_effect


def is_over(error: BeanpoolError, *, resend: bool, at_home: bool, closing: bool) -> bool:
    """Whether the put is over after an attempt with this error; if not, another server may take it.

    :param resend: whether a job that may be stored is put again.
    :param at_home: whether the server is the one that the put's key belongs to.
    :param closing: whether the pool is closed. A server that was removed refuses as one does whose pool is closed.
    """
    if may_be_stored(error):
        return not resend or closing
    if isinstance(error, JobTooBig):
        return at_home
    return _is_final(error) or (isinstance(error, PoolClosed) and closing)


def _is_final(error: BeanpoolError) -> bool:
    """Whether no other server could take the put either, in any case."""
    if isinstance(error, CommandFailed):
        return not isinstance(error, JobTooBig) and error.status not in _OF_THIS_SERVER
    return isinstance(error, ReentrantCall)


def is_duplicate(attempts: Attempts) -> bool:
    """Whether a put that was stored after these attempts may be stored twice."""
    return any(may_be_stored(error) for _, error in attempts)


def outcome(attempts: Attempts, *, unasked: Mapping[str, BaseException], closing: bool, too_big: bool) -> BeanpoolError:
    """The error of a put that no server has acknowledged.

    :param unasked: why servers were not asked, by address; an attempt on one of them says more.
    :param closing: whether the pool is closed.
    :param too_big: whether all servers that the job may go to refuse a body of this size.
    """
    for server, error in attempts:
        if may_be_stored(error):
            return _ambiguous(server, error, attempts, closing)
    if attempts and _is_final(attempts[-1][1]):
        return attempts[-1][1]
    if too_big:
        for _, error in reversed(attempts):
            if isinstance(error, JobTooBig):
                return error
    if closing:
        return PoolClosedForPut("the pool was closed before a server had taken the put: it is in none of them")
    errors = {**unasked, **dict(attempts)}
    if errors and all(isinstance(error, PoolTimeout) for error in errors.values()):
        return PoolTimeoutForPut("; ".join(str(error) for error in errors.values()))
    return no_server_for_put(errors)


def _ambiguous(server: str, error: BeanpoolError, attempts: Attempts, closing: bool) -> PutAmbiguous:
    closed = "; the pool was closed meanwhile" if closing else ""
    return PutAmbiguous(
        f"{server}: the put may or may not be stored ({error}); putting it again may store it twice{closed}",
        server=server,
        attempts=[error for _, error in attempts],
    )
