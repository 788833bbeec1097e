"""The fixture `toxiproxy` of beanpool's pytest plugin, on the real toxiproxy-server."""

from __future__ import annotations

import pytest
from support.toxiproxy import require_toxiproxy

pytest_plugins = ["pytester"]


def test_a_link(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOXIPROXY_SERVER", require_toxiproxy())
    pytester.makeconftest('pytest_plugins = ["beanpool.testing.pytest_plugin"]')
    pytester.makepyfile(
        """
        import pytest
        import beanpool

        def test_silence(beanstalkd, toxiproxy):
            link = toxiproxy.link(beanstalkd)
            with beanpool.PoolManager(link.address, timeout=5) as pool:
                pool.put("job")
            link.add("timeout", timeout=0)
            with beanpool.Connection(link.host, link.port, timeout=0.1, connect_timeout=5) as connection:
                with pytest.raises(beanpool.CommandTimeout):
                    connection.stats()
            link.clear()
            with beanpool.Connection(link.host, link.port) as connection:
                assert connection.stats()["total-jobs"] == 1
            link.down()
            with pytest.raises(beanpool.ConnectionFailed):
                beanpool.Connection(link.host, link.port)
            link.up()
            beanpool.Connection(link.host, link.port).close()
            with pytest.raises(RuntimeError, match="400: .*invalid toxic type"):
                link.add("nonsense")
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error").assert_outcomes(passed=1)
