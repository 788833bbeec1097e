"""What the documents show is what one gets: their Python is run, against real servers."""

from __future__ import annotations

import doctest
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

from beanpool import Connection, PoolManager
from beanpool.protocol.commands import ALL_COMMANDS

if TYPE_CHECKING:
    from conftest import StartCluster


ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_PYTHON = [path for path in DOCUMENTS if "\n```python\n" in path.read_text(encoding="utf-8")]

# Who runs the blocks marked "py": those that need more than servers, or a file of their own.
RUN_BY = {
    "docs/celery.md": "tests/functional/contrib/kombu/test_document.py",
    "docs/chaos.md": "tests/chaos/test_docs.py",
    "docs/discovery.md": "tests/functional/discovery/test_docs.py",
    "docs/dramatiq.md": "tests/functional/contrib/dramatiq/test_document.py",
    "docs/monitoring.md": "tests/functional/metrics/test_dashboard.py",
    "docs/testing.md": "tests/testing/test_plugin.py",
    "docs/web.md": "tests/functional/contrib/test_web.py",
    "docs/workers.md": "tests/functional/worker/test_documents.py",
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", WITH_PYTHON, ids=name_of)
def test_python_in_documents(path: Path, cluster: StartCluster) -> None:
    """`port` is a server for one connection; `servers` is the URL of three others."""
    document = Document.parse(str(path), PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS))
    alone, *others = cluster(4)
    document.namespace.update(port=alone.port, servers="beanstalk://" + ",".join(server.address for server in others))
    examples = list(document.examples())
    assert examples
    try:
        for example in examples:
            example.evaluate()
    finally:
        for value in document.namespace.values():
            if isinstance(value, Connection | PoolManager):
                value.close()


def test_every_other_block_of_python_has_its_test() -> None:
    others = {name_of(path) for path in DOCUMENTS if "\n```py\n" in path.read_text(encoding="utf-8")}
    assert others == set(RUN_BY)
    for page, test in RUN_BY.items():
        assert page.rpartition("/")[2] in (ROOT / test).read_text(encoding="utf-8"), f"{test} does not run {page}"


def test_the_tutorial_is_among_them() -> None:
    assert {"README.md", "docs/tutorial.md"} <= set(map(name_of, WITH_PYTHON))


def links(path: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            yield target.partition("#")[0]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    missing = [target for target in links(path) if target and not (path.parent / target).exists()]
    assert not missing


def test_only_one_table_says_where_the_project_lives() -> None:
    """What PyPI shows of the README is made by the addresses of [project.urls]."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    source = settings["project"]["urls"]["Source"]
    made = settings["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]
    assert [rule["replacement"] for rule in made] == [rf"\1({source}/{how}/main/\2)" for how in ("raw", "blob")]
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    for rule in made:
        shown = re.sub(rule["pattern"], rule["replacement"], shown)
    assert "![" in shown
    assert re.findall(r"\]\((?!https://)[^)]*\)", shown) == []


def test_the_readme_has_every_extra_once() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| extra |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(
        settings["project"]["optional-dependencies"]
    )


def test_the_protocol_page_names_every_command() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert [command.name for command in ALL_COMMANDS if f"`{command.name}`" not in text] == []
    public = {name for name in vars(Connection) if not name.startswith("_")}
    calls = set(re.findall(r"`(\w+)\(", text))
    assert calls - public == {"CommandFailed"}
