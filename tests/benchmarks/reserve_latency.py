"""How long a job takes from its put to a waiting thread, and what waiting costs. Prints Markdown tables.

``python tests/benchmarks/reserve_latency.py [--rounds 300] [--bursts 20] [--seconds 4]``, with beanpool installed and a
beanstalkd on the machine. All that is compared is measured in turn, one put each, so that a machine that gets slower
makes all of it slower; greenstalk is the client of one server that they are compared with. The puts come from another
process, as they do in life: here they would compete with the waiting threads for Python's lock.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import queue
import random
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import greenstalk

from beanpool import PoolClosed, PoolManager

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.inside import inside
from support.servers import BeanstalkdServer, ServerFactory, beanstalkd_version, find_beanstalkd
from support.waiting import wait_until

SIZES = (1, 2, 4, 8, 16)
BODY = b"x" * 100
THREADS = 32
SERVERS = 8
BURST_TUBE = "burst"
WAITS_WITHIN = 30.0
"""How long a machine may take over what takes no time (seconds)."""
SETTLE = 0.002
"""What a client may do after a job, in threads of its own (seconds)."""


class Contender(NamedTuple):
    """A client with a thread that waits for jobs of its own tube."""

    name: str
    tube: str
    servers: list[BeanstalkdServer]
    arrivals: queue.SimpleQueue[float]
    """When each job was in the thread's hands."""


class Producer:
    """Another process that puts jobs when it is told to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--produce"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def put(self, server: BeanstalkdServer, tube: str) -> None:
        """Let a job be put."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{server.host} {server.port} {tube}\n")

    def started(self) -> float:
        """When it was, on the clock that all processes share."""
        assert self._process.stdout is not None
        return float(self._process.stdout.readline())


def produce() -> None:
    """Put a job for every line, and tell when."""
    connections: dict[str, socket.socket] = {}
    for line in sys.stdin:
        host, port, tube = line.split()
        if port not in connections:
            connections[port] = socket.create_connection((host, int(port)))
        connection = connections[port]
        connection.sendall(f"use {tube}\r\n".encode())
        connection.recv(1000)
        started = time.monotonic()
        connection.sendall(f"put 0 0 60 {len(BODY)}\r\n".encode() + BODY + b"\r\n")
        connection.recv(1000)
        print(started, flush=True)


def summary(times: list[float]) -> str:
    """Median and ninth decile, in milliseconds."""
    return f"{statistics.median(times) * 1000:.3f} | {statistics.quantiles(times, n=10)[8] * 1000:.3f}"


@contextlib.contextmanager
def greenstalk_waits(server: BeanstalkdServer) -> Iterator[Contender]:
    """A blocking reserve of greenstalk on one server."""
    contender = Contender("greenstalk, 1 server", "green", [server], queue.SimpleQueue())
    client = greenstalk.Client((server.host, server.port), watch=contender.tube)

    def consume() -> None:
        with contextlib.suppress(OSError, greenstalk.Error):
            while True:
                job = client.reserve()
                contender.arrivals.put(time.monotonic())
                client.delete(job)

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    yield contender
    client._sock.shutdown(socket.SHUT_RDWR)
    thread.join()
    client.close()


@contextlib.contextmanager
def raw_waits(servers: list[BeanstalkdServer]) -> Iterator[Contender]:
    """Sockets and a selector, both as bare as Python has them: what nobody who waits on many servers can do without."""
    contender = Contender(
        f"raw sockets in a selector, {len(servers)} servers", f"raw-{len(servers)}", servers, queue.SimpleQueue()
    )
    sockets = {}
    for server in servers:
        sock = socket.create_connection((server.host, server.port))
        sock.sendall(f"watch {contender.tube}\r\nignore default\r\n".encode())
        replies = b""
        while replies.count(b"\r\n") < 2:
            replies += sock.recv(1000)
        sockets[sock.fileno()] = sock
    selector = select.epoll() if sys.platform == "linux" else select.poll()
    for descriptor in sockets:
        selector.register(descriptor, select.POLLIN)

    def consume() -> None:
        selected = selector.poll
        for sock in sockets.values():
            sock.sendall(b"reserve\r\n")
        while True:
            for descriptor, _ in selected():
                sock = sockets[descriptor]
                line, _, body = sock.recv(4096).partition(b"\r\n")
                reply = line.split(b" ")
                if reply[0] != b"RESERVED":
                    return
                job = int(reply[1]), body[:-2]
                contender.arrivals.put(time.monotonic())
                sock.sendall(b"delete %d\r\n" % job[0])
                sock.recv(1000)
                sock.sendall(b"reserve\r\n")

    def run() -> None:
        with contextlib.suppress(OSError):
            consume()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield contender
    for sock in sockets.values():
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    thread.join()
    for sock in sockets.values():
        sock.close()


@contextlib.contextmanager
def beanpool_waits(servers: list[BeanstalkdServer]) -> Iterator[Contender]:
    """A reserve of a pool over these servers."""
    plural = "s" * (len(servers) > 1)
    contender = Contender(
        f"beanpool, {len(servers)} server{plural}", f"pool-{len(servers)}", servers, queue.SimpleQueue()
    )
    with PoolManager([server.address for server in servers], watch=contender.tube) as pool:

        def consume() -> None:
            with contextlib.suppress(PoolClosed):
                while True:
                    job = pool.reserve()
                    if job is not None:
                        contender.arrivals.put(time.monotonic())
                        job.delete()

        thread = threading.Thread(target=consume, daemon=True)
        thread.start()
        yield contender
        pool.close()
        thread.join()


def delivery(producer: Producer, contender: Contender, servers: list[BeanstalkdServer]) -> float:
    """How long one job takes (seconds), from just before its put is sent to when the thread has it."""
    # All servers are asked, whoever is next: what this process has just done is the same for all.
    for server in servers:
        server.control.counter("current-waiting", contender.tube)
    for server in contender.servers:
        wait_until(waits_on(server, contender.tube), "the thread to wait", WAITS_WITHIN)
    producer.put(random.choice(contender.servers), contender.tube)
    arrived = contender.arrivals.get(timeout=WAITS_WITHIN)
    # The next one's put must not meet what this one still has to do: delete the job, and wait again.
    for server in contender.servers:
        wait_until(waits_on(server, contender.tube), "the thread to wait again", WAITS_WITHIN)
    time.sleep(SETTLE)
    return arrived - producer.started()


def measure_latency(servers: list[BeanstalkdServer], rounds: int) -> None:
    """From just before the put is sent to when a thread has the job."""
    times: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        producer = stack.enter_context(Producer())
        contenders = [stack.enter_context(greenstalk_waits(servers[0])), stack.enter_context(raw_waits(servers))]
        contenders += [stack.enter_context(beanpool_waits(servers[:size])) for size in SIZES]
        for _ in range(rounds):
            for contender in contenders:
                times.setdefault(contender.name, []).append(delivery(producer, contender, servers))
    yardstick = statistics.median(times[contenders[0].name])
    print(f"\nPut to delivery, {rounds} puts each, in turn:\n")
    print("| client | median (ms) | 90 % (ms) | of greenstalk |")
    print("|---|---|---|---|")
    for name, measured in times.items():
        print(f"| {name} | {summary(measured)} | {statistics.median(measured) / yardstick:.2f} |")


def waits_on(server: BeanstalkdServer, tube: str) -> Callable[[], bool]:
    """Whether a connection waits for jobs of the tube."""
    return lambda: server.control.counter("current-waiting", tube) > 0


def measure_bursts(servers: list[BeanstalkdServer], bursts: int) -> None:
    """From just before 32 puts are sent, in one piece, to when the last of 32 threads has its job."""
    one = (f"put 0 0 60 {len(BODY)}\r\n").encode() + BODY + b"\r\n"
    request = f"use {BURST_TUBE}\r\n".encode() + one * THREADS
    times: dict[str, list[float]] = {"beanpool, 8 servers": [], "greenstalk, a connection per thread": []}
    with PoolManager([server.address for server in servers], watch=BURST_TUBE, max_connections=THREADS) as pool:

        def with_pool() -> None:
            job = pool.reserve(10)
            arrivals.put(time.monotonic())
            everybody.wait()
            assert job is not None
            job.delete()

        def with_greenstalk() -> None:
            with greenstalk.Client((servers[0].host, servers[0].port), watch=BURST_TUBE) as client:
                job = client.reserve()
                arrivals.put(time.monotonic())
                everybody.wait()
                client.delete(job)

        for _ in range(bursts):
            for name, consume, waiting in (
                ("beanpool, 8 servers", with_pool, 1),
                ("greenstalk, a connection per thread", with_greenstalk, THREADS),
            ):
                arrivals: queue.SimpleQueue[float] = queue.SimpleQueue()
                everybody = threading.Barrier(THREADS)
                threads = [threading.Thread(target=consume, daemon=True) for _ in range(THREADS)]
                for thread in threads:
                    thread.start()
                if waiting == 1:
                    wait_until(lambda: threads_waiting(pool) == THREADS, "all threads to wait")
                asked = servers if waiting == 1 else servers[:1]
                for server in asked:
                    wait_until(lambda: server.control.counter("current-waiting", BURST_TUBE) == waiting, "the waiters")  # noqa: B023
                with socket.create_connection((servers[0].host, servers[0].port)) as producer:
                    started = time.monotonic()
                    producer.sendall(request)
                    times[name].append(max(arrivals.get(timeout=10) for _ in threads) - started)
                    for thread in threads:
                        thread.join()
    print(f"\n{THREADS} jobs put at once on one server, until {THREADS} threads have them, {bursts} times in turn:\n")
    print("| client | median (ms) | 90 % (ms) | worst (ms) |")
    print("|---|---|---|---|")
    for name, measured in times.items():
        print(f"| {name} | {summary(measured)} | {max(measured) * 1000:.3f} |")


def threads_waiting(pool: PoolManager) -> int:
    """How many threads of this pool wait for jobs."""
    return sum(shared.waiting for shared in inside(pool).waits.values())


def commands(server: BeanstalkdServer) -> int:
    """How many commands the server was sent."""
    return sum(int(value) for name, value in server.control.stats().items() if name.startswith("cmd-"))


def measure_idling(servers: list[BeanstalkdServer], seconds: int) -> None:
    """Commands that a server gets, and processor time that this process takes, while nothing happens."""
    print(f"\n{seconds} idle seconds of waiting on {len(servers)} servers:\n")
    print("| threads | commands per server, at most | processor time (ms) | of it without a pool (ms) |")
    print("|---|---|---|---|")
    started = time.process_time()
    time.sleep(seconds)
    nothing = time.process_time() - started
    for count in (1, THREADS):
        with PoolManager([server.address for server in servers], watch="idle") as pool:
            for server in servers:
                server.control.put(BODY, "idle")
            for _ in servers:
                job = pool.reserve(5)
                assert job is not None
                job.delete()
            before = [commands(server) for server in servers]
            started = time.process_time()
            threads = [threading.Thread(target=pool.reserve, args=(seconds,)) for _ in range(count)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            spent = time.process_time() - started
            # The look itself is a command.
            most = max(commands(server) - count - 1 for server, count in zip(servers, before, strict=True))
        print(f"| {count} | {most} | {spent * 1000:.1f} | {nothing * 1000:.1f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, metavar="N", help="puts to each client (default 300)")
    parser.add_argument("--bursts", type=int, default=20, metavar="N", help="bursts of 32 jobs (default 20)")
    parser.add_argument("--seconds", type=int, default=4, metavar="N", help="idle seconds (default 4)")
    parser.add_argument("--produce", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.produce:
        produce()
        return
    binary = find_beanstalkd()
    if binary is None:
        parser.exit(1, "there is no beanstalkd on this machine\n")
    print(
        f"{platform.python_implementation()} {platform.python_version()}, beanstalkd {beanstalkd_version(binary)}, "
        f"{platform.machine()}, {os.cpu_count()} processors"
    )
    factory = ServerFactory()
    try:
        servers = factory.cluster(max(SIZES))
        measure_latency(servers, options.rounds)
        measure_bursts(servers[:SERVERS], options.bursts)
        measure_idling(servers[:SERVERS], options.seconds)
    finally:
        factory.stop()


if __name__ == "__main__":
    main()
