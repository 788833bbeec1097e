"""A tunnel of TLS, as docs/tls.md sets it up: a stunnel at the server, and one at the client."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from beanpool.testing.embedded.binding import ClaimedPort
from beanpool.testing.parent_death import ParentDeathGuard
from support.servers import BeanstalkdServer
from support.waiting import wait_until

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tls.md"
LOOPBACK = "127.0.0.1"
PROGRAMS = ("stunnel", "openssl")
# Where the page's addresses and files are, and what takes their places.
_SERVER, _CLIENT = 0, 1


def require_stunnel() -> None:
    """Skip the test where there is no stunnel; with ``BEANPOOL_REQUIRE_SERVERS=1``, fail it."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if not missing:
        return
    reason = f"{' and '.join(missing)} not found: python3 .ci/provision {' '.join(missing)}"
    if os.environ.get("BEANPOOL_REQUIRE_SERVERS", "") not in ("", "0"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


class Tunnels:
    """Tunnels to servers, with one authority whose certificates both ends need."""

    def __init__(self) -> None:
        self._guard = ParentDeathGuard()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._claims: list[ClaimedPort] = []
        self.folder = self._guard.folder
        self._certify("authority")
        for name in ("server", "client"):
            self._certify(name, "-CA", "authority.pem", "-CAkey", "authority.key")

    def open(self, server: BeanstalkdServer) -> tuple[str, int]:
        """Open a tunnel to a server; return the address of its near end, and the port of its far end."""
        far, near = self._port(), self._port()
        self._start(
            _SERVER, {"0.0.0.0:11301": f"{LOOPBACK}:{far}", "127.0.0.1:11300": server.address}, f"far-{far}", far
        )
        self._start(
            _CLIENT,
            {
                "127.0.0.1:11300": f"{LOOPBACK}:{near}",
                "q1.example.com:11301": f"{LOOPBACK}:{far}",
                "checkHost = q1.example.com": f"checkIP = {LOOPBACK}",
            },
            f"near-{near}",
            near,
        )
        return f"{LOOPBACK}:{near}", far

    def close(self) -> None:
        """End all of them."""
        for process in self._processes:
            process.kill()
            process.wait()
        for claim in self._claims:
            claim.give_up()
        self._guard.close()

    def _port(self) -> int:
        self._claims.append(ClaimedPort(LOOPBACK))
        return self._claims[-1].number

    def _certify(self, name: str, *signed_by: str) -> None:
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{LOOPBACK}"]
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run(
            [*command.split(), *names, *files, *signed_by],
            cwd=self.folder,
            check=True,
            capture_output=True,
            timeout=30,
        )

    def _start(self, end: int, real: dict[str, str], name: str, port: int) -> None:
        settings = re.findall(r"^```ini\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[end]
        for written, value in {**real, "/etc/stunnel": str(self.folder)}.items():
            assert written in settings, f"docs/tls.md does not say {written}"
            settings = settings.replace(written, value)
        file = self.folder / f"{name}.conf"
        file.write_text(settings, encoding="utf-8")
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["stunnel", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=self._guard.group,
            )
        self._processes.append(process)

        def listens() -> bool:
            assert process.poll() is None, (self.folder / f"{name}.log").read_text(errors="replace")
            with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 1):
                return True
            return False

        wait_until(listens, f"stunnel {name} to listen")


@contextlib.contextmanager
def tunnels() -> Iterator[Tunnels]:
    """Tunnels that end with the block; skips where there is no stunnel."""
    require_stunnel()
    opened = Tunnels()
    try:
        yield opened
    finally:
        opened.close()
