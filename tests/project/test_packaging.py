"""The tests run on the installed wheel, and the wheel is complete."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import beanpool

ROOT = Path(__file__).resolve().parents[2]
SITE_PACKAGES = Path(sysconfig.get_path("purelib")).resolve()

pytestmark = pytest.mark.skipif(
    os.environ.get("BEANPOOL_EXPECT_INSTALLED") != "1", reason="run by tox, on the built wheel"
)


def test_the_installed_package_is_tested() -> None:
    assert Path(beanpool.__file__).resolve() == SITE_PACKAGES / "beanpool" / "__init__.py"


def test_a_python_started_in_the_root_imports_the_installed_package() -> None:
    assert sys.flags.safe_path
    started = subprocess.run(
        [sys.executable, "-c", "import beanpool; print(beanpool.__file__)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert Path(started.stdout.strip()).resolve() == Path(beanpool.__file__).resolve()


def test_the_wheel_holds_the_whole_package() -> None:
    source = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "beanpool").rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    installed = {
        path.as_posix()
        for path in importlib.metadata.files("beanpool") or ()
        if path.parts[0] == "beanpool" and path.suffix != ".pyc"
    }
    assert "beanpool/py.typed" in source
    assert installed == source


def test_the_core_needs_two_packages() -> None:
    requirements = importlib.metadata.requires("beanpool") or []
    core = [requirement for requirement in requirements if "extra ==" not in requirement]
    assert {re.split(r"[^\w-]", requirement)[0].lower() for requirement in core} == {"pyyaml", "tenacity"}


def test_the_console_script_is_callable() -> None:
    [script] = importlib.metadata.entry_points(group="console_scripts", name="beanpool")
    assert callable(script.load())
