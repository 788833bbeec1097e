"""What the doctor finds: judged on facts that are made up, and on real servers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest
from support.command_line import call_beanpool
from support.looks import HEALTHY, TUBE, status
from support.waiting import wait_until

from beanpool import Connection
from beanpool.cli.doctor.findings import Facts, Level, findings
from beanpool.cli.look import Look

if TYPE_CHECKING:
    from conftest import StartCluster


def facts(
    *,
    stats: Mapping[str, Any] | None = None,
    tubes: Mapping[str, Any] | None = None,
    ages: Mapping[str, float] | None = None,
    status_changes: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Facts:
    own = {
        "q1": {**HEALTHY, "id": "a", **(stats or {})},
        "q2": {**HEALTHY, "id": "b"},
    }
    errors = changes.pop("errors", {})
    servers = (status("q1", **(status_changes or {})), status("q2"))
    answered = {server: one for server, one in own.items() if server not in errors}
    seen = Look(0.0, servers, answered, errors, tubes or {}, ages or {})
    return Facts(seen, **{"probes": {}, "old": 600.0, "descriptors": 1024, "max_connections": 32, **changes})


def test_where_all_is_well_it_says_so() -> None:
    [finding] = findings(facts(tubes={"mail": {"q1": TUBE}}))
    assert (finding.level, finding.text) == (Level.OK, "2 servers answer, 1 tubes are worked off")


@pytest.mark.parametrize(
    ("made_up", "level", "about", "words"),
    [
        ({"errors": {"q2": "timed out"}}, Level.SILENT, "q2", "timed out"),
        ({"probes": {"q1": "OUT_OF_MEMORY"}}, Level.PROBLEM, "q1", "OUT_OF_MEMORY"),
        ({"stats": {"id": "b"}}, Level.PROBLEM, "q1", "same process as q2"),
        ({"stats": {"max-job-size": 10}}, Level.PROBLEM, "servers", "max-job-size: q1 10, q2 65535"),
        ({"stats": {"draining": True}}, Level.NOTE, "q1", "draining"),
        ({"stats": {"draining": "true"}}, Level.NOTE, "q1", "draining"),
        ({"stats": {"binlog-current-index": 0}}, Level.NOTE, "q1", "keeps no log"),
        ({"stats": {"version": "1.10"}}, Level.NOTE, "q1", "no reserve-job"),
        ({"stats": {"version": "1.12+3.gabc"}}, Level.NOTE, "servers", "differ in version"),
        ({"stats": {"current-connections": 900}}, Level.NOTE, "q1", "900 connections"),
        ({"stats": {"job-timeouts": 10}}, Level.NOTE, "q1", "10 of 1,000 jobs ran out"),
        ({"status_changes": {"weight": 0.0}}, Level.NOTE, "q1", "weight 0"),
        ({"status_changes": {"round_trip": 0.3}}, Level.NOTE, "q1", "0.300s to answer"),
        ({"descriptors": 50}, Level.NOTE, "this machine", "64"),
        (
            {"tubes": {"mail": {"q1": {**TUBE, "current-jobs-ready": 1200, "current-watching": 0}}}},
            *(Level.PROBLEM, "tube mail", "1,200 ready jobs, and nobody watches it"),
        ),
        (
            {
                "tubes": {"mail": {"q1": {**TUBE, "current-jobs-ready": 3, "current-watching": 0}, "q2": TUBE}},
                "ages": {"mail": 61.0},
            },
            *(Level.PROBLEM, "tube mail", "3 ready jobs on q1, where no worker watches it"),
        ),
        (
            {"tubes": {"mail": {"q1": {**TUBE, "current-jobs-ready": 1}}}, "ages": {"mail": 7300.0}},
            *(Level.PROBLEM, "tube mail", "put 2h 1m ago"),
        ),
        ({"tubes": {"mail": {"q1": {**TUBE, "pause-time-left": 90}}}}, Level.NOTE, "tube mail", "1m 30s more"),
        ({"tubes": {"mail": {"q1": {**TUBE, "current-jobs-buried": 2}}}}, Level.NOTE, "tube mail", "2 buried jobs"),
    ],
)
def test_what_is_wrong_is_found(made_up: dict[str, Any], level: Level, about: str, words: str) -> None:
    found = findings(facts(**made_up))
    assert [finding.level for finding in found] == sorted((finding.level for finding in found), reverse=True)
    [finding] = [finding for finding in found if finding.about == about and words in finding.text]
    assert finding.level == level


@pytest.mark.parametrize(
    "made_up",
    [
        # Its workers have them in hand, one each, and watch nothing else meanwhile.
        {"q1": {**TUBE, "current-jobs-ready": 1, "current-jobs-reserved": 1, "current-watching": 0}},
        {"q1": {**TUBE, "current-jobs-ready": 1}},
        # They ask the servers in turns.
        {"q1": {**TUBE, "current-jobs-ready": 1, "current-watching": 0}, "q2": TUBE},
    ],
)
def test_a_tube_that_is_worked_off_is_no_problem(made_up: dict[str, Any]) -> None:
    assert findings(facts(tubes={"mail": made_up}, ages={"mail": 5.0}))[0].level == Level.OK


def test_it_finds_jobs_that_nobody_watches_and_a_server_that_workers_do_not_know(cluster: StartCluster) -> None:
    servers = cluster(2)
    url = "beanstalk://" + ",".join(server.address for server in servers)
    for server in servers:
        server.control.put(b"x", "mail")
    with Connection.from_url(servers[0].url) as worker:
        worker.watch("mail")
        wait_until(lambda: call_beanpool("-u", url, "doctor", "--old", "1").returncode == 1, "the jobs to be old")
        done = call_beanpool("-u", url, "--json", "doctor", "--probe", "--old", "1")
    assert done.returncode == 1
    records = [json.loads(line) for line in done.stdout.splitlines()]
    texts = [record["text"] for record in records if record["level"] == "problem" and record["about"] == "tube mail"]
    assert f"1 ready jobs on {servers[1].address}, where no worker watches it" in texts
    for server in servers:
        assert server.control.counter("current-jobs-ready") == 1
