"""Metrics for Prometheus: those of servers, asked when they are scraped, and those of pools and workers."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest
from support.pools import pool_of, pool_with_jobs_in_hand, unprobed
from support.prometheus import check_metrics
from support.waiting import wait_until, within

from beanpool import JobLost, PoolManager

pytest.importorskip("prometheus_client")
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from beanpool.contrib.prometheus import PoolCollector, ServerCollector, WorkerCollector, observe

if TYPE_CHECKING:
    from conftest import StartCluster

SHORT = 1.0


def registry_of(*collectors: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return registry


def values(registry: CollectorRegistry, name: str, label: str) -> dict[str, float]:
    """The samples of a metric, by one of their labels."""
    found: dict[str, float] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            if sample.name == name:
                found[sample.labels[label]] = sample.value
    return found


def check_format(registry: CollectorRegistry) -> None:
    check_metrics(generate_latest(registry))


class TestServers:
    def test_metrics_are_what_the_servers_say(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        with unprobed(a, b) as pool:
            registry = registry_of(ServerCollector(pool))
            for server, tube in ((a, "mail"), (a, "mail"), (b, "mail"), (b, "other")):
                server.control.put(b"job", tube)
            b.control.put(b"later", "mail", delay=60)
            pool.pause_tube("other", 60)
            up = values(registry, "beanstalkd_up", "server")
            assert up == {a.address: 1, b.address: 1}
            assert values(registry, "beanstalkd_scrape_complete", "server") == up
            assert values(registry, "beanstalkd_current_jobs_ready", "server") == {a.address: 2, b.address: 2}
            assert values(registry, "beanstalkd_current_jobs_delayed", "server") == {a.address: 0, b.address: 1}
            assert values(registry, "beanstalkd_jobs_total", "server") == {a.address: 2, b.address: 3}
            assert values(registry, "beanstalkd_max_job_size_bytes", "server") == {a.address: 65535, b.address: 65535}
            assert values(registry, "beanstalkd_tubes_left_out", "server") == {a.address: 0, b.address: 0}
            assert set(values(registry, "beanstalkd_info", "id")) == {s.control.stats()["id"] for s in (a, b)}
            # Of both servers under one label: the last one is b.
            assert values(registry, "beanstalkd_tube_current_jobs_ready", "tube") == {
                "default": 0,
                "mail": 1,
                "other": 1,
            }
            left = values(registry, "beanstalkd_tube_pause_time_left_seconds", "tube")["other"]
            assert 50 < left <= 60
            wait_until(
                lambda: values(registry, "beanstalkd_tube_head_age_seconds", "tube").get("mail", 0) >= 1, "it to age"
            )
            check_format(registry)

    def test_tubes_beyond_the_limit_are_counted(self, cluster: StartCluster) -> None:
        (a,) = cluster(1)
        for number in range(5):
            a.control.put(b"job", f"tube-{number}")
        with unprobed(a) as pool:
            registry = registry_of(ServerCollector(pool, ["tube-*"], most=2, head_age=False))
            found = values(registry, "beanstalkd_tube_current_jobs_ready", "tube")
            assert list(found) == ["tube-0", "tube-1"]
            assert values(registry, "beanstalkd_tubes_left_out", "server") == {a.address: 3}
            assert not values(registry, "beanstalkd_tube_head_age_seconds", "tube")

    def test_a_frozen_server_costs_the_deadline_and_is_not_up(self, cluster: StartCluster) -> None:
        a, b, c = cluster(3)
        with unprobed(a, b, c) as pool:
            a.control.put(b"job", "mail")
            pool.ping()
            registry = registry_of(ServerCollector(pool, deadline=SHORT))
            b.freeze()
            c.kill()
            with within(SHORT):
                metrics = {metric.name: metric for metric in registry.collect()}
            b.thaw()
            up = {sample.labels["server"]: sample.value for sample in metrics["beanstalkd_up"].samples}
            assert up == {a.address: 1, b.address: 0, c.address: 0}
            # The one that lives is told of in full.
            assert [sample.labels["tube"] for sample in metrics["beanstalkd_tube_head_age_seconds"].samples] == ["mail"]

    def test_a_collector_is_registered_without_asking_and_of_a_closed_pool_is_empty(self) -> None:
        pool = PoolManager("127.0.0.1:1")
        registry = registry_of(ServerCollector(pool))
        assert pool.get_stats()["requests_num"] == 0
        with pytest.raises(ValueError, match="beanstalkd_up"):
            registry.register(ServerCollector(pool))
        pool.close()
        assert list(registry.collect()) == []

    def test_many_tubes_take_one_look(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with unprobed(*servers) as pool:
            for server in servers:
                with pool.connection(server.address) as connection, connection.pipeline() as pipe:
                    for number in range(200):
                        pipe.use(f"tube-{number}")
                        pipe.put("x")
            registry = registry_of(ServerCollector(pool, most=300))
            began, asked = time.process_time(), pool.get_stats()["requests_num"]
            text = generate_latest(registry)
            took = time.process_time() - began
            assert text.count(b"\nbeanstalkd_tube_head_age_seconds{") == 600
            # One connection to each server; a look at each tube would take thousands of these.
            assert pool.get_stats()["requests_num"] - asked <= 2 * len(servers)
            assert took < 2


class TestPools:
    def test_metrics_are_the_pool_s_counters(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        with pool_with_jobs_in_hand(a, b, name="orders") as pool:
            registry = registry_of(PoolCollector(pool))
            pool.put_many(["x"] * 10)
            jobs = pool.reserve_many(4)
            for job in jobs[:3]:
                job.delete()
            stats, by_server = pool.get_stats(), pool.get_stats_by_server()
            for metric, name in {
                "beanpool_jobs_put_total": "puts",
                "beanpool_jobs_reserved_total": "reserved",
                "beanpool_jobs_deleted_total": "deleted",
                "beanpool_jobs_in_hand": "in_hand",
                "beanpool_connections_max": "pool_max",
            }.items():
                found = values(registry, metric, "server")
                assert found == {server: counts[name] for server, counts in by_server.items()}
                assert sum(found.values()) == stats[name]
            assert values(registry, "beanpool_put_errors_total", "pool") == {"orders": 0}
            assert values(registry, "beanpool_server_state", "state") == {"up": 1, "suspect": 0, "down": 0}
            check_format(registry)

    def test_a_server_that_is_down_and_a_lost_job_show(self, cluster: StartCluster) -> None:
        (a,) = cluster(1)
        with pool_of(a) as pool:
            registry = registry_of(PoolCollector(pool))
            pool.put("x")
            job = pool.reserve(1)
            assert job is not None
            a.kill()
            with pytest.raises(JobLost):
                job.touch()
            wait_until(lambda: values(registry, "beanpool_server_state", "state")["down"] == 1, "it to be down")
            assert values(registry, "beanpool_jobs_lost_total", "pool") == {pool.name: 1}
            assert values(registry, "beanpool_outages_total", "pool") == {pool.name: 1}

    def test_pools_come_and_go(self) -> None:
        first, second = PoolManager("127.0.0.1:1", name="first"), PoolManager("127.0.0.1:1", name="second")
        collector = PoolCollector(first)
        registry = registry_of(collector)
        collector.add(second)
        assert set(values(registry, "beanpool_put_errors_total", "pool")) == {"first", "second"}
        collector.remove(first)
        assert set(values(registry, "beanpool_put_errors_total", "pool")) == {"second"}
        del second
        gc.collect()
        assert list(registry.collect()) == []


class TestObserve:
    def test_what_a_pool_does_is_measured(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        registry = CollectorRegistry()
        with unprobed(a, b, tube="mail", watch="mail") as pool:
            observe(pool, registry)
            pool.put_many(["xyz"] * 10)
            job = pool.reserve(1)
            assert job is not None
            job.touch()
            job.release()
            jobs = pool.reserve_many(5, 1)
            assert pool.delete_many(jobs) == [None] * 5
            assert values(registry, "beanpool_tube_jobs_put_total", "tube") == {"mail": 10}
            assert values(registry, "beanpool_tube_bytes_put_total", "outcome") == {"stored": 30}
            assert values(registry, "beanpool_tube_jobs_reserved_total", "tube") == {"mail": 6}
            assert values(registry, "beanpool_tube_jobs_finished_total", "how") == {"released": 1, "deleted": 5}
            # A batch is one for each server.
            assert sum(values(registry, "beanpool_put_duration_seconds_count", "server").values()) == 2
            assert values(registry, "beanpool_touch_duration_seconds_count", "outcome") == {"ok": 1}
            assert sum(values(registry, "beanpool_connect_duration_seconds_count", "server").values()) >= 2
            # The counters are there, too.
            assert sum(values(registry, "beanpool_jobs_put_total", "server").values()) == 10
            check_format(registry)

    def test_it_is_observed_once_and_no_more_after_the_end(self, cluster: StartCluster) -> None:
        (a,) = cluster(1)
        registry = CollectorRegistry()
        with unprobed(a, name="p") as pool, unprobed(a, name="q") as other:
            observer = observe(pool, registry)
            assert observe(pool, registry) is observer
            assert observe(other, registry) is not observer
            pool.put("x")
            other.put("x")
            assert values(registry, "beanpool_tube_jobs_put_total", "pool") == {"p": 1, "q": 1}
            observer.close()
            observer.close()
            pool.put("x")
            assert values(registry, "beanpool_tube_jobs_put_total", "pool") == {"p": 1, "q": 1}
            assert set(values(registry, "beanpool_put_errors_total", "pool")) == {"q"}
            assert observe(pool, registry) is not observer
            pool.put("x")
            assert values(registry, "beanpool_tube_jobs_put_total", "pool") == {"p": 2, "q": 1}

    def test_tubes_beyond_the_limit_share_a_label(self, cluster: StartCluster) -> None:
        (a,) = cluster(1)
        registry = CollectorRegistry()
        with pool_with_jobs_in_hand(a) as pool:
            observe(pool, registry, most_tubes=2)
            for tube in ("a", "b", "c", "d", "a"):
                pool.put("x", tube=tube)
            assert values(registry, "beanpool_tube_jobs_put_total", "tube") == {"a": 2, "b": 1, "*": 2}
            # Where it is not known which tube a job is of.
            assert pool.reserve_many(1, 1, tubes=["a", "b"])
            assert values(registry, "beanpool_tube_jobs_reserved_total", "tube") == {"": 1}


def test_a_worker_s_counters() -> None:
    class Counts:
        def get_stats(self) -> dict[str, int]:
            names: Iterable[str] = ("taken", "done", "failed", "retried", "buried", "lost", "given_back")
            return {name: number for number, name in enumerate(names)}

    registry = registry_of(WorkerCollector(Counts()))
    found: dict[str, Any] = {metric.name: metric.samples[0].value for metric in registry.collect()}
    assert found["beanpool_worker_jobs_done"] == 1
    assert found["beanpool_worker_handler_errors"] == 2
    assert len(found) == 7
    check_format(registry)
