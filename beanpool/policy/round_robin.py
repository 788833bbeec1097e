"""Weighted round robin, for puts without a key: every server gets its share, evenly spaced. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

MAX_TURNS = 4096


def weighted_round_robin(weights: Sequence[float]) -> tuple[int, ...]:
    """Return indexes of `weights`, to be repeated without end: each occurs in proportion to its weight.

    The turns of one index are evenly spaced among those of the others. Equal weights give a simple rotation,
    weight 0 gets no turn, and without any weight above 0 the result is empty. It is at most :data:`MAX_TURNS`
    long: shares that do not fit into that are rounded, and the smallest is one turn.

    :raises ValueError: if a weight is not a finite number of at least 0, or more than :data:`MAX_TURNS` are above 0.
    """
    for weight in weights:
        if not 0 <= weight < math.inf:
            raise ValueError(f"a weight must be a finite number of at least 0, not {weight!r}")
    indexes = [index for index, weight in enumerate(weights) if weight]
    if len(indexes) > MAX_TURNS:
        raise ValueError(f"there must be at most {MAX_TURNS} weights above 0, not {len(indexes)}")
    counts = _turns([weights[index] for index in indexes])
    # An index's turns are at (turn + phase) / count on a circle of length 1. The phases differ, or the first
    # turns of all would come together.
    places = [
        ((2 * rank + 1 + 2 * len(counts) * turn) / (2 * len(counts) * count), index)
        for rank, (index, count) in enumerate(zip(indexes, counts, strict=True))
        for turn in range(count)
    ]
    return tuple(index for _, index in sorted(places))


def _turns(weights: list[float]) -> list[int]:
    """Return whole numbers in proportion to the weights: the smallest exact ones, if their sum is small enough."""
    if not weights:
        return []
    heaviest = max(weights)
    relative = [max(weight / heaviest, 1 / MAX_TURNS) for weight in weights]
    lightest, total = min(relative), math.fsum(relative)
    for turns_of_lightest in range(1, int(MAX_TURNS * lightest / total) + 1):
        counts = [weight * turns_of_lightest / lightest for weight in relative]
        if all(math.isclose(count, round(count), rel_tol=1e-9) for count in counts):
            return [round(count) for count in counts]
    return [max(1, round(weight / total * (MAX_TURNS - len(weights)))) for weight in relative]
