"""dramatiq with beanstalkd as its broker, next to Redis."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Bench
from benchmarks.brokers import THREADS, Application, compare
from benchmarks.result import Result

MESSAGES = 2000
ROUNDS = 8


def messages(bench: Bench) -> Result:
    """Empty actors, 8 threads in one process: all of the time is dramatiq's, the broker's and the servers'."""
    title = "dramatiq: messages sent, and worked on"
    return compare(bench, title, "dramatiq", "messages", ROUNDS, MESSAGES, _Application)


def _broker(url: str) -> Any:
    if url.startswith("beanstalk"):
        from beanpool.contrib.dramatiq import BeanpoolBroker

        return BeanpoolBroker(url)
    from dramatiq.brokers.redis import RedisBroker

    return RedisBroker(url=url)


class _Application(Application):
    def __init__(self, name: str, url: str) -> None:
        super().__init__()
        self._url = url
        self._worker: Any = None
        self._open()

    def _open(self) -> None:
        import dramatiq

        # A new one for each worker: a worker adds a middleware that nothing takes away.
        self.broker = _broker(self._url)
        self._actor = dramatiq.actor(broker=self.broker, actor_name="work")(self._work)

    def _work(self, number: int) -> None:
        self.one_done()

    def send(self, count: int) -> None:
        for number in range(count):
            self._actor.send(number)

    def prepare(self, count: int) -> None:
        self.send(count)

    def work(self, count: int) -> None:
        import dramatiq

        self.expect(count)
        self._worker = dramatiq.Worker(self.broker, worker_threads=THREADS, worker_timeout=50)
        self._worker.start()
        self.await_all()

    def stop(self, count: int) -> None:
        self._worker.stop()
        self.close()
        self._open()

    def empty(self, count: int) -> None:
        self.broker.flush_all()

    def close(self) -> None:
        self.broker.flush_all()
        self.broker.close()
