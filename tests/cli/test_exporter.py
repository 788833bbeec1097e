"""``beanpool exporter``, and what a worker answers over HTTP."""

from __future__ import annotations

import contextlib
import gzip
import os
import socket
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command_line import call_beanpool, started_beanpool
from support.pools import pool_of
from support.prometheus import check_metrics, read_url
from support.servers import BeanstalkdServer
from support.waiting import wait_until, within
from support.workers import running

from beanpool.cli.endpoints import Answer, serving
from beanpool.cli.listen_address import ListenAddress
from beanpool.cli.worker_health import watched
from beanpool.worker import Worker

if TYPE_CHECKING:
    from conftest import StartCluster

LOOPBACK = ListenAddress("127.0.0.1", 0)


@contextlib.contextmanager
def exporting(*arguments: str) -> Iterator[str]:
    """An exporter; its URL."""
    pytest.importorskip("prometheus_client")
    with started_beanpool(*arguments[:2], "exporter", "--listen", "127.0.0.1:0", *arguments[2:]) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode().strip()
        assert line.endswith("/metrics"), process.communicate()
        yield line


def refused(url: str) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as caught:
        read_url(url)
    with caught.value as error:
        return error.code, error.read().decode()


def test_it_exports_all_servers_and_says_which_is_silent(cluster: StartCluster) -> None:
    a, b = cluster(2)
    a.control.put(b"job", "mail")
    a.control.put(b"job", "other")
    with exporting(
        "-u", f"{a.url},{b.address}", "--deadline", "1", "--tubes", "m*", "--tubes", "o*", "--most", "1"
    ) as url:
        text = read_url(url).decode()
        assert f'beanstalkd_up{{server="{a.address}"}} 1.0\n' in text
        assert f'beanstalkd_up{{server="{b.address}"}} 1.0\n' in text
        assert f'beanstalkd_tube_current_jobs_ready{{server="{a.address}",tube="mail"}} 1.0\n' in text
        assert 'tube="other"' not in text
        assert f'beanstalkd_tubes_left_out{{server="{a.address}"}} 1.0\n' in text
        assert "\nprocess_cpu_seconds_total " in text
        b.freeze()
        with within(1):
            text = read_url(url).decode()
        assert f'beanstalkd_up{{server="{b.address}"}} 0.0\n' in text
        assert f'beanstalkd_tube_head_age_seconds{{server="{a.address}",tube="mail"}}' in text
        b.thaw()
        assert read_url(url.replace("/metrics", "/livez")) == b"ok\n"
        check_metrics(text.encode())


def test_it_starts_before_the_servers(beanstalkd: BeanstalkdServer) -> None:
    beanstalkd.kill()
    with exporting("-u", beanstalkd.url) as url:
        assert b"} 0.0\n" in read_url(url)
        beanstalkd.start()
        up = f'beanstalkd_up{{server="{beanstalkd.address}"}} 1.0\n'.encode()
        wait_until(lambda: up in read_url(url), "the server to be found")


@pytest.mark.parametrize(
    "address", ["", "localhost", "9150", "a b:1", "127.0.0.1:65536", "::1:9150", "[q1]:1", "q1:-1"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    ended = call_beanpool("exporter", "--listen", address)
    assert ended.returncode == 2
    assert b"HOST:PORT" in ended.stderr


def test_a_port_that_is_taken_is_one_line() -> None:
    pytest.importorskip("prometheus_client")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = call_beanpool("exporter", "--listen", address)
    assert ended.returncode == 2
    assert ended.stderr.decode().startswith(f"beanpool: cannot listen on {address}: ")
    assert ended.stderr.count(b"\n") == 1


def test_without_prometheus_client_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beanpool.cli.metrics.has_prometheus", lambda: False)
    ended = call_beanpool("exporter")
    assert ended.returncode == 2
    assert b"pip install 'beanpool[prometheus]'" in ended.stderr


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:9150", "127.0.0.1", 9150), (":80", "", 80), ("[::1]:1", "::1", 1), ("q1.example:0", "q1.example", 0)],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert ListenAddress.parse(text) == (host, port)
    assert str(ListenAddress.parse(text)) == text


class TestEndpoints:
    def test_they_answer_by_path(self) -> None:
        long = Answer(b"x" * 100_000)
        with serving(
            LOOPBACK, {"/long": lambda _: long, "/accept": lambda accept: Answer(accept.encode(), 503)}
        ) as url:
            assert read_url(f"{url}/long?a=b") == long.text
            assert gzip.decompress(read_url(f"{url}/long", **{"Accept-Encoding": "gzip"})) == long.text
            assert read_url(f"{url}/") == b"There is:\n/long\n/accept\n"
            assert refused(f"{url}/none")[0] == 404
            assert refused(f"{url}/accept") == (503, "")

    def test_a_client_that_says_nothing_holds_up_nobody(self) -> None:
        with serving(LOOPBACK, {"/": lambda _: Answer(b"ok")}) as url:
            host, _, port = url.removeprefix("http://").partition(":")
            with socket.create_connection((host, int(port))) as silent:
                silent.sendall(b"GET / HT")
                assert read_url(url) == b"ok"


class TestWorkerHealth:
    def test_it_is_ready_while_it_takes_jobs_and_a_server_answers(self, cluster: StartCluster, free: str) -> None:
        pytest.importorskip("prometheus_client")
        (a,) = cluster(1)
        with pool_of(a) as pool:
            worker = Worker(pool, threads=1)
            worker.add("mail", lambda job: None)
            with watched(worker, ListenAddress.parse(free)):
                url = f"http://{free}"
                assert refused(f"{url}/readyz") == (503, "the worker takes no jobs\n")
                with running(worker):
                    wait_until(pool.healthy, "the server to have answered")
                    assert read_url(f"{url}/readyz") == b"ok\n"
                    assert read_url(f"{url}/livez") == b"ok\n"
                    pool.put("x", tube="mail")
                    wait_until(lambda: b"\nbeanpool_worker_jobs_done_total 1.0\n" in read_url(f"{url}/metrics"), "it")
                    text = read_url(f"{url}/metrics").decode()
                    assert (
                        f'beanpool_tube_jobs_put_total{{outcome="stored",pool="{pool.name}",tube="mail"}} 1.0' in text
                    )
                    a.kill()
                    wait_until(lambda: not pool.healthy(), "the loss to be seen")
                    assert refused(f"{url}/readyz") == (503, "no server answers\n")
                    assert read_url(f"{url}/livez") == b"ok\n"
                    worker.stop()
                    wait_until(lambda: worker.stopping, "it to stop")
                    assert refused(f"{url}/readyz") == (503, "the worker takes no jobs\n")
            # Another one in the same process finds nothing of it.
            with watched(Worker(pool), ListenAddress.parse(free)):
                assert b"\nbeanpool_worker_jobs_done_total 0.0\n" in read_url(f"{url}/metrics")

    def test_a_worker_whose_threads_all_hang_is_not_alive(
        self, beanstalkd: BeanstalkdServer, free: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("beanpool.cli.worker_health.has_prometheus", lambda: False)
        with pool_of(beanstalkd) as pool:
            worker = Worker(pool, threads=1)
            monkeypatch.setattr(Worker, "stuck", property(lambda worker: True))
            with watched(worker, ListenAddress.parse(free)):
                code, text = refused(f"http://{free}/livez")
                assert code == 503
                assert "time limits" in text
                assert refused(f"http://{free}/metrics")[0] == 404

    def test_the_option_of_the_command(self, beanstalkd: BeanstalkdServer, free: str, tmp_path: Path) -> None:
        (tmp_path / "health_tasks.py").write_text("def work(job):\n    pass\n")
        env = {"PYTHONPATH": str(tmp_path)}
        with started_beanpool(
            *("-u", beanstalkd.url, "worker", "health_tasks:work", "mail", "--health", free), env=env
        ) as process:

            def is_ready() -> bool:
                assert process.poll() is None, process.communicate()
                try:
                    return read_url(f"http://{free}/readyz") == b"ok\n"
                except OSError:
                    return False

            wait_until(is_ready, "the worker to be ready", 30)
            process.terminate()
            assert process.wait(30) == 0


@pytest.fixture
def free() -> str:
    """An address of loopback that is this process's alone, so that nobody else can have taken the port."""
    host = "127.0.0.1"
    if sys.platform == "linux":
        number = os.getpid()
        host = f"127.{1 + number % 250}.{1 + number // 250 % 250}.{1 + number // 62500 % 250}"
    with socket.create_server((host, 0)) as probe:
        return f"{host}:{probe.getsockname()[1]}"
