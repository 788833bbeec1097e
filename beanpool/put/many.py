"""One call for many puts: reads them from whatever gives them, and knows what became of each."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from beanpool.connection import JobId
from beanpool.errors import PutAmbiguous
from beanpool.put.batch import PutMany
from beanpool.put.item import EncodedPut
from beanpool.put.outcomes import OnOutcomes, Outcome
from beanpool.put.slow_source import SlowSource

Given = TypeVar("Given")

# What has all its items at hand.
_NEVER_SLOW = (list, tuple, set, frozenset, dict, range, collections.deque)


def put_all(
    items: Iterable[Given],
    encode: Callable[[Given], EncodedPut | Exception],
    batch: Callable[[OnOutcomes[int]], PutMany[int]],
) -> list[Outcome]:
    """Put all as one batch; returns one outcome per item, in order.

    Whatever the source raises is raised once what it gave before has its outcomes, which are then in the attribute
    ``outcomes`` of the exception; so they are when the call is interrupted.

    :param encode: makes a put of an item, or an exception, which is then its outcome.
    :param batch: begins a batch, which gives its outcomes to what is passed.
    """
    outcomes: list[Outcome | None] = []
    broken: list[Exception] = []

    def read() -> Iterator[Given]:
        try:
            yield from items
        except Exception as error:  # The caller's, who gets it.
            broken.append(error)

    def numbered(source: Iterable[Given]) -> Iterator[tuple[int, EncodedPut]]:
        for position, item in enumerate(source):
            put = encode(item)
            if isinstance(put, Exception):
                outcomes.append(put)
            else:
                outcomes.append(None)
                yield position, put

    def note(found: Sequence[tuple[int, Outcome]]) -> None:
        for position, outcome in found:
            outcomes[position] = outcome

    try:
        with batch(note) as running:
            if type(items) in _NEVER_SLOW:
                running.feed(numbered(items))
            else:
                with SlowSource(read(), running.meanwhile, running.rested) as source:
                    running.feed(numbered(source))
            running.finish()
    except BaseException as error:
        _attach(outcomes, error)
        raise
    if broken:
        _attach(outcomes, broken[0])
        raise broken[0]
    return _known(outcomes)


def _known(outcomes: list[Outcome | None]) -> list[Outcome]:
    return [_unknown() if outcome is None else outcome for outcome in outcomes]


def _unknown() -> PutAmbiguous:
    return PutAmbiguous("the put may or may not be stored: its batch was interrupted while it was on its way")


def _attach(outcomes: list[Outcome | None], error: BaseException) -> None:
    """Let the exception that ends the call tell what became of the items before it."""
    known = _known(outcomes)
    stored = sum(isinstance(outcome, JobId) for outcome in known)
    unknown = sum(isinstance(outcome, PutAmbiguous) for outcome in known)
    # An exception of somebody else's may refuse attributes.
    with contextlib.suppress(Exception):
        error.outcomes = known  # type: ignore[attr-defined]  # That is what is added.
        error.add_note(
            f"put_many had read {len(known)} items by then: {stored} are stored, {unknown} may be, "
            f"{len(known) - stored - unknown} are not. The outcome of each is in this exception's `outcomes`."
        )
