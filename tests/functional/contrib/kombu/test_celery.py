"""Celery's own command on real servers: what its users rely on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from conftest import StartCluster
from kombu.exceptions import ChannelError
from support.celery_workers import celery_project
from support.waiting import wait_until

from beanpool import PoolManager


@pytest.mark.long
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_does_what_its_users_rely_on(cluster: StartCluster, tmp_path: Path, pool: str) -> None:
    servers = cluster(3)
    # Results in memory are for the threads of one process.
    backend = f"db+sqlite:///{tmp_path}/results.db" if pool == "prefork" else "cache+memory://"
    with (
        celery_project(servers, tmp_path, backend) as project,
        PoolManager(project.url) as look,
        project.worker(pool) as worker,
    ):
        app = project.app
        app.send_task("work", ("plain",))
        app.send_task("follow", ("followed",))
        app.send_task("work", ("countdown",), countdown=1)
        app.send_task("work", ("tomorrow",), countdown=86_400)
        app.send_task("work", ("expired",), expires=-1)
        app.send_task("again", ("again",))
        app.send_task("reject", ("bad",))
        app.send_task("unknown", ("nobody knows it",))
        app.send_task("work", ("early",), acks_late=False)
        app.send_task("begin_chord", ("chord",))
        expected = {"plain", "followed", "countdown", "again", "rejected bad", "early", "chord 12"}
        if pool == "prefork":
            assert app.send_task("add", (1, 2)).get(timeout=60) == 3
        wait_until(lambda: expected <= set(project.book()), "all tasks", 60)
        wait_until(lambda: _jobs(look) == {"delayed": 1, "buried": 2}, "what is left", 30)
        stats = look.stats_tube("celery")
        project.app.send_task("work", ("last", 0.5))
        wait_until(lambda: "reserved" in _jobs(look) or "last" in project.book(), "the last one to begin", 30)
        # A warm shutdown ends what has begun.
        worker.send_signal(signal.SIGTERM)

        assert worker.wait(60) == 0
        assert project.book() == dict.fromkeys(expected | {"last"}, 1)
        assert _jobs(look) == {"delayed": 1, "buried": 2}
        # One wait for each server, whatever waits for its ETA.
        assert stats["current-waiting"] <= 3


def _jobs(pool: PoolManager[str]) -> dict[str, int]:
    stats = pool.stats_tube("celery")
    states = ("ready", "reserved", "delayed", "buried")
    return {state: stats[f"current-jobs-{state}"] for state in states if stats[f"current-jobs-{state}"]}


def test_remote_control_is_refused_with_the_reason(cluster: StartCluster, tmp_path: Path) -> None:
    with celery_project(cluster(1), tmp_path, "cache+memory://") as project:
        for ask in (project.app.control.inspect().ping, lambda: project.app.control.revoke("one")):
            with pytest.raises(ChannelError, match="no exchange of type fanout"):
                ask()
