"""The example in docs/chaos.md, run as it stands there, on other ports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import toxiproxy.api

from beanpool.testing.toxiproxy import Toxiproxy

if TYPE_CHECKING:
    from conftest import StartCluster

PAGE = Path(__file__).resolve().parents[2] / "docs" / "chaos.md"


# Its block is marked "py": the tests of all documents run those marked "python", without Toxiproxy.
def test_the_example(toxiproxy_server: Toxiproxy, cluster: StartCluster) -> None:
    (source,) = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    consumer = toxiproxy.api.APIConsumer
    ports = {"8474": str(toxiproxy_server.port)}
    ports.update(zip(("11300", "11301"), (str(server.port) for server in cluster(2)), strict=True))
    for written, real in ports.items():
        assert source.count(written) == 1
        source = source.replace(written, real)
    names: dict[str, object] = {}
    exec(compile(source, str(PAGE), "exec"), names)
    test = names["test_a_server_that_goes_silent_costs_no_job"]
    assert callable(test)
    test()
    assert consumer.get("/proxies").json() == {}
