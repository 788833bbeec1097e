"""``beanpool exporter``: the servers' own metrics, for Prometheus."""

from __future__ import annotations

import argparse
import threading

from beanpool.cli.endpoints import Answer, serving
from beanpool.cli.exits import Exit
from beanpool.cli.metrics import metrics_of, require_prometheus
from beanpool.cli.pool import open_pool
from beanpool.cli.terminal import say


def run(arguments: argparse.Namespace) -> int:
    """Serve metrics until the process is told to end."""
    require_prometheus("beanpool exporter")
    from prometheus_client import CollectorRegistry, ProcessCollector

    from beanpool.contrib.prometheus import ServerCollector

    with open_pool(arguments, name="exporter") as pool:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(
            ServerCollector(pool, arguments.tubes or ("*",), arguments.most, arguments.deadline, arguments.head_age)
        )
        endpoints = {"/metrics": metrics_of(registry), "/livez": lambda _: Answer(b"ok\n")}
        with serving(arguments.listen, endpoints) as url:
            say(f"{url}/metrics")
            threading.Event().wait()
    return Exit.OK
