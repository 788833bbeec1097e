"""Measure beanpool next to other clients: ``python tests/benchmarks/run.py [--quick] [--case NAME ...] [--write]``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench import FULL, QUICK, SMOKE, Bench
from benchmarks.cases import CASES
from benchmarks.machine import facts
from benchmarks.report import write_report
from benchmarks.result import Result
from benchmarks.tables import goals_table, markdown
from support.servers import find_beanstalkd, no_beanstalkd

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Measure, print, and with ``--write`` write ``docs/benchmarks.md``."""
    parser = argparse.ArgumentParser(description=__doc__)
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="fewer rounds, for work on the code")
    effort.add_argument("--smoke", action="store_true", help="a few operations each: only whether the cases run")
    parser.add_argument("--case", nargs="+", choices=CASES, metavar="NAME", help=f"only these: {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of every case")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its plots; only a full run")
    options = parser.parse_args()
    if options.write and (options.quick or options.smoke or options.case):
        parser.error("--write needs a full run: no --quick, --smoke or --case")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if find_beanstalkd() is None:
        parser.exit(1, f"{no_beanstalkd()}\n")
    results: dict[str, Result] = {}
    started = time.monotonic()
    print(f"{facts()}\n")
    with Bench(QUICK if options.quick else SMOKE if options.smoke else FULL, options.rounds) as bench:
        for name in options.case or CASES:
            case_started = time.monotonic()
            result = results[name] = CASES[name](bench)
            print(f"## {result.title} ({name}, {time.monotonic() - case_started:.1f} s)\n")
            for table in result.tables:
                print(markdown(table), end="\n\n", flush=True)
    goals = [goal for result in results.values() for goal in result.goals]
    if goals:
        print(f"## Goals\n\n{markdown(goals_table(goals))}\n")
    print(f"{time.monotonic() - started:.0f} s")
    if options.write:
        write_report(ROOT / "docs", results)


if __name__ == "__main__":
    main()
