"""How quickly the replies of a server come in. Pure: no I/O, no clock, no lock; times are given."""

from __future__ import annotations

import math

# A round trip may take a quarter more than the shortest one so far, and what follows twice as long as on average.
_JITTER = 1.25
_SLOWDOWN = 2.0
# A reply of up to this size fits into one packet, and takes as long as a round trip (bytes).
_PACKET = 1400
# How many replies to expect at most while only an earlier round trip is known, which may be out of date.
_ON_TRUST = 32


class Pace:
    """What was measured of one connection: a round trip, and how much later each further reply is there.

    A server that is far takes long for the first reply and hardly anything for the others. Over a slow link each
    reply takes its time. A single long reply does not tell one from the other; a known round trip does.

    :param round_trip: how long a short command takes there (seconds), if that is known.
    """

    __slots__ = ("_answers", "_busy", "_first", "_further", "_known", "_rounds", "_since", "round_trip")

    def __init__(self, round_trip: float | None = None) -> None:
        self._known = round_trip
        self.round_trip = math.inf
        """The shortest time that it took for the first reply to be there (seconds); infinite before there was one."""
        self._rounds = 0
        self._answers = 0
        self._busy = 0.0
        # Of it, what was not waited for the first reply of a round.
        self._further = 0.0
        self._since = 0.0
        self._first = True

    def begin(self, now: float) -> None:
        """Requests go out, and none is under way."""
        self._since = now
        self._first = True

    def came(self, now: float, count: int, size: int) -> None:
        """`count` replies have come in, of `size` bytes in all."""
        took = max(0.0, now - self._since)
        if self._first:
            self._first = False
            if size <= _PACKET:
                self._known = took if self._known is None else min(self._known, took)
            self._rounds += 1
            self.round_trip = min(self.round_trip, took)
            # Beyond the round trip, the time of a single reply says nothing of the pace; that of several does.
            self._further += took - self.round_trip if count > 1 else 0.0
        else:
            self._further += took
        self._answers += count
        self._busy += took
        self._since = now

    def fits(self, seconds: float, most: int) -> int:
        """How many replies can be expected within `seconds`, those included that are due; at most `most`.

        As long as nothing was measured: one, if there is any time.
        """
        if not self._answers:
            return min(most, int(seconds > 0))
        left = (seconds - self.round_trip * _JITTER) / _SLOWDOWN
        if left <= 0:
            return 0
        further = self._answers - self._rounds
        if further:
            return _times(left, self._further / further, most)
        # The round trip, the reply itself, or some of both.
        each = self._busy / self._answers
        sure = _times(left, each, most)
        if self._known is None:
            return sure
        return max(sure, _times(left, max(0.0, each - self._known), min(most, _ON_TRUST)))


def _times(seconds: float, each: float, most: int) -> int:
    """How many times `each` goes into `seconds`, at most `most`."""
    return int(seconds / each) if each * most > seconds else most
