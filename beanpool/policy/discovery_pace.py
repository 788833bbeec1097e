"""When a discovery is asked again. Pure."""

from __future__ import annotations

# The first pause after a failure, before jitter (seconds); each further one is twice as long.
_FIRST_PAUSE = 1.0
# A fleet that was started together must not ask together for ever.
_SPREAD = 0.1


def next_question(
    ttl: float | None, failures: int, shortest: float, longest: float, jitter: float, *, hurry: bool = False
) -> float:
    """How long after the last question the next one is due (seconds).

    After an answer that is its TTL, within the bounds; the shortest time where none is known. After failures it is
    a pause that grows up to the shortest time, so that a name server which cannot answer is not asked more often for
    that.

    :param ttl: that of the last answer (seconds).
    :param failures: how many questions in a row had no answer.
    :param jitter: from 0 to 1, at random.
    :param hurry: somebody has reason to believe that the answer is another one now.
    """
    if failures:
        pause = min(_FIRST_PAUSE * 2.0 ** min(failures - 1, 30), shortest)
        return pause * (0.5 + 0.5 * jitter)
    seconds = shortest if ttl is None or hurry else min(max(ttl, shortest), longest)
    return seconds * (1 + _SPREAD * jitter)
