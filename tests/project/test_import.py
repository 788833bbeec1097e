"""What an import costs, and how a process with a living pool ends: by itself, silently, at once."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.processes import run_python
from support.servers import BeanstalkdServer
from support.waiting import wait_until, within

import beanpool

if TYPE_CHECKING:
    from conftest import StartCluster

# A process that fails takes far longer than this, or for ever.
PROMPTLY = 3.0

WORK = """
    import contextlib, os, sys, threading, time

    import beanpool

    addresses = sys.argv[1:]
    pool = beanpool.PoolManager(addresses)
    pool.put("job", tube="held")
    held = pool.reserve(timeout=5, tubes="held")
    assert held is not None
"""


def run(source: str, *arguments: str) -> tuple[int, str, str]:
    with within(PROMPTLY, "the program"):
        ended = run_python(textwrap.dedent(source), *arguments)
    return ended.returncode, ended.stdout, ended.stderr


def test_an_import_starts_nothing_and_loads_little() -> None:
    code, output, errors = run(
        """
        import sys, threading

        opened = []
        sys.addaudithook(lambda event, arguments: opened.append(event) if event.startswith("socket.") else None)
        import beanpool

        beanpool.PoolManager(["127.0.0.1:1", "127.0.0.1:2"])
        unwanted = ("importlib.metadata", "yaml", "tenacity", "concurrent.futures", "asyncio", "argparse", "ssl")
        unwanted += ("beanpool.cli", "beanpool.__main__", "urllib.parse", "ipaddress", "difflib")
        unwanted += ("beanpool.discovery", "beanpool.cluster.discovery", "dns")
        unwanted += ("beanpool.contrib", "prometheus_client", "opentelemetry", "http.server")
        assert not opened, opened
        assert threading.active_count() == 1, threading.enumerate()
        print([name for name in unwanted if name in sys.modules])
        import logging

        assert not logging.getLogger().handlers
        """
    )
    assert (code, output.strip(), errors) == (0, "[]", "")


def test_an_import_is_quick(tmp_path: Path) -> None:
    """Under 100 ms of processor time, once Python has kept its bytecode."""
    timed = """
        import time
        started = time.process_time()
        import beanpool
        print(time.process_time() - started)
    """
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    tries: list[float] = []
    # A machine that is busy makes everything slow, but not every time.
    while not tries or (min(tries) >= 0.1 and len(tries) < 10):
        # Without the development mode of run_python, which costs half as much again.
        ended = subprocess.run(
            [sys.executable, "-P", "-c", textwrap.dedent(timed)],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            cwd=tmp_path,
            env=environment,
        )
        tries.append(float(ended.stdout))
    assert min(tries) < 0.1


def test_the_version_is_that_of_the_installed_package() -> None:
    assert beanpool.__version__ == importlib.metadata.version("beanpool")
    with pytest.raises(AttributeError, match="no_such_name"):
        beanpool.no_such_name  # type: ignore[attr-defined]  # noqa: B018  # That is what is asked.


def test_yaml_is_loaded_by_the_first_statistics(cluster: StartCluster) -> None:
    code, output, errors = run(
        """
        import sys
        import beanpool

        with beanpool.PoolManager(sys.argv[1:]) as pool:
            for number in range(4):
                pool.put("job")
                with pool.reserve(timeout=5) as job:
                    job.touch()
            assert pool.reserve(timeout=0) is None
            pool.servers, pool.get_stats()
            print(*[name for name in ("yaml", "tenacity") if name in sys.modules])
            pool.stats()
        """,
        *[server.address for server in cluster(2)],
    )
    assert (code, output.strip(), errors) == (0, "", "")


ENDINGS = {
    "threads wait for jobs": """
        def wait(tubes):
            with contextlib.suppress(beanpool.PoolClosed):
                pool.reserve(tubes=tubes)

        for tubes in ("a", "a", "b", None):
            threading.Thread(target=wait, args=(tubes,), daemon=True).start()
        while pool.stats()["current-waiting"] < 3 * len(addresses):
            time.sleep(0.001)
    """,
    "threads put jobs": """
        def put():
            # What may be stored when the pool closes under it is ambiguous.
            with contextlib.suppress(beanpool.PoolClosed, beanpool.PutAmbiguous):
                while True:
                    pool.put("job", tube="made")

        for _ in range(3):
            threading.Thread(target=put, daemon=True).start()
        while pool.stats()["total-jobs"] < 100:
            time.sleep(0.001)
    """,
    "nothing is going on": "",
    "after an exception": """
        sys.excepthook = lambda *_: None
        raise RuntimeError
    """,
    "in an exit of the program": """
        sys.exit(0)
    """,
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_a_process_ends_silently_and_promptly(cluster: StartCluster, ending: str, closed: bool) -> None:
    servers = cluster(2)
    # That a pool was never closed is worth a warning of its own, and nothing else is.
    mind = "atexit.register(pool.close, timeout=0)" if closed else 'warnings.simplefilter("ignore", ResourceWarning)'
    source = f"{textwrap.dedent(WORK)}\nimport atexit, warnings\n{mind}\n{textwrap.dedent(ending)}"
    code, output, errors = run(source, *[server.address for server in servers])
    assert (code, output, errors) == (int("raise" in ending), "", "")
    wait_until(lambda: not any(server.control.other_connections() for server in servers), "the connections to end")
    assert not any(server.control.counter("current-jobs-reserved") for server in servers)


def test_a_frozen_server_does_not_delay_the_end(beanstalkd: BeanstalkdServer) -> None:
    beanstalkd.control.open()
    code, output, errors = run(
        WORK
        + """
    import signal

    with pool:
        waiting = threading.Thread(target=pool.reserve, daemon=True)
        waiting.start()
        os.kill(int(pool.stats()["pid"]), signal.SIGSTOP)
        threading.excepthook = lambda *_: None
        threading.Thread(target=pool.put, args=("job",), daemon=True).start()
        pool.close(timeout=0.3)
        waiting.join(1)
        assert not waiting.is_alive()
        """,
        beanstalkd.address,
    )
    beanstalkd.freeze()
    beanstalkd.thaw()
    assert (code, output, errors) == (0, "", "")


def test_control_c_ends_a_worker(beanstalkd: BeanstalkdServer) -> None:
    code, output, errors = run(
        """
        import os, signal, sys, threading, time
        import beanpool

        def press():
            with beanpool.Connection(*sys.argv[1].split(":")[:1], port=int(sys.argv[1].split(":")[1])) as control:
                while not control.stats()["current-waiting"]:
                    time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=press).start()
        try:
            with beanpool.PoolManager(sys.argv[1:]) as pool:
                pool.reserve()
        except KeyboardInterrupt:
            print("interrupted")
        """,
        beanstalkd.address,
    )
    assert (code, output.strip(), errors) == (0, "interrupted", "")
    wait_until(lambda: not beanstalkd.control.other_connections(), "the connections to end")
