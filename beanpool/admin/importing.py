"""Making jobs of lines of JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from beanpool.admin.copies import HIDDEN, bury_copies, note_copy
from beanpool.admin.lanes import addresses
from beanpool.admin.outcome import OnProgress, Outcome, Progress, Stop, Tally, stop_test, total
from beanpool.admin.stored_job import Record, read_record
from beanpool.connection import JobId
from beanpool.manager import PoolManager
from beanpool.protocol import check_tube
from beanpool.put import Put

_MOST_AT_ONCE = 1000
_MOST_BYTES = 8 << 20

Line = str | bytes


def import_jobs(
    pool: PoolManager[Any],
    lines: Iterable[Line],
    tube: str | None = None,
    *,
    key: str | bytes | None = None,
    timeout: float | None = None,
    progress: OnProgress = None,
    stop: Stop = None,
    rejected: Callable[[Line], object] | None = None,
) -> dict[str, Outcome]:
    """Put the jobs of an export, or of ``beanpool take --json``, with their priority, TTR, delay and state.

    They are read and put in portions: memory stays bounded. They are spread over the servers as other puts are; what
    one does not take goes to another. What was reserved becomes ready. A delay begins anew.

    :param lines: a file, or another iterable of lines. Empty ones are passed over.
    :param tube: where to put them; None for the tube that each line names.
    :param key: puts all of them by this key.
    :param timeout: the longest that a server may be silent (seconds); None for the pool's.
    :param rejected: called with each line whose job is not certainly stored: to try those again.
    :returns: for each server, by its address, how many jobs it was given; those that none has taken are counted under
        the empty address, as skipped. It ends with the portion in which no server was found for a job. `progress` and
        `stop` are those of :func:`move`.
    :raises ValueError: for a line that is no job. Those before it were put; the text tells its number. What was done
        until then is in its ``outcomes``, and in those of whatever `lines` and the functions raise.
    """
    if tube is not None:
        check_tube(tube)
    importer = _Importer(pool, tube, key, timeout, rejected)
    stopped = stop_test(stop)
    try:
        for portion in _portions(lines, tube):
            go_on = isinstance(portion, list) and importer.put(portion)
            if progress is not None:
                progress(Progress("", None, importer.sum()))
            if isinstance(portion, ValueError):
                raise portion
            if not go_on or stopped():
                break
    except BaseException as error:
        error.outcomes = importer.outcomes()  # type: ignore[attr-defined]  # As put_many() has it.
        raise
    return importer.outcomes()


class _Importer:
    def __init__(
        self,
        pool: PoolManager[Any],
        tube: str | None,
        key: str | bytes | None,
        timeout: float | None,
        rejected: Callable[[Line], object] | None,
    ) -> None:
        self._pool = pool
        self._tube = tube
        self._key = key
        self._timeout = timeout
        self._rejected = rejected
        self._tallies = {address: Tally() for address in addresses(pool)}
        self._nowhere = Tally()

    def put(self, portion: list[tuple[Line, Record]]) -> bool:
        """Put jobs; returns whether to go on."""
        puts = [
            Put(
                record.data,
                self._key,
                record.tube if self._tube is None else self._tube,
                record.priority,
                HIDDEN if record.buried else record.delay,
                record.ttr,
            )
            for _, record in portion
        ]
        try:
            outcomes = self._pool.put_many(puts, timeout=self._timeout)
        except BaseException as error:
            # Interrupted: what is there by then is counted, and buried.
            self._settle(portion, getattr(error, "outcomes", []))
            raise
        return self._settle(portion, outcomes)

    def _settle(self, portion: list[tuple[Line, Record]], outcomes: Sequence[JobId | Exception]) -> bool:
        go_on = True
        to_bury: list[tuple[Line, JobId, int]] = []
        # Whoever is interrupted has outcomes of those only that were on their way.
        for (line, record), outcome in zip(portion, outcomes, strict=False):
            if not isinstance(outcome, JobId):
                go_on &= note_copy(outcome, self._nowhere)
                self._reject(line)
                continue
            tally = self._tallies.setdefault(outcome.server, Tally())
            note_copy(outcome, tally)
            if record.buried and not outcome.buried:
                to_bury.append((line, outcome, record.priority))
            else:
                tally.done += 1
        return self._bury(to_bury) and go_on

    def _bury(self, to_bury: list[tuple[Line, JobId, int]]) -> bool:
        go_on = True
        outcomes = bury_copies(self._pool, [(jid, priority) for _, jid, priority in to_bury], self._timeout)
        in_vain: list[tuple[Line, JobId]] = []
        for (line, jid, _), error in zip(to_bury, outcomes, strict=True):
            if error is None:
                self._tallies[jid.server].done += 1
            else:
                self._nowhere.fail(error)
                in_vain.append((line, jid))
                go_on = False
        # It waits, and nobody would ever see it: so it is put again as what it was, or not at all.
        deleted = self._pool.delete_many([jid for _, jid in in_vain], timeout=self._timeout)
        for (line, _), failure in zip(in_vain, deleted, strict=True):
            self._nowhere.duplicates += failure is not None
            self._reject(line)
        return go_on

    def _reject(self, line: Line) -> None:
        self._nowhere.skipped += 1
        if self._rejected is not None:
            self._rejected(line)

    def sum(self) -> Outcome:
        """All of it."""
        return total(self.outcomes())

    def outcomes(self) -> dict[str, Outcome]:
        found = {address: tally.outcome() for address, tally in self._tallies.items()}
        nowhere = self._nowhere.outcome()
        if nowhere.skipped:
            found[""] = nowhere
        return found


def _portions(lines: Iterable[Line], tube: str | None) -> Iterator[list[tuple[Line, Record]] | ValueError]:
    """Jobs in portions; at the end, what is wrong with the line at which it had to end."""
    portion: list[tuple[Line, Record]] = []
    size = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = read_record(line)
            if tube is None:
                if record.tube is None:
                    raise ValueError("it names no tube, and none was given")
                check_tube(record.tube)
        except ValueError as error:
            if portion:
                yield portion
            yield ValueError(f"line {number} is no job: {error}")
            return
        portion.append((line, record))
        size += len(record.data)
        if len(portion) >= _MOST_AT_ONCE or size >= _MOST_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion
