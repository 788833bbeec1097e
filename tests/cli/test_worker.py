"""``beanpool worker``: what it runs, how it ends, and what it refuses."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import call_beanpool, started_beanpool
from support.pools import pool_of
from support.servers import BeanstalkdServer
from support.waiting import wait_until

NOBODY = "beanstalk://127.0.0.1:1"
TASKS = """
import threading, time
from beanpool import PoolManager
from beanpool.worker import Worker

def echo(job):
    print("got", job.body, job.tube, flush=True)

def slow(job):
    echo(job)
    time.sleep(float(job.body))

def stuck(job):
    echo(job)
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def hog(job):
    hog.memory = b"x" * (200 << 20)

def none():
    pass

async def coroutine(job):
    pass

number = 3
worker = Worker(PoolManager("127.0.0.1:1", timeout=0.2), threads=2)
worker.add("mail", echo)
idle = Worker(PoolManager("127.0.0.1:1", timeout=0.2))
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module `made_tasks`, which is the working folder of this process."""
    (tmp_path / "made_tasks.py").write_text(TASKS)
    (tmp_path / "broken_tasks.py").write_text("\nraise ValueError('no such thing')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for module in ("made_tasks", "broken_tasks"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("echo mail", "must be MODULE:NAME"),
        ("nothing_tasks:echo mail", "cannot import nothing_tasks: ModuleNotFoundError"),
        ("broken_tasks:echo mail", "broken_tasks.py, line 2"),
        ("made_tasks:nothing mail", "made_tasks has no nothing"),
        ("made_tasks:echo", "no tube"),
        ("made_tasks:none mail", "must take one argument"),
        ("made_tasks:coroutine mail", "coroutine function"),
        ("made_tasks:number mail", "must be callable, not int"),
        ("made_tasks:echo a^b", "tube must be"),
        ("made_tasks:echo mail mail", "has a handler already"),
        ("made_tasks:echo mail --threads 0", "must be from 1"),
        ("made_tasks:echo mail --batch 0", "must be from 1"),
        ("made_tasks:echo mail --max-jobs 0", "must be from 1"),
        ("made_tasks:echo mail --concurrency mail=0", "must be from 1"),
        ("made_tasks:echo mail --concurrency 3", "must be TUBE=N"),
        ("made_tasks:echo mail --concurrency news=3", "names tube news"),
        ("made_tasks:echo mail --time-limit 0", "must be a time such as"),
        ("made_tasks:echo mail --grace 5y", "must be a time such as"),
        ("made_tasks:echo mail --memory 0", "must be megabytes"),
        ("made_tasks:echo mail --backoff 5m --backoff-cap 3", "base must not be longer than cap"),
        ("made_tasks:echo mail --order random", "invalid choice"),
        ("made_tasks:worker mail news", "tube news has no handler"),
        ("made_tasks:worker -u beanstalk://q1", "a pool of its own"),
        ("made_tasks:worker --time-limit 5", "where it adds its tubes"),
        ("made_tasks:idle", "without any tube"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_asked_for(tasks: Path, arguments: str, words: str) -> None:
    done = call_beanpool("worker", *arguments.split(), env={"BEANPOOL_URL": NOBODY})
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("target", ["made_tasks:echo mail --timeout 0.2", "made_tasks:worker"])
def test_without_a_server_it_does_not_start(tasks: Path, target: str) -> None:
    done = call_beanpool("worker", *target.split(), env={"BEANPOOL_URL": NOBODY})
    assert (done.returncode, done.stdout) == (69, b"")
    assert b"127.0.0.1:1" in done.stderr


def test_it_works_off_tubes_from_the_folder_that_it_is_started_in(beanstalkd: BeanstalkdServer, tasks: Path) -> None:
    with pool_of(beanstalkd) as pool:
        pool.put("hello", tube="mail")
        pool.put("world", tube="news")
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "beanpool", "-u", beanstalkd.url, "worker"]
    options = [
        "--stop-when-empty",
        "--threads",
        "1",
        "--batch",
        "auto",
        "--order",
        "strict",
        "--heartbeat-file",
        "beat",
    ]
    done = subprocess.run(
        [*command, "made_tasks:echo", "news", "mail", *options], cwd=tasks, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines() == [b"got world news", b"got hello mail"]
    assert (tasks / "beat").exists()
    assert beanstalkd.control.counter("cmd-delete") == 2


def test_options_take_the_place_of_those_of_a_worker(
    beanstalkd: BeanstalkdServer, tasks: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tasks / "made_tasks.py").write_text(TASKS.replace("127.0.0.1:1", beanstalkd.address))
    with pool_of(beanstalkd) as pool:
        pool.put("hello", tube="mail")
    assert call_beanpool("worker", "made_tasks:worker", "--stop-when-empty").stdout == b"got hello mail\n"
    assert sys.modules["made_tasks"].worker.settings.threads == 2


def test_too_much_memory_ends_it(beanstalkd: BeanstalkdServer, tasks: Path) -> None:
    with pool_of(beanstalkd) as pool:
        pool.put("job", tube="mail")
    done = call_beanpool("-u", beanstalkd.url, "worker", "made_tasks:hog", "mail", "--memory", "150M")
    assert done.returncode == 12


@pytest.mark.parametrize(
    ("handler", "body", "options", "signals", "code"),
    [
        ("slow", "0.3", "--grace 60", [signal.SIGTERM], 0),
        ("slow", "60", "--grace 0.1s", [signal.SIGINT], 75),
        ("slow", "60", "--grace 1m", [signal.SIGTERM, signal.SIGINT], 75),
        ("stuck", "0", "--grace 0.2 --time-limit 0.1", [signal.SIGTERM], 75),
    ],
    ids=["in time", "too long", "twice", "stuck in C"],
)
def test_a_signal_ends_it_and_nothing_stays_reserved(
    beanstalkd: BeanstalkdServer, tasks: Path, handler: str, body: str, options: str, signals: list[int], code: int
) -> None:
    with pool_of(beanstalkd) as pool:
        jid = pool.put(body, tube="mail")
        arguments = ["-u", beanstalkd.url, "worker", f"made_tasks:{handler}", "mail", *options.split()]
        with started_beanpool(*arguments, env={"PYTHONPATH": str(tasks)}) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"got {body} mail\n".encode()
            for number in signals:
                process.send_signal(number)
            assert process.wait(30) == code
        assert beanstalkd.control.counter("current-jobs-reserved") == 0
        if code == 75:
            stats = pool.stats_job(jid)
            assert (stats["state"], stats["releases"], stats["timeouts"]) == ("ready", 0, 0)


def test_a_signal_ends_it_while_its_server_is_away(beanstalkd: BeanstalkdServer, tasks: Path) -> None:
    with pool_of(beanstalkd) as pool:
        pool.put("hello", tube="mail")
        arguments = ["-u", beanstalkd.url, "worker", "made_tasks:echo", "mail"]
        with started_beanpool(*arguments, env={"PYTHONPATH": str(tasks)}) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"got hello mail\n"
            wait_until(lambda: beanstalkd.control.counter("cmd-delete"), "its delete")
            beanstalkd.kill()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
