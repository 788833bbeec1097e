"""How many jobs are taken at once."""

from __future__ import annotations

from typing import Any, Literal

from beanpool.protocol import check_int

BatchSize = int | Literal["auto"]

MOST = 200
"""The most that are taken at once by a batch of no given size."""
LEAST = 20
"""Below this a batch costs more than it saves."""
MOST_AT_ONCE = 4096
"""The largest size that can be given."""
# How long the jobs of a batch may take together (seconds): the last one waits that long, and no other worker has it.
_TOGETHER = 0.1
# So many jobs are taken one by one before anything is concluded.
_FIRST = 10
# The part that a new measurement has in the average.
_WEIGHT = 0.2
# However often there was nothing more to take, it is tried again after so many jobs.
_LONGEST_BREAK = 16


class Batches:
    """Decides how many jobs of a tube are taken at once.

    ``"auto"`` goes by how long handlers take: of short ones so many that all take a tenth of a second together, of
    longer ones one at a time. Where there was nothing more to take it is not asked for again at once, for each question
    costs a round trip. All threads tell it what they have seen; one word may take another's place, which does no harm.
    """

    __slots__ = ("_average", "_break", "_given", "_seen", "_skip")

    def __init__(self, size: BatchSize) -> None:
        self._given = None if size == "auto" else size
        self._average = 0.0
        self._seen = 0
        self._skip = 0
        self._break = 0

    def next(self) -> int:
        """How many jobs to take now."""
        size = self.size
        if size > 1 and self._skip > 0:
            self._skip -= 1
            return 1
        return size

    @property
    def size(self) -> int:
        """How many jobs to take where there are enough."""
        if self._given is not None:
            return self._given
        average = self._average
        if self._seen < _FIRST or average * LEAST > _TOGETHER:
            return 1
        return MOST if average * MOST <= _TOGETHER else int(_TOGETHER / average)

    def came(self, jobs: int) -> None:
        """So many came, of those that were asked for beyond the first one."""
        self._break = 0 if jobs else min(_LONGEST_BREAK, 2 * self._break or 1)
        self._skip = self._break

    def ran(self, jobs: int, seconds: float) -> None:
        """Handlers took so long for so many jobs."""
        each, known = seconds / jobs, self._average
        # A slow one counts at once: the next batch could be full of them.
        self._average = each if each > known else known + (each - known) * _WEIGHT
        self._seen += jobs


def check_batch(batch: Any) -> None:
    """Check a size of batches.

    :raises ValueError: if it cannot be one; :raises TypeError: if it is of a wrong type.
    """
    if isinstance(batch, str):
        if batch != "auto":
            raise ValueError(f"batch must be 'auto' or a number of jobs, not {batch!r}")
    else:
        check_int("batch", batch, 1, MOST_AT_ONCE)
