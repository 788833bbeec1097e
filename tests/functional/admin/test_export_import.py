"""Jobs as lines of JSON: out, and in again."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING

import pytest
from support.command_line import call_beanpool
from support.scripted import Answer, answering, stats_reply
from support.servers import BeanstalkdServer, ServerFactory
from support.tubes import FAR, count_in, fill, jobs_in, put_in

from beanpool import JobTooBig, NoServerAvailable, PoolManager, Put, PutAmbiguous
from beanpool.admin import Progress, export_jobs, import_jobs, jobs, total

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted


def test_jobs_go_into_a_file_and_come_out_of_it_as_they_were(cluster: StartCluster) -> None:
    old, new = cluster(2), cluster(2)
    for server in old:
        fill(server, "a", ready=300, delayed=3, buried=2)
        put_in(server.control, "b", "ready", b"\xff\n" + server.address.encode(), 5)
    before = {tube: jobs_in(old, tube) for tube in "ab"}
    file = io.StringIO()
    with PoolManager([server.url for server in old]) as pool:
        assert [outcome.done for outcome in export_jobs(pool, file).values()] == [306, 306]
    assert {tube: jobs_in(old, tube) for tube in "ab"} == before
    file.seek(0)
    with PoolManager([server.url for server in new]) as pool:
        outcomes = import_jobs(pool, file)
        assert sum(outcome.done for outcome in outcomes.values()) == 612
        assert total(outcomes).error is None
        assert {tube: jobs_in(new, tube) for tube in "ab"} == before
        assert FAR - 60 < min(job.delay for job in jobs(pool, "a", "delayed")) <= FAR
    assert {server.address: count_in([server], "a") + count_in([server], "b") for server in new} == {
        address: outcome.done for address, outcome in outcomes.items()
    }


def test_jobs_of_one_priority_stay_in_their_order(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager(beanstalkd.url) as pool:
        pool.put_many([b"%d" % number for number in range(1200)], tube="a")
        file = io.StringIO()
        export_jobs(pool, file, "a")
        file.seek(0)
        assert total(import_jobs(pool, file, "b")).done == 1200
        assert [job.data for job in pool.reserve_many(1200, 0, tubes="b")] == [b"%d" % n for n in range(1200)]


def test_what_take_writes_is_taken_and_a_tube_can_be_another(beanstalkd: BeanstalkdServer) -> None:
    beanstalkd.control.put("grüße".encode(), "a")
    beanstalkd.control.put(b"\xff", "a")
    taken = call_beanpool("-u", beanstalkd.url, "take", "a", "--max", "9", "--json")
    with PoolManager(beanstalkd.url) as pool:
        assert total(import_jobs(pool, taken.stdout.splitlines(keepends=True))).done == 2
        assert total(import_jobs(pool, [*taken.stdout.splitlines(), b"", b'{"body": "x"}'], "c", key="k")).done == 3
    assert set(jobs_in([beanstalkd], "a")) == {"grüße".encode(), b"\xff"}
    assert count_in([beanstalkd], "c", ["ready"]) == 3


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ('{"tube": "a"}', "needs a body"),
        ('{"tube": "a", "body": "x", "body_base64": "eA=="}', "needs a body"),
        ('{"tube": "a", "body_base64": "?"}', "no Base64"),
        ('{"tube": "a", "body": "\\ud800"}', "UTF-8"),
        ('{"body": "x"}', "names no tube"),
        ('{"tube": 5, "body": "x"}', "tube is no text"),
        ('{"tube": "a b", "body": "x"}', "tube"),
        ('{"tube": "a", "body": "x", "priority": -1}', "priority"),
        ('{"tube": "a", "body": "x", "delay": "5"}', "delay"),
        ('{"tube": "a", "body": "x", "ttr": null}', "ttr"),
    ],
)
def test_a_line_that_is_no_job_is_named_and_those_before_it_are_put(
    beanstalkd: BeanstalkdServer, line: str, why: str
) -> None:
    good = '{"tube": "a", "body": "secret"}'
    with PoolManager(beanstalkd.url) as pool:
        with pytest.raises(ValueError, match=f"line 3 .*{re.escape(why)}") as caught:
            import_jobs(pool, [good, good, line, good])
        assert "secret" not in str(caught.value)
        done: int = total(caught.value.outcomes).done  # type: ignore[attr-defined]  # It is given to it.
    assert done == count_in([beanstalkd], "a") == 2


def test_lines_that_no_server_takes_are_handed_back(beanstalkd_factory: ServerFactory) -> None:
    server = beanstalkd_factory(max_job_size=10)
    small, large = '{"tube": "a", "body": "x"}', '{"tube": "a", "body": "more than that"}'
    rejected: list[str | bytes] = []
    with PoolManager(server.url, connect_timeout=0.3) as pool:
        outcomes = import_jobs(pool, [small, large, small], rejected=rejected.append)
        assert rejected == [large]
        assert (outcomes[server.address].done, outcomes[""].skipped) == (2, 1)
        assert isinstance(outcomes[""].error, JobTooBig)
        server.kill()
        rejected.clear()
        # It ends with the first portion.
        outcomes = import_jobs(pool, [small] * 1500, timeout=0.3, rejected=rejected.append)
    assert isinstance(outcomes[""].error, NoServerAvailable)
    assert rejected == [small] * 1000


def test_a_stop_and_progress(beanstalkd: BeanstalkdServer) -> None:
    line = '{"tube": "a", "body": "x"}'
    seen: list[Progress] = []
    with PoolManager(beanstalkd.url) as pool:
        outcome = total(import_jobs(pool, [line] * 2500, progress=seen.append, stop=lambda: len(seen) == 2))
    assert outcome.done == 2000
    assert [news.handled for news in seen] == [1000, 2000]


def test_a_full_disk_says_what_was_written(beanstalkd: BeanstalkdServer) -> None:
    fill(beanstalkd, "a", ready=5)
    written: list[str] = []

    class Full:
        def write(self, text: str) -> None:
            if len(written) == 3:
                raise OSError("no space left")
            written.append(text)

    with PoolManager(beanstalkd.url) as pool:
        with pytest.raises(OSError, match="no space") as caught:
            export_jobs(pool, Full(), "a")
        assert pool.servers[0].leased == 0
    outcomes = caught.value.outcomes  # type: ignore[attr-defined]  # It is given to it.
    assert total(outcomes).done == 4
    assert {json.loads(text)["tube"] for text in written} == {"a"}


def test_what_cannot_be_buried_is_not_left_behind(scripted_server: StartScripted) -> None:
    deleted: list[bytes] = []

    def delete(_: object, line: bytes, __: object) -> bytes:
        deleted.append(line)
        return b"DELETED\r\n"

    # One that is older than reserve-job.
    answers: dict[str, Answer] = {
        "stats": stats_reply(),
        "use": lambda _, line, __: b"USING %s\r\n" % line.split()[1],
        "put": b"INSERTED 7\r\n",
        "bury": b"NOT_FOUND\r\n",
        "delete": delete,
    }
    server = scripted_server(default=answering(answers))
    line = '{"tube": "a", "body": "x", "state": "buried"}'
    rejected: list[str | bytes] = []
    with PoolManager(server.url, health_interval=60) as pool:
        outcomes = import_jobs(pool, [line], rejected=rejected.append)
    assert (outcomes[server.address].done, outcomes[""].skipped, outcomes[""].duplicates) == (0, 1, 0)
    assert "UNKNOWN_COMMAND" in str(outcomes[""].error)
    assert deleted == [b"delete 7"]
    assert rejected == [line]


def test_an_interrupted_import_says_what_is_there(
    beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ['{"tube": "a", "body": "x"}', '{"tube": "a", "body": "x", "state": "buried"}'] * 10
    with PoolManager(beanstalkd.url) as pool:

        def put_part(items: list[Put], *, timeout: float | None) -> list[object]:
            error = KeyboardInterrupt()
            error.outcomes = [  # type: ignore[attr-defined]  # As put_many() does.
                *PoolManager.put_many(pool, items[:6], timeout=timeout),
                PutAmbiguous("on its way"),
            ]
            raise error

        monkeypatch.setattr(pool, "put_many", put_part)
        rejected: list[str | bytes] = []
        with pytest.raises(KeyboardInterrupt) as caught:
            import_jobs(pool, lines, rejected=rejected.append)
    outcomes = caught.value.outcomes  # type: ignore[attr-defined]  # It is given to it.
    assert outcomes[beanstalkd.address].done == 6
    assert (outcomes[""].skipped, outcomes[""].duplicates) == (1, 1)
    assert rejected == lines[6:7]
    assert [count_in([beanstalkd], "a", [state]) for state in ("ready", "buried")] == [3, 3]
