"""What the document shows that needs dnspython, and so does not run with the other documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from beanpool import PoolManager

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "discovery.md"
EXAMPLES = re.findall(r"^```py\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_make_pools(example: str) -> None:
    names: dict[str, object] = {}
    exec(compile(example, str(DOCUMENT), "exec"), names)
    assert isinstance(names["pool"], PoolManager)
