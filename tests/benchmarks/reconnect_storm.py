"""What happens to a server that returns after an outage, with a whole fleet waiting for it. Prints Markdown tables.

``python tests/benchmarks/reconnect_storm.py [--processes 1000] [--servers 20] [--outage 30] [--interval 5]``, with
beanpool installed. Nothing is connected: the decisions are those of ``policy/health.py``, on a virtual clock. Each
process has its own monitor; it probes a server that is down after its back-off, and an idle one that is up once an
interval. A handshake costs the server what was measured, and answers wait in one queue.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator

from beanpool.policy.health import Failure, Health, ServerState, answered, failed
from beanpool.protocol.identity import Identity

IDENTITY = Identity("process", "1.12", False, 65535)
SEED = 1
# What a beanstalkd 1.12 was measured to take for accepting a connection and its first ``stats``, and for a ``stats``
# on a connection that stands (seconds of its one core).
HANDSHAKE = 0.00005
PROBE = 0.00002
BUCKET = 0.01
LOOK_AHEAD = 120.0


@dataclasses.dataclass
class Result:
    """What the server saw of one outage."""

    probes_during: int
    returned: list[float]
    """When each process had its first answer after the return (seconds after it)."""
    worst_bucket: int
    """Most connects within a hundredth of a second after the return."""
    worst_queue: float
    """Longest wait for an answer, all connects served one after another (seconds)."""

    def by(self, share: float) -> float:
        """When this share of the processes was back (seconds after the return)."""
        return sorted(self.returned)[min(len(self.returned) - 1, int(share * len(self.returned)))]


def outage(processes: int, seconds: float, longest: float, jitter: Callable[[random.Random], float]) -> Result:
    """Every process notices the death at once, being busy, and probes until the server answers."""
    rng = random.Random(SEED)
    due: list[tuple[float, int]] = []
    healths = []
    for number in range(processes):
        # A put or two were on their way: all of them notice within some milliseconds.
        noticed = rng.uniform(0.0, 0.02)
        health = failed(Health(), Failure.REFUSED, "x", 0, noticed, noticed, longest=longest, jitter=jitter(rng))
        healths.append(health)
        due.append((health.retry_at, number))
    heapq.heapify(due)
    during, connects, returned = 0, Counter[int](), []
    free_at = worst_queue = 0.0
    while due:
        now, number = heapq.heappop(due)
        if now < seconds:
            during += 1
            healths[number] = failed(
                healths[number],
                Failure.REFUSED,
                "x",
                healths[number].generation,
                now,
                now,
                longest=longest,
                jitter=jitter(rng),
            )
            heapq.heappush(due, (healths[number].retry_at, number))
            continue
        free_at = max(free_at, now) + HANDSHAKE
        worst_queue = max(worst_queue, free_at - now)
        health = answered(healths[number], IDENTITY, HANDSHAKE, free_at)
        assert health.state is ServerState.UP
        returned.append(free_at - seconds)
        connects[int((now - seconds) / BUCKET)] += 1
    return Result(during, returned, max(connects.values()), worst_queue)


def table(rows: list[list[str]]) -> Iterator[str]:
    """Lines of a Markdown table; the first row is its head."""
    yield f"| {' | '.join(rows[0])} |"
    yield f"|{'---|' * len(rows[0])}"
    for row in rows[1:]:
        yield f"| {' | '.join(row)} |"


def main() -> None:
    """Print the arithmetic and the simulation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=1000)
    parser.add_argument("--servers", type=int, default=20)
    parser.add_argument("--outage", type=float, default=30.0, help="seconds")
    parser.add_argument("--interval", type=float, default=5.0, help="the pools' health_interval, in seconds")
    options = parser.parse_args()
    processes, servers, interval = options.processes, options.servers, options.interval

    each = processes / interval
    print(f"{processes} processes, {servers} servers, all idle, health_interval={interval:g} s:\n")
    print(
        "\n".join(
            table(
                [
                    ["", "a server", "the fleet"],
                    ["probes per second (busy pools: none)", f"{each:.0f}", f"{each * servers:.0f}"],
                    ["share of one server's core", f"{each * PROBE * 100:.1f} %", ""],
                    ["connections that are kept for probes", f"{processes}", f"{processes * servers}"],
                    ["more for one waiting reserve each", f"{processes}", f"{processes * servers}"],
                ]
            )
        )
    )

    print(f"\none server of them down for {options.outage:g} s:\n")
    rows = [
        [
            "back-off",
            "probes during the outage",
            "most connects in 10 ms",
            "longest wait for an answer",
            "half are back after",
            "99 % after",
        ]
    ]
    longest = 2 * interval
    kinds: dict[str, tuple[float, Callable[[random.Random], float]]] = {
        "full jitter (as built)": (longest, lambda rng: rng.random()),
        "no jitter": (longest, lambda rng: 1.0),
        "jitter of a tenth": (longest, lambda rng: rng.uniform(0.9, 1.0)),
        "every 0.25 s": (0.25, lambda rng: 1.0),
    }
    for name, (most, jitter) in kinds.items():
        result = outage(processes, options.outage, most, jitter)
        rows.append(
            [
                name,
                f"{result.probes_during}",
                f"{result.worst_bucket}",
                f"{result.worst_queue * 1000:.1f} ms",
                f"{result.by(0.5):.2f} s",
                f"{result.by(0.99):.2f} s",
            ]
        )
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
