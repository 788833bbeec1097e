"""What users can reach on the classes that they work with: what is documented, with its real arguments, and no more."""

from __future__ import annotations

import inspect

import pytest

from beanpool import PoolManager, Tube
from beanpool.put.producer import Producer

CLASSES = (PoolManager, Tube, Producer)


@pytest.mark.parametrize("cls", CLASSES)
def test_methods_have_a_docstring_and_hide_no_argument(cls: type) -> None:
    for name, member in inspect.getmembers(cls, inspect.isroutine):
        if name.startswith("_") and name != "__init__":
            continue
        assert name == "__init__" or inspect.getdoc(member), f"{name} has no docstring"
        for parameter in inspect.signature(member).parameters.values():
            assert parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD), f"{name}: {parameter}"


def test_instances_show_nothing_but_their_name() -> None:
    pool = PoolManager("q1", name="p")
    for thing in (pool, pool.tube("t")):
        shown = {name for name in dir(thing) if not name.startswith("_")}
        methods = {name for name in dir(type(thing)) if not name.startswith("_")}
        assert shown - methods <= {"name"}


@pytest.mark.parametrize("leak", ["member_changed", "member_starved", "job_lost", "connection_opened", "start"])
def test_what_the_parts_of_a_pool_tell_each_other_is_not_reachable(leak: str) -> None:
    assert not hasattr(PoolManager, leak)
