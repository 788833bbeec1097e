"""What a command costs in Python alone: clients on sockets that answer at once, and which functions take the time.

``python tests/benchmarks/overhead.py`` has no server in its loop and makes no system call in it, so it is steady where
the benchmarks depend on the machine. What it leaves out is what else a longer way through Python costs beside system
calls that empty the processor's caches: there it is up to twice as much.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import gc
import itertools
import pstats
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.result import Table
from benchmarks.tables import markdown
from support.inside import inside
from support.servers import BeanstalkdServer

from beanpool import Connection, PoolManager

BODY = b"x" * 100
_RESERVED = b"RESERVED 123 100\r\n%b\r\n" % BODY
_ANSWERS = {b"put": b"INSERTED 123\r\n", b"res": _RESERVED, b"del": b"DELETED\r\n"}
ROUNDS = 7
WAKE_UP = "PoolManager: wake-up"
WAKE_UPS = 400
SERVERS = 1
_UNTIL_IT_WAITS = 0.002

Case = Callable[[int], None]


class Answering:
    """Stands in for a connected socket: every command is answered, and no time passes."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._answer = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, data: bytes, flags: int = 0) -> int:
        self._answer = _ANSWERS[data[:3]]
        return len(data)

    def recv(self, size: int, flags: int = 0) -> bytes:
        answer, self._answer = self._answer, b""
        if not answer:
            # An idle connection is looked at before it is used.
            raise BlockingIOError
        return answer


def raw_put(sock: Answering, count: int) -> None:
    """The yardstick: what no client in Python can do without."""
    send, receive = sock.send, sock.recv
    for _ in range(count):
        send(b"put %d %d %d %d\r\n%b\r\n" % (2**31, 0, 120, len(BODY), BODY))
        receive(4096)


def raw_reserve_delete(sock: Answering, count: int) -> None:
    """The same of two commands."""
    send, receive = sock.send, sock.recv
    for _ in range(count):
        send(b"reserve-with-timeout 0\r\n")
        send(b"delete %b\r\n" % receive(4096).split(b" ", 2)[1])
        receive(4096)


def cases(server: BeanstalkdServer, stack: contextlib.ExitStack) -> dict[str, tuple[str, Case]]:
    """What is measured, and of what it is counted on top."""
    connection = stack.enter_context(Connection(server.host, server.port))
    pool = stack.enter_context(PoolManager([server.address], health_interval=600))
    pool.delete(pool.put("opens a connection"))
    channels = [connection._channel, *(idle.channel for idle in inside(pool).connections_of(0).places.idle)]
    for channel in channels:
        assert channel is not None
        # Both ways to use the socket are the same one, which has what a channel calls.
        answering: Any = Answering(channel._socket)
        channel._socket = channel._patient = answering
    sock = Answering(None)

    def repeat(call: Callable[[], object]) -> Case:
        def run(count: int) -> None:
            for _ in range(count):
                call()

        return run

    def work_off(reserve: Callable[[int], Any]) -> Callable[[], object]:
        return lambda: reserve(0).delete()

    return {
        "raw put": ("", lambda count: raw_put(sock, count)),
        "raw reserve and delete": ("", lambda count: raw_reserve_delete(sock, count)),
        "Connection.put": ("raw put", repeat(lambda: connection.put(BODY))),
        "PoolManager.put": ("raw put", repeat(lambda: pool.put(BODY))),
        "PoolManager.put with a key": ("raw put", repeat(lambda: pool.put(BODY, key="key"))),
        "Connection: reserve and delete": ("raw reserve and delete", repeat(work_off(connection.reserve))),
        "PoolManager: reserve and delete": ("raw reserve and delete", repeat(work_off(pool.reserve))),
    }


def wake_ups(servers: Sequence[BeanstalkdServer], stack: contextlib.ExitStack) -> Case:
    """Reserves that wait over all of these servers, until another thread puts a job. For the profiler only."""
    pool = stack.enter_context(PoolManager([server.address for server in servers], health_interval=600))
    controls = [server.control for server in servers]
    asked: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def produce() -> None:
        for turn in itertools.count():
            if not asked.get():
                return
            time.sleep(_UNTIL_IT_WAITS)
            controls[turn % len(controls)].put(BODY)

    thread = threading.Thread(target=produce)
    thread.start()
    stack.callback(thread.join)
    stack.callback(asked.put, False)

    def run(count: int) -> None:
        for _ in range(count):
            asked.put(True)
            job = pool.reserve()
            assert job is not None
            job.delete()

    return run


def seconds_per_call(case: Case, count: int) -> float:
    """The best of several rounds: what disturbs only adds."""
    best = float("inf")
    for _ in range(ROUNDS):
        gc.collect()
        started = time.perf_counter()
        case(count)
        best = min(best, (time.perf_counter() - started) / count)
    return best


def profile(case: Case, count: int) -> list[list[str]]:
    """The functions that are called every time, by their own time in the profiler, which makes each call dearer."""
    profiler = cProfile.Profile()
    profiler.runcall(case, count)
    found = []
    for (file, _, function), (calls, _, own, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]  # not in the type stubs
        if calls >= count * 0.9 and not any(waits in function for waits in ("send", "recv", "poll")):
            where = f"{Path(file).name}: {function}" if file != "~" else function.partition(" at 0x")[0].strip("<>")
            found.append((own, [where, f"{calls / count:.0f}", f"{own / count * 1e6:.2f}"]))
    return [row for _, row in sorted(found, reverse=True)[:12]]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=20_000, help="calls in a round (default: 20000)")
    parser.add_argument("--profile", metavar="CASE", help=f"show where the time of one case goes, or of '{WAKE_UP}'")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        if options.profile == WAKE_UP:
            waiting = wake_ups([stack.enter_context(BeanstalkdServer()) for _ in range(SERVERS)], stack)
            waiting(SERVERS)
            print(markdown(Table(["function", "calls", "own time (µs)"], profile(waiting, WAKE_UPS))))
            return
        known = cases(stack.enter_context(BeanstalkdServer()), stack)
        if options.profile:
            rows = profile(known[options.profile][1], options.count)
            print(markdown(Table(["function", "calls", "own time (µs)"], rows)))
            return
        times = {name: seconds_per_call(case, options.count) * 1e6 for name, (_, case) in known.items()}
        rows = [
            [name, f"{times[name]:.2f}", f"{times[name] - times[of]:.2f}" if of else ""]
            for name, (of, _) in known.items()
        ]
        print(markdown(Table(["operation", "µs", "on top of the raw one (µs)"], rows)))


if __name__ == "__main__":
    main()
