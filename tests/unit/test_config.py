"""Servers and options: from Python, a URL or the environment, and what is refused in which words."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.inside import inside

from beanpool import PoolManager
from beanpool.config import ENVIRONMENT_VARIABLES, Server, Settings, check_distinct, from_environment, parse_servers
from beanpool.net.address import Address, parse_address

ADDRESSES = [
    ("q1", Address("q1", 11300)),
    ("q1/", Address("q1", 11300)),
    ("q2:11301", Address("q2", 11301)),
    ("10.0.0.7:1", Address("10.0.0.7", 1)),
    ("[::1]:11301", Address("::1", 11301)),
    ("[::1]", Address("::1", 11300)),
    ("::1", Address("::1", 11300)),
    ("2001:db8::7", Address("2001:db8::7", 11300)),
    ("fe80::1%eth0", Address("fe80::1%eth0", 11300)),
    ("beanstalk://q1", Address("q1", 11300)),
    ("beanstalk://q1:65535/", Address("q1", 65535)),
    ("beanstalkd://q1:11302", Address("q1", 11302)),
    ("BEANSTALK://Q1", Address("Q1", 11300)),
    ("beanstalk://[::1]:11301/", Address("::1", 11301)),
    ("beanstalk://[fe80::1%25eth0]:11301", Address("fe80::1%eth0", 11301)),
    ("beanstalk+unix:///run/b.sock", Address(path="/run/b.sock")),
    ("beanstalkd+unix:///run/b.sock", Address(path="/run/b.sock")),
    ("beanstalk+unix:///run/a%20b%3F.sock", Address(path="/run/a b?.sock")),
    ("beanstalk+unix:///run/me@home.sock", Address(path="/run/me@home.sock")),
    ("unix:/run/b.sock", Address(path="/run/b.sock")),
    ("unix:/run/a?b%20c://d@e", Address(path="/run/a?b%20c://d@e")),
    ("unix:11301", Address("unix", 11301)),
]

BAD_ADDRESSES = [
    ("", "names no host"),
    (" ", "names no host"),
    ("beanstalk://", "names no host"),
    ("beanstalk:///", "names no host"),
    (":11300", "names no host"),
    ("q 1", "names no host"),
    ("q1\r\n", "names no host"),
    ("q1,q2", "names no host"),
    ("q1%20", "names no host"),
    ("/run/b.sock", "names no host.*beanstalk\\+unix:///"),
    ("q1:", "port .* from 1 to 65535"),
    ("q1:0", "port .* from 1 to 65535"),
    ("q1:65536", "port .* from 1 to 65535"),
    ("q1:+1", "port .* from 1 to 65535"),
    ("q1:1_0", "port .* from 1 to 65535"),
    ("q1:١", "port .* from 1 to 65535"),
    ("q1:http", "port .* from 1 to 65535"),
    ("[::1]:", "port .* from 1 to 65535"),
    ("[::1", "IPv6"),
    ("[::1]11300", "IPv6"),
    ("[q1]:11300", "names no host"),
    ("[1:2]:11300", "IPv6"),
    ("::1:11300", "IPv6"),
    ("q1:11300:q2", "IPv6"),
    ("beanstalk://q1/emails", "path after the host"),
    ("beanstalk://q1//", "path after the host"),
    ("beanstalk://q1?timeout=2", "no options"),
    ("beanstalk+unix:///run/b.sock?timeout=2", "no options"),
    ("beanstalk+unix://run/b.sock", "path from the root"),
    ("beanstalk+unix://", "path from the root"),
    ("beanstalk+unix:///run/%ff.sock", "not UTF-8"),
    ("beanstalk+unix:///run/%00.sock", "path"),
    ("redis://q1", "unknown scheme 'redis'"),
    ("beanstalks://q1", "unknown scheme 'beanstalks'"),
    ("http://q1", "AWS Elastic Beanstalk"),
    ("https://demo.us-east-1.elasticbeanstalk.com/", "AWS Elastic Beanstalk"),
    ("HTTPS://q1", "AWS Elastic Beanstalk"),
]

# Wherever somebody may take a password to be, no message repeats it.
CREDENTIALS = [
    "beanstalk://user:s3cret@q1",
    "beanstalk://s3cret@q1:11300/",
    "user:s3cret@q1",
    "beanstalk://user:s3cret/x@q1",
    "beanstalk://user:s3cret?x@q1",
    "beanstalk://user:s3cret,x@q1",
    "beanstalk://q1,user:s3cret@q2",
    "beanstalk://user:s3cret x@q1?timeout=1",
    "https://user:s3cret@env.elasticbeanstalk.com",
    "redis://user:s3cret@q1",
    "user:s3cret://q1",
    "beanstalk://user:s3cret;x@q1",
    "beanstalk://user:pass;s3cret=1@q1",
    "beanstalk://user:pass;s3cret=1,x@q1",
    "beanstalk://user:pass;s3cret=1?x=1@q1",
    "beanstalk://user:s3cret?a=b@q1",
    "q1;weight=1;s3cret@q2=3",
]

BAD_OPTIONS = [
    ("tiemout=2", "unknown option 'tiemout'.*'timeout'"),
    ("Timeout=2", "unknown option 'Timeout'.*'timeout'"),
    ("conect_timeout=2", "'connect_timeout'"),
    ("max_size=2", "'max_connections'"),
    ("tubes=a", "'tube'"),
    ("retry=5", "closest known one is '"),
    ("=2", "unknown option ''"),
    ("timeout", "timeout has no value"),
    ("timeout=", "timeout has no value"),
    ("timeout=2&", "unknown option ''"),
    ("timeout=2&timeout=3", "timeout is there twice"),
    ("timeout=soon", "timeout must be a number of seconds"),
    ("timeout=2s", "timeout must be a number of seconds"),
    ("timeout=nan", "timeout must be a number of seconds"),
    ("timeout=inf", "timeout must be a number of seconds"),
    ("timeout=1_0", "timeout must be a number of seconds"),
    ("timeout=2,q2", "timeout must be a number of seconds"),
    ("timeout=0", "timeout must be .*positive"),
    ("connect_timeout=-1", "connect_timeout must be .*positive"),
    ("health_interval=0.0", "health_interval must be .*positive"),
    ("max_connections=many", "max_connections must be a whole number"),
    ("max_connections=2.5", "max_connections must be a whole number"),
    ("max_connections=0", "max_connections must be at least 1"),
    ("max_connections=-3", "max_connections must be at least 1"),
    ("on_ambiguous=ignore", "on_ambiguous must be 'resend' or 'raise'"),
    ("encoding=klingon", "encoding must be"),
    ("tube=a%20b", "tube must be"),
    ("tube=%ff", "tube is not UTF-8"),
    ("watch=a,,b", "watch must be"),
    ("watch=a%0D%0Aquit", "watch must be"),
    ("name=%00", "name must be"),
]


class Port(enum.IntEnum):
    """How a program may name its ports."""

    USUAL = 11300


@pytest.mark.parametrize(("text", "address"), ADDRESSES)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert Server.from_url(text).address == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(("text", "words"), BAD_ADDRESSES)
def test_bad_addresses(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_address(text)
    with pytest.raises(ValueError, match=words):
        parse_servers([text])


@pytest.mark.parametrize("text", CREDENTIALS)
def test_credentials_are_refused_and_not_repeated(text: str) -> None:
    for refuse in (Server.from_url, parse_servers, lambda text: parse_servers([text])):
        with pytest.raises(ValueError) as caught:
            refuse(text)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 5, b"q1", ["q1"]])
def test_addresses_of_other_types(value: Any) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        parse_address(value)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"host": 5}, TypeError),
        ({"host": ""}, ValueError),
        ({"host": "q1:11300"}, ValueError),
        ({"host": "[::1]"}, ValueError),
        ({"host": "https://q1"}, ValueError),
        ({"host": "q1\0"}, ValueError),
        ({"host": "q\ud800"}, ValueError),
        ({"port": "11300"}, TypeError),
        ({"port": True}, TypeError),
        ({"port": 11300.0}, TypeError),
        ({"port": 0}, ValueError),
        ({"port": 65536}, ValueError),
        ({"path": ""}, ValueError),
        ({"path": 5}, TypeError),
        ({"weight": True}, TypeError),
        ({"weight": "2"}, TypeError),
        ({"weight": None}, TypeError),
        ({"weight": -1}, ValueError),
        ({"weight": math.nan}, ValueError),
        ({"weight": math.inf}, ValueError),
        ({"weight": 10**400}, ValueError),
        ({"name": ""}, ValueError),
        ({"name": "a\nb"}, ValueError),
        ({"name": b"q1"}, TypeError),
        ({"name": 1}, TypeError),
    ],
)
def test_impossible_servers(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        Server(**arguments)


def test_a_server() -> None:
    assert Server() == Server("localhost", 11300, weight=1, name=None, path=None)
    server = Server("q1", 11301, weight=2.5, name="mail")
    assert (server.address, server.key) == (Address("q1", 11301), "mail")
    assert Server("::1").key == "[::1]:11300"
    assert Server("q1").key == Server.from_url("q1:11300").key == "q1:11300"
    assert Server(path="/run/b.sock").key == "unix:/run/b.sock"
    assert Server("ignored", 5, path="/run/b.sock").address == Address(path="/run/b.sock")
    assert dataclasses.replace(server, weight=0).weight == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        server.weight = 1  # type: ignore[misc]  # that it is refused is the point
    assert len({server, Server("q1", 11301, weight=2.5, name="mail")}) == 1


@pytest.mark.parametrize(
    ("value", "names", "options"),
    [
        (
            "beanstalk://q1:11300,q2,[::1]:11301/?timeout=2",
            ["q1:11300", "q2:11300", "[::1]:11301"],
            {"timeout": 2.0},
        ),
        ("q1", ["q1:11300"], {}),
        ("q1?", ["q1:11300"], {}),
        ("  q1, q2\tq3 ", ["q1:11300", "q2:11300", "q3:11300"], {}),
        ("beanstalk://a, beanstalkd://b:1,c", ["a:11300", "b:1", "c:11300"], {}),
        ("q1,beanstalk://q2", ["q1:11300", "q2:11300"], {}),
        ("::1,[::2]:5", ["[::1]:11300", "[::2]:5"], {}),
        (
            "beanstalk+unix:///run/a%2Cb.sock,q1?encoding=none",
            ["unix:/run/a,b.sock", "q1:11300"],
            {"encoding": None},
        ),
        (Server("q1", weight=0), ["q1:11300"], {}),
        ([Server("q1", weight=2, name="a"), "q2", "beanstalk+unix:///b"], ["a", "q2:11300", "unix:/b"], {}),
        (("q1", "[::1]:11301"), ["q1:11300", "[::1]:11301"], {}),
        (("q1", 7), ["q1:7"], {}),
        ([("q1", 7), "q2", ("::1", Port.USUAL)], ["q1:7", "q2:11300", "[::1]:11300"], {}),
        ((("q1", 7), ("q2", 7)), ["q1:7", "q2:7"], {}),
        ((host for host in ("q1", "q2")), ["q1:11300", "q2:11300"], {}),
    ],
)
def test_lists_of_servers(value: Any, names: list[str], options: dict[str, Any]) -> None:
    servers, found = parse_servers(value)
    assert [server.key for server in servers] == names
    assert found == options


def test_options_in_a_url_have_their_types() -> None:
    _, options = parse_servers(
        "q1?tube=a%2Fb&watch=x,y+z,x,%2Fw&max_connections=4&connect_timeout=0.5"
        + "&timeout=10&health_interval=1.25&on_ambiguous=raise&encoding=latin-1&name=worker@host"
        + "&discovery_interval=20,200.5&drain_for=60"
    )
    assert options == {
        "tube": "a/b",
        "watch": ("x", "y+z", "/w"),
        "max_connections": 4,
        "connect_timeout": 0.5,
        "timeout": 10.0,
        "health_interval": 1.25,
        "on_ambiguous": "raise",
        "encoding": "latin-1",
        "name": "worker@host",
        "discovery_interval": (20.0, 200.5),
        "drain_for": 60.0,
    }
    assert type(options["timeout"]) is float
    assert set(options) == {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize(("query", "words"), BAD_OPTIONS)
def test_bad_options_in_a_url(query: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_servers(f"beanstalk://q1/?{query}")


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ("", ValueError, "at least one server"),
        ("  ", ValueError, "at least one server"),
        ("?timeout=2", ValueError, "at least one server"),
        ([], ValueError, "at least one server"),
        (iter(()), ValueError, "at least one server"),
        ("q1,,q2", ValueError, "empty place"),
        ("q1,", ValueError, "empty place"),
        (",q1", ValueError, "empty place"),
        ("q1,https://q2", ValueError, "AWS Elastic Beanstalk"),
        ("q1,q1:11300", ValueError, "q1:11300"),
        ([Server("q1"), Server("q1", name="other")], ValueError, "q1:11300"),
        ([Server("q1", name="a"), Server("q2", name="a")], ValueError, "called a:"),
        ([Server("q1", name="q2:11300"), "q2"], ValueError, "q2:11300"),
        ([Server("x", 1, path="/b"), Server("y", 2, path="/b")], ValueError, "unix:/b"),
        (["q1,q2"], ValueError, "names no host"),
        (["q1?timeout=2"], ValueError, "no options"),
        (None, TypeError, "not NoneType"),
        (11300, TypeError, "not int"),
        (b"q1", TypeError, "not bytes"),
        ({"q1": 2}, TypeError, "not dict"),
        ([b"q1"], TypeError, "not bytes"),
        (("q1", "q1"), ValueError, "q1:11300"),
        (("q1", 0), ValueError, "port must be from 1"),
        ([("q1", True)], TypeError, "port must be an int"),
        ([("q1", 11300.0)], TypeError, "port must be an int"),
        ([(b"q1", 11300)], TypeError, "host must be a str"),
        ([("q1", 11300, 2)], TypeError, "not tuple"),
        ([["q1", 11300]], TypeError, "not list"),
        ([None], TypeError, "not NoneType"),
    ],
)
def test_impossible_lists_of_servers(value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        parse_servers(value)


def test_a_server_may_be_called_by_its_own_address() -> None:
    check_distinct([Server("q1", name="q1:11300"), Server("q2")])


def test_environment() -> None:
    first, second, third = ENVIRONMENT_VARIABLES
    assert from_environment({third: "q3", second: "q2", first: " q1 "}) == "q1"
    assert from_environment({third: "q3", second: "q2", first: " "}) == "q2"
    assert from_environment({third: "beanstalk://a,b?timeout=1", second: ""}) == "beanstalk://a,b?timeout=1"


@pytest.mark.parametrize("variable", ENVIRONMENT_VARIABLES)
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("https://demo.elasticbeanstalk.com", "AWS Elastic Beanstalk"),
        ("q1?tiemout=2", "'timeout'"),
        ("q1?timeout=0", "positive"),
        ("q1,q1", "q1:11300"),
        ("q1:x", "port"),
    ],
)
def test_errors_name_the_variable(variable: str, value: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{variable}: .*{words}"):
        from_environment({variable: value, "UNRELATED": "q1"})


def test_an_empty_environment() -> None:
    with pytest.raises(ValueError, match=r"BEANPOOL_URL.*BEANSTALKD_URL.*BEANSTALK_URL"):
        from_environment({"BEANSTALK_SERVERS": "q1"})


def test_defaults() -> None:
    assert Settings.build({}, {}) == Settings(
        tube="default",
        watch=("default",),
        max_connections=32,
        connect_timeout=2.0,
        timeout=5.0,
        health_interval=5.0,
        on_ambiguous="resend",
        encoding="utf-8",
        name=None,
    )


def test_to_wait_for_ever_for_a_connection_is_not_to_be_had() -> None:
    options: dict[str, Any] = {"connect_timeout": None}
    assert Settings(**options).connect_timeout == 2.0


def test_a_keyword_beats_the_url_and_the_url_beats_the_default() -> None:
    settings = Settings.build({"timeout": 2.0, "encoding": "latin-1", "name": "url"}, {"timeout": 3, "encoding": None})
    assert (settings.timeout, settings.encoding, settings.name) == (3.0, None, "url")
    assert settings.connect_timeout == 2.0
    with pytest.raises(TypeError, match="tiemout"):
        Settings.build({}, {"tiemout": 3})


@pytest.mark.parametrize("make", [PoolManager, PoolManager.from_env])
def test_the_signature_shows_the_defaults(make: Callable[..., PoolManager]) -> None:
    shown = inspect.signature(make).parameters
    for option, value in dataclasses.asdict(Settings()).items():
        assert shown[option].default == value
        assert repr(shown[option].default) == repr(value)
    assert not [p for p in shown.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def test_what_is_given_beats_the_url_also_if_it_is_the_default() -> None:
    url = "beanstalk://q1?timeout=2&max_connections=3&tube=x&encoding=none"
    usual = Settings()
    pool = PoolManager(url, timeout=5.0, max_connections=32, tube="default", encoding="utf-8")
    assert inside(pool).cluster._settings == usual
    left = inside(PoolManager(url)).cluster._settings
    assert (left.timeout, left.max_connections, left.tube, left.encoding) == (2.0, 3, "x", None)


@pytest.mark.parametrize(
    ("watch", "expected"),
    [(["a", "b", "a"], ("a", "b")), ("emails", ("emails",)), ({"a": 1}, ("a",)), (iter("ab"), ("a", "b"))],
)
def test_watched_tubes(watch: Any, expected: tuple[str, ...]) -> None:
    assert Settings(watch=watch).watch == expected


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("tube", "", ValueError),
        ("tube", "-a", ValueError),
        ("tube", "a\r\nquit", ValueError),
        ("tube", "a" * 201, ValueError),
        ("tube", b"a", TypeError),
        ("tube", None, TypeError),
        ("watch", (), ValueError),
        ("watch", ("a", "b c"), ValueError),
        ("watch", "", ValueError),
        ("watch", b"a", TypeError),
        ("watch", (1,), TypeError),
        ("watch", None, TypeError),
        ("max_connections", 0, ValueError),
        ("max_connections", -1, ValueError),
        ("max_connections", 1.0, TypeError),
        ("max_connections", "1", TypeError),
        ("max_connections", True, TypeError),
        ("on_ambiguous", "retry", ValueError),
        ("on_ambiguous", None, TypeError),
        ("on_ambiguous", True, TypeError),
        ("encoding", "klingon", ValueError),
        ("encoding", "", ValueError),
        ("encoding", b"utf-8", TypeError),
        ("name", "", ValueError),
        ("name", "a\x1b[2J", ValueError),
        ("name", 5, TypeError),
        *(
            (option, value, error)
            for option in ("connect_timeout", "timeout", "health_interval")
            for value, error in [
                (0, ValueError),
                (-0.5, ValueError),
                (math.nan, ValueError),
                (math.inf, ValueError),
                (True, TypeError),
                ("2", TypeError),
                *([(None, TypeError)] if option != "connect_timeout" else []),
            ]
        ),
    ],
)
def test_impossible_options(option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"{option} must"):
        Settings(**{option: value})


hosts = st.from_regex(r"[a-z0-9_]([a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True) | st.ip_addresses().map(str)
odd_text = st.text("abc ü%?,;=&#@:/[]*<\\'", min_size=1, max_size=10)
weights = st.integers(0, 10**30) | st.floats(0, allow_nan=False, allow_infinity=False)
names = st.none() | odd_text
servers = st.builds(Server, hosts, st.integers(1, 65535), weights, names) | st.builds(
    lambda path, weight, name: Server(weight=weight, name=name, path=f"/run/{path}"), odd_text, weights, names
)
clusters = st.lists(
    servers, min_size=1, max_size=6, unique_by=(lambda server: server.key, lambda server: str(server.address))
)


@given(clusters)
def test_what_is_written_as_a_url_is_read_back(chosen: list[Server]) -> None:
    written = [server.to_url() for server in chosen]
    try:
        check_distinct(chosen)
    except ValueError:
        assume(False)
    assert list(map(Server.from_url, written)) == chosen
    assert parse_servers(",".join(written)) == (tuple(chosen), {})
    assert parse_servers(f"{' '.join(written)}?timeout=2") == (tuple(chosen), {"timeout": 2.0})
    assert parse_servers(written) == (tuple(chosen), {})
    assert parse_servers(chosen) == (tuple(chosen), {})
    for server in chosen:
        assert parse_address(str(server.address)) == server.address


WITH_PARAMETERS = [
    ("q1;weight=2", Server("q1", weight=2)),
    ("beanstalk://q1:11300;weight=0.5;name=first", Server("q1", weight=0.5, name="first")),
    ("beanstalk://q1;name=a%2Cb%20c;weight=0/", Server("q1", weight=0, name="a,b c")),
    ("beanstalk://q1/;weight=2", Server("q1", weight=2)),
    ("[fe80::1%eth0]:11301;name=v6", Server("fe80::1%eth0", 11301, name="v6")),
    ("beanstalk+unix:///run/b.sock;weight=2", Server(path="/run/b.sock", weight=2)),
    ("beanstalk+unix:///run/b%3Bc.sock", Server(path="/run/b;c.sock")),
    # As an address is shown.
    ("unix:/run/b;weight=2", Server(path="/run/b;weight=2")),
]


@pytest.mark.parametrize(("text", "server"), WITH_PARAMETERS)
def test_a_weight_and_a_name_in_a_url(text: str, server: Server) -> None:
    assert Server.from_url(text) == server
    assert parse_servers([text]) == ((server,), {})


BAD_PARAMETERS = [
    ("q1;wieght=2", "unknown parameter of a server 'wieght' in the URL: the closest known one is 'weight'"),
    ("q1;timeout=2", "unknown parameter of a server 'timeout'"),
    ("q1;", "unknown parameter of a server ''"),
    ("q1;weight", "weight has no value"),
    ("q1;weight=", "weight has no value"),
    ("q1;weight=1;weight=2", "weight is there twice"),
    ("q1;weight=-1", "weight must be"),
    ("q1;weight=two", "weight must be"),
    ("q1;weight=1e999", "weight must be a finite number"),
    ("q1;weight=nan", "weight must be"),
    ("q1;name=%00", "name must be"),
    ("q1;name=%ff", "name is not UTF-8"),
]


@pytest.mark.parametrize(("text", "words"), BAD_PARAMETERS)
def test_bad_parameters(text: str, words: str) -> None:
    for read in (Server.from_url, parse_servers):
        with pytest.raises(ValueError, match=re.escape(words)):
            read(text)
    with pytest.raises(ValueError):
        parse_address(text)


@pytest.mark.parametrize("strange", list(" !\"$'()*+,;<=>?@\\^`{|}~&#%/"))
def test_what_means_nothing_in_a_host_is_refused(strange: str) -> None:
    for host in (f"q{strange}1", f"{strange}q1", f"fe80::1%e{strange}0"):
        with pytest.raises(ValueError, match="host"):
            Server(host)


def test_names_of_hosts_in_other_alphabets_are_the_resolvers_to_judge() -> None:
    assert Server.from_url("beanstalk://bücher.example").host == "bücher.example"


@pytest.mark.parametrize(("path", "words"), [("b.sock", "slash"), ("/run/\udcff", "utf-8")])
def test_a_path_that_no_url_can_say(path: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Server(path=path).to_url()


def test_the_environment_can_empty_a_server() -> None:
    text = from_environment({"BEANPOOL_URL": "beanstalk://q1;weight=0;name=a,q2/?timeout=1"})
    assert parse_servers(text) == ((Server("q1", weight=0, name="a"), Server("q2")), {"timeout": 1.0})


@given(st.text(max_size=30) | st.text(":/?#[]@,= %&;weightnam02q1", max_size=30).map("beanstalk://".__add__))
def test_any_text_is_servers_or_a_value_error(text: str) -> None:
    try:
        found, options = parse_servers(text)
    except ValueError:
        return
    assert found
    Settings.build(options, {})
    for server in found:
        assert parse_address(str(server.address)) == server.address
