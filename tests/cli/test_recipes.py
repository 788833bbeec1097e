"""The commands of docs/operations.md do what the document shows, on three servers, one after the other.

Those of other documents are at least commands.
"""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command_line import call_beanpool

from beanpool.cli.parser import build_parser

if TYPE_CHECKING:
    from conftest import StartCluster
    from support.servers import BeanstalkdServer

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs"
DOCUMENT = DOCUMENTS / "operations.md"


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


@pytest.mark.parametrize("name", ["command-line.md", "workers.md", "monitoring.md"])
def test_commands_in_other_documents_can_be_read(name: str) -> None:
    found = 0
    for command, _ in examples((DOCUMENTS / name).read_text(encoding="utf-8")):
        words = shlex.split(command, comments=True)
        while "beanpool" in words:
            words = words[words.index("beanpool") + 1 :]
            end = next((number for number, word in enumerate(words) if word in ("|", ">", "<", "&&", ";")), len(words))
            build_parser().parse_args(words[:end])
            found += 1
    assert found > 0


def test_tables_have_the_heads_that_the_reference_shows(beanstalkd: BeanstalkdServer) -> None:
    beanstalkd.control.put(b"x", "mail")
    seen = set()
    for command, shown in examples((DOCUMENTS / "command-line.md").read_text(encoding="utf-8")):
        head = shown.partition("\n")[0].split()
        if head[:1] in (["job"], ["server"], ["tube"]) and "move" not in command:
            done = call_beanpool(*shlex.split(command)[1:], "-u", beanstalkd.url)
            assert done.stdout.decode().partition("\n")[0].split() == head, command
            seen.add(command)
    assert seen == {"beanpool peek mail", "beanpool servers", "beanpool tubes"}
