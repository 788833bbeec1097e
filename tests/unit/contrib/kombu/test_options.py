"""What a broker's URL and its transport options say."""

from __future__ import annotations

import pytest

from beanpool.contrib.kombu.options import Options, joined, own_url, servers_of, split_options


@pytest.mark.parametrize(
    "url",
    [
        "beanstalk://q1;weight=2,q2:11301/?timeout=2",
        "beanstalk://q1;weight=2;name=a,q2;weight=0",
        "beanstalk+unix:///run/b.sock",
    ],
)
def test_what_kombu_splits_at_semicolons_is_one_url_again(url: str) -> None:
    assert joined(url.split(";")) == [url]


def test_several_urls_stay_several() -> None:
    text = "beanstalk://q1;weight=2,q2;beanstalk://q3;beanstalk+unix:///run/b.sock;"

    urls = joined(text.split(";"))

    assert urls == ["beanstalk://q1;weight=2,q2", "beanstalk://q3", "beanstalk+unix:///run/b.sock"]
    assert servers_of(urls) == [
        "beanstalk://q1;weight=2",
        "beanstalk://q2",
        "beanstalk://q3",
        "beanstalk+unix:///run/b.sock",
    ]


def test_one_url_keeps_its_options() -> None:
    assert servers_of(["beanstalk://q1,q2/?timeout=2"]) == "beanstalk://q1,q2/?timeout=2"


def test_options_of_one_of_several_urls_are_refused() -> None:
    with pytest.raises(ValueError, match="transport_options"):
        servers_of(["beanstalk://q1/?timeout=2", "beanstalk://q2"])


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("beanstalk://q1", "beanstalk://q1"),
        ("bean://q1:11301,q2", "beanstalk://q1:11301,q2"),
        ("bean+unix:///run/b.sock", "beanstalk+unix:///run/b.sock"),
        ("beanstalk://", "beanstalk://localhost"),
        ("beanstalk:///", "beanstalk://localhost"),
        ("q1:11301", "beanstalk://q1:11301"),
        ("", "beanstalk://localhost"),
    ],
)
def test_a_url_of_any_scheme_is_beanpools(text: str, url: str) -> None:
    assert own_url(text) == url


def test_options_are_those_of_the_pool_and_those_of_the_transport() -> None:
    of_pool, own = split_options({"timeout": 3, "ttr": 30, "namespace": "shop.", "max_retries": 2, "order": "strict"})

    assert of_pool == {"timeout": 3}
    assert own == Options(ttr=30, namespace="shop.", order="strict")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_conections": 3}, "unknown transport option max_conections"),
        ({"visibility_timeout": 3600, "sep": ":"}, "options sep, visibility_timeout"),
        ({"ttr": 0}, "ttr"),
        ({"ttr": 1.5}, "ttr"),
        ({"order": "sorted"}, "order"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        split_options(options)


@pytest.mark.parametrize("options", [{"keep_alive": "no"}, {"ask_redelivered": 1}, {"namespace": 3}])
def test_an_option_of_the_wrong_type_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        split_options(options)
