"""Six ways from a key to a server, compared: balance, movement, fail-over and time. Prints a Markdown table.

``python tests/benchmarks/routing.py [--keys 60000] [--servers 3 10 50 200]``, with beanpool installed.
uhashring is measured too if it is installed.
"""

from __future__ import annotations

import argparse
import bisect
import importlib
import importlib.util
import platform
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import NamedTuple

from beanpool.policy.rendezvous import Rendezvous

POINTS_PER_SERVER = 160
MAGLEV_TABLE_SIZE = 65537
TIMED_KEYS = 5000
ROUNDS = 5


class Lookup(NamedTuple):
    """An algorithm, made for certain servers."""

    owner: Callable[[str], str]
    order: Callable[[str], object] | None = None
    """All servers in order of fail-over, where the algorithm has one."""


def number(text: str) -> int:
    """A hash of 64 bits."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def this_one(names: list[str]) -> Lookup:
    """beanpool's: rendezvous hashing, all servers in one multiplication."""
    rendezvous = Rendezvous((name, 1) for name in names)
    return Lookup(rendezvous.owner, rendezvous.order)


def plain_rendezvous(names: list[str]) -> Lookup:
    """Rendezvous hashing with one hash for each server."""
    hashes = [blake2b(name.encode() + b"\0", digest_size=8) for name in names]

    def draws(key: str) -> list[bytes]:
        encoded = key.encode()
        found = []
        for seeded in hashes:
            draw = seeded.copy()
            draw.update(encoded)
            found.append(draw.digest())
        return found

    def owner(key: str) -> str:
        found = draws(key)
        return names[found.index(max(found))]

    def order(key: str) -> list[str]:
        found = draws(key)
        return [names[index] for index in sorted(range(len(names)), key=found.__getitem__, reverse=True)]

    return Lookup(owner, order)


def ring_of_points(names: list[str]) -> Lookup:
    """A circle with many points for each server; a key belongs to the next point."""
    points = sorted((number(f"{name}-{point}"), name) for name in names for point in range(POINTS_PER_SERVER))
    places = [place for place, _ in points]
    owners = [name for _, name in points]

    def owner(key: str) -> str:
        return owners[bisect.bisect(places, number(key)) % len(owners)]

    def order(key: str) -> list[str]:
        first = bisect.bisect(places, number(key))
        found: dict[str, None] = {}
        for step in range(len(owners)):
            found[owners[(first + step) % len(owners)]] = None
            if len(found) == len(names):
                break
        return list(found)

    return Lookup(owner, order)


def jump_hash(names: list[str]) -> Lookup:
    """Jump consistent hashing: servers have numbers, and only the last can leave cheaply."""

    def owner(key: str) -> str:
        state, bucket, following = number(key), -1, 0
        while following < len(names):
            bucket = following
            state = (state * 2862933555777941757 + 1) & 0xFFFFFFFFFFFFFFFF
            following = int((bucket + 1) * (2**31 / ((state >> 33) + 1)))
        return names[bucket]

    return Lookup(owner)


def maglev(names: list[str]) -> Lookup:
    """A look-up table that the servers fill by turns, each in an order of its own."""

    def preferences(name: str) -> Iterator[int]:
        offset = number(f"{name} offset") % MAGLEV_TABLE_SIZE
        skip = number(f"{name} skip") % (MAGLEV_TABLE_SIZE - 1) + 1
        return ((offset + turn * skip) % MAGLEV_TABLE_SIZE for turn in range(MAGLEV_TABLE_SIZE))

    wishes = [(name, preferences(name)) for name in names]
    table: list[str] = [""] * MAGLEV_TABLE_SIZE
    free = MAGLEV_TABLE_SIZE
    while free:
        for name, places in wishes[: min(free, len(wishes))]:
            table[next(place for place in places if not table[place])] = name
            free -= 1
    return Lookup(lambda key: table[number(key) % MAGLEV_TABLE_SIZE])


def uhashring(names: list[str]) -> Lookup:
    """The package's default ring."""
    ring = importlib.import_module("uhashring").HashRing(nodes=names)
    return Lookup(ring.get_node, lambda key: list(ring.range(key, size=len(names))))


ALGORITHMS: dict[str, Callable[[list[str]], Lookup]] = {
    "**beanpool**": this_one,
    "rendezvous, a BLAKE2b per server": plain_rendezvous,
    f"ring of {POINTS_PER_SERVER} points per server, bisect": ring_of_points,
    "jump hash": jump_hash,
    f"Maglev, {MAGLEV_TABLE_SIZE:,} places": maglev,
}
if importlib.util.find_spec("uhashring"):
    ALGORITHMS["uhashring"] = uhashring


def microseconds(call: Callable[[str], object]) -> float:
    """The time of one call: the best of some rounds over keys that all differ, more of them than are cached."""
    keys = [f"timed:{key}" for key in range(TIMED_KEYS)]
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for key in keys:
            call(key)
        best = min(best, time.perf_counter() - started)
    return best / len(keys) * 1e6


def max_to_mean(counts: Counter[str], servers: int) -> float:
    """The largest share, relative to an even one."""
    return max(counts.values()) * servers / counts.total()


def measure(build: Callable[[list[str]], Lookup], names: list[str], keys: list[str]) -> list[str]:
    """One algorithm's figures, for the case that the server in the middle of the list leaves."""
    lost = names[len(names) // 2]
    lookup, without = build(names), build([name for name in names if name != lost])
    before = [lookup.owner(key) for key in keys]
    after = [without.owner(key) for key in keys]
    counts = Counter(before)
    moved = sum(old != new for old, new in zip(before, after, strict=True))
    heirs = Counter(new for old, new in zip(before, after, strict=True) if old == lost)
    return [
        f"{max_to_mean(counts, len(names)):.2f}",
        f"{moved / len(keys):.3f} ({counts[lost] / len(keys):.3f})",
        f"{max_to_mean(heirs, len(names) - 1):.2f}",
        f"{microseconds(lookup.owner):.1f}",
        f"{microseconds(lookup.order):.1f}" if lookup.order else "none",
    ]


def chance(names: list[str], keys: list[str]) -> list[str]:
    """The figures of keys that are dealt by a generator of random numbers."""
    generator = random.Random(2)
    before = Counter(generator.choices(names, k=len(keys)))
    heirs = Counter(generator.choices(names[1:], k=len(keys) // len(names)))
    return [f"{max_to_mean(before, len(names)):.2f}", "", f"{max_to_mean(heirs, len(names) - 1):.2f}", "", ""]


def weighted(names: list[str], keys: list[str]) -> str:
    """How well beanpool keeps weights 1, 2, 3, 4, and what that costs."""
    weights = {name: 1 + index % 4 for index, name in enumerate(names)}
    rendezvous = Rendezvous(weights.items())
    counts = Counter(map(rendezvous.owner, keys))
    unit = len(keys) / sum(weights.values())
    loads = [counts[name] / weight / unit for name, weight in weights.items()]
    return (
        f"| {len(names)} | {min(loads):.2f} to {max(loads):.2f} | {microseconds(rendezvous.owner):.1f}"
        f" | {microseconds(rendezvous.order):.1f} |"
    )


def main() -> None:
    """Print the two tables."""
    parser = argparse.ArgumentParser(description="Compare ways from a key to a server.")
    parser.add_argument("--keys", type=int, default=60_000)
    parser.add_argument("--servers", type=int, nargs="+", default=[3, 10, 50, 200])
    arguments = parser.parse_args()
    keys = [f"user:{key}" for key in range(arguments.keys)]
    print(f"{arguments.keys:,} keys, {platform.python_implementation()} {platform.python_version()}\n")
    print("| servers | algorithm | max/mean | moved (least) | fail-over max/mean | look-up µs | whole order µs |")
    print("|---|---|---|---|---|---|---|")
    clusters = [[f"10.0.0.{server}:11300" for server in range(count)] for count in arguments.servers]
    for names in clusters:
        for title, build in ALGORITHMS.items():
            print(f"| {len(names)} | {title} | {' | '.join(measure(build, names, keys))} |", flush=True)
        print(f"| {len(names)} | *pure chance* | {' | '.join(chance(names, keys))} |")
    print("\n| servers | beanpool's load by weight, 1 = exact | look-up µs | whole order µs |")
    print("|---|---|---|---|")
    for names in clusters:
        print(weighted(names, keys), flush=True)


if __name__ == "__main__":
    main()
