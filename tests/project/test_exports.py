"""A package below the manager exports what others use, and no more; that they use nothing else, a contract holds."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import beanpool

ROOT = Path(beanpool.__file__).parent
# Not those that users import from: these may export more.
PACKAGES = (
    *("cluster", "connection", "jobs", "net", "policy", "protocol"),
    *("put", "reserve", "runtime", "server", "telemetry"),
)


def test_what_a_package_exports_is_used() -> None:
    used: dict[str, set[str]] = {f"beanpool.{package}": set() for package in PACKAGES}
    for path in ROOT.rglob("*.py"):
        package = path.relative_to(ROOT).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in used and node.module != f"beanpool.{package}":
                used[node.module] |= {alias.name for alias in node.names}
    assert {name: set(importlib.import_module(name).__all__) for name in used} == used
