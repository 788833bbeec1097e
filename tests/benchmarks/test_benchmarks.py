"""The benchmarks run, count right, and write what they say; how fast anything is fails no test."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from benchmarks import overhead
from benchmarks.bench import SMOKE, Bench
from benchmarks.cases import CASES
from benchmarks.measuring import Contender, Ratio, Timings, interleaved
from benchmarks.peers import PEERS
from benchmarks.plots import Bars, Lines, Plot
from benchmarks.raw import RawLoop, RawPipeline
from benchmarks.report import PAGE, write_report
from benchmarks.result import Goal, Result, Table, speed_table
from benchmarks.tables import goals_table, markdown
from support.servers import require_beanstalkd

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "tests" / "benchmarks" / "run.py"
WITHOUT_PEERS = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({list(PEERS)!r}))
sys.argv[0] = {str(RUN)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SVG = "{http://www.w3.org/2000/svg}"


def run(*arguments: str, peers: bool = True) -> subprocess.CompletedProcess[str]:
    program = [str(RUN)] if peers else ["-c", WITHOUT_PEERS]
    return subprocess.run(
        [sys.executable, "-P", "-W", "error", *program, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_every_case_runs() -> None:
    require_beanstalkd()
    done = run("--smoke")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^## .*\(([a-z-]+), [\d.]+ s\)$", done.stdout, re.MULTILINE) == list(CASES)


def test_a_client_that_is_not_installed_is_said_to_be_not() -> None:
    require_beanstalkd()
    done = run("--smoke", "--case", "connection-put", peers=False)
    assert (done.returncode, done.stderr) == (0, "")
    for name in PEERS:
        assert f"| {name} | not installed |" in done.stdout


def test_part_of_a_run_is_not_written() -> None:
    done = run("--write", "--quick")
    assert done.returncode == 2
    assert "--write needs a full run" in done.stderr


def test_contenders_take_turns_and_each_round_begins_with_another() -> None:
    done: list[str] = []

    def contender(name: str) -> Contender:
        return Contender(name, lambda count: done.append(name * count))

    contenders = [contender(name) for name in "abc"]
    timings = interleaved(contenders, rounds=2, operations=2)
    assert done == ["aa", "bb", "cc", "aa", "bb", "cc", "bb", "cc", "aa"]
    assert {name: len(seconds) for name, seconds in timings.seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    timings = Timings({"mine": [1.0, 4.0, 9.0], "other": [1.0, 2.0, 3.0]})
    assert timings.cost("mine", "other") == Ratio(2.0, 1.5, 2.5, 3)
    assert timings.speed("mine", "other").median == 0.5
    assert str(timings.speed("mine", "other")) == "0.50 (0.42 to 0.75)"
    assert timings.rate("other") == 0.5


def test_a_client_that_did_not_do_its_work_ends_the_run() -> None:
    require_beanstalkd()
    with Bench(SMOKE) as bench:
        servers = bench.servers(2)
        loop, pipeline = RawLoop(servers), RawPipeline(servers[0])
        try:
            bench.fill(servers)(10)
            loop.reserves(10)
            bench.drain_the_rest(servers)(10)
            bench.fill(servers)(10)
            loop.reserves(9)
            with pytest.raises(RuntimeError, match="5 jobs were left in the servers, and 4 should have been"):
                bench.drain_the_rest(servers)(10)
            pipeline.puts(450)
            pipeline.reserves(430)
            loop.puts(1)
            with pytest.raises(RuntimeError, match="21 jobs"):
                bench.drain_all(servers)(20)
            bench.drain_all(servers)(0)
        finally:
            loop.close()
            pipeline.close()


def test_tables_say_what_there_is_not() -> None:
    timings = Timings({"raw": [1.0, 1.0], "slow": [4.0, 4.0], "fast": [2.0, 2.0]})
    assert markdown(speed_table(timings, "raw", {"gone": "not installed"}, unit="puts")).splitlines() == [
        "| client | speed, raw = 1 (quartiles) | puts |",
        "|---|---|---|",
        "| raw | 1 | 1 |",
        "| fast | 0.50 (0.50 to 0.50) | 0 |",
        "| slow | 0.25 (0.25 to 0.25) | 0 |",
        "| gone | not installed |  |",
    ]


@pytest.mark.parametrize(
    ("goal", "cells"),
    [
        (Goal("put", "raw", 0.9, Ratio(0.896, 0.8, 1.0, 9)), ["0.90", "**0.90 (0.80 to 1.00)**", "reached"]),
        (Goal("put", "raw", 0.9, Ratio(0.894, 0.8, 1.0, 9)), ["0.90", "**0.89 (0.80 to 1.00)**", "missed"]),
        (
            Goal("put", "raw", 1.3, Ratio(1.2, 1.1, 1.4, 9), True),
            ["at most 1.30", "**1.20 (1.10 to 1.40)**", "reached"],
        ),
        (Goal("put", "raw", 1.3, Ratio(1.4, 1.1, 1.4, 9), True), ["at most 1.30", "**1.40 (1.10 to 1.40)**", "missed"]),
        (
            Goal("put", "raw", 1.3, Ratio(1.4, 1.1, 1.4, 9), True, "why"),
            ["at most 1.30", "**1.40 (1.10 to 1.40)**", "missed; why"],
        ),
        (Goal("put", "raw", 0.9, None, remark="no servers"), ["0.90", "no servers", ""]),
    ],
)
def test_goals_are_judged_by_what_is_printed(goal: Goal, cells: list[str]) -> None:
    assert goals_table([goal]).rows == [["put", "raw", *cells]]


@pytest.mark.parametrize(
    "plot",
    [
        Bars("bars", "Bars & <more>", [("beanpool", 0.5, True), ("raw <loop>", 1.0, False)]),
        Lines("lines", "Lines & <more>", "x", "y", ["1", "2"], {"a & b": [1.0, 2.0], "c": [None, 1.5]}),
        Lines("lines", "One place", "x", "y", ["1"], {"a": [0.003]}),
    ],
    ids=lambda plot: plot.title,
)
def test_plots_are_wellformed_and_name_everything(plot: Plot) -> None:
    root = ElementTree.fromstring(plot.svg())
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert plot.title in texts
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for element in root.iter():
        x, y = float(element.get("x", "0")), float(element.get("y", "0"))
        assert 0 <= x <= width, element.attrib
        assert 0 <= y <= height, element.attrib


def test_bars_are_to_scale() -> None:
    root = ElementTree.fromstring(Bars("bars", "Bars", [("a", 1.5, True), ("b", 0.5, False)]).svg())
    wide, narrow = (float(element.attrib["width"]) for element in root.iter(f"{SVG}rect"))
    assert wide == pytest.approx(3 * narrow, rel=0.01)


def test_the_report_has_a_place_for_every_case(tmp_path: Path) -> None:
    page = (ROOT / "docs" / PAGE).read_text(encoding="utf-8")
    (tmp_path / PAGE).write_text(page, encoding="utf-8")
    bars = Bars("bars", "Bars", [("a", 1.0, True)])
    goal = Goal("put", "raw", 0.9, Ratio(0.9, 0.8, 1.0, 9))
    results = {name: Result(name, [Table(["of"], [[f"table of {name}"]])], [goal], [bars]) for name in CASES}
    require_beanstalkd()
    for _ in range(2):
        write_report(tmp_path, results)
        written = (tmp_path / PAGE).read_text(encoding="utf-8")
        assert [written.count(f"| table of {name} |") for name in CASES] == [1] * len(CASES)
        assert written.count("| put | raw | 0.90 |") == len(CASES)
        assert written.count("](benchmarks/bars.svg)") == len(CASES)
    assert (tmp_path / "benchmarks" / "bars.svg").read_text(encoding="utf-8") == bars.svg()
    prose = re.sub(r"(<!-- measured: [\w-]+ -->).*?(<!-- end -->)", "", page, flags=re.DOTALL)
    assert re.sub(r"(<!-- measured: [\w-]+ -->).*?(<!-- end -->)", "", written, flags=re.DOTALL) == prose


def test_the_report_needs_its_markers(tmp_path: Path) -> None:
    require_beanstalkd()
    (tmp_path / PAGE).write_text("# Benchmarks\n\n<!-- measured: goals -->\n\n<!-- end -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no <!-- measured: put -->"):
        write_report(tmp_path, {"put": Result("put")})


def test_the_overhead_of_every_command_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require_beanstalkd()
    monkeypatch.setattr(overhead, "ROUNDS", 1)
    overhead.main(["--count", "20"])
    table = capsys.readouterr().out
    assert re.findall(r"^\| (\w.*?) \| [\d.]+ \| -?[\d.]+ \|$", table, re.MULTILINE) == [
        "Connection.put",
        "PoolManager.put",
        "PoolManager.put with a key",
        "Connection: reserve and delete",
        "PoolManager: reserve and delete",
    ]
    overhead.main(["--count", "20", "--profile", "PoolManager.put"])
    assert "channel.py: exchange" in capsys.readouterr().out


def test_a_wake_up_can_be_profiled(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    require_beanstalkd()
    monkeypatch.setattr(overhead, "WAKE_UPS", 5)
    overhead.main(["--profile", overhead.WAKE_UP])
    assert len(re.findall(r"^\| \S.* \| [1-9]\d* \| [\d.]+ \|$", capsys.readouterr().out, re.MULTILINE)) == 12
