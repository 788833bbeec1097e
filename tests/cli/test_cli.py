"""The command line: what a command does, called in this process; and as a user runs it, where that matters."""

from __future__ import annotations

import base64
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from support.command_line import call_beanpool, run_beanpool, run_in_terminal, started_beanpool
from support.processes import run_python
from support.servers import BeanstalkdServer
from support.waiting import wait_until, within

from beanpool.cli.main import main

if TYPE_CHECKING:
    from conftest import StartCluster
    from support.servers import ServerFactory

# A privileged port where nothing listens: a connect is refused at once.
NOBODY = "127.0.0.1:1"


def urls(*servers: BeanstalkdServer) -> str:
    return "beanstalk://" + ",".join(server.address for server in servers)


def jobs_in(server: BeanstalkdServer, tube: str, state: str = "ready") -> int:
    return server.control.counter(f"current-jobs-{state}", tube)


# put


def test_put_prints_the_server_and_the_id(beanstalkd: BeanstalkdServer) -> None:
    done = call_beanpool("-u", beanstalkd.url, "put", "mail", "hello")
    assert (done.returncode, done.stderr) == (0, b"")
    server, jid = done.stdout.split()
    assert server.decode() == beanstalkd.address
    assert beanstalkd.control.peek(int(jid)) == b"hello"
    assert jobs_in(beanstalkd, "mail") == 1


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_put_takes_standard_input_byte_for_byte(beanstalkd: BeanstalkdServer, arguments: list[str]) -> None:
    body = b"\x00\xff two lines\r\nand a line feed\n"
    done = run_beanpool("-u", beanstalkd.url, "put", "mail", *arguments, stdin=body)
    assert beanstalkd.control.peek(int(done.stdout.split()[1])) == body


def test_put_lines_makes_one_job_of_each_line(beanstalkd: BeanstalkdServer) -> None:
    done = call_beanpool("-u", beanstalkd.url, "put", "mail", "--lines", stdin=b"one\n\ntwo\r\n\xff")
    assert done.returncode == 0
    ids = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert [beanstalkd.control.peek(jid) for jid in ids] == [b"one", b"", b"two\r", b"\xff"]


def test_put_hands_over_priority_delay_and_ttr(beanstalkd: BeanstalkdServer) -> None:
    options = ("--priority", "7", "--delay", "50", "--ttr", "60")
    done = call_beanpool("-u", beanstalkd.url, "--json", "put", "mail", "x", *options)
    report = json.loads(done.stdout)
    assert report == {"server": beanstalkd.address, "id": report["id"], "maybe_duplicate": False, "buried": False}
    stats = beanstalkd.control.stats_job(report["id"])
    assert stats is not None
    assert (stats["pri"], stats["delay"], stats["ttr"], stats["state"]) == ("7", "50", "60", "delayed")


def test_jobs_with_the_same_key_go_to_the_same_server(cluster: StartCluster) -> None:
    servers = cluster(3)
    done = call_beanpool("-u", urls(*servers), "put", "mail", "--lines", "--key", "ann", stdin=b"1\n2\n3\n4\n5\n6")
    assert len({line.split()[0] for line in done.stdout.splitlines()}) == 1
    again = call_beanpool("-u", urls(*reversed(servers)), "put", "mail", "7", "--key", "ann")
    assert again.stdout.split()[0] == done.stdout.split()[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["not a tube", "x"],
        ["mail\r\ndelete 1", "x"],
        ["mail", "x", "--priority", "-1"],
        ["mail", "x", "--priority", "4294967296"],
        ["mail", "x", "--ttr", "4294967296"],
        ["mail", "x", "--delay", "0.5"],
        ["mail", "x", "--lines"],
        ["mail", "x", "y"],
    ],
)
def test_put_refuses_wrong_arguments_and_sends_nothing(beanstalkd: BeanstalkdServer, arguments: list[str]) -> None:
    done = call_beanpool("-u", beanstalkd.url, "put", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Traceback" not in done.stderr
    assert beanstalkd.control.counter("cmd-put") == 0


def test_a_job_that_is_too_big_is_refused_in_words_without_its_body(beanstalkd_factory: ServerFactory) -> None:
    server = beanstalkd_factory(max_job_size=10)
    done = call_beanpool("-u", server.url, "put", "mail", "secret" * 10)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"bigger than the server takes" in done.stderr
    assert b"secret" not in done.stderr


def test_put_lines_says_which_line_was_not_put(beanstalkd_factory: ServerFactory) -> None:
    server = beanstalkd_factory(max_job_size=10)
    done = call_beanpool("-u", server.url, "put", "mail", "--lines", stdin=b"one\ntwo\nfar too long\nfour\n")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    assert b"line 3 of standard input was not put; the 2 before it were" in done.stderr
    assert jobs_in(server, "mail") == 2


# take


def test_take_prints_the_job_and_deletes_it(beanstalkd: BeanstalkdServer) -> None:
    jid = beanstalkd.control.put(b"\xff\x00 a body\n", "mail")
    beanstalkd.control.put(b"of another tube", "other")
    done = call_beanpool("-u", beanstalkd.url, "take", "mail")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\xff\x00 a body\n\n", b"")
    assert beanstalkd.control.peek(jid) is None
    assert jobs_in(beanstalkd, "other") == 1


def test_take_says_no_when_there_is_no_job(beanstalkd: BeanstalkdServer) -> None:
    done = call_beanpool("-u", beanstalkd.url, "take", "mail", "--timeout", "0.2")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_take_max_takes_from_all_servers(cluster: StartCluster) -> None:
    servers = cluster(3)
    bodies = {b"a", b"b", b"c", b"d", b"e", b"f"}
    for number, body in enumerate(sorted(bodies)):
        servers[number % 3].control.put(body, "mail")
    done = call_beanpool("-u", urls(*servers), "take", "mail", "--max", "100")
    assert done.returncode == 0
    assert set(done.stdout.splitlines()) == bodies
    assert sum(jobs_in(server, "mail") for server in servers) == 0


@pytest.mark.parametrize(("option", "state"), [("--release", "ready"), ("--bury", "buried")])
def test_take_gives_each_job_back_once(cluster: StartCluster, option: str, state: str) -> None:
    servers = cluster(2)
    for server in servers:
        server.control.put(b"1 " + server.address.encode(), "mail", priority=5)
        server.control.put(b"2 " + server.address.encode(), "mail", priority=5)
    done = call_beanpool("-u", urls(*servers), "take", "mail", "--max", "10", option)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == len(set(lines)) == 4
    for server in servers:
        assert jobs_in(server, "mail", state) == 2
        assert jobs_in(server, "mail", "reserved") == 0


def test_take_can_hold_more_jobs_than_a_pool_has_connections(beanstalkd: BeanstalkdServer) -> None:
    for number in range(100):
        beanstalkd.control.put(b"%d" % number, "mail")
    done = call_beanpool("-u", f"{beanstalkd.url}/?max_connections=4", "take", "mail", "--max", "200", "--release")
    assert (done.returncode, done.stderr) == (0, b"")
    assert {int(line) for line in done.stdout.splitlines()} == set(range(100))
    assert jobs_in(beanstalkd, "mail") == 100


def test_take_waits_for_a_job(beanstalkd: BeanstalkdServer) -> None:
    with started_beanpool("-u", beanstalkd.url, "take", "mail", "--timeout", "inf") as process:
        wait_until(lambda: beanstalkd.control.counter("current-waiting"), "the command to wait")
        beanstalkd.control.put(b"at last", "mail")
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (0, b"at last\n", b"")


def test_ctrl_c_ends_a_wait_quietly(beanstalkd: BeanstalkdServer) -> None:
    with started_beanpool("-u", beanstalkd.url, "take", "mail", "--timeout", "60") as process:
        wait_until(lambda: beanstalkd.control.counter("current-waiting"), "the command to wait")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (130, b"", b"")
    wait_until(lambda: beanstalkd.control.other_connections() == 0, "the connections to end")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_job_stays_reserved_when_take_is_ended(beanstalkd: BeanstalkdServer, number: signal.Signals) -> None:
    beanstalkd.control.put(b"one", "mail")
    arguments = ("take", "mail", "--release", "--max", "2", "--timeout", "60")
    with started_beanpool("-u", beanstalkd.url, *arguments) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        assert jobs_in(beanstalkd, "mail", "reserved") == 1
        process.send_signal(number)
        process.communicate(timeout=20)
    wait_until(lambda: jobs_in(beanstalkd, "mail") == 1, "the job to be ready again")


def test_a_job_that_could_not_be_printed_is_not_deleted(beanstalkd: BeanstalkdServer) -> None:
    jid = beanstalkd.control.put(b"one", "mail")
    reading, writing = os.pipe()
    os.close(reading)
    with (
        os.fdopen(writing, "wb") as pipe,
        started_beanpool("-u", beanstalkd.url, "take", "mail", stdout=pipe) as process,
    ):
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (141, b"")
    assert beanstalkd.control.state(jid) == "ready"


def test_take_json_tells_text_from_bytes(beanstalkd: BeanstalkdServer) -> None:
    ids = [beanstalkd.control.put(body, "mail") for body in ("grün".encode(), b"\xff\x1b[31m")]
    done = call_beanpool("--json", "-u", beanstalkd.url, "take", "mail", "--max", "2")
    text, raw = map(json.loads, done.stdout.splitlines())
    assert text == {"server": beanstalkd.address, "id": ids[0], "tube": "mail", "body": "grün"}
    assert raw["id"] == ids[1]
    assert base64.b64decode(raw["body_base64"]) == b"\xff\x1b[31m"


def test_no_control_character_reaches_a_terminal(beanstalkd: BeanstalkdServer) -> None:
    beanstalkd.control.put("\x1b[31mred\x07 \x9b2J\tgrün\nend".encode() + b"\xff", "mail")
    code, output = run_in_terminal("-u", beanstalkd.url, "take", "mail", env={"PYTHONUTF8": "1"})
    assert code == 0
    assert output.decode() == "\\x1b[31mred\\x07 \\x9b2J\tgrün\r\nend\\xff\r\n"


# stats, tubes


def test_stats_shows_totals_and_every_server(cluster: StartCluster) -> None:
    servers = cluster(2)
    servers[0].control.put(b"x")
    servers[0].control.put(b"x", delay=60)
    servers[1].control.put(b"x")
    done = call_beanpool("-u", urls(*servers), "stats")
    assert (done.returncode, done.stderr) == (0, b"")
    head, *lines = [line.split() for line in done.stdout.decode().splitlines()]
    assert head == ["total", *(server.address for server in servers)]
    rows = {name: cells for name, *cells in lines}
    assert rows["current-jobs-ready"] == ["2", "1", "1"]
    assert rows["current-jobs-delayed"] == ["1", "1", "0"]
    assert rows["cmd-put"] == ["3", "2", "1"]
    assert rows["version"][1] == servers[0].control.stats()["version"]


def test_stats_all_and_json_leave_nothing_out(cluster: StartCluster) -> None:
    servers = cluster(2)
    names = set(servers[0].control.stats())
    table = call_beanpool("-u", urls(*servers), "stats", "--all").stdout.decode()
    assert {line.split()[0] for line in table.splitlines()[1:]} == names
    report = json.loads(call_beanpool("-u", urls(*servers), "stats", "--json").stdout)
    assert {server.address: set(report["servers"][server.address]) for server in servers} == {
        server.address: names for server in servers
    }
    assert report["total"]["current-connections"] == sum(
        stats["current-connections"] for stats in report["servers"].values()
    )
    assert report["missing"] == {}


@pytest.mark.parametrize("command", ["stats", "tubes"])
def test_a_server_that_does_not_answer_is_listed(cluster: StartCluster, command: str) -> None:
    alive, dead = cluster(2)
    dead.kill()
    done = call_beanpool("-u", urls(alive, dead), command)
    assert (done.returncode, done.stderr) == (3, b"")
    assert f"no answer from {dead.address}: " in done.stdout.decode()
    assert set(json.loads(call_beanpool("-u", urls(alive, dead), command, "--json").stdout)["missing"]) == {
        dead.address
    }


def test_a_frozen_server_has_its_time_once_not_for_every_tube(cluster: StartCluster) -> None:
    servers = cluster(2)
    for number in range(6):
        servers[0].control.put(b"x", f"tube-{number}")
    servers[1].freeze()
    # It was a second for each tube.
    with within(1, slack=2):
        done = call_beanpool("-u", urls(*servers), "--timeout", "1", "tubes")
    servers[1].thaw()
    assert done.stdout.decode().count("tube-") == 6
    assert f"no answer from {servers[1].address}: " in done.stdout.decode()


def test_stats_of_a_tube_need_only_one_server_that_has_it(cluster: StartCluster) -> None:
    servers = cluster(2)
    servers[1].control.put(b"x", "mail")
    done = call_beanpool("-u", urls(*servers), "stats", "mail")
    assert done.returncode == 0
    assert f"total  {servers[1].address}" in done.stdout.decode()
    assert "no answer" not in done.stdout.decode()
    absent = call_beanpool("-u", urls(*servers), "stats", "nothing-here")
    assert (absent.returncode, absent.stdout) == (1, b"")
    assert b"no server has a tube nothing-here" in absent.stderr


def test_tubes_are_the_union_with_their_jobs_added_up(cluster: StartCluster) -> None:
    servers = cluster(2)
    awkward = ["123", "no", "null", "1.10", "0x1F", "2020-01-01"]
    for name in awkward:
        servers[0].control.put(b"x", name)
    for server in servers:
        server.control.put(b"x", "mail")
        server.control.put(b"x", "mail", delay=60)
    done = call_beanpool("-u", urls(*servers), "tubes")
    assert done.returncode == 0
    rows = {name: cells for name, *cells in (line.split() for line in done.stdout.decode().splitlines())}
    assert set(rows) == {"tube", "default", "mail", *awkward}
    assert rows["mail"][:4] == ["2", "0", "2", "0"]
    report = json.loads(call_beanpool("tubes", "--json", "-u", urls(*servers)).stdout)
    assert set(report["tubes"]) == {"default", "mail", *awkward}
    assert report["tubes"]["mail"]["ready"] == report["tubes"]["mail"]["delayed"] == 2
    assert report["tubes"]["no"]["servers"] == [servers[0].address]


def test_tubes_can_be_chosen_by_a_glob(beanstalkd: BeanstalkdServer) -> None:
    beanstalkd.control.put(b"x", "mail-in")
    beanstalkd.control.put(b"x", "mail-out")
    done = call_beanpool("-u", beanstalkd.url, "tubes", "mail-*")
    assert [line.split()[0] for line in done.stdout.decode().splitlines()] == ["tube", "mail-in", "mail-out"]
    assert call_beanpool("-u", beanstalkd.url, "tubes", "x*").returncode == 1


# what all commands have in common


@pytest.mark.parametrize("command", [["tubes"], ["stats"], ["stats", "mail"], ["put", "mail", "x"], ["take", "mail"]])
def test_without_a_server_there_is_one_line_and_a_hint(command: list[str]) -> None:
    done = call_beanpool("--timeout", "1", "--url", f"beanstalk://{NOBODY}", *command)
    assert (done.returncode, done.stdout) == (69, b"")
    message, hint = done.stderr.decode().splitlines()
    assert message.startswith("beanpool: ")
    assert NOBODY in message
    assert "refused" in message.lower()
    assert "beanstalkd -l 127.0.0.1" in hint


def test_servers_come_from_the_environment_and_the_option_wins(cluster: StartCluster) -> None:
    named, other = cluster(2)
    env = {"BEANPOOL_URL": named.url}
    assert call_beanpool("put", "mail", "x", env=env).stdout.split()[0].decode() == named.address
    assert call_beanpool("put", "mail", "x", "-u", other.url, env=env).stdout.split()[0].decode() == other.address


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("beanstalk://q1/?timeuot=1", "timeout"),
        ("beanstalk://q1:99999", "99999"),
        ("https://sqs.example/queue", "Elastic Beanstalk"),
    ],
)
def test_a_wrong_address_is_a_usage_error_in_words(url: str, words: str) -> None:
    done = call_beanpool("tubes", env={"BEANSTALK_URL": url})
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing-like-this"],
        ["take", "mail", "--max", "0"],
        ["take", "mail", "--timeout", "-1"],
        ["take", "mail", "--release", "--bury"],
        ["--timeout", "nan", "tubes"],
        ["demo", "--seconds", "0"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    done = (call_beanpool if arguments else run_beanpool)(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"usage: beanpool" in done.stderr


def test_help_and_version_need_no_server() -> None:
    assert b"take" in call_beanpool("--help").stdout
    assert b"--max" in call_beanpool("take", "--help").stdout
    assert call_beanpool("--version").stdout.startswith(b"beanpool ")


def test_main_returns_the_exit_code(beanstalkd: BeanstalkdServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-u", beanstalkd.url, "put", "mail", "hello"]) == 0
    assert main(["-u", beanstalkd.url, "take", "mail"]) == 0
    assert capsys.readouterr().out == f"{beanstalkd.address} 1\nhello\n"
    assert main(["-u", beanstalkd.url, "take", "mail"]) == 1
    assert main(["no-such-command"]) == 2
    assert main(["--help"]) == 0


def test_verbose_logs_to_standard_error_and_never_a_body(beanstalkd: BeanstalkdServer) -> None:
    done = run_beanpool("-u", beanstalkd.url, "put", "mail", "a-secret-body", "-vv")
    assert (done.returncode, done.stdout) == (0, f"{beanstalkd.address} 1\n".encode())
    assert b"a-secret-body" not in done.stderr


@pytest.mark.parametrize("command", [["tubes"], ["tubes", "--json"], ["stats", "--all"]])
def test_a_reader_that_goes_away_causes_no_noise(beanstalkd: BeanstalkdServer, command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe, started_beanpool("-u", beanstalkd.url, *command, stdout=pipe) as process:
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (141, b"")


def test_put_lines_puts_while_its_input_goes_on_and_ctrl_c_is_quiet(beanstalkd: BeanstalkdServer) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb", buffering=0) as feed:
        arguments = ("-u", beanstalkd.url, "put", "mail", "--lines")
        with started_beanpool(*arguments, stdin=source) as process:
            assert process.stdout is not None
            feed.write(b"one\n")
            assert process.stdout.readline() == f"{beanstalkd.address} 1\n".encode()
            assert jobs_in(beanstalkd, "mail") == 1
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (130, b"", b"")


def test_importing_beanpool_does_not_load_the_command_line() -> None:
    done = run_python(
        "import sys, beanpool; print([name for name in sys.modules if 'cli' in name or name == 'argparse'])"
    )
    assert done.stdout == "[]\n", done.stderr


def test_a_command_loads_what_it_needs_and_no_more() -> None:
    done = run_python(
        "import sys; from beanpool.cli.main import main; main(sys.argv[1:]);"
        "print([name for name in sys.modules if name.startswith('beanpool.cli.')])",
        *("--timeout", "0.5", "-u", NOBODY, "put", "mail", "x"),
    )
    assert "'beanpool.cli.put'" in done.stdout
    for name in ("demo", "take", "local_servers", "stats"):
        assert f"'beanpool.cli.{name}'" not in done.stdout
