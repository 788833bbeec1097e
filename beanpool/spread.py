"""An order of turns that is fair to weights."""
from collections.abc import Sequence


def spread(weights: Sequence[float]) -> tuple[int, ...]:
    return tuple(i for i, w in enumerate(weights) if w > 0)
