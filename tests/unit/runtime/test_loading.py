"""What is loaded late can be loaded again after an interrupt."""

from __future__ import annotations

import sys
import types

import pytest
from support.processes import run_python

from beanpool.runtime.loading import load

INTERRUPTED = """
import sys
import importlib
from beanpool.runtime import loading

package, check = sys.argv[1:]

def interrupt_at(line):
    left = line

    def trace(frame, event, argument):
        nonlocal left
        name, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        # The lines of its modules, and those of the import system with which one comes and goes.
        if (
            event == "line"
            and (name == package or name.startswith(package + "."), function)
            in ((True, "<module>"), (False, "_load_unlocked"))
        ):
            left -= 1
            if not left:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        loading.load(package)
        return False
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)

# At every line of the first ones, then at ever longer distances.
line, interrupts = 1, 0
while True:
    for module in [module for module in sys.modules if module.split(".")[0] == package]:
        del sys.modules[module]
    importlib.reload(loading)
    if not interrupt_at(line):
        break
    interrupts += 1
    eval(check, {"package": loading.load(package)})
    line += max(1, line // 2)
print(interrupts)
"""


@pytest.mark.parametrize(
    ("package", "check"),
    [
        ("yaml", "package.load('a: 1', Loader=package.BaseLoader)['a'] + package.YAMLError.__name__"),
        (
            "tenacity",
            "package.Retrying(stop=package.stop_any(package.stop_after_attempt(1)))(str)",
        ),
    ],
)
def test_an_interrupt_in_the_middle_is_made_good_by_the_next(package: str, check: str) -> None:
    ended = run_python(INTERRUPTED, package, check)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert int(ended.stdout) > 10


def test_what_is_there_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("beanpool_made_up")
    monkeypatch.setitem(sys.modules, "beanpool_made_up", module)
    assert load("beanpool_made_up") is load("beanpool_made_up") is module


def test_what_is_not_installed_is_said() -> None:
    with pytest.raises(ModuleNotFoundError, match="beanpool_not_there"):
        load("beanpool_not_there")


MANY_AT_ONCE = """
import threading
from beanpool.runtime import loading

gate, loaded = threading.Barrier(20), []

def need():
    gate.wait()
    loaded.append(loading.load("tenacity"))

threads = [threading.Thread(target=need) for _ in range(20)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(loaded), len({id(package) for package in loaded}))
"""


def test_many_threads_that_need_it_at_once_load_it_once() -> None:
    ended = run_python(MANY_AT_ONCE)
    assert (ended.returncode, ended.stdout.split(), ended.stderr) == (0, ["20", "1"], "")
