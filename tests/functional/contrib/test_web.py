"""The applications in docs/web.md, as they stand there."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.servers import BeanstalkdServer

PAGE = Path(__file__).resolve().parents[3] / "docs" / "web.md"


def blocks(section: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the modules of a package of this name, which is forgotten again."""
    folder = tmp_path / "shop"
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


def test_django(beanstalkd: BeanstalkdServer, shop: Path) -> None:
    django = pytest.importorskip("django")
    from django.conf import settings
    from django.db import transaction

    memory = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    settings.configure(BEANPOOL_URL=beanstalkd.url, DATABASES=memory)
    django.setup()
    for block in blocks("Django"):
        path = re.match(r"# shop/(\w+\.py)\n", block)
        assert path
        (shop / path[1]).write_text(block, encoding="utf-8")
    import shop.views as views  # type: ignore[import-not-found]  # Written just now.

    views.register = lambda request: SimpleNamespace(pk=request)
    views.done = lambda request: "done"
    with views.pool as pool:
        with transaction.atomic():
            assert views.sign_up(42) == "done"
            assert pool.peek_ready() is None
        with pool.reserve(timeout=10, tubes="emails") as job:
            assert job.body == "welcome, 42"


def test_fastapi(beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx2")
    from fastapi.testclient import TestClient

    monkeypatch.setenv("BEANPOOL_URL", beanstalkd.url)
    names: dict[str, Any] = {}
    (block,) = blocks("FastAPI")
    exec(compile(block, str(PAGE), "exec"), names)
    with TestClient(names["app"]) as client:
        answer = client.post("/users/alice")
        assert answer.json() == {"server": beanstalkd.address, "job": 1}
        assert client.get("/readyz").json() == {beanstalkd.address: "up"}
        beanstalkd.kill()
        assert client.post("/users/bob").status_code == 503
