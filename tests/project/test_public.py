"""What users can reach on the classes that they work with: what is documented, with its real arguments, and no more."""

from __future__ import annotations

import inspect

import pytest
from support.servers import BeanstalkdServer

import beanpool
from beanpool import Connection, Job, JobId, Pipeline, PoolManager, Tube, errors, events
from beanpool.put.producer import Producer
from beanpool.worker import Worker

# Not JobId: its methods are those of int.
CLASSES = (PoolManager, Tube, Producer, Connection, Job, Pipeline, Worker)

# What users can reach, and may rely on. To add a name here is to promise it.
_OF_BEANSTALKC = """
    bury close connect delete host ignore kick pause_tube peek peek_buried peek_delayed peek_ready port put reconnect
    release reserve stats stats_job stats_tube touch tubes use using watch watching
"""
PROMISED = {
    Connection: _OF_BEANSTALKC + "closed closed_because from_url kick_job ping pipeline reserve_job",
    Job: """
        body bury conn connection data delete id jid kick lost number reacquire release reserved server stats touch tube
    """,
    JobId: "buried instance maybe_duplicate server",
    Pipeline: """
        bury delete execute ignore kick kick_job peek peek_buried peek_delayed peek_ready put release reserve
        reserve_job stats_job stats_tube touch use watch
    """,
    Producer: "close flush put",
    Worker: "add add_listener configure get_stats join run settings start stop stopping stuck task tubes",
    Tube: "kick name pause peek_buried peek_delayed peek_ready put put_many reserve reserve_many stats",
}
# What their instances have, too.
ATTRIBUTES = {
    Connection: "address connect_timeout encoding parse_yaml server timeout used watched",
    Pipeline: "results",
    Worker: "pool",
}


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


@pytest.mark.parametrize("cls", PROMISED)
def test_every_name_without_an_underscore_is_promised(cls: type) -> None:
    assert public(cls) - public(int) == set(PROMISED[cls].split())


def test_their_instances_show_no_more(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager(beanstalkd.url) as pool, pool.producer() as producer, Connection.from_url(beanstalkd.url) as one:
        jid = pool.put("x")
        job = one.reserve()
        for thing in (one, one.pipeline(), job, jid, producer, pool.tube("t"), Worker(pool)):
            names = PROMISED[type(thing)].split() + ATTRIBUTES.get(type(thing), "").split()
            assert public(thing) - public(int) == set(names)


@pytest.mark.parametrize("cls", CLASSES)
def test_methods_have_a_docstring_and_hide_no_argument(cls: type) -> None:
    for name, member in inspect.getmembers(cls, inspect.isroutine):
        if name.startswith("_") and name != "__init__":
            continue
        assert name == "__init__" or inspect.getdoc(member), f"{name} has no docstring"
        for parameter in inspect.signature(member).parameters.values():
            assert parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD), f"{name}: {parameter}"


def test_everything_that_pools_hand_out_can_be_imported() -> None:
    for module in (events, errors):
        kinds = {
            name
            for name, kind in vars(module).items()
            if isinstance(kind, type) and issubclass(kind, events.Event | BaseException)
        }
        assert kinds <= set(beanpool.__all__)
    assert [name for name in beanpool.__all__ if not hasattr(beanpool, name)] == []


def test_a_pool_shows_nothing_but_its_name() -> None:
    assert public(PoolManager("q1")) - public(PoolManager) == {"name"}


@pytest.mark.parametrize("leak", ["member_changed", "member_starved", "job_lost", "connection_opened", "start"])
def test_what_the_parts_of_a_pool_tell_each_other_is_not_reachable(leak: str) -> None:
    assert not hasattr(PoolManager, leak)
