"""Whether a worker is well, over HTTP: ``/livez``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from beanpool.cli.endpoints import Answer, Endpoint, serving
from beanpool.cli.listen_address import ListenAddress
from beanpool.cli.metrics import has_prometheus, metrics_of
from beanpool.worker import Worker


@contextlib.contextmanager
def watched(worker: Worker, address: ListenAddress | None) -> Iterator[None]:
    """Answer for the worker while the block runs, if there is an address to listen on."""
    if address is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        endpoints: dict[str, Endpoint] = {
            "/livez": lambda _: _live(worker),
            "/readyz": lambda _: _ready(worker),
            "/metrics": _metrics(worker, stack) if has_prometheus() else _no_metrics,
        }
        stack.enter_context(serving(address, endpoints))
        yield


def _live(worker: Worker) -> Answer:
    if worker.stuck:
        return Answer(b"no thread can take a job: all handlers run on beyond their time limits\n", 503)
    return Answer(b"ok\n")


def _ready(worker: Worker) -> Answer:
    if worker.stopping:
        return Answer(b"the worker takes no jobs\n", 503)
    if not worker.pool.healthy():
        return Answer(b"no server answers\n", 503)
    return Answer(b"ok\n")


def _metrics(worker: Worker, stack: contextlib.ExitStack) -> Endpoint:
    from prometheus_client import REGISTRY

    from beanpool.contrib.prometheus import WorkerCollector, observe

    # The program's own registry: what handlers measure is there, too.
    collector = WorkerCollector(worker)
    REGISTRY.register(collector)
    stack.callback(REGISTRY.unregister, collector)
    stack.callback(observe(worker.pool).close)
    return metrics_of(REGISTRY)


def _no_metrics(_: str) -> Answer:
    return Answer(b"There are no metrics without prometheus_client: pip install 'beanpool[prometheus]'\n", 404)
