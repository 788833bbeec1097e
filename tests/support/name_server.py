"""A real name server (dnsmasq) on loopback, whose records a test decides on, and one that says what it is told."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import dns.message
import dns.query
import dns.resolver
import pytest

from beanpool import DnsSrv, PoolManager
from beanpool.testing.embedded.binding import ClaimedPort
from beanpool.testing.parent_death import ParentDeathGuard
from beanpool.testing.service import Service
from support.servers import BeanstalkdServer
from support.waiting import wait_until

ZONE = "beans.test"
NAME = f"_beanstalkd._tcp.{ZONE}"

_HOW_TO_GET = "dnsmasq was not found: python3 .ci/provision dnsmasq gets it, or name the program in $DNSMASQ"


def require_dnsmasq() -> str:
    """Where dnsmasq is; where there is none, skip the test, or fail it with ``BEANPOOL_REQUIRE_SERVERS=1``."""
    named = os.environ.get("DNSMASQ")
    found = shutil.which(named or "dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin:/usr/local/sbin")
    if found is not None:
        return found
    if os.environ.get("BEANPOOL_REQUIRE_SERVERS", "") not in ("", "0"):
        pytest.fail(_HOW_TO_GET, pytrace=False)
    pytest.skip(_HOW_TO_GET)


_Resolver = dns.resolver.Resolver


def resolver_at(host: str, port: int) -> dns.resolver.Resolver:
    """What asks a name server there, and no other."""
    # Also where a test has put another one in its place.
    resolver = _Resolver(configure=False)
    resolver.nameservers = [host]
    resolver.port = port
    return resolver


class NameServer(Service):
    """dnsmasq, which knows the zone ``beans.test``.

    :param ttl: of all of its records (seconds).
    """

    def __init__(self, ttl: int = 0) -> None:
        self._binary = require_dnsmasq()
        self._ttl = ttl
        # UDP and TCP need the same port: nobody else has this address.
        numbers = [random.randrange(1, 255) for _ in range(3)] if sys.platform == "linux" else [0, 0, 1]
        self.host = ".".join(map(str, [127, *numbers]))
        self._claim = ClaimedPort(self.host)
        self.port = self._claim.number
        self._guard = ParentDeathGuard()
        self._records: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    def resolver(self) -> dns.resolver.Resolver:
        """What asks this one, and no other."""
        return resolver_at(self.host, self.port)

    def start(self) -> None:
        """Start it with the records that it has."""
        folder = self._guard.folder
        lines = ["keep-in-foreground", "bind-interfaces", "no-resolv", "no-hosts", "pid-file=", "log-facility=-"]
        lines += [f"listen-address={self.host}", f"port={self.port}", f"local=/{ZONE}/", f"local-ttl={self._ttl}"]
        lines += ["user=root"] if not os.geteuid() else []
        (folder / "dnsmasq.conf").write_text("\n".join([*lines, *self._records, ""]))
        with open(folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._binary, f"--conf-file={folder / 'dnsmasq.conf'}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=self._guard.group,
            )
        question = dns.message.make_query(f"none.{ZONE}", "A")

        def answers() -> bool:
            try:
                dns.query.udp(question, self.host, timeout=0.2, port=self.port)
            except (OSError, dns.exception.Timeout):
                return False
            return True

        wait_until(answers, f"an answer of dnsmasq: {(folder / 'log').read_text()}")

    def stop(self) -> None:
        """End it. Idempotent."""
        self.kill()
        self._claim.give_up()
        self._guard.close()

    def kill(self) -> None:
        """SIGKILL; the next :meth:`set` starts it again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def set(
        self, srv: Iterable[tuple[str, int, int, int]] = (), hosts: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        """Have these records, and no others, from now on: it is started anew.

        :param srv: of :data:`NAME`: target, port, priority, weight.
        :param hosts: the addresses of each host.
        """
        self._records = [f"srv-host={NAME},{','.join(map(str, record))}" for record in srv]
        self._records += [f"host-record={name},{place}" for name, places in (hosts or {}).items() for place in places]
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Let it be silent."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it answer again."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class ScriptedNameServer(Service):
    """Answers every question over UDP with what a function makes of it; None for no answer.

    :param answer: takes a question, returns the response to send.
    """

    def __init__(self, answer: Callable[[dns.message.Message], dns.message.Message | None]) -> None:
        self._answer = answer
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.questions = 0

    def resolver(self) -> dns.resolver.Resolver:
        """What asks this one, and no other."""
        return resolver_at(*self._socket.getsockname())

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End. Idempotent."""
        if self._thread.is_alive():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waking:
                waking.sendto(b"", self._socket.getsockname())
            self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, sender = self._socket.recvfrom(4096)
            if not data:
                return
            self.questions += 1
            answer = self._answer(dns.message.from_wire(data))
            if answer is not None:
                self._socket.sendto(answer.to_wire(), sender)


class SystemNames:
    """The system's look-up of names, as far as it concerns the zone: it asks `resolver`, whenever a name is looked up.

    The servers of tests are all on one address, each on a port that the system has chosen. So it may be told where what
    the records say is.

    :ivar moved: where a name's address and port are.
    :ivar numeric: the same for an address that no name led to.
    """

    def __init__(self, resolver: dns.resolver.Resolver, patch: pytest.MonkeyPatch) -> None:
        self.resolver = resolver
        self.moved: dict[tuple[str, int], tuple[str, int]] = {}
        self.numeric: dict[tuple[str, int], tuple[str, int]] = {}
        self._system = socket.getaddrinfo
        patch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if not str(host).endswith(ZONE):
            return self._system(*self.numeric.get((host, port), (host, port)), *args, **options)
        if options.get("flags", 0) & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not numeric")
        try:
            answer = self.resolver.resolve(host, "A", lifetime=2.0)
        except Exception as error:
            raise socket.gaierror(socket.EAI_AGAIN, str(error)) from error
        found = [self.moved.get((record.address, port), (record.address, port)) for record in answer]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in found]


class Zone:
    """The records of a test's servers: one name for each."""

    def __init__(self, server: NameServer, names: SystemNames) -> None:
        self.server = server
        self.names = names
        self._hosts: dict[str, str] = {}

    def host(self, beanstalkd: BeanstalkdServer) -> str:
        """The name of a server; its address is one that nobody else has, wherever it is."""
        return self._name_of(beanstalkd.address)

    def _name_of(self, address: str) -> str:
        return self._hosts.setdefault(address, f"q{len(self._hosts) + 1}.{ZONE}")

    def address(self, beanstalkd: BeanstalkdServer) -> str:
        """What a pool calls it."""
        return f"{self.host(beanstalkd)}:{beanstalkd.port}"

    def list(self, *servers: BeanstalkdServer, weights: dict[int, int] | None = None, **priorities: int) -> None:
        """Let exactly these be in the records.

        :param weights: by the position in `servers`; 0 for the others.
        :param priorities: by ``p`` and the position in `servers`; 0 for the others.
        """
        records = [
            (self.host(server), server.port, priorities.get(f"p{number}", 0), (weights or {}).get(number, 0))
            for number, server in enumerate(servers)
        ]
        # Those that leave are found on: whoever takes a server out takes its name out last.
        self.server.set(records, {name: ["127.0.0.1"] for name in self._hosts.values()})

    def pool(self, **options: Any) -> PoolManager:
        """A pool that asks often, and whose calls may wait while the name server is started anew."""
        resolver = self.server.resolver()
        options = {"discovery_interval": (0.05, 0.2), "health_interval": 60, "drain_for": 0, **options}
        return PoolManager(discovery=DnsSrv(NAME, timeout=options.pop("patience", 2.0), resolver=resolver), **options)
