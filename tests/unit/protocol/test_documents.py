"""Documents: tube names stay text, counters are numbers, and no document is able to do harm."""

from __future__ import annotations

import re
import time

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from support.processes import run_python
from support.servers import BeanstalkdServer

from beanpool.errors import UnexpectedResponse
from beanpool.protocol.documents import decode, parse_list, parse_mapping

# What plain YAML reads as a number, a date, a truth value, nothing, or as its own punctuation.
ODD_TUBES = [
    *("123", "no", "null", "1.10", "0x1F", "2020-01-01", "yes", "017", "true", "Off", "on", "y", "0o17", "0b11"),
    *(
        "1_000",
        "1e3",
        "+1",
        ".5",
        ".inf",
        ".NaN",
        "Null",
        "NULL",
        "12.3.4",
        "...",
        ".",
        "..",
        "$",
        "()",
        "(a)",
        ";",
        "/",
    ),
    *("a--b", "a-", "_", "0", "00", "+", "1-1", "18446744073709551616"),
]


class TestTubeNames:
    @pytest.mark.parametrize("name", ODD_TUBES)
    def test_stay_text_in_every_document(self, name: str) -> None:
        for quoted in (name, f'"{name}"'):
            assert parse_list("list-tubes", f"---\n- default\n- {quoted}\n".encode()) == ["default", name]
            assert parse_list("list-tubes-watched", f"---\n- {quoted}\n".encode()) == [name]
            assert parse_mapping("stats-tube", f"---\nname: {quoted}\ntotal-jobs: 5\n".encode()) == {
                "name": name,
                "total-jobs": 5,
            }
            assert parse_mapping("stats-job", f"---\nid: 5\ntube: {quoted}\nstate: ready\n".encode()) == {
                "id": 5,
                "tube": name,
                "state": "ready",
            }

    def test_from_a_real_server(self, beanstalkd: BeanstalkdServer) -> None:
        control = beanstalkd.control
        for name in ODD_TUBES:
            job = control.put(b"x", name)
            assert control.command(f"watch {name}").startswith(b"WATCHING ")
            stats = parse_mapping("stats-job", control.data(f"stats-job {job}") or b"")
            assert (stats["id"], stats["tube"], stats["state"], stats["pri"]) == (job, name, "ready", 2**31)
            tube = parse_mapping("stats-tube", control.data(f"stats-tube {name}") or b"")
            assert (tube["name"], tube["current-jobs-ready"], tube["pause"]) == (name, 1, 0)
        assert parse_list("list-tubes", control.data("list-tubes") or b"") == ["default", *ODD_TUBES]
        assert parse_list("list-tubes-watched", control.data("list-tubes-watched") or b"") == ["default", *ODD_TUBES]

    def test_any_name_that_the_protocol_allows(self) -> None:
        first = "ABCzyx0189+/;.$_()"

        @given(names=st.lists(st.from_regex(rf"[{first}][{first}\-]{{0,12}}", fullmatch=True), min_size=1, max_size=5))
        def check(names: list[str]) -> None:
            document = "".join(["---\n", *(f"- {name}\n" for name in names)])
            assert parse_list("list-tubes", document.encode()) == names
            assert parse_mapping("stats-tube", f"---\nname: {names[0]}\n".encode()) == {"name": names[0]}

        check()


STATS_OF_1_12 = b"""---
current-jobs-urgent: 0
current-jobs-ready: 18446744073709551615
job-timeouts: 3
max-job-size: 65535
pid: 4711
version: 1.12
rusage-utime: 0.012345
rusage-stime: 12.000000
uptime: 77
binlog-max-size: 10485760
draining: false
id: 1234567890123456
hostname: 10.20
os: #1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)
platform: x86_64
"""
STATS_OF_1_13 = b"""---
current-jobs-ready: 5
version: "1.13"
draining: true
id: 0000000000000001
hostname: "no"
os: "#1 SMP: PREEMPT_DYNAMIC"
platform: "x86_64"
"""


class TestStats:
    def test_of_1_12(self) -> None:
        stats = parse_mapping("stats", STATS_OF_1_12)
        assert stats == {
            "current-jobs-urgent": 0,
            "current-jobs-ready": 18446744073709551615,
            "job-timeouts": 3,
            "max-job-size": 65535,
            "pid": 4711,
            "version": "1.12",
            "rusage-utime": 0.012345,
            "rusage-stime": 12.0,
            "uptime": 77,
            "binlog-max-size": 10485760,
            "draining": False,
            "id": "1234567890123456",
            "hostname": "10.20",
            "os": "#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)",
            "platform": "x86_64",
        }
        assert type(stats["rusage-stime"]) is float
        assert type(stats["draining"]) is bool

    def test_of_1_13(self) -> None:
        assert parse_mapping("stats", STATS_OF_1_13) == {
            "current-jobs-ready": 5,
            "version": "1.13",
            "draining": True,
            "id": "0000000000000001",
            "hostname": "no",
            "os": "#1 SMP: PREEMPT_DYNAMIC",
            "platform": "x86_64",
        }

    @pytest.mark.parametrize(
        "name",
        [
            "Darwin Kernel Version 22.6.0: Wed Jul  5 22:22:05 PDT 2023; root:xnu-8796.141.3~6/RELEASE_ARM64_T6000",
            "[a, {b: c}] & *d !e | > % @ `",
            "#",
            "'unbalanced",
            "",
        ],
    )
    def test_an_unquoted_os_is_whatever_the_system_calls_itself(self, name: str) -> None:
        stats = parse_mapping("stats", f"---\npid: 1\nos: {name}\nplatform: arm64\n".encode())
        assert stats == {"pid": 1, "os": name, "platform": "arm64"}

    def test_of_a_real_server(self, beanstalkd: BeanstalkdServer) -> None:
        stats = parse_mapping("stats", beanstalkd.control.data("stats") or b"")
        text = {key for key, value in stats.items() if isinstance(value, str)}
        assert {"id", "version"} <= text <= {"id", "version", "hostname", "os", "platform"}
        assert stats["pid"] == beanstalkd.pid
        assert stats["draining"] is False
        assert stats["id"] == beanstalkd.control.stats()["id"]


def typed(value: str) -> object:
    """What a scalar means outside of the text fields, written down a second time."""
    if re.fullmatch(r"-?[0-9]{1,20}", value, re.ASCII):
        return int(value)
    if re.fullmatch(r"-?[0-9]{1,20}\.[0-9]{1,20}", value, re.ASCII):
        return float(value)
    return {"true": True, "false": False}.get(value, value)


TEXT_FIELDS = {
    "stats": {"id", "version", "hostname", "os", "platform"},
    "stats-tube": {"name"},
    "stats-job": {"tube", "state"},
}
tokens = st.one_of(
    st.integers(-5, 2**70).map(str),
    st.floats(0, 1e9).map(lambda value: f"{value:.6f}"),
    st.sampled_from(
        [*ODD_TUBES, "", "-", "--", "- a", "~", "a b", "a: b", "a #b", "#", "<<", "=", "a,b", "x:y", "é", "٣"]
    ),
    st.text(alphabet="ab019-_.+/;$()", max_size=6),
    st.text(alphabet="a0-:# \"'\\,[]{}&*!|>%@`?~=<é\t", max_size=6),
)
values = st.one_of(tokens, tokens.map(lambda token: f'"{token}"'))
keys = st.one_of(
    st.sampled_from(["id", "version", "hostname", "platform", "name", "tube", "state", "pri", "pid", "rusage-utime"]),
    st.text(alphabet="aB0_-.", min_size=1, max_size=4),
    st.just("k" * 1100),
)


class TestByLines:
    """What is read line by line means what YAML makes of it."""

    @given(
        command=st.sampled_from(sorted(TEXT_FIELDS)),
        head=st.sampled_from(["---\n", ""]),
        lines=st.lists(st.tuples(keys, values).map(": ".join), min_size=1, max_size=5),
        end=st.sampled_from(["\n", ""]),
    )
    @example(command="stats-job", head="---\n", lines=["id: 007", 'id: "8"', "tube: 1", "a: -"], end="\n")
    @example(command="stats-tube", head="---\n", lines=["name: -", "y: -1"], end="")
    @example(command="stats", head="", lines=['platform: "a\\x41"', 'pid: "5"'], end="\n")
    @example(command="stats", head="", lines=["k" * 1100 + ": 5"], end="\n")
    def test_a_mapping(self, command: str, head: str, lines: list[str], end: str) -> None:
        text = head + "\n".join(lines) + end
        try:
            found = parse_mapping(command, text.encode())
        except UnexpectedResponse:
            # What is refused by its shape is nothing that YAML was asked about.
            return
        document = yaml.load(text, Loader=yaml.BaseLoader)
        fields = TEXT_FIELDS[command]
        expected = {key: value if key in fields else typed(value) for key, value in document.items()}
        assert list(map(repr, found.items())) == list(map(repr, expected.items()))

    @given(names=st.lists(values, min_size=1, max_size=5), end=st.sampled_from(["\n", ""]))
    def test_a_list(self, names: list[str], end: str) -> None:
        text = "---\n" + "\n".join(f"- {name}" for name in names) + end
        try:
            found = parse_list("list-tubes", text.encode())
        except UnexpectedResponse:
            return
        assert found == yaml.load(text, Loader=yaml.BaseLoader)

    def test_what_a_server_sends_needs_no_yaml(self) -> None:
        job = "---\nid: 7\ntube: a-b\nstate: ready\npri: 1\nttr: 120\n"
        source = f"""
import sys
from beanpool.protocol.documents import parse_list, parse_mapping
parse_mapping("stats", {STATS_OF_1_12!r}), parse_mapping("stats", {STATS_OF_1_13!r})
parse_mapping("stats-job", {job.encode()!r})
parse_list("list-tubes", b"---\\n- default\\n- \\"1.10\\"\\n")
print("yaml" in sys.modules)
parse_mapping("stats", b"---\\na: b c\\n")
print("yaml" in sys.modules)
"""
        ended = run_python(source)
        assert (ended.stdout.split(), ended.stderr) == (["False", "True"], "")


NOT_MAPPINGS = [
    b"",
    b"---\n",
    b"text\n",
    b"---\n- a\n- b\n",
    b"---\na: [1, 2]\n",
    b"---\na: {b: c}\n",
    b"---\na:\n  b: c\n",
    b"---\na:\n- b\n",
    b"---\n? a\n: b\n",
    b"---\na: &x 1\nb: *x\n",
    b"---\na: !!python/object/apply:os.system [true]\n",
    b"---\na: |\n  text\n",
    b'---\na: "unbalanced\n',
    b"---\na: 1\n--- \nb: 2\n",
    b"---\n[a]: 1\n",
    b"---\na: b: c\n",
    b"---\na: 1\r- - b\n",
    "---\na: 1\u2028- - b\n".encode(),
    b"\0",
    b"---\na: \x01\n",
    b"<html>\n",
]
NOT_LISTS = [
    b"",
    b"---\n",
    b"default\n",
    b"---\na: b\n",
    b"---\n- - a\n",
    b"---\n- [a]\n",
    b"---\n- {a: b}\n",
    b"---\n- a: b\n",
    b"---\n- &x a\n- *x\n",
    b"---\n- !!int 5\n",
    b"---\n-\n",
    b"---\n- a b\n",
    b"---\n- a\n  b\n",
    "---\n- é\n".encode(),
    b"\xff",
]


class TestWrongShapes:
    @pytest.mark.parametrize("document", NOT_MAPPINGS)
    def test_no_flat_mapping(self, document: bytes) -> None:
        for command in ("stats", "stats-job", "stats-tube"):
            with pytest.raises(UnexpectedResponse, match=f"^q1:11300 answered {command} with a document ") as caught:
                pytest.fail(f"it was taken: {parse_mapping(command, document, 'q1:11300')}")
            assert caught.value.server == "q1:11300"
            assert not caught.value.may_have_taken_effect

    @pytest.mark.parametrize("document", NOT_LISTS)
    def test_no_flat_list(self, document: bytes) -> None:
        for command in ("list-tubes", "list-tubes-watched"):
            with pytest.raises(UnexpectedResponse, match=f"^q1:11300 answered {command} with a document "):
                pytest.fail(f"it was taken: {parse_list(command, document, 'q1:11300')}")

    @given(
        document=st.one_of(
            st.binary(max_size=60), st.text(alphabet="-a:0 \n\"'[{&*!|>#%@`,?", max_size=40).map(str.encode)
        )
    )
    @example(document=b"---\n- \xff\n")
    def test_garbage_gives_a_flat_document_or_an_unexpected_response(self, document: bytes) -> None:
        try:
            stats = parse_mapping("stats", document)
            assert all(type(key) is str and type(value) in (str, int, float, bool) for key, value in stats.items())
        except UnexpectedResponse:
            pass
        try:
            assert all(type(name) is str for name in parse_list("list-tubes", document))
        except UnexpectedResponse:
            pass

    def test_the_text_is_left_as_it_came(self) -> None:
        assert decode(STATS_OF_1_12) == STATS_OF_1_12.decode()
        assert decode(b"---\n- \xff\n") == "---\n- \ufffd\n"


BOMBS = """
import time
from beanpool.errors import UnexpectedResponse
from beanpool.protocol.documents import parse_list, parse_mapping

n = 300_000
laughs = "a0: &a0 [x, x]\\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\\n" for i in range(1, 60))
for text in (
    "[" * n, "{" * n, "{a: " * n, "- " * n, "? " * n, "a: " * n, "a: " + "[" * n + "]" * n, "a: " + "{b: " * n,
    "a:\\n" + "".join(" " * depth + "b:\\n" for depth in range(1, 900)), "- a: " + "[" * n, "- " + "[" * n,
    "!!a " * n, "&a " * n, "a: " + "- " * n, "a: ? " + "? " * n, laughs, "a: \\r" + "[" * n, "os: x\\n" + "[" * n,
    "a: '" + "''" * n, "\\t" * n, " " * n, "#" * n, "a: |\\n" * n, "a: \\u2028" + "[" * n,
):
    for document in (text, "---\\n" + text, "---\\n" + text + "\\n"):
        for parse, command in ((parse_mapping, "stats"), (parse_list, "list-tubes")):
            start = time.process_time()
            try:
                parse(command, document.encode())
            except UnexpectedResponse:
                pass
            took = time.process_time() - start
            assert took < 1, (document[:20], command, took)
print("survived")
"""


def test_bombs_are_refused_quickly() -> None:
    # In another process: what is wrong here ends the interpreter.
    ended = run_python(BOMBS)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("survived\n", "", 0)


def test_a_mapping_has_at_most_64_kibibytes() -> None:
    line = b"a: 1\n"
    assert parse_mapping("stats", line * (65536 // len(line))) == {"a": 1}
    with pytest.raises(UnexpectedResponse):
        parse_mapping("stats", line * (65536 // len(line) + 1))


def test_a_large_list_takes_time_in_proportion_to_its_size() -> None:
    def seconds(count: int) -> float:
        document = b"---\n" + b"".join(b"- tube-%d\n" % number for number in range(count))
        start = time.process_time()
        assert len(parse_list("list-tubes", document)) == count
        return time.process_time() - start

    assert seconds(40_000) < 16 * max(seconds(10_000), 0.01)
