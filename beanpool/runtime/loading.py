"""Packages and modules that most programs never need: they are loaded when they are first needed."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

from beanpool.runtime.locks import Lock, is_mine
from beanpool.runtime.own_limits import no_descriptor, out_of_descriptors

_lock = Lock()
_begun: set[str] = set()
_whole: dict[str, Any] = {}


def load(name: str) -> Any:
    """Return the package `name`, which is loaded now if nobody has loaded it before.

    An interrupt in the middle of an import can leave parts of the package behind, which the next import takes for
    whole modules, or trips over. So the remains of an unfinished import are dropped first.

    :raises ImportError: if it is not installed.
    :raises BeanpoolError: if its files cannot be read at the moment.
    """
    package = _whole.get(name)
    if package is not None:
        return package
    try:
        return _load(name)
    except (OSError, ImportError) as error:
        # What is linked into the interpreter says it in words.
        if isinstance(error, OSError) or os.strerror(errno.EMFILE) in str(error) or out_of_descriptors():
            raise no_descriptor(f"loading {name}", error) from error
        raise


def _load(name: str) -> Any:
    if is_mine(_lock):
        # A signal handler that has interrupted the import itself: it must not drop what that is about to use.
        return importlib.import_module(name)
    with _lock:
        package = _whole.get(name)
        if package is not None:
            # Another thread has loaded it meanwhile: it is in use.
            return package
        if name in _begun:
            _drop(name)
        _begun.add(name)
        try:
            package = importlib.import_module(name)
        except Exception:
            # Perhaps it was somebody else's import that was interrupted.
            _drop(name)
            package = importlib.import_module(name)
        _whole[name] = package
        return package


def _drop(name: str) -> None:
    for module in list(sys.modules):
        if module == name or module.startswith(f"{name}."):
            sys.modules.pop(module, None)


def _new_lock_in_child() -> None:
    global _lock
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock_in_child)
