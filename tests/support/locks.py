"""Finding the locks of an object by walking through all that it holds."""

from __future__ import annotations

import collections
import functools
import gc
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

LOCKS = (type(threading.Lock()), type(threading.RLock()))
_CONTAINERS = (
    *(dict, list, tuple, set, frozenset, collections.deque, functools.partial),
    *(types.MethodType, types.CellType, types.MappingProxyType),
)
_MODULES = ("beanpool", "threading", "weakref", "_weakrefset", "concurrent.futures")


def locks_of(*roots: object) -> dict[int, tuple[str, Any]]:
    """Every lock that can be reached from these, by its id, with the way to it in words."""
    found: dict[int, tuple[str, Any]] = {}
    seen: set[int] = set()
    queue = collections.deque((type(root).__name__, root) for root in roots)
    while queue:
        path, thing = queue.popleft()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, LOCKS):
            found[id(thing)] = (path, thing)
        else:
            queue.extend((f"{path}.{type(part).__name__}", part) for part in _parts(thing))
    return found


def _parts(thing: object) -> Iterator[object]:
    if isinstance(thing, types.FunctionType):
        # Not its globals: those are the whole program.
        yield from thing.__closure__ or ()
    elif isinstance(thing, _CONTAINERS) or (
        not isinstance(thing, type | types.ModuleType) and type(thing).__module__.startswith(_MODULES)
    ):
        yield from (part for part in gc.get_referents(thing) if not isinstance(part, type | types.ModuleType))


def globals_of(package: str) -> dict[str, object]:
    """The variables of all modules of a package that are loaded."""
    return {
        f"{name}.{variable}": value
        for name, module in list(sys.modules.items())
        # The servers for tests are the test's.
        if name.startswith(package) and not name.startswith(f"{package}.testing") and module is not None
        for variable, value in list(vars(module).items())
        if not isinstance(value, type | types.ModuleType | types.FunctionType)
    }
