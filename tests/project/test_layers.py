"""Imports go down only: errors and protocol at the bottom, the command line at the top.

A new module needs a line in LAYERS. ``"cli.*"`` stands for everything under a package, itself included.
"""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.once

PACKAGE = "beanpool"

# The lowest layer first. A module imports from its own layer and from lower ones, and never in a circle.
# "" is the package itself.
LAYERS: list[set[str]] = [
    {"errors", "address", "checks", "log", "events"},
    {"locks"},
    {"own_limits", "patching"},
    {"loading"},
    {"protocol.*"},
    # The embedded server shares nothing with the client but the protocol's limits.
    {"testing.failures", "testing.service", "testing.parent_death"},
    {
        *("testing.embedded.clock", "testing.embedded.bag", "testing.embedded.dialect", "testing.embedded.host"),
        *("testing.embedded.arguments", "testing.embedded.binding"),
    },
    {"testing.embedded.state"},
    {"testing.embedded.model"},
    {"testing.embedded.documents", "testing.embedded.replies"},
    {"testing.embedded.commands"},
    {"testing.embedded.dialogue"},
    {"testing.embedded.client_socket"},
    {"testing.embedded.loop"},
    {"testing.embedded", "testing.embedded.server"},
    {"resolving", "readiness", "sockets"},
    {"stream"},
    {"channel", "dialing", "job_id", "poller", "promise", "stats", "put_item", "listeners"},
    {"results", "turns", "exchange"},
    {"handshake", "job_protocols"},
    {"job"},
    {"job_making", "job_batch"},
    {"session"},
    {"fractional_reserve", "pipeline"},
    {"connection"},
    {"schedule", "ring", "quota", "pace", "spread", "health", "put_outcome", "stall_budget", "retry"},
    {"config", "reporter"},
    {
        *(
            "server_pool",
            "driven_connection",
            "pooled_connection",
            "lease",
            "lease_review",
            "reservations",
            "places",
            "pool_closing",
            "pool_queue",
            "ticket",
        ),
        *("giving_back", "recovery", "member"),
    },
    {
        *(
            "monitor",
            *("fresh_checks", "upkeep"),
            "topology",
            "comebacks",
            "putting",
            "watch",
            "errands",
            "shared_wait",
            "reserving",
            "survey",
            "put_lane",
            "put_many",
            "put_all",
            "slow_source",
            "producer",
            "sender",
        ),
        *("reserve_many", "delete_many"),
    },
    {"cluster", "questions", "jobs_by_id", "manager", "tube"},
    {""},
    {"testing.waiting", "testing.raw_client", "testing.write_ahead_log"},
    {"testing.beanstalkd", "testing.toxiproxy"},
    {"testing.cluster", "testing.watched_pool"},
    {"testing.*"},
    {"cli.*", "__main__"},
]

# The imports for types only that may go against the order.
TYPING_ONLY: set[tuple[str, str]] = set()

IO_AND_CLOCKS = {
    *("asyncio", "concurrent", "io", "os", "select", "selectors", "signal", "socket", "ssl", "subprocess"),
    *("threading", "time"),
}

# Modules that compute and do nothing else, and what they therefore do not import.
PURE: dict[str, set[str]] = {
    "protocol.*": IO_AND_CLOCKS,
    "ring": IO_AND_CLOCKS,
    "spread": IO_AND_CLOCKS,
    "quota": IO_AND_CLOCKS,
    "pace": IO_AND_CLOCKS,
    "put_outcome": IO_AND_CLOCKS,
    "schedule": IO_AND_CLOCKS,
    "stall_budget": IO_AND_CLOCKS,
    "health": IO_AND_CLOCKS,
    **{
        f"testing.embedded.{name}": IO_AND_CLOCKS
        for name in ("bag", "state", "model", "documents", "commands", "dialogue")
    },
}

DEPENDENCIES = {"tenacity", "yaml"}

# What else a module may import that nothing else imports: whoever uses it has it.
OF_ITS_USERS = {"testing.pytest_plugin": {"pytest"}}


class Import(NamedTuple):
    """One import statement's target: a module of the package (without its name), or a foreign one's first name."""

    target: str
    foreign: bool
    typing_only: bool
    line: int


def full_name(module: str) -> str:
    """The module's name with the package's."""
    return f"{PACKAGE}.{module}" if module else PACKAGE


def layer_of(module: str) -> int | None:
    """The number of the module's layer; None if the table does not have it."""
    for number, layer in enumerate(LAYERS):
        if any(matches(module, pattern) for pattern in layer):
            return number
    return None


def matches(module: str, pattern: str) -> bool:
    """Whether the pattern, a module's name or ``"package.*"``, stands for the module."""
    return module == pattern.removesuffix(".*") or fnmatchcase(module, pattern)


def imports_of(source: str, module: str, is_package: bool, modules: set[str]) -> Iterator[Import]:
    """Every import in `source`, wherever it stands."""
    typing_lines: set[int] = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in node.body:
                typing_lines.update(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = sorted(set(from_import(node, module, is_package, modules)))
        else:
            continue
        for name in names:
            first, _, inner = name.partition(".")
            foreign = first != PACKAGE
            yield Import(first if foreign else inner, foreign, node.lineno in typing_lines, node.lineno)


def from_import(node: ast.ImportFrom, module: str, is_package: bool, modules: set[str]) -> list[str]:
    """What ``from x import a, b`` imports: x.a where that is a module, else x."""
    base = node.module or ""
    if node.level:
        parts = [PACKAGE, *module.split(".")] if module else [PACKAGE]
        up = node.level - (1 if is_package else 0)
        base = ".".join([*parts[: len(parts) - up], *([base] if base else [])])
    names = []
    for alias in node.names:
        inner = f"{base}.{alias.name}".partition(".")[2]
        is_module = base.partition(".")[0] == PACKAGE and inner in modules
        names.append(f"{base}.{alias.name}" if is_module else base)
    return names


def violations(sources: dict[str, tuple[str, bool]]) -> list[str]:
    """What is wrong with these modules, given as name: (source, whether it is a package)."""
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    for module, (source, is_package) in sorted(sources.items()):
        where = full_name(module)
        layer = layer_of(module)
        if layer is None:
            found.append(f"{where} is in no layer: add it to LAYERS in {Path(__file__).name}")
            continue
        banned = set().union(*(names for pattern, names in PURE.items() if matches(module, pattern)))
        for imported in imports_of(source, module, is_package, set(sources)):
            at = f"{where}:{imported.line}"
            if imported.foreign:
                if imported.target in banned:
                    found.append(f"{at} imports {imported.target}, and is to do no I/O and read no clock")
                elif imported.target not in sys.stdlib_module_names | DEPENDENCIES | OF_ITS_USERS.get(module, set()):
                    found.append(f"{at} imports {imported.target}, which is no dependency")
                continue
            if imported.typing_only and (module, imported.target) in TYPING_ONLY:
                continue
            target, below = full_name(imported.target), layer_of(imported.target)
            if imported.target not in sources or below is None:
                found.append(f"{at} imports {target}, which is in no layer or does not exist")
            elif below > layer:
                found.append(f"{at} imports {target} from the higher layer {below}, being in {layer}")
            elif not imported.typing_only and imported.target != module:
                graph.setdefault(module, set()).add(imported.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append("imports in a circle: " + " <- ".join(full_name(name) for name in error.args[1]))
    return found


def package_sources() -> dict[str, tuple[str, bool]]:
    """The modules of the package under test."""
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(next(iter(spec.submodule_search_locations)))
    sources = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        sources[".".join(parts[:-1] if is_package else parts)] = (path.read_text(encoding="utf-8"), is_package)
    return sources


def test_imports_go_down_only() -> None:
    found = violations(package_sources())
    assert not found, "\n" + "\n".join(found)


def test_every_name_in_the_table_is_a_module() -> None:
    modules = package_sources()
    patterns = {pattern for layer in LAYERS for pattern in layer} | set(PURE)
    unused = sorted(pattern for pattern in patterns if not any(matches(module, pattern) for module in modules))
    assert not unused, f"these are no modules (any more): {unused}"


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("errors", "from beanpool.protocol import commands", "higher layer"),
        ("errors", "from .protocol import commands", "higher layer"),
        ("errors", "from . import config", "higher layer"),
        ("errors", "import beanpool.config", "higher layer"),
        ("errors", "def f():\n    import beanpool.config", "higher layer"),
        ("errors", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .config import x", "higher layer"),
        ("protocol.commands", "from .. import config", "higher layer"),
        ("protocol.commands", "import time", "no I/O"),
        ("protocol.commands", "from os import path", "no I/O"),
        ("config", "import requests", "no dependency"),
        ("config", "import pytest", "no dependency"),
        ("config", "from beanpool.conifg import x", "does not exist"),
        ("mystery", "", "in no layer"),
        ("address", "from .errors import x\n", "circle"),
    ],
)
def test_the_check_finds(module: str, source: str, complaint: str) -> None:
    sources = {
        "": ("", True),
        "errors": ("from .address import Address", False),
        "address": ("", False),
        "protocol": ("", True),
        "protocol.commands": ("", False),
        "config": ("", False),
        module: (source, False),
    }
    [found] = violations(sources)
    assert complaint in found


def test_the_check_lets_pass() -> None:
    sources = {
        "": ("from .config import x\nfrom .errors import y", True),
        "errors": ("import enum", False),
        "protocol": ("", True),
        "protocol.commands": ("import re\nfrom beanpool.errors import x\nfrom . import replies", False),
        "protocol.replies": ("from ..errors import x", False),
        "config": ("import os, yaml\nfrom beanpool import errors", False),
        "connection": ("from .job import Job\nfrom . import errors", False),
        "job": ("import typing", False),
        "cli": ("", True),
        "cli.demo": ("from beanpool import PoolManager\nfrom . import x", False),
    }
    assert violations(sources) == []
