"""The pytest plugin, as a user's tests see it: each of these runs pytest in a folder of its own.

Some do in a process of its own, as users do; that takes longer than what most of them are about.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.servers import require_beanstalkd

pytest_plugins = ["pytester"]

OPT_IN = 'pytest_plugins = ["beanpool.testing.pytest_plugin"]'

KINDS = ["embedded", "real"]

of_either_kind = pytest.mark.parametrize("project", KINDS[:1], indirect=True)
"""What does not depend on the server."""


@pytest.fixture(params=KINDS)
def project(
    request: pytest.FixtureRequest, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """An empty project that has opted in, with and without beanstalkd."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.delenv("BEANPOOL_REQUIRE_SERVERS", raising=False)
    # To load the plugins that happen to be here takes longer than these tests.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    if request.param == "embedded":
        monkeypatch.setenv("BEANSTALKD", "/nowhere/beanstalkd")
    else:
        monkeypatch.setenv("BEANSTALKD", require_beanstalkd())
    pytester.makeconftest(OPT_IN)
    pytester.makeini("[pytest]\naddopts = --strict-markers -p no:cacheprovider\nfilterwarnings = error")
    return pytester


def outcomes(project: pytest.Pytester, *arguments: str) -> dict[str, int]:
    result = project.runpytest_inprocess("-v", *arguments)
    return {what: count for what, count in result.parseoutcomes().items() if what != "warnings"}


def test_a_server_and_a_pool(project: pytest.Pytester, request: pytest.FixtureRequest) -> None:
    project.makepyfile(
        """
        import beanpool

        def test_server(beanstalkd):
            with beanpool.PoolManager(beanstalkd.url) as pool:
                pool.put("job")
                assert pool.reserve(timeout=5).body == "job"

        def test_pool(beanpool_pool, beanstalkd):
            job_id = beanpool_pool.put("job")
            assert job_id.server == beanstalkd.address
            with beanpool_pool.reserve(timeout=5) as job:
                assert job.body == "job"
            assert beanpool_pool.using() == "main.test_pool"
        """
    )
    result = project.runpytest_subprocess("-v")
    result.assert_outcomes(passed=2)
    embedded = "embedded servers ($BEANSTALKD names"
    assert (embedded in result.stdout.str()) is (project_kind(request) == "embedded")


def project_kind(request: pytest.FixtureRequest) -> str:
    callspec = request.node.callspec
    return str(callspec.params["project"])


def test_a_cluster(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        import beanpool

        def test_kill(beanstalkd_cluster, beanpool_pool):
            victim, *others = beanstalkd_cluster.addresses
            beanstalkd_cluster.kill(0)
            assert {beanpool_pool.put("job").server for _ in range(9)} == set(others)
            beanstalkd_cluster.restart(0)
            with beanpool.PoolManager(victim) as alone:
                assert alone.put("job").server == victim

        def test_restart_forgets(beanstalkd_cluster):
            with beanpool.PoolManager(beanstalkd_cluster.url) as pool:
                for _ in range(9):
                    pool.put("job")
            for number in range(3):
                beanstalkd_cluster.restart(number)
            with beanpool.PoolManager(beanstalkd_cluster.url) as pool:
                assert pool.reserve(timeout=0) is None

        def test_freeze(beanstalkd_cluster):
            beanstalkd_cluster.freeze(1)
            with beanpool.Connection(beanstalkd_cluster[1].host, beanstalkd_cluster[1].port, timeout=0.1,
                                     connect_timeout=5) as connection:
                with pytest.raises(beanpool.CommandTimeout):
                    connection.stats()
            beanstalkd_cluster.thaw(1)

        def test_drain(beanstalkd_cluster, beanpool_pool):
            beanstalkd_cluster.drain(2)
            assert beanstalkd_cluster.addresses[2] not in {beanpool_pool.put("job").server for _ in range(9)}

        @pytest.mark.beanstalkd(servers=5, max_job_size=10)
        def test_marker(beanstalkd_cluster):
            assert len(beanstalkd_cluster) == len(list(beanstalkd_cluster)) == 5
            with beanpool.PoolManager(beanstalkd_cluster.url) as pool, pytest.raises(beanpool.JobTooBig):
                pool.put("x" * 11)

        @pytest.mark.beanstalkd(embedded=True)
        def test_clock(beanstalkd, beanpool_pool):
            beanpool_pool.put("later", delay=3600)
            beanstalkd.advance(3600)
            beanpool_pool.reserve(timeout=5).delete()
        """
    )
    assert outcomes(project) == {"passed": 6}


def test_a_log_that_survives_a_kill(project: pytest.Pytester, request: pytest.FixtureRequest) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.beanstalkd(servers=2, wal=True)
        def test_fail_over(beanstalkd_cluster, beanpool_pool):
            home = beanpool_pool.put("before", key="alice").server
            number = beanstalkd_cluster.addresses.index(home)
            beanstalkd_cluster.kill(number)
            assert beanpool_pool.put("meanwhile", key="alice").server != home
            with beanpool_pool.reserve(timeout=5) as job:
                assert job.body == "meanwhile"
            beanstalkd_cluster.start(number)
            with beanpool_pool.reserve(timeout=30) as job:
                assert job.body == "before"

        @pytest.mark.beanstalkd(wal=True)
        def test_alone(beanstalkd, beanpool_pool):
            beanpool_pool.put("kept")
            beanstalkd.restart()
            assert beanpool_pool.reserve(timeout=30).delete() is None
        """
    )
    assert outcomes(project) == {"skipped" if project_kind(request) == "embedded" else "passed": 2}


@of_either_kind
def test_an_embedded_server_has_no_log(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.beanstalkd(embedded=True, wal=True)
        def test_it(beanstalkd):
            pass
        """
    )
    assert outcomes(project) == {"errors": 1}


@of_either_kind
def test_a_test_that_leaves_a_job_reserved_fails(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_forgets(beanpool_pool):
            beanpool_pool.put("job")
            beanpool_pool.reserve(timeout=5)

        def test_finishes(beanpool_pool):
            for end in ("delete", "release", "bury"):
                beanpool_pool.put("job")
                getattr(beanpool_pool.reserve(timeout=5), end)()
            beanpool_pool.put_many(["one", "two"])
            jobs = beanpool_pool.reserve_many(5, timeout=5)
            while len(jobs) < 2:
                jobs += beanpool_pool.reserve_many(5, timeout=5)
            beanpool_pool.delete_many(jobs)
            job_id = beanpool_pool.put("by its id")
            beanpool_pool.reserve_job(job_id).delete()

        def test_forgets_many(beanpool_pool):
            beanpool_pool.put("job")
            beanpool_pool.reserve_many(5, timeout=5)
        """
    )
    result = project.runpytest_inprocess()
    # The pool's own check is a failure of the teardown.
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(["*the test left 1 of its jobs reserved: 1 of 127.0.0.1:*", "ERROR *::test_forgets *"])


@of_either_kind
def test_tubes_differ_by_test_and_worker(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.parametrize("text", ["a b", "ü?*", "x" * 300])
        def test_tube(beanpool_pool, text):
            tube = beanpool_pool.using()
            assert tube.startswith(os.environ["PYTEST_XDIST_WORKER"] + ".test_tube_")
            assert beanpool_pool.watching() == [tube]
            beanpool_pool.put("job")
            beanpool_pool.reserve(timeout=5).delete()
        """
    )
    assert outcomes(project, "-p", "xdist", "-n", "1") == {"passed": 3}


def test_the_example_in_the_documents(project: pytest.Pytester, request: pytest.FixtureRequest) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "testing.md"
    conftest, tests = re.findall(r"^```py\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert conftest.strip() == OPT_IN
    project.makepyfile(tests)
    without_log = project_kind(request) == "embedded"
    assert outcomes(project) == ({"passed": 3, "skipped": 1} if without_log else {"passed": 4})


@of_either_kind
def test_a_marker_with_what_it_does_not_know(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.beanstalkd(server=5)
        def test_it(beanstalkd_cluster):
            pass
        """
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*takes the keyword arguments embedded, max_job_size, servers*"])


def test_nobody_gets_it_unasked(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(beanpool_pool): pass")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'beanpool_pool' not found*"])


@of_either_kind
def test_toxiproxy_without_its_program(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOXIPROXY_SERVER", "/nowhere/toxiproxy-server")
    project.makepyfile("def test_it(beanstalkd, toxiproxy): pass")
    result = project.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*$TOXIPROXY_SERVER names /nowhere/toxiproxy-server, which is no program*"])
    monkeypatch.setenv("BEANPOOL_REQUIRE_SERVERS", "1")
    project.runpytest_inprocess().assert_outcomes(errors=1)
