"""The puts of a producer that have failed, and of which nobody has asked what became."""

from __future__ import annotations

import logging
import threading

from beanpool.connection import JobId
from beanpool.errors import NoServerForPut, PoolClosedForPut, PoolTimeoutForPut, PutAmbiguous, PutFailed
from beanpool.put.future import LazyFuture
from beanpool.telemetry import log_safely, logger

# How many failed puts are kept, for it to be seen whether somebody asks what became of them.
_MOST_FAILED = 1000

_log = logger("producer")


class Losses:
    """Keeps the failed puts of a producer until they are told.

    :param name: the pool's.
    :param lock: the sender's.
    """

    def __init__(self, name: str, lock: threading.RLock) -> None:
        self._name = name
        self._lock = lock
        self._failed: list[LazyFuture[JobId]] = []
        self._more_failed = 0

    def note(self, futures: list[LazyFuture[JobId]]) -> None:
        """Keep these, which have failed."""
        with self._lock:
            self._failed += futures
            if len(self._failed) > _MOST_FAILED:
                # Who never flushes, and asks of no future, would keep all of them.
                unasked = [future for future in self._failed if future.unasked_error() is not None]
                self._failed = unasked[:_MOST_FAILED]
                self._more_failed += len(unasked) - len(self._failed)

    def tell(self, late: str | None, given_up: BaseException | None = None, unsure: int = 0) -> None:
        """Say what was lost, and that nobody has asked for, once: on the log, and to the caller.

        :param late: what to say if the time was up.
        :param given_up: the error of what was not sent.
        :param unsure: how many puts are still on their way.
        """
        with self._lock:
            failed, self._failed = self._failed, []
            more, self._more_failed = self._more_failed, 0
        errors = [error for future in failed if (error := future.unasked_error()) is not None]
        if not errors and late is None:
            return
        text = late or "puts of the producer have failed"
        ambiguous = sum(isinstance(error, PutAmbiguous) for error in errors)
        if errors or unsure:
            text += f": {len(errors) - ambiguous} are not stored, {ambiguous + unsure} may or may not be"
        first = next((error for error in errors if error is not given_up), None)
        if more:
            text += f", and {more} more have failed before"
        if first is not None:
            text += f". The first error: {first}"
        if errors or unsure:
            log_safely(_log, logging.WARNING, "pool %s: %s", self._name, text)
        summary = _summary(text, late, first)
        # What goes on being tried may be stored yet.
        summary.may_be_stored = ambiguous + unsure > 0 or (late is not None and given_up is None)
        raise summary from first


def _summary(text: str, late: str | None, first: BaseException | None) -> PutFailed:
    """One error for many puts, of the kind of the first."""
    if late is not None or isinstance(first, PoolTimeoutForPut):
        return PoolTimeoutForPut(text)
    if isinstance(first, PutAmbiguous):
        return PutAmbiguous(text, server=first.server, attempts=first.attempts)
    if isinstance(first, NoServerForPut):
        return NoServerForPut(text, errors=first.errors)
    return PoolClosedForPut(text) if isinstance(first, PoolClosedForPut) else PutFailed(text)
