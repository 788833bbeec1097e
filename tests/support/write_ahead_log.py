"""What beanstalkd does to its write-ahead log when it is killed while it compacts it.

``python -m support.write_ahead_log`` shows it on a server of its own, without beanpool's client: it kills it a hundred
times under load and counts. See :mod:`beanpool.testing.write_ahead_log` for the reason, and for what helps.
"""

from __future__ import annotations

import sys
import threading
import time

from beanpool.testing.raw_client import RawClient, UnexpectedReply
from support.servers import BeanstalkdServer


def _lose_jobs(kills: int, *, merging: bool) -> str:
    """Kill a server under load so many times; says how many of the acknowledged jobs it does not have at the end."""
    acknowledged: list[bytes] = []
    ended = threading.Event()

    def produce(name: int) -> None:
        number = 0
        while not ended.is_set():
            try:
                with RawClient(server.target, 1) as client:
                    while not ended.is_set():
                        number += 1
                        body = f"{name}-{number}.".encode().ljust(100, b"x")
                        client.put(body)
                        acknowledged.append(body)
            except (OSError, UnexpectedReply):
                time.sleep(0.001)

    with BeanstalkdServer(wal=True, merge_log=merging) as server:
        threads = [threading.Thread(target=produce, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(kills):
            before = len(acknowledged)
            while len(acknowledged) < before + 50:
                time.sleep(0.0005)
            server.restart()
        ended.set()
        for thread in threads:
            thread.join()
        stored = [job.body for job in server.control.drain_all()]
    lost = len(set(acknowledged) - set(stored))
    torn = sum(not body.strip(b"\0") for body in stored)
    return f"{kills} kills, {len(acknowledged)} acknowledged: {lost} lost, {torn} jobs with a body of zeros"


if __name__ == "__main__":
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    print("log as the server leaves it:", _lose_jobs(times, merging=False))
    print("log put together before each start:", _lose_jobs(times, merging=True))
