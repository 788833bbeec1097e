"""The commands of docs/operations.md do what the document shows, on three servers, one after the other."""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command_line import call_beanpool

if TYPE_CHECKING:
    from conftest import StartCluster

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def examples(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a document, and what it prints."""
    for block in re.findall(r"^```console\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def matches(expected: str, shown: str) -> bool:
    """Whether a document shows this: ``...`` is for whatever differs from run to run, and blanks are all alike."""
    parts = (re.escape(" ".join(part.split())) for part in expected.split("..."))
    return re.fullmatch(".*".join(parts), " ".join(shown.split())) is not None


def test_commands_in_the_recipes(cluster: StartCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = cluster(3, wal=True)
    env = {f"Q{number}": server.address for number, server in enumerate(servers, 1)}
    env["BEANPOOL_URL"] = "beanstalk://" + ",".join(server.address for server in servers)
    monkeypatch.chdir(tmp_path)
    found = list(examples(DOCUMENT.read_text(encoding="utf-8")))
    assert len(found) > 20
    for command, expected in found:
        program, *arguments = shlex.split(string.Template(command).substitute(env))
        assert program == "beanpool"
        done = call_beanpool(*arguments, env=env)
        shown = (done.stdout + done.stderr).decode()
        assert matches(expected, shown), f"$ {command}\n{shown}"
