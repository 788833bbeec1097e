"""Raises an exception, or calls something, at the n-th place of the library's code at which a signal could come.

A signal handler runs between two instructions, but not between any two: CPython looks for signals when a function
starts, after a call, and when it jumps backwards. A trace function sees more places than those, and two of the others
would find faults that cannot happen:

- The line of a ``with`` comes up a second time when its block ends, *before* ``__exit__`` is called. Nothing was
  called since the end of the block, so no signal is handled there: the last place was within the block, and the next
  one is after ``__exit__``. For a lock this is what makes ``with`` safe.
- In the same way the first line of a ``finally`` or ``except`` comes up before it has called anything. The last place
  was within the ``try``, which then goes the way of the exception.

These are left out, by looking at the instructions at hand. The return of each function is a place too: it stands for
the moment after the call in which the caller has not stored the result yet.
"""

from __future__ import annotations

import _weakrefset
import contextlib
import dis
import functools
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import beanpool

_FOLDER = str(Path(beanpool.__file__).parent)
# A generator's context manager is left within its code, and weak collections are kept in order by theirs.
_TRACED = (_FOLDER, contextlib.__file__, _weakrefset.__file__, weakref.__file__)
_SILENT = {"NOP", "SWAP", "COPY", "EXTENDED_ARG", "NOT_TAKEN"}
_HANDLES_SIGNALS = ("CALL", "PRECALL", "RESUME", "JUMP_BACKWARD", "SEND", "YIELD", "FOR_ITER")


@functools.cache
def _out_of_reach(code: CodeType) -> frozenset[int]:
    """The offsets of instructions that no signal comes before: the ends of ``with`` and the starts of handlers."""
    instructions = [instruction for instruction in dis.get_instructions(code) if instruction.opname != "CACHE"]
    names = [instruction.opname for instruction in instructions]
    found = set()
    regions = _regions(code)
    for index, instruction in enumerate(instructions):
        rest = index
        while rest < len(names) and names[rest] in _SILENT:
            rest += 1
        following = instructions[rest : rest + 5]
        loads = [i.opname == "LOAD_CONST" and i.argval is None for i in following[:3]]
        leaves_with = loads == [True, True, True] and any("CALL" in i.opname for i in following[3:5])
        before = instructions[index - 1] if index else None
        # The former has no line of its own where a ``finally`` begins.
        starts_handler = names[index] in ("PUSH_EXC_INFO", "WITH_EXCEPT_START") or (
            before is not None and before.opname == "PUSH_EXC_INFO"
        )
        leaves_try = (
            before is not None
            and regions.get(before.offset) != regions.get(instruction.offset)
            and regions.get(before.offset) is not None
            and not before.opname.startswith(_HANDLES_SIGNALS[4:])
        )
        if leaves_with or starts_handler or leaves_try:
            found.add(instruction.offset)
    return frozenset(found)


def _regions(code: CodeType) -> dict[int, int]:
    """Which handler each instruction's exceptions go to."""
    regions = {}
    for entry in dis.Bytecode(code).exception_entries:  # type: ignore[attr-defined]  # Not in the type stubs.
        for offset in range(entry.start, entry.end, 2):
            regions[offset] = entry.target
    return regions


def _returns(opcode: int) -> bool:
    return dis.opname[opcode] in ("RETURN_VALUE", "RETURN_CONST")


# A run tries every third place, and its seed says with which it begins. BEANPOOL_EVERY_PLACE=1 tries them all.
STRIDE = 1 if os.environ.get("BEANPOOL_EVERY_PLACE", "") not in ("", "0") else 3


def first_place() -> int:
    """The place that this run begins with."""
    return int(os.environ["BEANPOOL_SEED"]) % STRIDE


class Detour:
    """Calls a function, and something else within it at one place, as a signal handler does.

    :param place: the number of the place, counted from 0.
    """

    def __init__(self, place: int, act: Callable[[], object]) -> None:
        self.happened = False
        self.where = ""
        self._left = place
        self._act: Callable[[], object] | None = act
        # Held here: CPython 3.11 lets go of a trace function that raises, and may call it once more all the same.
        self._on_call = self._enter
        self._on_line = self._trace

    def run(self, call: Callable[[], object]) -> object:
        """Call it; returns what it returns, raises what it raises."""
        sys.settrace(self._on_call)
        try:
            return call()
        finally:
            sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Callable[[FrameType, str, Any], Any] | None:
        if self._act is None or not frame.f_code.co_filename.startswith(_TRACED):
            return None
        return self._on_line

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Callable[[FrameType, str, Any], Any] | None:
        if self._act is None or event not in ("line", "return"):
            return self._on_line
        if event == "line" and frame.f_lasti in _out_of_reach(frame.f_code):
            return self._on_line
        if event == "return" and not _returns(frame.f_code.co_code[frame.f_lasti]):
            # An exception passes through, or a generator waits.
            return self._on_line
        self._left -= 1
        if self._left >= 0:
            return self._on_line
        act, self._act = self._act, None
        self.happened = True
        self.where += f" {Path(frame.f_code.co_filename).name}:{frame.f_lineno} ({frame.f_code.co_name}, {event})"
        act()
        return self._on_line


class Interrupt(Detour):
    """Calls a function, and raises within it at one place, or at several.

    :param place: the number of the place, counted from 0.
    :param again: how many places after that the next interrupt comes, and so on: they come while the one before is
        dealt with.
    """

    def __init__(self, place: int, error: BaseException, again: Sequence[int] = ()) -> None:
        super().__init__(place, self._raise)
        self._kind = type(error)
        self._error: BaseException | None = error
        self._again = list(again)

    def run(self, call: Callable[[], object]) -> object:
        """See :class:`Detour`."""
        if self._again:
            sys.setprofile(self._go_on)
        try:
            return super().run(call)
        finally:
            sys.setprofile(None)

    def _go_on(self, frame: FrameType, event: str, argument: Any) -> None:
        """Trace again after an interrupt: CPython lets go of a trace function that raises."""
        if self._act is None and self._again and event == "call":
            self._left = self._again.pop(0)
            self._error = self._kind("once more")
            self._act = self._raise
            caller: FrameType | None = frame
            while caller is not None:
                if caller.f_code.co_filename.startswith(_TRACED):
                    caller.f_trace = self._on_line
                caller = caller.f_back
            sys.settrace(self._on_call)

    def _raise(self) -> None:
        error, self._error = self._error, None
        assert error is not None
        try:
            raise error
        finally:
            # This frame is in the traceback: a name for the error in it would be a circle.
            del error


def at_every_place(
    prepare: Callable[[], Callable[[], object]],
    check: Callable[[str], None],
    kind: type[BaseException],
    *,
    step: int = 1,
    tidy: Callable[[], None] = lambda: None,
) -> int:
    """Interrupt a call at its places in turn, or at a part of them; returns how many there are."""
    place = first_place()
    while True:
        call = prepare()
        interrupt = Interrupt(place, kind("at some line"))
        try:
            interrupt.run(call)
        except kind:
            pass
        else:
            # A place in a finalizer swallows what is raised there: it is printed, not propagated.
            if not interrupt.happened:
                return place
        del call
        tidy()
        try:
            check(f"interrupted at place {place}, {interrupt.where}")
        except BaseException as error:
            error.add_note(f"interrupted at place {place}, {interrupt.where}")
            raise
        place += step * STRIDE
