"""The table of a run: what every operation came to under every fault."""

from __future__ import annotations

import threading
from typing import Any

OPERATIONS = (
    *("put", "put, raise", "put_many", "reserve ready", "reserve_many", "reserve waiting"),
    *("delete", "delete_many", "touch", "stats"),
)


class Results:
    """Cells by scenario and operation, and lines of figures. Any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, dict[str, str]] = {}
        self._figures: list[str] = []
        self._sections: list[str] = []
        self.operations = 0
        """How many calls of the library were checked."""

    def cell(self, scenario: str, operation: str, outcome: str, operations: int = 1) -> None:
        """Note what an operation came to."""
        with self._lock:
            self._rows.setdefault(scenario, {})[operation] = outcome
            self.operations += operations

    def figures(self, scenario: str, text: str, operations: int = 0) -> None:
        """Note what a scenario with operations of its own came to, in one line."""
        with self._lock:
            self._figures.append(f"- {scenario}: {text}")
            self.operations += operations

    def section(self, text: str) -> None:
        """Add a table of its own."""
        with self._lock:
            self._sections.append(text)

    def export(self) -> dict[str, Any]:
        """All of it in plain types, for another process."""
        return {
            "rows": self._rows,
            "figures": self._figures,
            "sections": self._sections,
            "operations": self.operations,
        }

    def take_in(self, exported: dict[str, Any]) -> None:
        """Add what another process has noted."""
        with self._lock:
            for scenario, row in exported["rows"].items():
                self._rows.setdefault(scenario, {}).update(row)
            self._figures += exported["figures"]
            self._sections += exported["sections"]
            self.operations += exported["operations"]

    def __bool__(self) -> bool:
        return bool(self._rows or self._figures)

    def table(self, seed: str) -> str:
        """All of it, as Markdown."""
        lines = [f"BEANPOOL_SEED={seed}; {self.operations:,} operations checked"]
        if self._rows:
            used = [name for name in OPERATIONS if any(name in row for row in self._rows.values())]
            lines += ["", f"| fault | {' | '.join(used)} |", "|---" * (1 + len(used)) + "|"]
            lines += [
                f"| {scenario} | {' | '.join(row.get(name, '') for name in used)} |"
                for scenario, row in self._rows.items()
            ]
        if self._figures:
            lines += ["", *self._figures]
        for section in self._sections:
            lines += ["", section]
        return "\n".join(lines) + "\n"
