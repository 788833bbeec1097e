"""Every query of the dashboard, and of the alerts, in a real Prometheus that scrapes the exporter and a program."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.command_line import started_beanpool
from support.pools import pool_of
from support.prometheus import prometheus, promtool
from support.waiting import wait_until

if TYPE_CHECKING:
    from conftest import StartCluster

DOCS = Path(__file__).resolve().parents[3] / "docs"
DASHBOARD = json.loads((DOCS / "monitoring" / "dashboard.json").read_text(encoding="utf-8"))
ALERTS = DOCS / "monitoring" / "alerts.yml"


def queries() -> Iterator[tuple[str, str]]:
    """The panels' titles and queries."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def test_every_query_finds_data(cluster: StartCluster, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    from prometheus_client import CollectorRegistry

    from beanpool.cli.endpoints import serving
    from beanpool.cli.listen_address import ListenAddress
    from beanpool.cli.metrics import metrics_of
    from beanpool.contrib.prometheus import WorkerCollector, observe
    from beanpool.worker import Worker

    servers = cluster(2)
    registry = CollectorRegistry()
    with (
        pool_of(*servers, tube="mail", watch="mail") as pool,
        started_beanpool(
            *("-u", ",".join(server.url for server in servers), "exporter", "--listen", "127.0.0.1:0")
        ) as exporter,
        serving(ListenAddress("127.0.0.1", 0), {"/metrics": metrics_of(registry)}) as url,
    ):
        observe(pool, registry)
        worker = Worker(pool, threads=1, max_jobs=2)
        registry.register(WorkerCollector(worker))
        worker.add("mail", lambda job: job.touch())
        for number in range(6):
            pool.put(str(number))
        assert worker.run() == 0
        assert exporter.stdout is not None
        exported = exporter.stdout.readline().decode().strip()
        with prometheus(tmp_path, [exported.split("/")[2], url.split("/")[2]]) as server:
            empty = []
            for title, query in queries():
                # What Grafana puts in the place of its variables.
                plain = re.sub(r"\$(server|tube|pool)\b", ".*", query.replace("$__rate_interval", "1m"))
                assert "$" not in plain
                if not server.query(plain):
                    empty.append((title, plain))
            assert not empty
            (ready,) = server.query("sum(beanstalkd_tube_current_jobs_ready{tube='mail'})")
            assert ready["value"][1] == "4"
            rules = re.findall(r"^        expr: (.*)$", ALERTS.read_text(encoding="utf-8"), re.MULTILINE)
            assert len(rules) >= 8
            assert [rule for rule in rules if server.query(rule)] == []
            servers[0].kill()
            (down,) = wait_until(lambda: server.query(rules[0]), "the loss to be seen")
            assert down["metric"]["server"] == servers[0].address


def test_the_document_s_python_runs(cluster: StartCluster) -> None:
    for module in ("prometheus_client", "opentelemetry.sdk"):
        pytest.importorskip(module)
    names: dict[str, Any] = {"servers": "beanstalk://" + ",".join(server.address for server in cluster(2))}
    blocks = re.findall(
        r"^```py\n(.*?)^```", (DOCS / "monitoring.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) >= 3
    try:
        for block in blocks:
            exec(block, names)
    finally:
        names["pool"].close()


def test_the_rules_are_valid() -> None:
    told = promtool("check", "rules", str(ALERTS))
    assert told.returncode == 0, told.stdout + told.stderr


def test_the_document_lists_every_query() -> None:
    table = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    missing = [query for _, query in queries() if f"`{query}`" not in table]
    assert not missing


def test_panels_have_a_title_a_description_and_a_place() -> None:
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place: dict[str, Any] = panel["gridPos"]
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"]
        covered = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not covered & places
        assert place["x"] + place["w"] <= 24
        places |= covered
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
