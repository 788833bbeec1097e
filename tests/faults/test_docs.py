"""Every test that docs/reliability.md names is there, and every scenario has its line."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "reliability.md"


def test_every_test_that_is_named_is_there() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?`", text)
    assert len(named) > 60
    for file, function in named:
        # Named from tests/, or, in commands, from tests/faults.
        found = [folder / file for folder in (TESTS, TESTS / "faults") if (folder / file).exists()]
        assert found, file
        assert not function or f"def {function}(" in found[0].read_text(encoding="utf-8"), (file, function)


def test_every_scenario_has_its_line() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == list(range(1, 51))
