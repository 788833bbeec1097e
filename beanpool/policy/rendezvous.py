"""Which server gets a key: weighted rendezvous hashing, pure and immutable.

Every server draws a number for the key, and the highest draw wins. A draw depends on nothing but the
key and that server's own name, which gives everything that placement needs: a server that leaves
moves only its own keys, and spreads them evenly over the others; a server that joins only takes; the
draws, sorted, are the key's order of fail-over; and the order in which servers are listed does not
matter.

All servers draw in one multiplication of big integers. Each server has a slot of 128 bits with an odd
64-bit number in it, made from its name. Multiplied by the 64-bit hash of the key, a slot holds a
128-bit product, which cannot spill into the next; its two halves, folded together by XOR, are the
draw.
"""

from __future__ import annotations

import functools
import itertools
import math
import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b

_SLOT_BITS = 128
_HALF_BITS = 64
_CACHED_ORDERS = 4096


class Rendezvous:
    """An immutable choice of a server, or an order of servers, for every key.

    The same names and weights give the same answer in every process, on every platform and Python,
    and whatever the order of `servers`.

    :param servers: pairs of a server's name and its weight. A server gets keys in proportion to its
        weight; one with weight 0 gets none.
    :raises ValueError: if two servers have the same name, or a weight is not a finite number of at least 0.
    """

    __slots__ = ("_groups", "_names", "_order_of", "_seeds", "_size", "_unpack", "_weights")

    def __init__(self, servers: Iterable[tuple[str, float]]) -> None:
        weights: dict[str, float] = {}
        for name, weight in servers:
            if name in weights:
                raise ValueError(f"two servers are called {name!r}")
            if not 0 <= weight < math.inf:
                raise ValueError(f"the weight of {name!r} must be a finite number of at least 0, not {weight!r}")
            weights[name] = weight
        # Slots in order of weight: the best of each weight is then the maximum of one slice.
        slots = sorted((weight, name) for name, weight in weights.items() if weight)
        self._names = tuple(name for _, name in slots)
        self._weights = tuple(weight for weight, _ in slots)
        self._groups = _runs(self._weights)
        self._seeds = sum(_seed(name) << (_SLOT_BITS * slot) for slot, name in enumerate(self._names))
        self._size = len(slots) * _SLOT_BITS // 8
        self._unpack = struct.Struct("<" + "Q8x" * len(slots)).unpack
        # By the key's hash, so that long keys are not kept alive.
        self._order_of = functools.lru_cache(maxsize=_CACHED_ORDERS)(self._sort)

    def __len__(self) -> int:
        """The number of servers with a weight above 0."""
        return len(self._names)

    def owner(self, key: str | bytes) -> str:
        """Return the name of the key's server: the first of :meth:`order`, found faster.

        :param key: text (hashed as UTF-8) or bytes.
        :raises LookupError: if no server has a weight above 0.
        :raises TypeError: if the key is neither ``str`` nor ``bytes``.
        """
        draws = self._draw(_hash_key(key))
        if not draws:
            raise LookupError("no server has a weight above 0")
        if len(self._groups) == 1:
            best = max(draws)
        else:
            # Among equal weights the highest draw wins, so only the winners need a logarithm.
            winners = [(max(draws[group]), weight) for group, weight in self._groups]
            best = max(winners, key=lambda winner: _score(*winner))[0]
        return self._names[draws.index(best)]

    def order(self, key: str | bytes) -> tuple[str, ...]:
        """Return the names of all servers with a weight above 0, in the key's order of fail-over.

        Without one of the servers the order of the others stays the same.

        :param key: text (hashed as UTF-8) or bytes.
        :raises TypeError: if the key is neither ``str`` nor ``bytes``.
        """
        return self._order_of(_hash_key(key))

    def _sort(self, key_hash: int) -> tuple[str, ...]:
        scores: Sequence[float] = self._draw(key_hash)
        if len(self._groups) > 1:
            scores = list(map(_score, scores, self._weights))
        slots = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        return tuple(map(self._names.__getitem__, slots))

    def _draw(self, key_hash: int) -> tuple[int, ...]:
        """Return one draw per slot, each from 0 to 2**64 - 1."""
        product = self._seeds * key_hash
        # The shift also moves a slot's low half into the high half of the slot before it, which is not read.
        folded = product ^ (product >> _HALF_BITS)
        return self._unpack(folded.to_bytes(self._size, "little"))


def _hash_key(key: str | bytes) -> int:
    if isinstance(key, str):
        key = key.encode()
    elif not isinstance(key, bytes):
        raise TypeError(f"key must be str or bytes, not {type(key).__name__}")
    # A hash of 0 would make every draw 0.
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little") or 1


def _seed(name: str) -> int:
    """Return an odd number: multiplying by it loses nothing of the key's hash."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8, person=b"beanpool").digest(), "little") | 1


def _score(draw: float, weight: float) -> float:
    """Make draws of different weights comparable: the share of keys with the highest score is the weight's share.

    This is the order of the usual ``-weight / log(u)``, in a form that cannot divide by zero.
    """
    return math.log((draw + 0.5) * 2.0**-64) / weight


def _runs(weights: Sequence[float]) -> tuple[tuple[slice, float], ...]:
    """Return the slice of each run of equal weights, with that weight."""
    runs = []
    for weight, slots in itertools.groupby(range(len(weights)), key=weights.__getitem__):
        servers = list(slots)
        runs.append((slice(servers[0], servers[-1] + 1), weight))
    return tuple(runs)
