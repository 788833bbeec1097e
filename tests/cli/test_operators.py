"""The commands that operate a cluster: what each does, on real servers."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.command_line import call_beanpool, started_beanpool
from support.servers import BeanstalkdServer
from support.waiting import wait_until, within

from beanpool import Connection
from beanpool.cli import consent

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine


def urls(*servers: BeanstalkdServer) -> str:
    return "beanstalk://" + ",".join(server.address for server in servers)


def jobs_in(server: BeanstalkdServer, tube: str, state: str = "ready") -> int:
    return server.control.counter(f"current-jobs-{state}", tube)


def buried_jobs(server: BeanstalkdServer, tube: str, number: int) -> None:
    with Connection.from_url(server.url) as connection:
        connection.use(tube)
        connection.watch(tube)
        for _ in range(number):
            connection.put("x")
            job = connection.reserve(0)
            assert job is not None
            job.bury()


def lines(done: subprocess.CompletedProcess[bytes]) -> list[Any]:
    return [json.loads(line) for line in done.stdout.splitlines()]


# what all have in common: see also test_every_command.py


@pytest.mark.parametrize(
    "arguments",
    [
        ["peek"],
        ["peek", "not a tube"],
        ["peek", "mail", "--state", "gone"],
        ["job", "q1"],
        ["job", "q1/0"],
        ["job", "nobody:1/7"],
        ["kick"],
        ["kick", "mail", "--job", "1"],
        ["kick", "mail", "--state", "ready"],
        ["kick", "mail", "--max", "-1"],
        ["delete", "1", "x", "-y"],
        ["clear", "mail\r\n", "-y"],
        ["clear", "mail"],
        ["move", "mail", "mail", "-y"],
        ["move", "mail", "post"],
        ["evacuate", "nobody:1", "-y"],
        ["pause", "mail", "5 minutes"],
        ["pause", "mail", "0.5"],
        ["pause", "mail", "-1"],
        ["find", "("],
        ["import", "/nonexistent"],
        ["completion", "tcsh"],
        ["top", "--interval", "0"],
        ["doctor", "--old", "inf"],
    ],
)
def test_wrong_arguments_exit_with_2_and_change_nothing(beanstalkd: BeanstalkdServer, arguments: list[str]) -> None:
    beanstalkd.control.put(b"x", "mail")
    done = call_beanpool("-u", beanstalkd.url, *arguments)
    assert (done.returncode, done.stdout) == (2, b""), done
    assert done.stderr.startswith((b"usage: ", b"beanpool: "))
    assert jobs_in(beanstalkd, "mail") == 1


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 0), ("Yes", 0, 0), ("n", 1, 1), ("", 1, 1)])
def test_it_asks_on_a_terminal_before_jobs_are_deleted(
    beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int
) -> None:
    beanstalkd.control.put(b"x", "mail")
    monkeypatch.setattr(consent, "is_terminal", lambda stream: True)
    done = call_beanpool("-u", beanstalkd.url, "clear", "mail", stdin=f"{answer}\n".encode())
    assert done.returncode == code
    assert b"Delete 1 jobs (1 ready) of tube mail? [y/N]" in done.stderr
    assert jobs_in(beanstalkd, "mail") == left


# jobs that are looked at


def test_peek_shows_the_next_job_of_each_state_and_takes_none(cluster: StartCluster) -> None:
    servers = cluster(2)
    for server in servers:
        server.control.put(b"later", "mail", priority=9)
        server.control.put(b"first", "mail", priority=1)
        server.control.put(b"delayed", "mail", delay=300)
    done = call_beanpool("-u", urls(*servers), "peek", "mail", "--json")
    assert done.returncode == 0
    seen = [(record["server"], record["state"], record["body"]) for record in lines(done)]
    assert seen == [
        (s.address, state, body) for s in servers for state, body in (("ready", "first"), ("delayed", "delayed"))
    ]
    table = call_beanpool("-u", urls(*servers), "peek", "mail", "--state", "ready").stdout.decode()
    assert "later" not in table
    assert table.count("first") == 2
    assert jobs_in(servers[0], "mail") == 2
    bodies = call_beanpool("-u", urls(*servers), "peek", "mail", "--max", "9", "--body").stdout.split()
    assert sorted(bodies) == sorted([b"later", b"first", b"delayed"] * 2)
    assert call_beanpool("-u", urls(*servers), "peek", "nothing").returncode == 1


def test_job_shows_what_peek_and_find_have_found(cluster: StartCluster) -> None:
    servers = cluster(2)
    servers[0].control.put(b"\xff not the one", "mail")
    jid = servers[1].control.put(b'{"user": 42}', "post", priority=7)
    [found] = lines(call_beanpool("-u", urls(*servers), "find", '"user": 4', "--json"))
    assert found["job"] == f"{servers[1].address}/{jid}"
    shown = call_beanpool("-u", urls(*servers), "job", found["job"])
    assert shown.returncode == 0
    assert shown.stdout.endswith(b'\n\n{"user": 42}\n')
    [record] = lines(call_beanpool("-u", urls(*servers), "job", found["job"], "--json"))
    assert (record["pri"], record["tube"], record["body"]) == (7, "post", '{"user": 42}')
    absent = call_beanpool("-u", urls(*servers), "job", f"{servers[0].address}/{jid + 100}")
    assert (absent.returncode, absent.stdout) == (1, b"")
    # An id alone could be a job of either.
    assert call_beanpool("-u", urls(*servers), "job", str(jid)).returncode == 2


def test_delete_says_of_each_job_what_became_of_it(cluster: StartCluster) -> None:
    servers = cluster(2)
    ids = [server.control.put(b"x", "mail") for server in servers for _ in range(2)]
    names = [f"{servers[number // 2].address}/{jid}" for number, jid in enumerate(ids)]
    done = call_beanpool("-u", urls(*servers), "delete", "-y", names[0], "-", stdin=f"{names[2]}\n\n".encode())
    assert (done.returncode, done.stdout.decode()) == (0, f"{names[0]} deleted\n{names[2]} deleted\n")
    assert [jobs_in(server, "mail") for server in servers] == [1, 1]
    again = call_beanpool("-u", urls(*servers), "delete", "-y", "--json", names[0], names[1])
    assert again.returncode == 1
    assert [record["deleted"] for record in lines(again)] == [False, True]


def test_what_is_named_one_by_one_takes_few_round_trips(
    beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
) -> None:
    far = delay_line(beanstalkd, 0.1)
    ids = [beanstalkd.control.put(b"x", f"tube-{number}") for number in range(80)]
    url = f"beanstalk://{far.address}"
    # For each by itself they would take eight seconds.
    with within(5, "a command"):
        tubes = call_beanpool("-u", url, "tubes", "tube-*", "--json")
    assert len(lines(tubes)[0]["tubes"]) == 80
    with within(5, "a command"):
        done = call_beanpool("-u", url, "delete", "-y", *(f"{far.address}/{jid}" for jid in ids))
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 80)


# many jobs


def test_kick_takes_buried_jobs_or_those_that_are_named(cluster: StartCluster) -> None:
    servers = cluster(2)
    for server in servers:
        buried_jobs(server, "mail", 3)
    named = f"{servers[0].address}/1"
    assert call_beanpool("-u", urls(*servers), "kick", "--job", named).stdout.decode() == f"{named} kicked\n"
    done = call_beanpool("-u", urls(*servers), "kick", "mail", "--max", "4", "--json")
    assert lines(done)[0]["total"]["done"] == 4
    assert sum(jobs_in(server, "mail", "buried") for server in servers) == 1


def test_move_and_clear_take_the_states_that_are_named(cluster: StartCluster) -> None:
    servers = cluster(2)
    for server in servers:
        server.control.put(b"x", "mail")
        server.control.put(b"x", "mail", delay=300)
    done = call_beanpool("-u", urls(*servers), "move", "mail", "post", "--state", "ready", "--yes")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines()[-1].split()[:2] == ["total", "2"]
    assert [jobs_in(server, "post") for server in servers] == [1, 1]
    cleared = call_beanpool("-u", urls(*servers), "clear", "mail", "--yes", "--json")
    assert lines(cleared)[0]["total"]["done"] == 2
    assert sum(jobs_in(server, "mail", "delayed") for server in servers) == 0


def test_states_and_limits_are_heeded(cluster: StartCluster) -> None:
    servers = cluster(2)
    for _ in range(2):
        servers[0].control.put(b"x", "mail")
        servers[0].control.put(b"x", "mail", delay=300)
    commands = (
        ("move", "mail", "post", "--max", "1"),
        ("clear", "mail", "--state", "delayed", "--max", "1"),
        ("evacuate", servers[0].address, "--state", "delayed"),
    )
    for command in commands:
        done = call_beanpool("-u", urls(*servers), "--json", *command, "--yes")
        assert lines(done)[0]["total"]["done"] == 1, done
    # What was moved first was ready.
    assert [jobs_in(servers[0], tube) for tube in ("mail", "post")] == [1, 1]
    assert jobs_in(servers[1], "mail", "delayed") == 1


def test_evacuate_empties_one_server(cluster: StartCluster) -> None:
    servers = cluster(2)
    for tube in ("a", "b"):
        servers[0].control.put(b"x", tube)
    done = call_beanpool("-u", urls(*servers), "evacuate", servers[0].address, "--yes")
    assert (done.returncode, done.stderr) == (0, b"")
    assert servers[0].control.counter("current-jobs-ready") == 0
    assert [jobs_in(servers[1], tube) for tube in ("a", "b")] == [1, 1]


def test_pause_and_resume_reach_all_servers_that_have_the_tube(cluster: StartCluster) -> None:
    servers = cluster(2)
    servers[0].control.put(b"x", "mail")
    done = call_beanpool("-u", urls(*servers), "pause", "mail", "5m")
    assert (done.returncode, done.stdout.decode()) == (0, f"mail paused for 5m on {servers[0].address}\n")
    assert servers[0].control.counter("pause", "mail") == 300
    assert call_beanpool("-u", urls(*servers), "resume", "mail").returncode == 0
    assert servers[0].control.counter("pause-time-left", "mail") == 0
    assert call_beanpool("-u", urls(*servers), "pause", "nothing", "5m").returncode == 1


def test_what_export_writes_import_puts(cluster: StartCluster, tmp_path: Path) -> None:
    servers = cluster(2)
    servers[0].control.put(b"\xff\x00", "mail", priority=3, ttr=77)
    servers[1].control.put("grün".encode(), "mail", delay=300)
    file = tmp_path / "jobs.jsonl"
    done = call_beanpool("-u", urls(*servers), "export", "mail", "-o", str(file))
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"exported" in done.stderr
    assert len(file.read_text().splitlines()) == 2
    assert call_beanpool("-u", urls(*servers), "export", "mail", "-o", str(file)).returncode == 2
    done = call_beanpool("-u", servers[0].url, "import", "--tube", "copy", str(file))
    assert done.returncode == 0
    [raw, text] = sorted(
        lines(call_beanpool("-u", servers[0].url, "peek", "copy", "--json")), key=lambda r: r["priority"]
    )
    assert (raw["body_base64"], raw["priority"], raw["ttr"]) == ("/wA=", 3, 77)
    assert text["state"] == "delayed"
    assert 290 < text["delay"] <= 301


def test_import_takes_what_take_has_written_and_names_a_line_that_is_none(beanstalkd: BeanstalkdServer) -> None:
    for body in (b"1", b"2"):
        beanstalkd.control.put(body, "mail")
    taken = call_beanpool("-u", beanstalkd.url, "--json", "take", "mail", "--max", "2").stdout
    assert jobs_in(beanstalkd, "mail") == 0
    assert call_beanpool("-u", beanstalkd.url, "import", stdin=taken).returncode == 0
    assert jobs_in(beanstalkd, "mail") == 2
    done = call_beanpool("-u", beanstalkd.url, "import", stdin=taken + b"nonsense\n")
    assert done.returncode == 2
    assert b"line 3" in done.stderr
    assert jobs_in(beanstalkd, "mail") == 4


def test_import_keeps_what_no_server_takes(beanstalkd: BeanstalkdServer, tmp_path: Path) -> None:
    rejected = tmp_path / "rejected"
    line = json.dumps({"tube": "mail", "body": "x" * 70_000})
    done = call_beanpool("-u", beanstalkd.url, "import", "--rejected", str(rejected), stdin=f"{line}\n".encode())
    assert done.returncode == 1
    assert rejected.read_text() == f"{line}\n"


def test_ctrl_c_in_the_middle_of_a_move_loses_nothing_and_a_second_run_finishes_it(
    beanstalkd: BeanstalkdServer,
) -> None:
    number = 30_000
    body = "\n".join(map(str, range(number)))
    records = "".join(f'{{"tube": "mail", "body": "{line}"}}\n' for line in body.split())
    assert call_beanpool("-u", beanstalkd.url, "import", stdin=records.encode()).returncode == 0
    with started_beanpool("-u", beanstalkd.url, "move", "mail", "post", "--yes") as process:
        wait_until(lambda: jobs_in(beanstalkd, "post") > 0, "the move to begin")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert b"interrupted after" in errors
    moved = int(output.splitlines()[1].split()[1].replace(b",", b""))
    assert 0 < moved == jobs_in(beanstalkd, "post") < number
    assert jobs_in(beanstalkd, "mail") == number - moved
    assert call_beanpool("-u", beanstalkd.url, "move", "mail", "post", "--yes").returncode == 0
    assert (jobs_in(beanstalkd, "mail"), jobs_in(beanstalkd, "post")) == (0, number)


# servers


def test_servers_and_ping_know_each_server(cluster: StartCluster) -> None:
    servers = cluster(2)
    servers[1].control.put(b"x")
    records = lines(call_beanpool("-u", urls(*servers), "servers", "--json"))
    assert [record["address"] for record in records] == [server.address for server in servers]
    assert [record["state"] for record in records] == ["up", "up"]
    assert records[1]["stats"]["current-jobs-ready"] == 1
    trips = lines(call_beanpool("-u", urls(*servers), "ping", "--json"))
    assert [trip["server"] for trip in trips] == [server.address for server in servers]
    assert all(trip["seconds"] > 0 and trip["error"] is None for trip in trips)


def test_ping_waits_for_servers_that_come(cluster: StartCluster) -> None:
    alive, late = cluster(2)
    late.kill()
    with started_beanpool("-u", urls(alive, late), "ping", "--wait", "30", "--interval", "0.05") as process:
        wait_until(lambda: alive.control.other_connections() > 0, "the first try")
        late.start()
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")
    assert late.address in output.decode()


def test_route_is_what_put_does(cluster: StartCluster) -> None:
    servers = cluster(3)
    order = call_beanpool("-u", urls(*servers), "route", "ann").stdout.decode().split()
    assert sorted(order) == sorted(server.address for server in servers)
    put = call_beanpool("-u", urls(*servers), "put", "mail", "x", "--key", "ann").stdout.decode()
    assert put.split()[0] == order[0]
    [ann, bob] = lines(call_beanpool("-u", urls(*servers), "route", "ann", "bob", "--json"))
    assert (ann["servers"], bob["key"]) == (order, "bob")


def test_bench_leaves_nothing_behind(cluster: StartCluster) -> None:
    servers = cluster(2)
    done = call_beanpool("-u", urls(*servers), "bench", "--seconds", "0.05", "--threads", "2", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    assert all(record["jobs"] > 0 and record["rate"] > 0 for record in lines(done))
    for server in servers:
        assert server.control.counter("current-jobs-ready") == 0
        assert server.control.counter("cmd-put") > 0
